"""Configuring: what inference is to do with the sites of a block."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ancestral.trace.request import Handler, Request


class infer_config(Handler):  # noqa: N801 (the name that users of Pyro know)
    """Add to the `infer` of the sites of a block.

    Args:
        config: returns what is added for a request; what it says wins.
    """

    def __init__(self, config: Callable[[Request], Mapping[str, Any]]) -> None:
        """Take the function."""
        self.config = config

    def ask(self, request: Request) -> Request:
        """Add to the `infer` of a sample or a parameter."""
        if request.kind not in ("sample", "param"):
            return request
        return replace(request, infer={**request.infer, **self.config(request)})

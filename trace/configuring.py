"""Configuring: what inference is to do with the sites of a block."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from ancestral.trace.arguments import kind_of
from ancestral.trace.effects import Effective
from ancestral.trace.errors import SiteError
from ancestral.trace.naming import Place
from ancestral.trace.request import Request


class ConfigError(SiteError):
    """What is to be added to the `infer` of a site is no mapping."""

    def __init__(self, request: Request, came: object) -> None:
        """Name the site, its line, and what came."""
        super().__init__(
            f"site {request.name!r} ({request.where.location}): the function of infer_config "
            f"returned {kind_of(came)}; expected a mapping of what to add to its infer, {{}} for "
            "nothing"
        )


class InferKeyError(SiteError):
    """The `infer` of a site says what nothing reads."""

    def __init__(self, name: str, key: str, advice: str, where: Place) -> None:
        """Name the site, its line, the key, and what is meant perhaps."""
        super().__init__(
            f"site {name!r} ({where.location}): nothing reads {key!r} in its infer: {advice}"
        )


_READ = ("enumerate", "is_auxiliary")
_ELSEWHERE = {  # what Pyro reads there
    "baseline": "give baseline= to an.elbo, or to an.backward",
    "num_samples": "what an.handlers.enumerate sums over, it sums over exactly",
    "expand": "values stand along a dimension that an.handlers.enumerate(first_dim=...) gives them",
}


def check_infer(name: str, infer: Mapping[Any, Any], where: Place) -> None:
    """Raise for a key that Pyro reads, or that is all but the name of one that is read.

    Others are the user's own.
    """
    for key in infer:
        if not isinstance(key, str) or key in _READ:
            continue
        close = get_close_matches(key, _READ, cutoff=0.8)
        if key in _ELSEWHERE or close:
            advice = _ELSEWHERE.get(key) or f"did you mean {close[0]!r}?"
            raise InferKeyError(name, key, advice, where)


class infer_config(Effective):  # noqa: N801 (the name that users of Pyro know)
    """Add to the `infer` of the sites of a block.

    Args:
        config: returns what is added for a request; what it says wins.

    Raises:
        TypeError: if it is no function.
        ConfigError: within the block, if it returns no mapping.
        InferKeyError: within it, if it returns a key that nothing reads.
    """

    missing = "its block has no site"

    def __init__(self, config: Callable[[Request], Mapping[str, Any]]) -> None:
        """Take the function."""
        if not callable(config):
            raise TypeError(
                "infer_config takes a function of a request, which returns what to add to its "
                f"infer, not {kind_of(config)}"
            )
        self.config = config

    def ask(self, request: Request) -> Request:
        """Add to the `infer` of a sample or a parameter."""
        if request.kind not in ("sample", "param"):
            return request
        self._is_used = True
        added: object = self.config(request)
        if not isinstance(added, Mapping):
            raise ConfigError(request, added)
        check_infer(request.name, added, request.where)
        return replace(request, infer={**request.infer, **added})

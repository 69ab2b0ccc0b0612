"""Densities that are no numbers: of which site, where, and at which value."""

import torch
from torch import Tensor

from ancestral.trace.arguments import first_of
from ancestral.trace.errors import SiteError
from ancestral.trace.factor import Factor
from ancestral.trace.masking import over
from ancestral.trace.node import Node


class NonFiniteDensityError(SiteError):
    """The log-probability of a site is NaN or infinite."""

    def __init__(self, node: Node, program: str) -> None:
        """Name the site, its line, its program, how many elements are bad, and their values."""
        density = node.log_prob.detach()
        bad = ~torch.isfinite(density)
        cases = _cases(node)
        value = cases[over(bad, tuple(cases.shape[:-1]))]
        shown = f", the first at the value {first_of(value)}" if value.numel() else ""
        super().__init__(
            f"site {node.name!r} ({node.location}) of the {program}: {int(bad.sum())} of "
            f"{density.numel()} elements of its log-probability are not finite, the first of them "
            f"{first_of(density[bad])}{shown}; expected finite numbers: {_advice(node)}"
        )


def _advice(node: Node) -> str:
    if isinstance(node.fn, Factor):
        return "look at how the factor is computed, or mask it"
    return (
        f"look at the parameters of {type(node.fn).__name__}, or at whether the value can come "
        "from it"
    )


def _cases(node: Node) -> Tensor:
    """Return the value with one dimension for the events: [*batch, events]."""
    assert node.fn is not None
    value = node.value.detach()
    return value.reshape(*value.shape[: value.dim() - len(node.fn.event_shape)], -1)

"""Contrasts: signs over the examples, by which one pass of autograd measures how gradients spread.

        H = Σ_n ε_n g_n,   Σ_n ε_n = 0,   Σ_n ε_n² = N,   ε in random order
        E_ε[H²] = N/(N-1) Σ_n (g_n - ḡ)²

for each coordinate of the gradients g_n of N examples: N times their sample variance, without any
of them alone. The order is a function of a number, not of a generator, so that the draws of the
program are the same with and without.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.baselines.leave_one_out import exact
from ancestral.estimators.diagnostics.observer import Score, Scores
from ancestral.estimators.pathwise.routes import Route, routed
from ancestral.trace.nodes.autograd_graph import edge_of, visited

UNNAMED = "(unnamed)"
"""The parameters that have no name, together."""


@dataclass(frozen=True)
class Measured:
    """What one gradient tells, on the device of the parameters.

    Attributes:
        sites: by site and parameter, the estimated variance summed over the coordinates, [].
        params: the same of the sum over the sites, whose covariances are in it.
        undefined: by site, why its variance is not.
        moments: by site, of the baseline and the credit, over the elements: how many, their means,
            and the sums of squares and products of deviations (bb, cc, bc), [6].
    """

    sites: dict[tuple[str, str], Tensor] = field(default_factory=dict[tuple[str, str], Tensor])
    params: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    undefined: dict[str, str] = field(default_factory=dict[str, str])
    moments: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def measured(
    scores: Scores,
    number: int,
    names: Mapping[Any, str],
    labels: Mapping[str, str],
    dim: int | None = None,
) -> Measured:
    """Measure the variance of the scores of a gradient.

    Args:
        scores: the scores.
        number: of the measurement, which decides the signs.
        names: of parameters, by their leaves in autograd's graph.
        labels: by site, what it is measured with: itself, or the repeats of its loop.
        dim: the dimension of the sites that the examples are along.
    """
    groups: dict[str, list[Score]] = {}
    for score in scores.found:
        groups.setdefault(labels[score.node.name], []).append(score)
    found, whole = Measured(), dict[Any, Tensor]()
    for site, members in groups.items():
        steps = dict.fromkeys(visited([edge_of(each.density) for each in members], None))
        parts = [_contrast(each, members, number, dim) for each in members]
        if any(step.name() == _REENTRANT for step in steps):
            parts.append(_UNREACHED)
        why = next((part for part in parts if isinstance(part, str)), None)
        if why is not None:
            found.undefined[site] = why
            continue
        leaves = [step for step in steps if hasattr(step, "variable")]
        live = [part for part in parts if not isinstance(part, str)]
        for leaf, gradient in _gradients(members, live, leaves):
            param = names.get(leaf, UNNAMED)
            _add(found.sites, (site, param), _square(gradient))
            _add(whole, leaf, gradient)
        moments = _moments(members)
        if moments is not None:
            found.moments[site] = moments
    for leaf, gradient in whole.items():
        _add(found.params, names.get(leaf, UNNAMED), _square(gradient))
    return found


_REENTRANT = "CheckpointFunctionBackward"
_UNREACHED = (
    "its parameters are computed within torch.utils.checkpoint(use_reentrant=True), through which "
    "torch lets no gradient by chosen inputs pass: say use_reentrant=False"
)


def example_dim(scores: Sequence[Score], score: Score, dim: int | None = None) -> int | str:
    """Return the dimension of a site along which its elements are examples, or why there is none.

    It is `dim`, else the first along which all costs are apart, so that the element of one index is
    credited with nothing that another reaches. So is that of a batch of one.
    """
    node, shape = score.node, score.node.shape
    sizes = f"its shape is {list(shape)} ({node.location})"
    if not shape or (dim is not None and not -len(shape) <= dim < len(shape)):
        return f"{sizes}, which has no dimension of examples: draw several at once"
    if tuple(score.density.shape) != shape:
        return f"{sizes}, but that of its log_prob is {list(score.density.shape)}"
    parts = [part for each in scores if each.node is node for part in each.credit.parts]
    given = range(len(shape)) if dim is None else [dim % len(shape)]
    apart = (d for d in given if shape[d] == 1 or all(d in part.apart for part in parts))
    found = next(apart, None)
    if found is None:
        along = "no dimension" if dim is None else f"dimension {dim} not"
        return (
            f"{sizes}, of which {along} stays apart in all costs, so that its elements are one "
            "example: trace.explain() names what mixes them"
        )
    if shape[found] == 1:
        return (
            f"{sizes}, with one example along dimension {found}: draw several at once, or say "
            "along which dimension the examples are, an.Monitor(dim=...)"
        )
    return found


def signs(count: int, number: int, device: torch.device) -> Tensor:
    """Return the signs of some examples, [count]: their sum is 0, that of their squares `count`."""
    order = _hashed(torch.arange(count, device=device) + _hash(number)).argsort()
    alternating = 1 - 2 * (torch.arange(count, device=device) % 2)
    if count % 2:
        alternating = alternating * (torch.arange(count, device=device) < count - 1)
    scale = math.sqrt(count / (count - count % 2))
    return exact(alternating[order]) * scale


_MASK = 0xFFFFFFFF


def _hashed(x: Any) -> Any:
    """Return integers of 32 bits that look random, each of another one.

    The products stay below 2^63, so that no device has to define what a larger one is. Multipliers
    and shifts are those of a search for the least bias by C. Wellons, "Prospecting for hash
    functions" (2018).
    """
    x = x & _MASK
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


def _hash(number: int) -> int:
    found: int = _hashed(_hashed(number) ^ (number >> 32))
    return found


def _contrast(score: Score, members: Sequence[Score], number: int, dim: int | None) -> Tensor | str:
    """Return the sum over the elements of score times weight times the sign of the example, [].

    Or why there are no examples.
    """
    along = example_dim(members, score, dim)
    if isinstance(along, str):
        return along
    weight = score.credit.total.detach()
    if score.less is not None:
        weight = weight - score.less
    shape = score.node.shape
    sizes = [size if at == along else 1 for at, size in enumerate(shape)]
    sign = signs(shape[along], number, weight.device).reshape(sizes).to(weight.dtype)
    return (score.density * (weight * sign)).sum()


def _gradients(
    members: Sequence[Score], parts: Sequence[Tensor], leaves: Sequence[Any]
) -> Iterator[tuple[Any, Tensor]]:
    """Yield the leaves that the scores of a site reach, as autograd's, and the gradient there."""
    live = [(m, part) for m, part in zip(members, parts, strict=True) if part.requires_grad]
    if not leaves or not live:
        return
    routes = [Route(part, m.held, m.passed) for m, part in live]
    is_routed = any(route.held or route.passed for route in routes)
    total = torch.stack([part.to(parts[0]) for _, part in live]).sum()
    with routed(routes) if is_routed else nullcontext():
        found = torch.autograd.grad(
            total, [leaf.variable for leaf in leaves], retain_graph=True, allow_unused=True
        )
    for leaf, gradient in zip(leaves, found, strict=True):
        if gradient is not None:
            yield leaf, gradient.detach()


def _square(gradient: Tensor) -> Tensor:
    """Return the sum of the squares of the coordinates, [], in double where there is one."""
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    dtype = None if gradient.device.type == "mps" else torch.float64
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=dtype)
    return norm.square()


def _moments(members: Sequence[Score]) -> Tensor | None:
    """Return the moments of the baseline and the credit of a site, None where it has no baseline.

    A part of the credit that a pass of its own takes counts with the site's.
    """
    totals: dict[str, Tensor] = {}
    baselines: dict[str, Tensor] = {}
    for each in members:
        _add(totals, each.node.name, exact(each.credit.total.detach()))
        if each.less is not None:
            _add(baselines, each.node.name, exact(each.less))
    pairs = [torch.broadcast_tensors(b, totals[name]) for name, b in baselines.items()]
    if not pairs:
        return None
    both = torch.stack(
        [torch.cat([x.reshape(-1) for x in side]) for side in zip(*pairs, strict=True)]
    )
    mean = both.mean(1)
    b, c = both - mean[:, None]
    count = mean.new_full((), both.shape[1])
    return torch.stack([count, *mean, (b * b).sum(), (c * c).sum(), (b * c).sum()])


def _add(into: dict[Any, Tensor], key: Any, value: Tensor) -> None:
    into[key] = into[key] + value if key in into else value

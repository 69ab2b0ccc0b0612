"""Factors: the log-densities of an enumerated program, by the sites and repetitions of each.

A factor has an axis for each enumerated site that its density depends on, and one for each
dimension of repetitions, of a plate or of a batch. It is of the repetitions that it was
declared in, whether or not they have an axis.
"""

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, TransformedDistribution

from ancestral.estimators.elimination.log_table import Table, along
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.provenance.algebra.source_alignments import claimed
from ancestral.provenance.tensor.tensor import attach, provenance, untrack
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.enumeration.dims import is_kept_at
from ancestral.trace.nodes.distribution_params import factorized, is_of_torch
from ancestral.trace.nodes.enum_dims import Variable, trailing
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.log_prob import tracked_density
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate_frame import scale_of
from ancestral.trace.recording.enumerated_log_prob import Spread, named
from ancestral.trace.recording.trace import Trace

Repetition = int | tuple[str, int]
"""A dimension of repetitions, counted from the right, or a plate in turn and the turn."""


@dataclass(frozen=True, eq=False)
class LogFactor:
    """A factor of the joint density.

    Attributes:
        table: its logarithm, by `Variable` and `Repetition`.
        repetitions: those that it is in.
        scale: how often it counts, apart from the plates: a number, or one for each repetition.
        plate_scales: how often each of the repetitions counts.
        name: the site that it came from.
        own: that site, if it is enumerated.
    """

    table: Table
    repetitions: frozenset[Repetition]
    scale: float | Table = 1.0
    plate_scales: Mapping[Repetition, float] = field(default_factory=dict[Repetition, float])
    name: str = ""
    own: Variable | None = None

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The enumerated sites that it depends on."""
        return tuple(axis for axis in self.table.axes if isinstance(axis, Variable))


def all_factors_of(trace: Trace) -> list[LogFactor]:
    """Return the factors that the sites of a trace are.

    Densities that torch computed, whatever for, are no sites.

    Raises:
        EnumerationError: if `factors_of` does.
    """
    nodes = [node for node in trace.values() if node.type == "sample"]
    sites = [node for node in nodes if node.is_declared or not node.is_observed]
    for node in sites:
        if node.infer.get("enumerate") and node.is_drawn:
            raise EnumerationError(
                f"site {node.name!r} ({node.location}) is to be enumerated, as its infer says, but "
                "was drawn, as no an.handlers.enumerate saw it: run the program within one, or "
                'take "enumerate" away from its infer, and it is taken as given'
            )
    return factors_of(trace, sites, variables_of(sites))


def factors_of(
    trace: Trace,
    nodes: Iterable[Node],
    known: Set[Variable],
    costs: Set[Variable] = frozenset(),
    spread: Spread | None = None,
) -> list[LogFactor]:
    """Return the factors that some sites of a trace are, of the enumerated sites that are known.

    What a mask hides of an enumerated site has its probabilities nevertheless, as it would be drawn
    nevertheless; but of one that is among the `costs`, nothing counts that is hidden. Other sites
    may have been drawn once for each value of those. `spread` is of the trace, if it is known.

    Raises:
        EnumerationError: if a latent site was drawn once for each value of another, or a site
            depends on an enumerated one that is not known, or whose block had ended.
    """
    spread = Spread(trace) if spread is None else spread
    factors: list[LogFactor] = []
    for node in nodes:
        behind = None if node.enumeration is not None else spread.behind(node)
        if behind is not None:
            raise EnumerationError(
                f"site {node.name!r} ({node.location}) depends on the enumerated site "
                f"{named(behind)}, but the block of an.handlers.enumerate had ended, so that the "
                "values of the one look like a batch of the other; let the block last until the "
                "end of the program"
            )
        _refuse_mixed(node, spread.nodes)
        own = own_of(node)
        if own is not None and own.is_drawn and own not in costs:
            raise EnumerationError(
                f"site {node.name!r} ({node.location}) is drawn several times in the model alone, "
                "as num_samples in its infer says: the logarithm of a mean of draws is no "
                "estimate of that of the sum; draw it in the guide, or, if it has finitely many "
                "values, leave num_samples out"
            )
        is_masked = own is None or own in costs
        _refuse_undetermined(node, costs)
        factor = _factor_of(node, is_masked=is_masked)
        for variable in factor.variables:
            if variable not in known:
                raise EnumerationError(
                    f"site {node.name!r} ({node.location}) depends on the enumerated site "
                    f"{variable}, which is not in this trace, so that its probabilities are "
                    "unknown; record both"
                )
        factors.append(factor)
    return factors


def batch_of(factor: LogFactor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the last dimensions of a shape, those of the repetitions of a factor."""
    return trailing(shape, max((-p for p in factor.repetitions if isinstance(p, int)), default=0))


def own_of(node: Node) -> Variable | None:
    """Return what an enumerated site has an axis for."""
    return None if node.enumeration is None else node.enumeration.own


def variables_of(nodes: Iterable[Node]) -> frozenset[Variable]:
    """Return what the enumerated ones of some sites have an axis for."""
    return frozenset(own for own in map(own_of, nodes) if own is not None)


def _factor_of(node: Node, *, is_masked: bool) -> LogFactor:
    density = _density(node, is_masked=is_masked)
    scales = dict(_plate_scales(node))
    table = packed(node, density)
    dims = {axis for axis in table.axes if isinstance(axis, int)}
    repetitions = frozenset(scales) | dims
    return LogFactor(table, repetitions, _scale(node), scales, node.name, own_of(node))


def is_same_scale(a: float | Table, b: float | Table) -> bool:
    """Return whether two scales are the same for each repetition."""
    if isinstance(a, Table) and isinstance(b, Table):
        return set(a.axes) == set(b.axes) and torch.equal(along(a, b.axes), b.log)
    return not isinstance(a, Table) and not isinstance(b, Table) and math.isclose(a, b)


def _scale(node: Node) -> float | Table:
    """Return how often a site counts, apart from the plates around it."""
    rest = node.scale / scale_of(node.cond_indep_stack)
    if not isinstance(rest, Tensor):
        return rest
    plain = untrack(rest)
    is_number = plain.numel() == 1 and not plain.requires_grad
    return plain.item() if is_number else packed(node, plain)


def _density(node: Node, *, is_masked: bool) -> Tensor:
    """Return the log-density of a site, [*batch], with what it depends on by chance."""
    if _is_certain(node):
        density = node.masked_log_prob if is_masked else node.unscaled_log_prob
    else:
        density = node.by_case(tracked_density(node, is_masked=is_masked))
        if is_masked and node.mask is not None:
            density = torch.where(node.mask, density, 0)
    found = provenance(density)
    return density if found is None else by_chance(density, found)


def _is_certain(node: Node) -> bool:
    """Return whether the density of a site is the same in all runs."""
    parts = (node.param_provenance, node.held, provenance(node.mask))
    return not node.is_drawn and all(
        source.is_known for part in parts if part is not None for source in part.members
    )


def by_chance(density: Tensor, found: Provenance) -> Tensor:
    """Return a tensor that no longer depends on known sources: they are data, or summed out."""
    known = frozenset(source for source in found.members if source.is_known)
    entries = {alignment: members - known for alignment, members in found.entries}
    left = {alignment: members for alignment, members in entries.items() if members}
    plain = untrack(density)
    return attach(plain, found.universe.intern(found.shape, left)) if left else plain


def _refuse_undetermined(node: Node, listed: Set[Variable]) -> None:
    """Raise if a latent site has another value for each of a site's, but for those of a guide."""
    if node.enumeration is None or node.is_enumerated or node.is_observed or node.fn is None:
        return
    batch = node.value.shape[: node.value.dim() - len(node.fn.event_shape)]
    wide = (i - len(batch) for i, size in enumerate(batch) if size != 1)
    variables = node.enumeration.variables
    if any(dim <= node.enumeration.first_dim and variables[dim] not in listed for dim in wide):
        raise EnumerationError(
            f"site {node.name!r} ({node.location}) was drawn once for each value of the enumerated "
            "sites that it depends on, so that it has no one value at which to take the density; "
            "observe it, replay it from a guide, or draw it before the enumerated sites"
        )


def _refuse_mixed(node: Node, nodes: Mapping[Source, Node]) -> None:
    """Raise if a density that is not torch's does not keep apart what is enumerated."""
    if node.enumeration is None or node.fn is None or _is_of_batches(factorized(node.fn)):
        return
    density = tracked_density(node, is_masked=True)
    found = provenance(density)
    batch = tuple(density.shape[: density.dim() - node.event_dims])
    for source, alignments in () if found is None else claimed(found).items():
        behind = nodes.get(source)
        if behind is None or not behind.is_enumerated:
            continue
        theirs = source.shape[: len(source.shape) - behind.event_dims]
        for i, size in enumerate(theirs):
            if size != 1 and not is_kept_at(batch, alignments, i, i - len(theirs), size):
                raise EnumerationError(
                    f"site {node.name!r} ({node.location}): log_prob of {type(node.fn).__name__} "
                    f"mixes values or repetitions of the enumerated site {behind.name!r} "
                    f"({behind.location}), or computes with what is not followed; compute the "
                    "density of each case of a batch from its own parameters and value, with ops "
                    'that broadcast, or draw the site: infer={"enumerate": False}'
                )


def _is_of_batches(fn: Distribution) -> bool:
    """Return whether a density is torch's, which computes each case of a batch by itself."""
    log_prob: Any = type(fn).log_prob
    is_torchs = log_prob.__module__.startswith("torch.distributions.")
    is_composed = isinstance(fn, MixtureSameFamily | TransformedDistribution)
    return isinstance(fn, Factor) or (is_torchs and not is_composed) or is_of_torch(fn)


def _plate_scales(node: Node) -> Iterator[tuple[Repetition, float]]:
    """Yield the plates around a site, and how often each of their repetitions counts."""
    for plate in node.cond_indep_stack:
        if plate.dim is not None:
            yield plate.dim, plate.scale
        elif plate.scale != 1:
            assert plate.turn is not None
            yield (plate.name, plate.turn), plate.scale


def packed(node: Node, values: Tensor) -> Table:
    """Return what a site has over its batch, without the dimensions of size 1."""
    axes: list[Hashable] = []
    for i, size in enumerate(values.shape):
        dim = i - values.dim()
        if size == 1:
            continue
        if node.enumeration is not None and dim <= node.enumeration.first_dim:
            axes.append(node.enumeration.variables[dim])
        else:
            axes.append(dim)
    kept = [size for size in values.shape if size != 1]
    return Table(values.reshape(kept), tuple(axes))

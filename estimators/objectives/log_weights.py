"""Log-weights: those of several draws of a guide, example by example.

        log w_k[n] = Σ log p(x_n, z_kn) - Σ log q(z_kn),   z_k ~ q,   k = 1 ... K

The examples n are the repetitions of the plates that all sites of both programs are in. A site
outside of such a plate ties its repetitions together: they are one example then.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.plate import plate
>>> from ancestral.trace.program.primitives import sample
>>> def model():
...     with plate("data", 3):
...         sample("z", Normal(0.0, 1.0))
>>> draws = Draws(model, model, (), {}, particles=2)
>>> [tuple(run.log_p.shape) for run in draws.made()]
[(1, 3), (1, 3)]
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.credit.declared_costs import non_finite_density
from ancestral.estimators.elimination.eliminate import over_all_but, summed_out
from ancestral.estimators.elimination.factors import Repetition, factors_of, variables_of
from ancestral.estimators.elimination.log_table import along
from ancestral.estimators.gradient.surrogate import settle
from ancestral.estimators.inference.elbo import check_nesting, refuse_compiled
from ancestral.estimators.inference.importance import WeightError
from ancestral.estimators.inference.model_guide import (
    Pair,
    Program,
    check_programs,
    refuse_mismatch,
    run,
)
from ancestral.estimators.inference.particles import NAME, nesting, together
from ancestral.estimators.inference.pyro_hints import PARTICLES, refuse
from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.dispatch.propagate import mark_lost
from ancestral.provenance.tensor.tensor import alias, provenance, untrack
from ancestral.trace.context.argument_checks import check_count
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.handlers.replay import replay
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate_frame import Plate, scale_of
from ancestral.trace.recording.enumerated_log_prob import Spread
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.unused_handlers import unchecked


@dataclass(frozen=True, eq=False)
class Weighted:
    """Some draws of one recording: the log-densities of the sites, by example.

    Attributes:
        trace: the recording.
        pair: the traces of both programs.
        plates: those whose repetitions are examples, outermost first.
        particle_dim: the dimension of the draws, from the right; None if there is one.
        apart: data outside of these plates that depends on no draw, which no weight has.
    """

    trace: Trace
    pair: Pair
    plates: tuple[Plate, ...]
    particle_dim: int | None
    apart: frozenset[str] = frozenset()

    @cached_property
    def log_p(self) -> Tensor:
        """Log p(x, z) as the model's sites count, tracked, [draws, *examples]."""
        counted = [n for n in self.pair.model_sites if n.name not in self.apart]
        spread = [n for n in counted if self._spread.behind(n) is not None]
        total = self.total([n for n in counted if n not in spread])
        return total + self._marginal(spread) if spread else total

    @cached_property
    def _spread(self) -> Spread:
        return Spread(self.pair.model)

    def _marginal(self, nodes: Sequence[Node]) -> Tensor:
        """Return the log-density of sites, those enumerated summed out, [draws, *examples]."""
        factors = factors_of(self.pair.model, nodes, variables_of(nodes), spread=self._spread)
        left = summed_out(factors, [factor for factor in factors if factor.own is not None])
        kept = frozenset[Repetition](self._dims)
        parts = [along(over_all_but(factor, kept), self._dims) for factor in left]
        total = sum(parts[1:], parts[0])
        return total if self.particle_dim is not None else total.unsqueeze(0)

    @cached_property
    def constant(self) -> Tensor:
        """The log-probability of the data that no weight has, []."""
        nodes = [node for node in self.pair.model_sites if node.name in self.apart]
        total = sum((node.tracked_log_prob.sum() for node in nodes), torch.zeros(()))
        return total / len(self.log_p)

    @cached_property
    def log_q(self) -> Tensor:
        """Log q(z) as the guide's sites count, tracked, [draws, *examples]."""
        return self.total(self.pair.guide_sites)

    @cached_property
    def log_w(self) -> Tensor:
        """Log w, tracked, [draws, *examples]."""
        return self.log_p - self.log_q

    @property
    def names(self) -> frozenset[str]:
        """The sites of the guide, whose log-probability counts."""
        return frozenset(node.name for node in self.pair.guide_sites)

    @property
    def scale(self) -> float:
        """How often each example counts, so that a subsample stands for the whole."""
        return scale_of(self.plates)

    def total(self, nodes: Sequence[Node]) -> Tensor:
        """Return the sum of the log-densities of sites, [draws, *examples]."""
        parts = [self._by_example(node) for node in nodes]
        sizes = [plate.subsample_size for plate in self.plates]
        return sum(parts[1:], parts[0]) if parts else torch.zeros(1, *sizes)

    def _by_example(self, node: Node) -> Tensor:
        density = node.tracked_log_prob
        kept = [_place(node, tuple(density.shape), dim) for dim in self._dims]
        gone = [at for at in range(density.ndim) if at not in kept]
        density = density.sum(gone) if gone else density
        density = density if self.particle_dim is not None else density.unsqueeze(0)
        return density if self.scale == 1 else density / self.scale

    @property
    def _dims(self) -> list[int]:
        """The dimensions that stay, from the left, counted from the right of a batch."""
        known = sorted(plate.dim for plate in self.plates if plate.dim is not None)
        return known if self.particle_dim is None else [self.particle_dim, *known]

    def refuse_non_finite(self) -> None:
        """Raise where a density is NaN or infinite.

        Raises:
            NonFiniteDensityError: at the first site of which one is.
        """
        for program in ("guide", "model"):
            for node in getattr(self.pair, f"{program}_sites"):
                is_spread = program == "model" and self._spread.behind(node) is not None
                density = self.log_p if is_spread else node.tracked_log_prob  # 0 is a probability
                if not bool(untrack(density).detach().isfinite().all()):
                    raise non_finite_density(node, program)


def _place(node: Node, shape: Shape, dim: int) -> int:
    """Return which dimension of a density is this one of the batch; negative if none is."""
    return len(shape) - (node.event_dims if shape == node.shape else 0) + dim


@dataclass(frozen=True, eq=False)
class Draws:
    """What is to be drawn: K times from a guide, with the model under each.

    Raises:
        TypeError: if a program is no function, or for a name of Pyro among the keywords.
        ValueError: if `particles` is no positive int, or `max_plate_nesting` a negative one.
    """

    model: Program
    guide: Program
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    particles: int = 1
    vectorized: bool = False
    max_plate_nesting: int | None = None
    verb: str = "iwae"
    fewest: int = 1
    has_constants: bool = True  # whether what all weights share is to be added to the objective

    def __post_init__(self) -> None:
        """Check them."""
        check_programs(self.verb, self.model, self.guide)
        refuse(self.verb, (self.model, self.guide), self.kwargs, PARTICLES)
        check_count("particles", self.particles, self.fewest)
        check_nesting(self.max_plate_nesting)
        refuse_compiled(self.verb)

    def made(self) -> list[Weighted]:
        """Return the draws: all in one recording if vectorized, else each in its own.

        Raises:
            GuideError: if the sites of the two do not match.
            WeightError: if a plate is subsampled whose repetitions are no examples.
            EnumerationError: if a site of the guide is enumerated, or what the model alone
                enumerates cannot be summed out.
            NonFiniteDensityError: if the log-probability of a site is NaN or infinite.
        """
        once, lead = partial(run, self.model, self.guide, *self.args, **self.kwargs), None
        recorded: list[tuple[Trace, Pair]] = []
        if self.vectorized:
            dims = self.max_plate_nesting
            dims = nesting(once) if dims is None else dims
            with record(control="after") as trace:
                recorded.append((trace, together(once, self.particles, dims)))
            lead = -1 - dims
        else:
            for _ in range(self.particles):
                # All sites count, whatever Python decides later.
                with record(control="after") as trace, _same_subsamples(recorded):
                    recorded.append((trace, once()))
        pairs = [pair for _, pair in recorded]
        for pair in pairs:
            refuse_mismatch(pair)
            _refuse_enumerated(pair)
        plates, apart = _examples(pairs, _constants(pairs) if self.has_constants else frozenset())
        found = [Weighted(trace, pair, plates, lead, apart) for trace, pair in recorded]
        for each in found:
            _refuse_subsampled(each, self.verb)
            each.refuse_non_finite()
        return found


def released(runs: Sequence[Weighted], *found: Tensor) -> list[Tensor]:
    """Let go of the recordings that are no part of another, and return what was found of them.

    What goes on in a recording around depends on all that the log-weights do.
    """
    sources: list[Provenance] = []
    for each in runs:
        if each.trace.universe.owner is each.trace:
            settle(each.trace)
        else:
            known = (provenance(each.log_p), provenance(each.log_q))
            sources.extend(found for found in known if found is not None)
    return [followed(each, sources) for each in found]


def followed(value: Tensor, sources: Sequence[Provenance]) -> Tensor:
    """Return a value that depends on some sources, as a whole."""
    if not sources:
        return value
    own = alias(value)
    mark_lost(own, list(dict.fromkeys(sources)))
    return own


def _same_subsamples(before: Sequence[tuple[Trace, Pair]]) -> Any:
    """Return what gives the subsampled plates of a run the indices of the first one."""
    if not before:
        return nullcontext()
    first, pair = before[0]
    nodes = {n.name: n for n in (*pair.guide.values(), *pair.model.values()) if n.type == "plate"}
    same = Trace(first.universe)  # without the draws, which are to be others
    for node in nodes.values():
        if node.infer["subsample_size"] < node.infer["size"]:
            same.add(node)
    return unchecked(replay(same)) if same else nullcontext()


def _constants(pairs: Sequence[Pair]) -> frozenset[str]:
    """Return the data that depends on no draw in any run: all draws weigh it alike."""
    spreads = [Spread(pair.model) for pair in pairs]
    found = [
        {n.name for n in pair.model_sites if spread.behind(n) is None and _is_constant(n)}
        for pair, spread in zip(pairs, spreads, strict=True)
    ]
    return frozenset(set.intersection(*found))


def _is_constant(node: Node) -> bool:
    """Return whether a site is data whose density depends on nothing but that."""
    known = provenance(node.tracked_log_prob)
    return node.is_observed and (known is None or all(s.is_known for s in known.members))


def _examples(
    pairs: Sequence[Pair], constants: frozenset[str]
) -> tuple[tuple[Plate, ...], frozenset[str]]:
    """Return the plates that all sites of all runs are in, and what of the constants is not."""
    found: tuple[Plate, ...] | None = None
    for pair in pairs:
        for node in (*pair.guide.values(), *pair.model.values()):
            if node.type == "sample" and node.name not in constants:
                known = _own_plates(node)
                found = tuple(known) if found is None else tuple(p for p in found if p in known)
    plates = found or ()
    outside = {
        node.name
        for pair in pairs
        for node in pair.model_sites
        if node.name in constants and not {*plates} <= {*_own_plates(node)}
    }
    return plates, frozenset(outside)


def _own_plates(node: Node) -> list[Plate]:
    """Return the plates whose repetitions the density of a site keeps apart."""
    # What torch draws for the program has no density that counts.
    shape = tuple(node.tracked_log_prob.shape) if node.is_declared else node.shape
    found: list[Plate] = []
    for plate in node.cond_indep_stack:
        if plate.dim is None or plate.name == NAME or not plate.is_checked:
            continue
        at = _place(node, shape, plate.dim)
        if at >= 0 and shape[at] == plate.subsample_size:
            found.append(plate)
    return found


def _refuse_enumerated(pair: Pair) -> None:
    spread = Spread(pair.guide)
    for node in pair.guide_sites:
        if spread.behind(node) is not None:
            raise EnumerationError(
                f"site {node.name!r} ({node.location}) of the guide is enumerated, or depends on "
                "one that is; expected draws, which this objective weighs; run the guide without "
                "an.handlers.enumerate, or use an.infer.elbo, which takes the mean over all values"
            )


def _refuse_subsampled(weighted: Weighted, verb: str) -> None:
    for node in (*weighted.pair.guide_sites, *weighted.pair.model_sites):
        for plate in node.cond_indep_stack if node.name not in weighted.apart else ():
            if plate.scale != 1 and plate not in weighted.plates:
                raise WeightError(
                    f"site {node.name!r} ({node.location}) is in plate {plate.name!r}, which is "
                    "subsampled, and not all sites are in that plate: the weights of a part of "
                    f"the data are no weights of the whole, and an.infer.{verb} of them would be "
                    "biased; open the plate, with a dim, around both programs, give it no "
                    "subsample_size, or use an.infer.elbo"
                )

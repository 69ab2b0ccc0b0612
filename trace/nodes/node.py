"""Node: one step of a run as a trace keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.alignment_map import common_shape
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.provenance.algebra.source_alignments import NAMED
from ancestral.provenance.dispatch.error_leaks import refuse_inference
from ancestral.provenance.tensor.control_flow import computed_anew
from ancestral.provenance.tensor.tensor import attach, untrack
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.place import Location
from ancestral.trace.context.plain import aside
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.autograd_graph import is_cut, mark_density
from ancestral.trace.nodes.distribution_params import (
    factorized,
    family_name,
    is_of_torch,
    parameters,
    plainly,
    unmasked,
)
from ancestral.trace.nodes.enum_dims import Enumeration
from ancestral.trace.nodes.known_families import own_density
from ancestral.trace.nodes.log_prob import computable, tracked_log_prob
from ancestral.trace.nodes.mask import over, replaced
from ancestral.trace.nodes.moving_boundary import has_moving_boundary
from ancestral.trace.nodes.plate_frame import Plate
from ancestral.trace.nodes.support import is_possible
from ancestral.trace.nodes.versions import Versions, are_written


class ModifiedParameterError(RuntimeError):
    """A parameter, or the value, of a site changed between the draw and a question for it."""


def modified(name: str, location: Location) -> ModifiedParameterError:
    """Return the error of a site that changed, with its line."""
    return ModifiedParameterError(
        f"site {name!r} ({location}): a parameter of its distribution, what that is computed from, "
        "or its value, was written into in place after the draw (by an optimizer, .data, numpy), "
        "so its log_prob is no longer that of the draw; take the gradient before the optimizer's "
        "step, or clone what is written into: z = z + 1 for z += 1"
    )


class NoDensityError(NotImplementedError):
    """A score is needed of a distribution that has no density."""


class NoScoreError(NotImplementedError):
    """A score is needed of a distribution whose density has no derivative that tells it all."""


class Gate:
    """Lets the pathwise gradient through the value of a site, or shuts it out.

    It hangs on the value as a hook, and is shut where the site's score function is used instead.
    What goes on `instead` of what came may be given; what `came` is kept if there is a list for it.
    A surrogate relies on the gate being shut, or open, whenever it is differentiated: `is_kept`.
    """

    __slots__ = ("came", "instead", "is_kept", "is_shut")

    def __init__(self) -> None:
        self.is_shut = False
        self.is_kept: bool | None = None
        self.instead: Tensor | None = None
        self.came: list[Tensor] | None = None

    def __call__(self, gradient: Tensor | None) -> Tensor | None:
        """Return the gradient that goes on, None for what came."""
        if self.came is not None and gradient is not None:
            self.came.append(gradient)
        # Torch has none where the derivative is zero everywhere: of a count, say.
        return torch.zeros_like(gradient) if self.is_shut and gradient is not None else self.instead


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """One step of a run: a random choice, a cost, a parameter, a plate, a value that was named.

    `shape` is that of the independent draws, the leading dimensions of `value`; what follows is an
    event. `param_provenance` is the provenance of the distribution's parameters over that shape, or
    of the value where there is no distribution.

    Attributes:
        type: "sample", "param", "plate", "deterministic" or "cost".
        held: what the value itself depends on, [*shape, *event], where it was not drawn here.
        is_given: whether the value was taken from elsewhere: observed, replayed, substituted.
        is_declared: whether the program named it, so that it counts in `Trace.backward`.
    """

    name: str
    fn: Distribution | None
    value: Tensor  # [*shape, *event], plain, as it was drawn
    shape: Shape
    source: Source
    param_provenance: Provenance | None
    location: Location
    type: str = "sample"
    module_path: str = ""
    is_observed: bool = False
    is_reparameterized: bool = False
    is_learned: bool = False  # whether a parameter of fn has a gradient to learn
    is_given: bool = False
    is_declared: bool = False
    held: Provenance | None = None
    scale: float | Tensor = 1.0  # how often it counts, broadcastable to the batch
    mask: Tensor | None = None  # which elements of the batch count
    cond_indep_stack: tuple[Plate, ...] = ()  # outermost first
    event_dims: int = 0  # how many of the last dimensions of shape are one event to the user
    infer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    versions: Versions = ()  # what the density needs, and how often it had been written into
    gate: Gate | None = None  # of a value with a gradient
    control: Provenance | None = None  # that Python came here, where it may not have
    enumeration: Enumeration | None = None  # which dimensions stand for values of sites

    @classmethod
    def made(cls, fields: dict[str, Any]) -> "Node":
        """Return a node of all its fields but for those that have a default; it keeps the dict.

        A frozen class takes them one by one, which counts where thousands are drawn; and a dict of
        up to ten takes half of what a larger one does. An `infer` is to be among them.
        """
        node = object.__new__(cls)
        object.__setattr__(node, "__dict__", fields)
        return node

    def __repr__(self) -> str:
        """Show what it is, and not its values."""
        kind = self.type if self.fn is None else f"{self.type} of {family_name(self.fn)}"
        state = ", observed" if self.is_observed else ", given" if self.is_given else ""
        parents = f", parents {', '.join(sorted(self.parents))}" if self.parents else ""
        shape = list(self.value.shape)
        return f"Node({self.name!r}: {kind} {shape}{state}{parents}, at {self.location})"

    @property
    def parents(self) -> frozenset[str]:
        """The names of the sources and named values that reach the parameters, directly."""
        if self.param_provenance is None:
            return frozenset()
        origins = self.param_provenance.universe.origins(self.param_provenance.members, NAMED)
        return frozenset(source.name for source in origins)

    @property
    def source_location(self) -> Location:
        """The line that drew the value."""
        return self.location

    @property
    def is_stochastic(self) -> bool:
        """Whether it is a random choice, and no data."""
        return self.type == "sample" and not self.is_observed

    @property
    def is_enumerated(self) -> bool:
        """Whether it takes all its values at once, along its own dimension."""
        return self.enumeration is not None and self.enumeration.own is not None

    @property
    def is_drawn(self) -> bool:
        """Whether its value was drawn in this run."""
        return self.type == "sample" and not (self.is_observed or self.is_given)

    @property
    def is_score(self) -> bool:
        """Whether the gradient needs this site's score function."""
        return self.is_drawn and not self.is_reparameterized

    @cached_property
    def log_prob(self) -> Tensor:
        """Log p(value | parents) of each case as it counts, [*batch]: masked and scaled.

        Raises:
            NoDensityError: if the distribution has none.
            ModifiedParameterError: if a parameter was overwritten since the draw.
        """
        counted = self.masked_log_prob
        if isinstance(self.scale, Tensor) or self.scale != 1:
            counted = counted * (
                untrack(self.scale) if isinstance(self.scale, Tensor) else self.scale
            )
        return counted

    @cached_property
    def masked_log_prob(self) -> Tensor:
        """Log p(value | parents) of each case, [*batch], masked, whatever its scale."""
        if self.mask is None:
            return self.unscaled_log_prob
        return torch.where(untrack(self.mask), self.by_case(self.counted_log_prob), 0)

    @cached_property
    def unscaled_log_prob(self) -> Tensor:
        """Log p(value | parents) of each case, [*batch], whatever its mask and scale."""
        return self.by_case(self.elementwise_log_prob)

    def by_case(self, density: Tensor) -> Tensor:
        """Return the density of each case, [*batch], given that of its elements."""
        self.mark(density)
        if not self.event_dims or tuple(density.shape) != self._whole:
            return density
        return density.sum(tuple(range(-self.event_dims, 0)))

    def mark(self, density: Tensor) -> None:
        """Let the graph of a density that is handed out tell at which draw it was taken."""
        if self.is_drawn and self.source.universe is not None:
            mark_density(density, self.source.universe, (self.source,))

    @property
    def _whole(self) -> Shape:
        """The shape of the density: that of the draws, with what parents are enumerated along."""
        if self.enumeration is None or self.fn is None:
            return self.shape
        return common_shape(self.shape, factorized(self.fn).batch_shape)

    @cached_property
    def elementwise_log_prob(self) -> Tensor:
        """Log p(value | parents) of each independent element, unscaled.

        [*shape], or the shape that a user's own distribution gives it. NaN where a mask hides a
        value that the distribution cannot take.
        """
        keep = self.kept if self.is_given else None
        if keep is None or self.fn is None:
            return self._density(self.value)
        keep = keep | is_possible(factorized(self.fn), self.value)
        density = self._density(self.value, keep)
        return torch.where(keep, density, torch.nan) if keep.shape == density.shape else density

    @cached_property
    def counted_log_prob(self) -> Tensor:
        """The same, of which nothing is to be read where the mask hides an element."""
        keep = self.kept
        return self.elementwise_log_prob if keep is None else self._density(self.value, keep)

    @cached_property
    def kept(self) -> Tensor | None:
        """Which independent elements count, [*shape], None for all.

        To the left of that are the dimensions that parents are enumerated along.
        """
        if self.mask is None or self.fn is None or bool(untrack(self.mask).all()):
            return None
        whole = common_shape(self.shape, factorized(self.fn).batch_shape)
        return over(self.mask, tuple(whole), self.event_dims)

    @property
    def log_prob_sum(self) -> Tensor:
        """The sum of the log-probability as it counts, []."""
        return self.log_prob.sum()

    @cached_property
    def score(self) -> Tensor:
        """The log-probability of the value held fixed, whose derivative is the score function.

        Raises:
            NoScoreError: if it has no derivative, where there would be a pathwise one, or misses
                the part of the gradient by which the support moves.
        """
        if self.has_moving_boundary:
            raise self._no_score(
                "its score is needed, but lacks a part of the gradient, for what is learned moves "
                f"the ends of the support of {family_name(self.fn)}, or its values; draw by "
                "rsample and take a smooth cost, without a read of the value, or draw what does "
                "not move and compute it from that, such as low + (high - low) * u"
            )
        if self.fn is not None and self.has_hidden_elements:
            return self._density(detach(self.value), fn=unmasked(factorized(self.fn)))
        if not self.is_reparameterized:
            return self.elementwise_log_prob
        density = self._density(detach(self.value))
        if self.is_learned and self.fn is not None and not density.requires_grad:
            raise self._no_score(
                "a cost depends on its value by a step without a useful derivative (a comparison, "
                "a rounding), so its score is needed, but the log_prob of "
                f"{type(self.fn).__name__} has no derivative in its parameters; take a smooth "
                "cost, or name the value by an.deterministic, if nothing is drawn"
            )
        return density

    def _no_score(self, why: str) -> NoScoreError:
        return NoScoreError(f"site {self.name!r} ({self.location}): {why}")

    @property
    def has_hidden_elements(self) -> bool:
        """Whether its density leaves elements of it out, which its score does not."""
        inner = None if self.fn is None else factorized(self.fn)
        return inner is not None and unmasked(inner) is not inner

    @cached_property
    def has_moving_boundary(self) -> bool:
        """Whether what is learned moves an end of its support, so that the score is not all."""
        return self.is_learned and self.fn is not None and has_moving_boundary(self.fn)

    @cached_property
    def is_cut(self) -> bool:
        """Whether its density depends on what is learned by ways that its pathwise gradient lacks.

        A class of the user may detach some of its parameters, or draw by them what is discrete.
        """
        if self.fn is None or self.is_modified or is_of_torch(factorized(self.fn)):
            return False
        if hasattr(self.fn, "is_cut"):  # it stands for another, whose parameters it has not
            return bool(self.fn.is_cut)
        held = [tensor for tensor, _ in parameters(self.fn)]
        return is_cut(self.value, held, self._density_if_any)

    def _density_if_any(self) -> Tensor | None:
        try:
            with torch.random.fork_rng(devices=[]):
                return untrack(self._density(detach(self.value)))
        except Exception:  # whoever needs the density gets the error
            return None

    @property
    def tracked_value(self) -> Tensor:
        """The value with its provenance: what the program went on with."""
        found = self.held
        if self.is_drawn:
            universe = self.source.universe
            assert universe is not None
            found = universe.of(self.source, tuple(self.value.shape))
        if found is None or found.universe.state == "settled":
            return self.value
        return attach(aside(self.value), found)

    @cached_property
    def tracked_log_prob(self) -> Tensor:
        """Log p(value | parents) as a term of a loss, [*shape]: masked, scaled, with provenance."""
        with computed_anew():
            return tracked_log_prob(self)

    @property
    def is_modified(self) -> bool:
        """Whether a parameter of the distribution was overwritten since the draw."""
        return are_written(self.versions)

    def refuse_modified(self) -> None:
        """Raise a ModifiedParameterError if a parameter was overwritten since the draw."""
        if are_written(self.versions):
            raise modified(self.name, self.location)

    def _density(
        self, value: Tensor, keep: Tensor | None = None, fn: Distribution | None = None
    ) -> Tensor:
        if self.fn is None:
            raise TypeError(f"{self.type} {self.name!r} ({self.location}) has no distribution")
        self.refuse_modified()
        fn = factorized(self.fn) if fn is None else fn
        if keep is not None and not bool(keep.all()):
            fn, value = replaced(fn, value, keep)
        was_inside, local.is_inside = local.is_inside, True  # to ask is not to observe
        try:
            with torch.enable_grad():
                is_own = keep is None and value is self.value and self.is_drawn
                known = own_density(fn, value) if is_own else None
                if known is not None:
                    return known
                density: Tensor = plainly(fn, fn.log_prob, computable(fn, value))
        except NoDensityError:
            raise  # of a distribution that knows better why
        except (NotImplementedError, KeyError) as error:
            # Pyro's flows without an inverse look for the value among those that they have made.
            if isinstance(error, KeyError) and not isinstance(fn, TransformedDistribution):
                raise
            raise NoDensityError(
                f"site {self.name!r} ({self.location}): {type(self.fn).__name__} has no log_prob, "
                "but a cost depends on its value, so its score is needed; implement log_prob, draw "
                "with rsample, or cut the dependency with an.untrack"
            ) from error
        except RuntimeError as error:
            refuse_inference(error, frozenset({self.name}), self.location)
            raise
        finally:
            local.is_inside = was_inside
        return density


def place_in(node: Node, plate: Plate) -> int | None:
    """Return the dimension of a node's shape that a plate around it is, None for one in turn."""
    return None if plate.dim is None else len(node.shape) - node.event_dims + plate.dim

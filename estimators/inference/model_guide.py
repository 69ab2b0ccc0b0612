"""Model and guide: one run of both, and the errors where they do not fit.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> def model():
...     z = sample("z", Normal(0.0, 1.0))
...     sample("x", Normal(z, 1.0), obs=torch.tensor(0.5))
>>> def guide():
...     sample("z", Normal(0.2, 0.7))
>>> with record():
...     pair = run(model, guide)
>>> [node.name for node in pair.model_sites], [node.name for node in pair.guide_sites]
(['z', 'x'], ['z'])
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ancestral.trace.context.errors import SiteError
from ancestral.trace.graph.argument_types import check_program
from ancestral.trace.handlers.replay import replay
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate_frame import Plate
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.unused_handlers import unchecked

Program = Callable[..., Any]


class GuideError(SiteError):
    """A guide does not fit its model."""


@dataclass(frozen=True)
class Pair:
    """The traces of a guide, and of a model under the values of the guide."""

    model: Trace
    guide: Trace

    @cached_property
    def model_sites(self) -> list[Node]:
        """The sites of the model whose log-probability counts, factors among them."""
        return [
            node
            for node in self.all_of_model
            if node.name in self.guide or not is_auxiliary(node) or node.is_enumerated
        ]

    @cached_property
    def all_of_model(self) -> list[Node]:
        """The sites of the model, those too that are drawn from their prior."""
        return sites_of(self.model)

    @cached_property
    def guide_sites(self) -> list[Node]:
        """The sites of the guide, whose log-probability counts."""
        return sites_of(self.guide)

    @cached_property
    def shared(self) -> list[tuple[Node, Node]]:
        """The sites that both draw, as they are in the model and in the guide."""
        drawn = {node.name: node for node in self.guide_sites if not node.is_observed}
        return [
            (node, drawn[node.name])
            for node in self.all_of_model
            if not node.is_observed and node.name in drawn
        ]


def check_programs(verb: str, model: object, guide: object) -> None:
    """Raise a TypeError unless a model and a guide are functions."""
    check_program(verb, "model", model)
    check_program(verb, "guide", guide)


def run(model: Program, guide: Program, *args: Any, **kwargs: Any) -> Pair:
    """Run a guide, then its model under the guide's values; within one recording around both."""
    with record() as guide_trace:
        guide(*args, **kwargs)
    with record() as model_trace, unchecked(replay(guide_trace)):
        model(*args, **kwargs)
    return Pair(model_trace, guide_trace)


def refuse_mismatch(pair: Pair) -> None:
    """Raise where the sum of log-probabilities of a pair would be no evidence lower bound.

    Raises:
        GuideError: at the first site that is wrong.
    """
    for error in (*observed(pair), *missing(pair), *declared_costs(pair), *misread(pair)):
        raise error


def observed(pair: Pair) -> Iterator[GuideError]:
    """Yield an error for each site of the guide that is data.

    A factor may be a part of its density, where the model has its own data.
    """
    data = [node for node in pair.guide_sites if node.is_observed]
    are_swapped = bool(data) and not any(node.is_observed for node in pair.all_of_model)
    mend = (
        "the model observes nothing, so that the two seem to be swapped: the model comes first"
        if are_swapped
        else "observe it in the model alone, and take its obs=, or what conditions it, away "
        "from the guide"
    )
    for node in data:
        if are_swapped or not isinstance(node.fn, Factor):
            yield GuideError(
                f"site {node.name!r} ({node.location}) of the guide is observed; expected a guide "
                "to draw the latent sites of the model and nothing else, as the bound subtracts "
                f"the log-probability of each of its sites: {mend}"
            )


def missing(pair: Pair) -> Iterator[GuideError]:
    """Yield an error for each site that one of the two has and the other lacks."""
    both = {node.name for node, _ in pair.shared}
    for node in pair.all_of_model:
        is_summed_out = node.is_enumerated and node.name not in pair.guide
        is_missing = not node.is_observed and node.name not in both and not is_summed_out
        if is_missing and not _may_lack(node, pair.guide):
            yield GuideError(
                f"site {node.name!r} ({node.location}) of the model is not observed; expected the "
                f"guide to draw it, but the guide draws {_drawn(pair.guide)}: draw {node.name!r} "
                "in the guide, or give it obs= in the model, or mark it in the model by "
                'infer={"is_auxiliary": True}: then it is drawn from its prior, and the bound is '
                "an average over it; or, if it has finitely many values, sum it out by running the "
                "model within an.handlers.enumerate"
            )
    for node in pair.guide_sites:
        if not node.is_observed and node.name not in both and not _may_lack(node, pair.model):
            other = pair.model.get(node.name)
            found = (
                f"draws {_drawn(pair.model)}"
                if other is None
                else f"has {_kind(other)} of that name at {other.location}"
            )
            yield GuideError(
                f"site {node.name!r} ({node.location}) of the guide has no counterpart; expected "
                f"the model to draw it, but the model {found}: draw {node.name!r} in the model, or "
                'mark it in the guide by infer={"is_auxiliary": True} if the guide needs it for '
                "itself"
            )


def declared_costs(pair: Pair) -> Iterator[GuideError]:
    """Yield an error for each cost that one of the two declares."""
    for node in (*pair.guide.values(), *pair.model.values()):
        if node.type == "cost":
            yield GuideError(
                f"cost {node.name!r} ({node.location}) is declared within a model or a guide, of "
                f"which only log-probabilities count; write an.factor({node.name!r}, -cost) in the "
                "model if it is a part of the joint density, or add it to the surrogate outside"
            )


def misread(pair: Pair) -> Iterator[GuideError]:
    """Yield an error for each site whose value or plates are others in the model."""
    for ours, theirs in pair.shared:
        if ours.source is not theirs.source and not torch.equal(ours.value, theirs.value):
            yield GuideError(
                f"site {ours.name!r}: the model ({ours.location}) does not use the value that the "
                f"guide ({theirs.location}) draws; expected it to be replayed: run the model under "
                "an.handlers.replay(guide_trace), and take away what sets the site within the model"
            )
        is_same = ours.cond_indep_stack == theirs.cond_indep_stack
        if not is_same and _thinned(ours) != _thinned(theirs):
            yield other_plates(ours, theirs)


def other_plates(ours: Node, theirs: Node) -> GuideError:
    """Return the error that a site is in other plates in the guide than in the model."""
    return GuideError(
        f"site {ours.name!r} is within {_plates(ours)} in the model ({ours.location}), but "
        f"within {_plates(theirs)} in the guide ({theirs.location}); expected the same: its "
        "log-probabilities would not count equally often; open the same plates around both"
    )


def _thinned(node: Node) -> set[Plate]:
    """Return the plates around a node that are subsampled."""
    return {
        plate if plate.is_checked else replace(plate, turn=None)  # Pyro may count them otherwise
        for plate in node.cond_indep_stack
        if plate.scale != 1
    }


def sites_of(trace: Trace) -> list[Node]:
    """Return the random choices, and the data, that a program named.

    What torch itself draws within a program is noise that the bound is an average over.
    """
    return [node for node in trace.values() if node.type == "sample" and node.is_declared]


def is_latent(node: Node) -> bool:
    """Return whether a node is a site that is no data."""
    return node.type == "sample" and node.is_declared and not node.is_observed


def is_auxiliary(node: Node) -> bool:
    """Return whether the user says that the other program of the pair may lack a site."""
    return is_latent(node) and bool(node.infer.get("is_auxiliary", False))


def _may_lack(node: Node, other: Trace) -> bool:
    return is_auxiliary(node) and node.name not in other


def _drawn(trace: Trace) -> str:
    drawn = (f"{node.name!r} ({node.location})" for node in trace.values() if is_latent(node))
    return ", ".join(drawn) or "nothing"


def _kind(node: Node) -> str:
    if node.type == "sample":
        return "an observed site" if node.is_observed else "a draw of torch"
    return f"a {node.type}"


def _plates(node: Node) -> str:
    found = [
        f"{plate.name!r} (size {plate.size}, subsample_size {plate.subsample_size}, "
        + (f"dim {plate.dim})" if plate.turn is None else f"turn {plate.turn})")
        for plate in node.cond_indep_stack
    ]
    return f"plate {', '.join(found)}" if found else "no plate"

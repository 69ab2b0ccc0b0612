"""Scores left out of a gradient: by torch's own backward, or in another recording.

The gradient with respect to some tensors lacks the score function of a site upstream of the loss if
those reach the parameters of the site.
"""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.gradient.log_probs_in_loss import HeldScores
from ancestral.estimators.gradient.loss_pytree import LossError
from ancestral.estimators.gradient.loss_terms import unchecked
from ancestral.provenance.algebra.provenance import Provenance, Source, Universe
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.control_flow import decisions_of, recording
from ancestral.provenance.tensor.passes import before_backward
from ancestral.provenance.tensor.tensor import provenance
from ancestral.provenance.tensor.torch_internals import DisableTorchFunction
from ancestral.trace.context.other_threads import refuse_apart
from ancestral.trace.context.place import stacklevel
from ancestral.trace.context.stack import MOST_KEPT
from ancestral.trace.nodes.autograd_graph import edge_of, nodes_of
from ancestral.trace.nodes.distribution_params import parameters
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.leaf_writes import SettledError
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.untracked_loss import choosing


def nothing_to_learn(draws: Sequence[Node]) -> LossError:
    """Return the error that no gradient reaches a loss, nor the draws that it depends on."""
    shown = ", ".join(f"{node.name!r} ({node.location})" for node in draws[:3])
    more = f" and {len(draws) - 3} more" if len(draws) > 3 else ""
    names = f"those of {shown}{more} " if draws else "there is none, or its parameters "
    return LossError(
        "nothing that the loss is computed from has requires_grad=True, nor has a parameter of "
        f"any draw that it depends on: {names}are constants, or were computed under "
        "torch.no_grad() or torch.inference_mode(); draw with gradients on, or score the same "
        "draws in a second pass: an.rescore"
    )


class OtherRecordingError(ValueError):
    """A loss depends on a site of another recording whose gradient was never taken."""


def _of_other_recording(node: Node) -> OtherRecordingError:
    """Return the error, with the site."""
    return OtherRecordingError(
        f"the loss depends on site {node.name!r} ({node.location}) of another recording, whose "
        "score would be lost; compute both within one an.record(), take the gradient of the "
        "other recording first, or cut the dependency with an.untrack"
    )


class ForgottenRecordingError(RuntimeError):
    """A loss depends on a recording that nobody has kept, and whose gradient was never taken."""


def forgotten_recording(universe: Universe) -> ForgottenRecordingError:
    """Return the error, with the sites."""
    names = [repr(source.name) for source in universe.sources if source.stands_for is None]
    return ForgottenRecordingError(
        f"the loss depends on {', '.join(names[:5])}{' ...' if len(names) > 5 else ''} of a "
        f"recording that is forgotten: nobody holds its trace, and {MOST_KEPT} others have "
        "ended since whose gradient was not taken either; hold the trace until the gradient is "
        "taken (with an.record() as trace:), take the gradient earlier, or cut the dependency "
        "with an.untrack"
    )


def left_out(loss: Tensor, found: Provenance, inputs: Any, gradient: Any) -> list[str]:
    """Return the names of the sites whose scores the gradient of a loss lacks.

    Args:
        loss: the loss. A score that it holds already is not left out, and not missed by a
            straight-through estimator, whose bias is meant.
        found: what it depends on; if its recording is forgotten, all these sites may be left out.
        inputs: what it is differentiated by, in any nesting, None for all leaves.
        gradient: what each element of it counts, in any nesting.
    """
    universe = found.universe
    trace = universe.owner
    if not isinstance(trace, Trace):
        return [repr(source.name) for source in found.sources]
    upstream = _upstream(trace, found.members)
    kinked = universe.kinked(upstream)
    needed = [
        node
        for node in trace.everything
        if node.source in upstream and node.is_learned and (node.is_score or node.source in kinked)
    ]
    if inputs is not None and needed:
        met = _Inputs(list(tensors_in(inputs)))
        needed = [node for node in needed if met.reach(node)]
    needed = [node for node in needed if node.name not in trace.straight_through]
    held = HeldScores(universe, needed, unchecked(loss), gradient).found if needed else []
    return [repr(node.name) for node in needed if node not in held]


def _upstream(trace: Trace, members: Iterable[Source]) -> set[Source]:
    """Return sources with all those that reach them, through the draws between."""
    nodes = {node.source: node for node in trace.everything}
    seen = set[Source]()
    pending = list(members)
    while pending:
        fresh = trace.universe.closure(pending) - seen
        seen |= fresh
        behind = (nodes[source].param_provenance for source in fresh if source in nodes)
        pending = [source for found in behind if found is not None for source in found.members]
    return seen


class _Inputs:
    """The tensors by which a loss is differentiated."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._nodes = {edge_of(tensor) for tensor in tensors}
        # `torch.autograd.functional` differentiates by copies on the same memory.
        self._addresses = {_address(tensor) for tensor in tensors}

    def reach(self, node: Node) -> bool:
        """Return whether any of them reaches the parameters of a site."""
        if node.fn is None:
            return False
        held = [tensor for tensor, _ in parameters(node.fn) if tensor.requires_grad]
        if any(_address(tensor) in self._addresses for tensor in held):
            return True
        for each in nodes_of(held):
            leaf = getattr(each, "variable", None)
            if each in self._nodes or (leaf is not None and _address(leaf) in self._addresses):
                return True
        return False


def _address(tensor: Tensor) -> int:
    with DisableTorchFunction():
        return tensor.data_ptr() if tensor.layout is torch.strided else id(tensor)


def refuse_others(ours: Universe, reaching: Iterable[Provenance | None]) -> None:
    """Raise if a loss depends on draws that are not ours, and whose score nobody has asked for.

    `reaching` is what its terms, and the draws that reach them, depend on directly.
    """
    members: dict[Universe, set[Source]] = {}
    for found in reaching:
        if found is not None:
            members.setdefault(found.universe, set()).update(found.members)
    for universe, some in members.items():
        others = [s for s in universe.closure(some) if s.universe is not ours]
        for source in sorted(others, key=universe.number):
            refuse_apart(source)
            _refuse_other(source.universe, ours)
            if source.kink_of is not None:
                refuse_kinked(source.kink_of, ours)


def refuse_kinked(source: Source, ours: Universe) -> None:
    """Raise if a pathwise draw of another recording went through a step without a derivative."""
    other = source.universe
    if other is None or other is ours or not other.is_adoptable:
        return
    refuse_apart(source, is_kinked=True)
    met = other.closure([source])
    for node in other.owner.everything if isinstance(other.owner, Trace) else ():
        if node.source in met and node.is_learned:
            raise _of_other_recording(node)


def _refuse_other(other: Universe | None, ours: Universe) -> None:
    """Raise if scores of another recording would be lost: those that nobody has asked for."""
    if other is None or other is ours or other.state != "open":
        return
    if other.is_orphaned:
        raise forgotten_recording(other)
    if isinstance(other.owner, Trace):
        for node in other.owner.everything:
            if node.is_score and node.is_learned:
                raise _of_other_recording(node)


class MissingScoreWarning(UserWarning):
    """Torch's own gradient of a loss was taken where `an.backward(loss)` was meant."""


def _warn_of_missing_scores(function: str, loss: Tensor, inputs: Any, gradient: Any) -> None:
    """Warn if torch's own gradient of a tensor leaves out scores that nobody has asked for."""
    found = provenance(loss)
    if found is None:
        return
    universe, trace = found.universe, found.universe.owner
    is_open = isinstance(trace, Trace) and trace.is_open
    if is_open and inputs is None and function == "torch.autograd.backward":
        return  # a step of the program, which is followed, by whatever leaves it means
    if universe.state == "open" and (universe.is_orphaned or isinstance(trace, Trace)):
        names = left_out(loss, found, inputs, gradient)
        if names:
            is_returned = function == "torch.autograd.grad"
            right = "differentiate an.surrogate(loss)" if is_returned else "call an.backward(loss)"
            meant = (
                "differentiate an.untrack(loss)" if is_returned else "an.untrack(loss).backward()"
            )
            warnings.warn(
                f"{function}() leaves out the score function of {', '.join(names[:5])}"
                f"{' ...' if len(names) > 5 else ''}: the gradient is biased; {right} instead, "
                f"or {meant} if that is meant",
                MissingScoreWarning,
                stacklevel=stacklevel(),
            )


before_backward.append(_warn_of_missing_scores)


def universe_of_choice() -> Universe:
    """Return the recording in which Python may have chosen a loss that carries no provenance."""
    around = recording.get()
    if around is not None and around.state == "settled":
        raise SettledError.taken()
    chosen = choosing()
    if len(chosen) == 1:
        return chosen[0]  # Python may have chosen this loss among others
    if chosen:
        reads = [decisions_of(universe).noted[-1].escape for universe in chosen]
        raise LossError(
            "the loss carries no provenance, and several recordings may have chosen it by what "
            f"Python read at {', '.join(f'{read.filename}:{read.line}' for read in reads)}; "
            "take the gradient of each before the next begins, or declare the loss within its own "
            'recording: an.cost("loss", loss), then trace.backward()'
        )
    raise LossError(
        "the loss carries no provenance: it depends on no draw of a recording (numbers of "
        "torch.rand or randn are none: draw by torch.distributions); draw and "
        "compute it within `with an.record():`. One that Python chose by a drawn value is to be "
        "computed there too, after the choice (loss * 1), or declared (an.cost); only of one "
        "that no draw has a part in, torch's own backward is the gradient"
    )

"""Leaf writes: changes of leaf tensors after a recording, before its gradient."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.tensor.torch_internals import DisableTorchFunction, runs_ahead
from ancestral.trace.context.place import Place
from ancestral.trace.nodes.autograd_graph import edge_of
from ancestral.trace.nodes.distribution_params import factorized, is_class_of_torch
from ancestral.trace.nodes.node import Node, modified
from ancestral.trace.nodes.versions import Leaf, held_by, is_written_unseen, versioned

_MOST_NODES, _A_SITE = 64, 8
"""How much of a graph is searched for leaves: draws have most of theirs in common."""


class SettledError(RuntimeError):
    """The gradient of a recording was already taken, or cannot be."""

    @classmethod
    def taken(cls) -> "SettledError":
        """Say how to take another gradient."""
        return cls(
            "the gradient of this recording was already taken, and its graph was freed; " + _AGAIN
        )

    @classmethod
    def of_draw(cls, name: str, where: Place) -> "SettledError":
        """Name a site that is drawn too late for a gradient."""
        return cls(
            f"site {name!r} ({where.location}) is drawn in a recording whose gradient was already "
            "taken, so that its score would be lost; draw it under torch.no_grad() if it needs "
            f"none; else {_AGAIN}"
        )

    @classmethod
    def loaded(cls) -> "SettledError":
        """Say what to do with a trace that was stored."""
        return cls(
            "this trace was loaded, and the values of a stored trace are constants; record the "
            "program again, within an.handlers.replay(trace) for the same values"
        )


_AGAIN = (
    "pass retain_graph=True to the first backward, or record again: in a loop, open a recording "
    "for each step, `for batch in batches: with an.record(): ...`"
)


Held = tuple[tuple[Node, Leaf], ...]


def leaves_of_scores(nodes: Iterable[Node]) -> Held:
    """Return what the leaves hold that the parameters of scores are computed from."""
    scored = [node for node in nodes if node.is_learned and node.is_score]
    if not scored:
        return ()
    if torch.is_inference_mode_enabled():  # in which leaves have a place in no graph
        with torch.inference_mode(False):
            return leaves_of_scores(scored)
    left = _MOST_NODES
    found: dict[int, tuple[Node, Leaf]] = {}
    seen: dict[Any, None] = {}
    with DisableTorchFunction():
        for node in scored:
            count = len(seen) + len(found)
            pending: list[Any] = []
            again = _computed_of_another(node)
            for tensor in versioned(node.versions):
                if tensor is again or not tensor.requires_grad:
                    continue
                made = tensor.grad_fn
                if made is not None:
                    pending.append(made)
                elif tensor._is_view():
                    edge = edge_of(tensor)
                    pending += [] if edge is None else [edge]
                elif id(tensor) not in found:
                    found[id(tensor)] = node, held_by(tensor)
            for leaf in _leaves_below(pending, left, seen) if pending else ():
                if id(leaf) not in found:
                    found[id(leaf)] = node, held_by(leaf)
            left -= len(seen) + len(found) - count + _A_SITE
            if left <= 0:
                break
    return tuple(found.values())


def _computed_of_another(node: Node) -> Tensor | None:
    """Return which of logits and probabilities torch has computed of the other, None if neither."""
    fn = None if node.fn is None else factorized(node.fn)
    kind: Any = type(fn)
    if fn is None or not is_class_of_torch(kind):
        return None
    held = vars(fn)
    given, logits, probs = held.get("_param"), held.get("logits"), held.get("probs")
    if given is None or logits is None or probs is None:
        return None
    found: Tensor | None = probs if given is logits else logits if given is probs else None
    return found


def _leaves_below(pending: list[Any], most: int, seen: dict[Any, None]) -> Iterator[Tensor]:
    """Yield the leaves that nodes of autograd's graph hold, but for those below what was seen."""
    most += len(seen)
    while pending and len(seen) < most:
        made = pending.pop()
        if made in seen:
            continue
        seen[made] = None
        if made.__class__.__name__ == "AccumulateGrad":
            yield made.variable
        else:
            pending += [node for node, _ in made.next_functions if node is not None]


def parted(leaves: Held) -> tuple[Held, Held]:
    """Return the leaves that Python can look at, and those for whose device it has to wait."""
    ahead = tuple([each for each in leaves if runs_ahead(each[1][0])])
    if not ahead:
        return leaves, ()
    return tuple([each for each in leaves if not runs_ahead(each[1][0])]), ahead


def refuse_writes(
    leaves: Held, scored: Collection[Node], error: RuntimeError | None = None
) -> None:
    """Raise if a leaf was written into since the recording ended, and a score is taken of it.

    Torch counts some of these writes, and raises where it has saved the leaf: `error`, which is
    told whose gradient it was. What it does not count, it does not miss.

    Raises:
        ModifiedParameterError: if there is such a leaf.
    """
    if error is not None:
        sites = ", ".join(f"{node.name!r} ({node.location})" for node in scored)
        error.add_note(f"It was raised by the gradient of the loss, or by the scores of {sites}.")
    for node, leaf in leaves:
        is_written = is_written_unseen(leaf) if error is None else leaf[0]._version != leaf[1]
        if is_written and node in scored:
            raise modified(node.name, node.location) from error

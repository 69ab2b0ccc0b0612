"""Verification of batched runs: that each is a run by itself, independent of the others.

They lie along an outer plate, see `ancestral.estimators.batched.outer_plate`, whose ledger proves
that no run depends on another: it checks alignments, no value may escape, and none may be hidden
with `untrack`. Nothing random may be shared: no plate is subsampled, and no random numbers are
drawn outside the sites. And runs by themselves, at the values that they have among the others, must
have the same sites, log-probabilities and computed values, for a program may count elements or
dimensions. They are chosen so that each site which varies takes two values in them: the largest of
all values, say, is that of one run, and not of another. What fails any of these is refused.

What is left is state of the program itself that changes from call to call, such as a counter or a
separate generator of numpy: it is found where it shows in the runs that are compared.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.estimators.batched.outer_plate import OUTER, Traces, apart, nesting_of
from ancestral.estimators.batched.rng_guard import watching
from ancestral.estimators.batched.run import NotVectorizableError, Run, not_vectorizable
from ancestral.provenance.tensor.tensor import provenance, raw, untrack
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import line_of
from ancestral.trace.handlers.replay import substitute
from ancestral.trace.nodes.distribution_params import is_of_torch
from ancestral.trace.nodes.node import Node, NoDensityError
from ancestral.trace.nodes.plate_frame import PlateError
from ancestral.trace.nodes.support import is_discrete
from ancestral.trace.recording.untrack import Untracked, listening

_DRAWS = 100  # that tell whether a discrete distribution draws one value for all of its batch

Recorder = Callable[[int | None, int], Traces]
"""Records the run of a number or, without one, all to the left of that many dimensions."""


def at_once(recorded: Recorder, samples: int, first: Traces) -> Run:
    """Run a program many times at once, and a few times by itself.

    Args:
        recorded: makes the runs.
        samples: how many runs.
        first: a run by itself, which tells how many dimensions it has.

    Raises:
        NotVectorizableError: if the runs were not those that runs in turn would have been.
    """
    hidden: list[Untracked] = []
    with _explained():
        with listening(hidden.append):
            many = Run(recorded(None, nesting_of(first)), first, samples)
        for problem in _sharing(many, hidden):
            raise not_vectorizable(problem)
        torch.rand(())  # a seed that is set before the runs, and in them, shall be seen to move
        values = {node.name: many.rows(node) for node in many.nodes if node.is_drawn}
        sites = [many.rows(node) for node in many.nodes if node.type == "sample"]
        for turn in compared(sites, samples):
            own = {name: rows[turn] for name, rows in values.items()}
            with substitute(own), watching() as guard:
                alone = recorded(turn, 0)
            if guard.has_drawn:
                raise not_vectorizable("it draws random numbers outside its sites")
            for problem in _differing(many, Run(alone, alone), turn):
                raise not_vectorizable(problem)
    return many


def compared(sites: Iterable[Tensor], samples: int) -> list[int]:
    """Return which runs are compared with runs by themselves.

    One in the middle, lest it is what a position from either end would give; and more, until each
    site has two values in them, if it has two in any.

    Args:
        sites: the values of each, [samples, *shape].
        samples: how many runs.

    >>> compared([torch.tensor([1.0, 1.0, 1.0, 2.0]), torch.arange(4.0)], 4)
    [2, 3]
    """
    turns = [samples // 2]
    for rows in sites:
        is_other = (rows != rows[turns[0]]).reshape(samples, -1).any(1)
        others = is_other.nonzero().flatten().tolist()
        if others and not {*others} & {*turns}:
            turns.append(others[0])
    return turns


@contextmanager
def _explained() -> Generator[None]:
    """Take all that goes wrong with a program, of which one run went well, for how it runs."""
    try:
        yield
    except NotVectorizableError:
        raise
    except SiteError as error:
        # The advice of a plate is for one that the user knows of.
        told = str(error).rsplit("; ", 1)[0] if isinstance(error, PlateError) else str(error)
        raise not_vectorizable(told) from error
    except Exception as error:
        problem = f"at {line_of(error)} it raises {type(error).__name__}: {error}"
        raise not_vectorizable(problem) from error


def _sharing(many: Run, hidden: list[Untracked]) -> Iterator[str]:
    """Yield where runs share, out of the plate's sight, what each of them would have for itself."""
    for each in hidden:
        if apart(each.provenance, OUTER) is not None:
            yield f"at {each.location} untrack hides what differs from run to run"
    for node in many.nodes:
        if node.type == "plate" and node.infer["subsample_size"] < node.infer["size"]:
            yield f"plate {_placed(node)} is subsampled, and each run has another part"
    yield from _other_sites(many, Run(many.single, many.single))
    for node in many.nodes:
        if node.fn is None or not node.is_drawn:
            continue
        rows, other = many.rows(node), untrack(many.of_one(node).value)
        if _is_one(rows) and _is_shared(node.fn, rows[0], other):
            word = f"{type(node.fn).__name__} of site {_placed(node)}"
            yield f"{word} draws one value for all of its batch"


def _is_shared(fn: Distribution, value: Tensor, other: Tensor) -> bool:
    """Return whether it is no chance that all runs drew one value, [*shape], and one by itself."""
    if not is_discrete(fn):
        return not torch.equal(value, other)
    if is_of_torch(fn):
        return False
    draws = [raw(fn.sample) for _ in range(_DRAWS)]
    return all(_is_one(drawn) for drawn in draws) and not _is_one(torch.stack(draws))


def _is_one(rows: Tensor) -> bool:
    """Return whether all rows are the same."""
    return bool((rows == rows[:1]).all())


def _differing(many: Run, alone: Run, turn: int) -> Iterator[str]:
    """Yield where runs are not apart, or one of them is not what it is by itself."""
    yield from _other_sites(many, alone)
    for node, other in zip(many.nodes, alone.nodes, strict=True):
        if node.type not in ("sample", "deterministic"):
            continue
        # With its mask and scale, and without.
        densities = ("log_prob", "unscaled_log_prob") if node.type == "sample" else ()
        # What does not differ from run to run must be, for all of them, that of the one.
        rows = slice(turn, turn + 1) if many.varies(node) else slice(None)
        try:
            computed = node.tracked_log_prob if densities else node.tracked_value
            dims = apart(provenance(computed), OUTER)
            if dims is not None and 0 not in dims:
                yield f"{_placed(node)} mixes the runs"
            for form in ("value", *densities):
                if not _is_close(many.rows(node, form)[rows], alone.rows(other, form)):
                    yield f"at {_placed(node)} a run among others is not what it is alone"
        except NoDensityError:
            yield f"nothing can be said of site {_placed(node)}, which has no density"


def _other_sites(many: Run, other: Run) -> Iterator[str]:
    """Yield a site that only some runs have, or in another place."""
    ours, theirs = ([(node.name, node.type) for node in run.nodes] for run in (many, other))
    if ours != theirs:
        odd = {*ours} ^ {*theirs}
        name, _ = next((k for k in (*ours, *theirs) if k in odd), ("in another order", ""))
        yield f"its runs differ in their sites: {name!r}"


def _placed(node: Node) -> str:
    return f"{node.name!r} ({node.location})"


def _is_close(among: Tensor, own: Tensor) -> bool:
    """Return whether rows [n, *shape] are each, but for rounding, what one is, [1, *shape]."""
    if among.shape[1:] != own.shape[1:]:
        return False
    if not among.dtype.is_floating_point:
        return bool((among == own).all())
    largest = torch.cat([own.new_ones(1), own[own.isfinite()].abs()]).max()
    tolerance = float(largest) * math.sqrt(torch.finfo(among.dtype).eps)
    return torch.allclose(among, own.to(among.dtype), rtol=0, atol=tolerance, equal_nan=True)

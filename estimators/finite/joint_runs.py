"""Joint runs: runs of a program in which several sites take all of their values together."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TypeVar

from ancestral.estimators.rerun.outcomes import Outcomes, TooManyOutcomesError, walked
from ancestral.estimators.rerun.replay import Again, First, LaterRun, ended, is_fresh
from ancestral.estimators.rerun.site_draw import EstimatorError
from ancestral.provenance.tensor.tensor import provenance, untrack
from ancestral.trace.nodes.distribution_params import factorized
from ancestral.trace.nodes.support import is_discrete
from ancestral.trace.recording.message import Message

T = TypeVar("T")


def over_all(
    first: First, names: Collection[str], use: Callable[[Again], T], *, most: int
) -> list[tuple[float, T]]:
    """Return what is made of the run of each joint value of some sites, with its probability.

    What none of them reaches has the value of the first run; what they reach is drawn.

    Args:
        first: the first run, in which one of the sites is drawn.
        names: the sites; which of them there are may depend on the values of others.
        use: makes something of a run.
        most: how many runs there may be.

    Raises:
        EstimatorError: if there are more, if a site is not discrete, or if no run draws it.
        NotAFunctionError: if the program differs from run to run.
    """
    met: set[str] = set()

    def run(outcomes: Outcomes) -> T:
        with ended(first.by(_JointRun(first, names, outcomes, met))) as again:
            return use(again)

    try:
        found = walked(run, most=most)
    except TooManyOutcomesError:
        raise EstimatorError(
            f"sites {', '.join(map(repr, sorted(names)))} have more than {most} joint values "
            "(most=); sum over fewer of them, or leave them to be drawn"
        ) from None
    unmet = sorted({*names} - met)
    if unmet:
        raise EstimatorError(
            f"no run draws site {unmet[0]!r}, which is to be summed over; the sites of the first "
            f"run are {', '.join(map(repr, first.nodes))}"
        )
    return found


class _JointRun(LaterRun):
    """Lets outcomes decide some sites, and gives those that they do not reach what they had."""

    def __init__(
        self, first: First, names: Collection[str], outcomes: Outcomes, met: set[str]
    ) -> None:
        drawn = [name for name in first.met if name in names and name in first.nodes]
        super().__init__(first, drawn[0], None, False, False)
        self._names, self._outcomes, self._seen = names, outcomes, met
        self._downstream = frozenset[str]().union(*map(first.downstream, drawn))

    def process(self, message: Message) -> Message:
        """Decide a draw."""
        if not is_fresh(message):
            return message
        if message.name not in self._names:
            found = super().process(message)
            node = self._first.nodes.get(message.name)
            is_kept = found.sampler is not None and message.name not in self._downstream
            if node is not None and is_kept and message.is_reparameterized:
                # What depends on it is scored in this run, with its pathwise derivative.
                return replace(found, sampler=untrack(node.value).clone)
            return found
        self._meet(message)
        if message.name == self._name:
            self._refuse_other(message)
        fn = message.fn
        assert fn is not None
        if not is_discrete(factorized(fn)):
            raise EstimatorError(
                f"site {message.name!r} ({message.where.location}) is to be summed over, and is "
                f"one of {type(fn).__name__}, which has more values than can be enumerated; take "
                "it off the sites that are summed over"
            )
        self._seen.add(message.name)
        fixed = replace(message, is_reparameterized=False)
        return self._outcomes.process(fixed, is_first=False)

    def postprocess(self, message: Message) -> None:
        """Note what the sites reach."""
        super().postprocess(message)
        if message.kind == "sample" and message.name in self._names and message.value is not None:
            found = provenance(message.value)
            self._reached.update(() if found is None else found.members)

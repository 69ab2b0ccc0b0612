"""Repeated runs: one site has another value, and what it does not reach has that of the first run.

>>> from ancestral.estimators.rerun.streams import Streams
>>> from torch.distributions import Bernoulli
>>> def program():
...     a = Bernoulli(torch.tensor(0.5)).sample()
...     b = Bernoulli(torch.tensor([0.5, 0.5])).sample()
...     return a + b.sum()
>>> first = First.of(program, Streams("common"))
>>> again = first.again("b", torch.tensor([1.0, 1.0]))
>>> bool(again.problem.loss == first.nodes["a"].value + 2)
True
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.estimators.credit.credit import Credit, Estimator
from ancestral.estimators.credit.declared_costs import total_of_costs
from ancestral.estimators.gradient.loss_pytree import Loss, total_of
from ancestral.estimators.gradient.problem import Problem, examined, examined_costs
from ancestral.estimators.gradient.surrogate import settle
from ancestral.estimators.rerun.streams import Chance
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.provenance.tensor.tensor import provenance, untrack
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.context.errors import EnumerationError, SiteError
from ancestral.trace.graph.structure import Structure
from ancestral.trace.nodes.distribution_params import factorized, parameters, parts_of
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.message import Handler, Message
from ancestral.trace.recording.record import record
from ancestral.trace.recording.record_site import controlled
from ancestral.trace.recording.trace import Trace

Program = Callable[[], Loss | None]
"""Runs a program once, and returns its loss; None for the sum of the costs that it declares."""


class NotAFunctionError(SiteError):
    """A program differs from run to run, with the same arguments and the same draws."""


@dataclass(frozen=True, eq=False)
class First:
    """The first run of a program.

    Attributes:
        program: runs it.
        chance: decides its draws.
        trace: the recording.
        loss: what the program returned, None for the sum of its costs.
        left_out: what decided whether other costs were to be declared.
        nodes: the draws by name, in program order.
        met: the names of the sites that were about to be drawn, in program order: those that
            other handlers gave a value are among them, those that are hidden are not.
        problem: the loss taken apart.
    """

    program: Program
    chance: Chance
    trace: Trace
    loss: Loss | None
    left_out: Provenance | None
    nodes: dict[str, Node]
    met: tuple[str, ...]
    problem: Problem

    @classmethod
    def of(cls, program: Program, chance: Chance, earlier: Sequence["First"] = ()) -> "First":
        """Run a program the first time; none of the other first runs may reach its loss."""
        with chance.run(), record() as trace:
            with FirstRun(chance) as handler:
                loss = program()
            whole = whole_loss(loss, trace)
            for each in earlier:
                refuse_kept(whole, each.trace)
            if loss is not None and provenance(whole) is None:
                loss = whole * 1  # which depends on what Python read before
            problem, left_out = _taken_apart(loss, trace), controlled(None, ())
        nodes = {node.name: node for node in trace.everything if node.is_drawn}
        for node in trace.everything:
            if node.enumeration is not None:
                raise EnumerationError(
                    f"site {node.name!r} ({node.location}) is enumerated, or depends on one that "
                    "is; an estimator that runs a program again needs draws of it: take the "
                    "enumeration away"
                )
        return cls(program, chance, trace, loss, left_out, nodes, tuple(handler.met), problem)

    def downstream(self, name: str) -> frozenset[str]:
        """Return the draws that depend on a site, by their parameters or by what Python read."""
        reached, found = {self.nodes[name].source}, [name]
        for node in self.nodes.values():
            if _depends(node.param_provenance, reached):
                reached.add(node.source)
                found.append(node.name)
        return frozenset(found)

    def again(
        self,
        name: str | None,
        value: Tensor | None,
        *,
        is_smooth: bool = False,
        is_stacked: bool = False,
    ) -> "Again":
        """Run the program again, with another value of one site.

        Args:
            name: the site; None for a run in which all draws are those of the first.
            value: the value, [*shape, *event].
            is_smooth: whether the value is to be followed by its derivative.
            is_stacked: whether the site has several values, along a new first dimension.

        Raises:
            NotAFunctionError: if a draw before it, or one that it does not reach, has another
                distribution than in the first run.
        """
        return self.by(LaterRun(self, name, value, is_smooth, is_stacked))

    def by(self, handler: "LaterRun") -> "Again":
        """Run the program again, with the values that a handler gives.

        Raises:
            NotAFunctionError: as `again`.
        """
        with self._followed(), self.chance.run(), record() as trace:
            with handler:
                loss = self.program()
            whole = whole_loss(loss, trace)
            handler.refuse_unmet()
            refuse_kept(whole, self.trace)
            return Again(trace, _taken_apart(loss, trace))

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """Let what the program keeps of this run be no constant, whose gradient was taken."""
        universe = self.trace.universe
        before, universe.state = universe.state, "open"
        try:
            yield
        finally:
            universe.state = before


@dataclass(frozen=True, eq=False)
class Again:
    """A later run of a program."""

    trace: Trace
    problem: Problem

    def end(self) -> None:
        """Let go of the recording."""
        settle(self.trace)


def credit_of(
    problem: Problem, name: str, estimate: Estimator, *, is_live: bool = False
) -> Credit | None:
    """Return the credit of the elements of a site, however it is drawn; None if it has none.

    With `is_live`, the costs have their autograd history.
    """
    number = next((n for n, v in enumerate(problem.structure.sites) if v.name == name), None)
    if number is None or not problem.structure.reaches[number]:
        return None
    sites = problem.structure.sites
    only = tuple(replace(site, needs_score=site.name == name) for site in sites)
    values = [term.live if is_live else term.value for term in problem.terms]
    found = estimate(Structure(only, problem.structure.terms), values)
    return next((credit for credit in found if credit.name == name), None)


def whole_loss(loss: Loss | None, trace: Trace) -> Tensor:
    """Return the loss of a run: what it returned, or the sum of the costs that it declared.

    Raises:
        TypeError: if there is neither.
    """
    if isinstance(loss, (int, float)):
        raise TypeError(
            f"the program returned {kind_of(loss)}; expected its loss, a tensor, before .item() "
            "or float() made a number of it"
        )
    if loss is not None:
        return total_of(loss)[0]
    found = total_of_costs(trace)
    if found is None and controlled(None, ()) is None:
        raise TypeError(
            "the program returned None, and declares no cost; expected its loss, or costs by "
            "an.cost, an.factor, or an.sample with obs="
        )
    return torch.zeros((), dtype=torch.double) if found is None else found


def _taken_apart(loss: Loss | None, trace: Trace) -> Problem:
    """Take apart what a run returned; of costs, Python may declare others in another run."""
    if loss is not None:
        return examined(loss, None)
    return examined_costs(trace, left_out=controlled(None, ()))


def refuse_kept(loss: Tensor, earlier: Trace) -> None:
    """Raise if a loss depends on draws of an earlier run, whose place its own were to take.

    Raises:
        NotAFunctionError: if it does.
    """
    found = provenance(loss)
    met = () if found is None else found.universe.closure(found.members)
    kept = {source for source in met if source.universe is earlier.universe}
    node = next((node for node in earlier.everything if node.source in kept), None)
    if node is not None:
        raise NotAFunctionError(
            "the program is not a function of its arguments and its draws: the loss of one run "
            f"depends on what site {node.name!r} ({node.location}) was in an earlier one; keep no "
            "value from run to run (a cache, the state of a module or of an environment), or let "
            "each run begin it anew"
        )


def _depends(found: Provenance | None, reached: set[Source]) -> bool:
    """Return whether something depends on one of some draws."""
    if found is None:
        return False
    return any(source in reached for source in found.universe.origins(found.members))


def is_fresh(message: Message) -> bool:
    """Return whether a message is for a draw that nobody has decided yet."""
    is_given = message.value is not None or message.sampler is not None
    return message.kind == "sample" and not is_given and not message.is_intervened


class FirstRun(Handler):
    """Lets chance decide the draws of the first run."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self.met: list[str] = []

    def process(self, message: Message) -> Message:
        """Let chance decide a draw."""
        if not is_fresh(message):
            return message
        self.met.append(message.name)
        return self._chance.process(message, is_first=True)

    def postprocess(self, message: Message) -> None:
        """Go on after it."""
        self._chance.postprocess(message)


class LaterRun(Handler):
    """Gives one site another value, and those that it does not reach the values that they had."""

    def __init__(
        self,
        first: First,
        name: str | None,
        value: Tensor | None,
        is_smooth: bool,
        is_stacked: bool,
    ) -> None:
        self._first, self._name, self._value = first, name, value
        self._is_smooth, self._is_stacked = is_smooth, is_stacked
        self._downstream = frozenset[str]() if name is None else first.downstream(name)
        self._before = [each for each in first.met if each in first.nodes]
        if name is not None:
            self._before = self._before[: self._before.index(name) + 1]
        self._met = 0
        self._reached: set[Source] = set()

    def process(self, message: Message) -> Message:
        """Decide a draw: by the value that is given, as before, or by chance."""
        is_given = message.name in self._first.met and message.name not in self._first.nodes
        if not is_fresh(message) or is_given:  # by a handler further out
            return message
        self._meet(message)
        if message.name == self._name:
            self._refuse_other(message)
            value = self._value
            assert value is not None
            is_smooth = message.is_reparameterized if not self._is_smooth else True
            return replace(message, sampler=value.clone, is_reparameterized=is_smooth)
        node = self._first.nodes.get(message.name)
        is_reached = message.name in self._downstream or self._is_reached(message)
        if node is not None and not is_reached:
            self._refuse_other(message)
            return replace(message, sampler=untrack(node.value).detach().clone)
        if self._is_stacked:
            raise RuntimeError(f"{message.name!r} is drawn again, which runs at once would not do")
        return self._first.chance.process(message, is_first=False)

    def postprocess(self, message: Message) -> None:
        """Note what the site reaches."""
        self._first.chance.postprocess(message)
        if message.kind != "sample" or message.value is None:
            return
        is_it = message.name == self._name
        if is_it or message.name in self._downstream or self._is_reached(message):
            found = provenance(message.value)
            self._reached.update(() if found is None else found.members)

    def refuse_unmet(self) -> None:
        """Raise if the run has not come to the site."""
        if self._met < len(self._before):
            node = self._first.nodes[self._before[self._met]]
            raise _differs(
                f"site {node.name!r} ({node.location}) is drawn in the first run, and not in the "
                "second"
            )

    def _meet(self, message: Message) -> None:
        """Raise if a draw comes up to the site in another order than in the first run."""
        if self._met >= len(self._before):
            if self._name is None:
                raise _differs(
                    f"site {message.name!r} ({message.where.location}) is drawn in the second run, "
                    "and not in the first"
                )
            return
        expected = self._first.nodes[self._before[self._met]]
        if message.name != expected.name:
            raise _differs(
                f"the second run draws site {message.name!r} ({message.where.location}) where the "
                f"first draws {expected.name!r} ({expected.location})"
            )
        self._met += 1

    def _is_reached(self, message: Message) -> bool:
        assert message.fn is not None
        found: list[Provenance | None] = [provenance(t) for t, _ in parameters(message.fn)]
        return any(_depends(each, self._reached) for each in (*found, controlled(None, ())))

    def _refuse_other(self, message: Message) -> None:
        """Raise if a draw has another distribution than in the first run."""
        node = self._first.nodes[message.name]
        assert message.fn is not None
        assert node.fn is not None
        ours, theirs = _parameters(message.fn), _parameters(node.fn)
        common = ours.keys() & theirs.keys()  # what is lazy is there after it was asked for
        is_same = type(message.fn) is type(node.fn) and (common or not ours)
        if not is_same or not all(is_close(ours[key], theirs[key]) for key in common):
            raise _differs(
                f"site {message.name!r} ({message.where.location}) has another distribution in "
                "the second run"
            )


def _differs(what: str) -> NotAFunctionError:
    return NotAFunctionError(
        f"the program is not a function of its arguments and its draws: {what}, though all draws "
        "before it are the same; keep out of it what changes from call to call (a counter, the "
        "state of a module in training, a separate generator, data that it fetches), and pass it "
        "as an argument"
    )


def _parameters(fn: Distribution) -> dict[object, Tensor]:
    """Return the plain tensors of a distribution and of those in it, by their names."""
    named: dict[object, Tensor] = {
        (number, name): item
        for number, part in enumerate(parts_of(factorized(fn)))
        for name, item in vars(part).items()
        if isinstance(item, Tensor)
    }
    found = named or dict(enumerate(held.tensor for held in parameters(fn)))
    return {key: untrack(item).detach() for key, item in found.items()}


def is_close(a: Tensor, b: Tensor) -> bool:
    """Return whether a tensor is, but for rounding, what another is; one may be expanded."""
    try:
        torch.broadcast_shapes(a.shape, b.shape)
    except RuntimeError:
        return False
    if not a.dtype.is_floating_point:
        return bool((a == b).all())
    return torch.allclose(a, b.to(a), rtol=torch.finfo(a.dtype).eps ** 0.5, equal_nan=True)


@contextmanager
def ended(run: Again) -> Iterator[Again]:
    """Give a run, and let go of its recording at the end of the block."""
    try:
        yield run
    finally:
        run.end()

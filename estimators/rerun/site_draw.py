"""Draw of a site as an estimator meets it: its distribution and credit, runs with other values.

An estimator takes one of these and returns the part of the surrogate that the site is to have. What
it asks of the program, it asks by `evaluate`: the credit of each element when all of them have
another value; or by `evaluate_alone`: that of each element when it alone has.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, OneHotCategorical
from torch.nn.functional import one_hot

from ancestral.estimators.credit.credit import Credit, Estimator, Part, by_element
from ancestral.estimators.rerun.at_once import FEWEST, Stacked
from ancestral.estimators.rerun.evaluation import Evaluation, SlopeOf, evaluation_of
from ancestral.estimators.rerun.outcomes import missed_by
from ancestral.estimators.rerun.replay import First, credit_of, ended
from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.distribution_params import factorized, plainly
from ancestral.trace.nodes.log_prob import computable
from ancestral.trace.nodes.node import Node


class EstimatorError(SiteError):
    """An estimator cannot treat a site."""


class SiteEstimator(Protocol):
    """Returns what a site adds to a surrogate, of which the first derivative is the estimate."""

    def __call__(self, site: "SiteDraw", /) -> Tensor:
        """Return a scalar, differentiable in the parameters of the site."""
        ...


@dataclass(eq=False)
class SiteDraw:
    """A site of the first run, and how the program is run again.

    Attributes:
        first: the first run.
        node: the site.
        whole: its credit in the first run.
        estimate: which costs count for it.
        at_once: whether several runs may be made at once, where that is shown to be the same.
        evaluations: how often the program was run for it.
        second_moment: what an estimator that learns wants to be small, a function of what it has.
    """

    first: First
    node: Node
    whole: Credit | None
    estimate: Estimator = by_element
    at_once: bool = False
    evaluations: int = field(default=0)
    second_moment: Tensor | None = None

    @property
    def where(self) -> str:
        """The site and its line, for messages."""
        return f"site {self.node.name!r} ({self.node.location})"

    @cached_property
    def fn(self) -> Any:
        """The distribution of the independent elements, over whose batch the site is drawn."""
        assert self.node.fn is not None
        return factorized(self.node.fn)

    @property
    def shape(self) -> Shape:
        """That of the independent elements."""
        return self.node.shape

    @cached_property
    def value(self) -> Tensor:
        """What was drawn, [*shape, *event], plain."""
        return untrack(self.node.value).detach()

    @cached_property
    def credit(self) -> Tensor:
        """The sum of the downstream costs of each element in the first run, [*shape]."""
        return self._total(self.whole)

    @cached_property
    def shared_dims(self) -> tuple[int, ...]:
        """The dimensions along which elements have costs in common."""
        if self.whole is None:
            return ()
        return tuple(
            dim
            for dim, size in enumerate(self.shape)
            if size > 1 and any(dim not in part.apart for part in self.whole.parts)
        )

    def parameter(self, name: str) -> Tensor:
        """Return a parameter of the distribution with its history, expanded to [*shape, *own]."""
        found = plainly(self.fn, lambda: getattr(self.fn, name))
        return self._over(untrack(found))

    def _over(self, found: Tensor) -> Tensor:
        own = found.dim() - len(self.fn.batch_shape)
        return found.expand(self.shape + found.shape[found.dim() - own :])

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q of the elements of a value [*shape, *event], with its history: [*shape]."""
        with torch.enable_grad():
            found: Tensor = plainly(self.fn, self.fn.log_prob, computable(self.fn, value))
        return found

    def draw(self, fn: Distribution) -> Tensor:
        """Return noise of the estimator, which no gradient goes through."""
        return self.first.chance.draw(fn)

    def draw_again(self) -> Tensor:
        """Return an independent draw of the site, [*shape, *event]."""
        batch = self.fn.batch_shape
        fn = self.fn if tuple(batch) == self.shape else self.fn.expand(self.shape)
        return untrack(self.draw(fn)).detach()

    def ordered_values(self, estimator: object) -> tuple[Tensor, Tensor]:
        """Return the values of a finite site, [C, *shape, *event], and which was drawn, [*shape].

        Raises:
            EstimatorError: if the site is not finite, or does not list all its values.
        """
        try:
            support = untrack(plainly(self.fn, self.fn.enumerate_support))
        except NotImplementedError as error:  # none, or another number of them for each element
            raise self.refused(
                estimator, "sites that list their values", type(self.fn).__name__
            ) from error
        with torch.no_grad():
            missed = missed_by(self.log_prob(support).exp())
        if missed is not None:
            raise self.refused(
                estimator,
                "sites that list all their values",
                f"{type(self.fn).__name__}, whose probabilities add up to {missed}",
            )
        event = support.dim() - 1 - len(self.fn.batch_shape)
        rest = support.shape[1:]
        fresh = (1,) * (self.value.dim() - len(rest))  # of a sample of many, from one distribution
        support = support.reshape(len(support), *fresh, *rest)
        support = support.expand(len(support), *self.value.shape)
        is_drawn = support == self.value
        for _ in range(event):
            is_drawn = is_drawn.all(-1)
        return support, is_drawn.to(torch.uint8).argmax(0)

    def other_values(self, estimator: object) -> list[Tensor]:
        """Return what else each element of a finite site can be, each [*shape, *event].

        Raises:
            EstimatorError: if the site is not finite.
        """
        support, drawn = self.ordered_values(estimator)
        event = (None,) * (support.dim() - 1 - drawn.dim())
        found = []
        for step in range(1, len(support)):
            index = ((drawn + step) % len(support))[(None, ..., *event)]
            found.append(support.gather(0, index.expand(1, *support.shape[1:]))[0])
        return found

    def class_probs(self) -> Tensor:
        """Return the probabilities of the classes, [*shape, C], plain; of bits, C = 2."""
        probs = self.parameter("probs").detach()
        return torch.stack([1 - probs, probs], -1) if isinstance(self.fn, Bernoulli) else probs

    @cached_property
    def drawn_class(self) -> Tensor:
        """The number of the class that each element was drawn in, [*shape]."""
        if isinstance(self.fn, OneHotCategorical):
            return self.value.argmax(-1)
        return self.value.long()

    def of_class(self, index: Tensor) -> Tensor:
        """Return the value of the elements that are of these classes, [*shape, *event]."""
        if isinstance(self.fn, OneHotCategorical):
            return one_hot(index, self.fn.event_shape[0]).to(self.value.dtype)
        return index.to(self.value.dtype)

    def groups(self, found: Tensor) -> list[Tensor]:
        """Return the parts of a tensor [*shape, *event] for the elements with costs in common.

        Each is [*shape along those dimensions, *event]; what has no costs in common is in several.
        """
        apart = [dim for dim in range(len(self.shape)) if dim not in self.shared_dims]
        rest = [dim for dim in range(found.dim()) if dim not in apart]
        moved = found.permute((*apart, *rest))
        return list(moved.reshape(-1, *moved.shape[len(apart) :]).unbind(0))

    def of_groups(self, found: Tensor) -> Tensor:
        """Return one number for each group, [groups], for each of its elements: [*shape]."""
        ones = [1 if dim in self.shared_dims else size for dim, size in enumerate(self.shape)]
        return found.reshape(ones).expand(self.shape)

    def evaluate(self, value: Tensor) -> Tensor:
        """Return the credits [*shape] of a run in which the site has a value [*shape, *event]."""
        return self.evaluate_all([value])[0]

    def evaluate_all(self, values: Sequence[Tensor]) -> Tensor:
        """Return the credits of a run for each of several values: [values, *shape].

        An element that cannot have its value, such as a class that is masked, has that of the first
        run: whatever it weighs then, the program is not run with what cannot come up.
        """
        if not values:
            return self.credit.new_zeros((0, *self.shape))
        values = [self._possible(value) for value in values]
        if self.at_once and self.whole is not None and len(values) >= FEWEST:
            stacked = Stacked(self.first, self.node.name, self.whole, self.estimate)
            before = self.evaluations
            rows = stacked.credits(
                torch.stack([*values]).detach(), lambda value: self._run(value).credit
            )
            self.evaluations = before  # those that check are not counted
            if rows is not None:
                self.evaluations += sum(not torch.equal(value, self.value) for value in values)
                return rows
            self.at_once = False
        found = [
            self.credit if torch.equal(value, self.value) else self._run(value).credit
            for value in values
        ]
        return torch.stack(found)

    def _possible(self, value: Tensor) -> Tensor:
        is_possible = self.log_prob(value).detach() > -torch.inf
        event = (None,) * (value.dim() - len(self.shape))
        return torch.where(is_possible[(..., *event)], value, self.value)

    def evaluate_alone(self, value: Tensor) -> Tensor:
        """Return for each element its credit in a run in which it alone has this value, [*shape].

        Elements that have no cost in common change in the same run.
        """
        return self.evaluate_alone_all([value])[0]

    def evaluate_alone_all(self, values: Sequence[Tensor]) -> Tensor:
        """Return the same for each of several values: [values, *shape]."""
        places = [self._place(at) for at in itertools.product(*map(range, self._sizes))]
        event = (None,) * (self.value.dim() - len(self.shape))
        moved = [
            torch.where(is_here[(..., *event)], value, self.value)
            for value in values
            for is_here in places
        ]
        rows, found = iter(self.evaluate_all(moved)), []
        for _ in values:
            total = self.credit
            for is_here in places:
                total = torch.where(is_here, next(rows), total)
            found.append(total)
        return torch.stack(found) if found else self.credit.new_zeros((0, *self.shape))

    @property
    def _sizes(self) -> list[int]:
        return [self.shape[dim] for dim in self.shared_dims]

    def _place(self, indices: tuple[int, ...]) -> Tensor:
        """Return which elements are at these indices of the dimensions with costs in common."""
        is_here = torch.ones(self.shape, dtype=torch.bool, device=self.value.device)
        for dim, index in zip(self.shared_dims, indices, strict=True):
            shape = [1] * len(self.shape)
            shape[dim] = self.shape[dim]
            at = torch.arange(self.shape[dim], device=self.value.device).reshape(shape)
            is_here = is_here & (at == index)
        return is_here

    def evaluate_slope(self, value: Tensor, *, is_smooth: bool) -> Evaluation:
        """Return the credits of a run, and the derivative of its loss by the value of the site.

        Args:
            value: the value, [*shape, *event], of any real numbers.
            is_smooth: whether to refuse a program for which that is not the derivative of what it
                computes of the value: where it has a step, or reaches a draw without a derivative.

        Raises:
            EstimatorError: if it is refused.
        """
        return self._run(value, "loss", is_smooth=is_smooth)

    def evaluate_linear(self, value: Tensor) -> Evaluation:
        """Return the credits of a run, and their derivatives by the value of the site.

        Their sum is `slope`, `Evaluation.change` what they say of each element.

        Args:
            value: the value, [*shape, *event], of any real numbers.
        """
        return self._run(value, "credits")

    def _run(
        self, value: Tensor, slope_of: SlopeOf = None, *, is_smooth: bool = False
    ) -> Evaluation:
        self.evaluations += 1
        leaf = value.detach().requires_grad_() if slope_of else value.detach()
        try:
            again = self.first.again(self.node.name, leaf, is_smooth=bool(slope_of))
        except ValueError as error:
            if slope_of and not isinstance(error, SiteError):
                error.add_note(
                    f"{self.where} had a value that is not in its support, which its estimator "
                    "needs; a density that is asked for it is to have validate_args=False"
                )
            raise
        with ended(again):
            problem = again.problem
            is_live = slope_of == "credits"
            credit = credit_of(problem, self.node.name, self.estimate, is_live=is_live)
            self._refuse_shared(credit)
            if is_smooth:
                self._refuse_steps(problem)
            parts: Sequence[Part] = ()
            if slope_of == "loss":
                parts = (Part(problem.loss, frozenset()),)
            elif slope_of and credit is not None:
                parts = credit.parts
            return evaluation_of(self._total(credit), parts, leaf)

    def _total(self, credit: Credit | None) -> Tensor:
        zero = torch.zeros((), dtype=self.first.problem.loss.dtype, device=self.node.value.device)
        total = zero if credit is None else untrack(credit.total).detach()
        return total.expand(self.shape)

    def _refuse_shared(self, credit: Credit | None) -> None:
        """Raise if elements that were apart in the first run have costs in common in another."""
        if credit is None:
            return
        for dim in range(len(self.shape)):
            is_apart = self.shape[dim] < 2 or all(dim in part.apart for part in credit.parts)
            if not is_apart and dim not in self.shared_dims:
                raise EstimatorError(
                    f"{self.where}: along dimension {dim} its elements have no cost in common in "
                    "the first run, and some in another: what they share depends on their values; "
                    "use an estimator of one run there, estimators={...: 'auto'}"
                )

    def _refuse_steps(self, problem: Any) -> None:
        name = self.node.name
        kink = problem.kinks.get(name)
        if kink is not None:
            raise EstimatorError(
                f"{self.where}: its estimator needs the derivative of the loss by a relaxed value, "
                f"and the value goes through a step without one, {kink.name}; use an estimator "
                "that takes no derivative, such as DisARM or LocalExpectation"
            )
        sites = problem.structure.sites
        number = next((n for n, site in enumerate(sites) if site.name == name), None)
        pending, seen = [number] if number is not None else [], set[int]()
        while pending:
            for child, _ in problem.structure.children[pending.pop()]:
                if child in seen:
                    continue
                seen.add(child)
                pending.append(child)
                node = problem.nodes.get(sites[child].name)
                if node is not None and node.is_score:
                    raise EstimatorError(
                        f"{self.where}: its estimator needs the derivative of the loss by a "
                        f"relaxed value, which reaches site {node.name!r} ({node.location}), whose "
                        "draw has none; use an estimator that takes no derivative, such as DisARM "
                        "or LocalExpectation"
                    )

    def expect(self, estimator: object, *families: type[Distribution]) -> None:
        """Raise unless the site is of one of these families.

        Raises:
            EstimatorError: if it is not.
        """
        if type(self.fn) in families:
            return
        names = " or ".join(family.__name__ for family in families)
        raise self.refused(estimator, f"sites of {names}", type(self.fn).__name__)

    def refused(self, estimator: object, expected: str, found: str) -> EstimatorError:
        """Return the error that the site is of a kind that an estimator does not treat."""
        return EstimatorError(
            f"{self.where}: {type(estimator).__name__} treats {expected}, and this is one of "
            f"{found}; choose another for it, estimators={{{self.node.name!r}: ...}}: 'auto' and "
            "RLOO treat every site that has a density, LocalExpectation every finite one"
        )

"""Losses for Pyro's SVI: its own, with the gradients of this library.

Pyro runs the programs, at its own draws, and says which sites count; each counts by its
log-probability with its provenance, as in `ancestral.infer.elbo`.

>>> import pyro, torch
>>> import pyro.distributions as dist
>>> def model(x):
...     z = pyro.sample("z", dist.Bernoulli(0.3))
...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
>>> def guide(x):
...     pyro.sample("z", dist.Bernoulli(logits=pyro.param("q", torch.tensor(0.0))))
>>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss=TraceGraph_ELBO())
>>> loss = svi.step(torch.tensor(1.0))
"""

import abc
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from pyro import infer, poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor

from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice
from ancestral.estimators.gradient.problem import Cost, problem_of, problem_of_terms
from ancestral.estimators.gradient.score_function import evaluate_together
from ancestral.estimators.gradient.subtraction import Baselines, check_baseline
from ancestral.estimators.gradient.surrogate import decided, descend, settle, surrogate
from ancestral.estimators.inference.expected_terms import terms_of
from ancestral.estimators.inference.model_guide import Pair
from ancestral.estimators.inference.pyro_baselines import PyroBaseline, baselines_of
from ancestral.estimators.inference.pyro_costs import (
    Density,
    counted,
    refuse_non_finite,
    total_of,
)
from ancestral.estimators.inference.pyro_sites import (
    Lines,
    Replay,
    check_infer,
    check_runs,
    check_shape,
    density_of,
    named,
    refuse_mismatch,
    refuse_observed,
    refuse_unrun,
    refuse_unspecified,
    with_lines,
)
from ancestral.provenance.tensor.tensor import provenance
from ancestral.trace.context.argument_checks import check_count
from ancestral.trace.context.place import stacklevel
from ancestral.trace.context.plain import aside
from ancestral.trace.context.stack import suspended
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.pyro.bridge import node_of, unnamed_params
from ancestral.trace.pyro.marks import Marked
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace

Program = Callable[..., Any]
_Site = Any  # Pyro's annotations of its messages want what its documentation does not
_Traces = tuple[Any, Any]  # of the guide and of the model


class _Run(NamedTuple):
    """A run of both programs: its recording, what its sites cost, those of the guide.

    `loss` is the sum of the costs as they count, [], plain.
    """

    trace: Trace
    costs: list[Cost]
    loss: Tensor
    guide_sites: list[_Site]

    @property
    def is_tracked(self) -> bool:
        """Whether any cost depends on a draw."""
        return any(provenance(cost.value) is not None for cost in self.costs)

    @property
    def has_factors(self) -> bool:
        """Whether a term is what the user computed, and no density."""
        return any(isinstance(node.fn, Factor) for node in self.trace.everything)

    @property
    def tracked(self) -> Tensor:
        """The loss with its provenance, if it has any."""
        parts = [cost.value.sum() * cost.weight for cost in self.costs]
        return sum(parts[1:], parts[0]) if parts else self.loss


class _Loss(abc.ABC):
    """What the losses have in common: runs of two programs, and the gradients of these."""

    num_particles: int
    max_plate_nesting: Any
    vectorize_particles: bool
    retain_graph: bool | None
    _vectorized_num_particles: Any
    _guess_max_plate_nesting: Any

    def __init__(
        self,
        num_particles: int = 1,
        max_plate_nesting: float = float("inf"),
        vectorize_particles: bool = False,
        *,
        baseline: Baselines = "auto",
        estimator: PerSite[Choice] = "auto",
        credit: PerSite[Estimator] = by_element,
        **options: Any,
    ) -> None:
        """Take the options.

        Raises:
            ValueError: if a count is none, or is too small.
        """
        check_baseline(baseline)
        check_count("num_particles", num_particles)
        if max_plate_nesting != float("inf"):
            check_count("max_plate_nesting", max_plate_nesting, 0)
        super().__init__(  # type: ignore[call-arg]
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            **options,
        )
        self._choices: dict[str, Any] = {
            "baseline": baseline,
            "estimator": estimator,
            "credit": credit,
        }

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return an estimate of the negative bound, without a gradient."""
        with torch.no_grad():
            losses = [run.loss for run in self._runs(model, guide, args, kwargs)]
        return sum(map(float, losses))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Accumulate the gradient of the negative bound, and return an estimate of it."""
        total = 0.0
        for run in self._runs(model, guide, args, kwargs):
            if _has_gradient(run):
                self._descend(run)
            settle(run.trace)
            total += float(run.loss.detach())
        return total

    def _descend(self, run: _Run) -> None:
        is_kept = bool(self.retain_graph)
        problem = problem_of_terms(run.trace, run.costs, run.loss) if run.is_tracked else None
        loss = run.loss if problem is not None else run.tracked
        if problem is None and provenance(loss) is None:
            loss.backward(retain_graph=self.retain_graph)
            return
        choices, learned = self._chosen(run)
        problem = problem_of(loss, None) if problem is None else problem
        by = choices["estimator"], choices["credit"]
        problem, estimate = decided(problem, *by, may_hold=run.has_factors)
        descend(problem, choices["baseline"], estimate, is_kept, None)
        for each in learned:
            if each.loss.requires_grad:
                (each.loss / self.num_particles).backward(retain_graph=self.retain_graph)

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the surrogate: a scalar with the value of the loss, and with its gradient.

        The losses of Pyro's baselines are added to it, less their value.
        """
        parts: list[Tensor] = []
        for run in self._runs(model, guide, args, kwargs):
            if not run.is_tracked or not torch.is_grad_enabled():
                parts.append(run.loss)
            else:
                choices, learned = self._chosen(run)
                parts.append(surrogate(run.tracked, **choices))
                own = [each.loss / self.num_particles for each in learned]
                parts += [each - each.detach() for each in own]
            settle(run.trace)
        return torch.stack(parts).sum()

    def _chosen(self, run: _Run) -> tuple[dict[str, Any], list[PyroBaseline]]:
        """Return how each site gets its gradient, and the baselines of Pyro that learn."""
        baseline, learned = baselines_of(
            run.guide_sites, self._choices["baseline"], self.num_particles
        )
        return {**self._choices, "baseline": baseline}, learned

    def _runs(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[_Run]:
        """Yield the runs of both programs: one for each particle, or one for all of them.

        The loss of each is weighed as it counts.
        """
        check_runs(type(self).__name__, "model", model)
        check_runs(type(self).__name__, "guide", guide)
        count = self.num_particles
        if self.vectorize_particles:
            self._find_nesting(model, guide, args, kwargs)
            model, guide = map(self._vectorized_num_particles, (model, guide))
            count = 1
        for _ in range(count):
            with suspended(), record(control="after") as trace:
                with with_lines(), unnamed_params():
                    traces, pair = self._programs(model, guide, args, kwargs)
                sites = [_sites_of(each) for each in traces]
                self._check(traces, sites, pair)
                densities = self._terms(sites, pair)
                costs = [counted(each, self.num_particles) for each in densities]
                loss = total_of([cost.counted for cost in costs])
                refuse_non_finite(densities, loss)
            yield _Run(trace, costs, loss, sites[0])

    def _find_nesting(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        """Run both programs once to learn how many dimensions plates have, unless that is known."""
        if self.max_plate_nesting == float("inf"):
            lines = Lines()
            with suspended(), lines.noted():
                self._guess_max_plate_nesting(lines(model), lines(guide), args, kwargs)

    def _programs(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[_Traces, Pair | None]:
        """Return Pyro's traces of guide and model, and our own where they are apart."""
        inner: Any = poutine.unwrap(guide)
        if isinstance(inner, Messenger):  # it draws within the model
            guide(*args, **kwargs)
            traced: Any = inner
            model_trace, guide_trace = traced.get_traces()
            return (guide_trace, model_trace), None
        with record() as guided:
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        refuse_unrun("guide", guide, guide_trace)
        refuse_observed(guided)
        with record() as modelled:
            replayed = Replay(trace=guide_trace)(model)
            model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        refuse_unrun("model", model, model_trace)
        return (guide_trace, model_trace), Pair(modelled, guided)

    def _check(self, traces: _Traces, sites: Sequence[Sequence[_Site]], pair: Pair | None) -> None:
        """Refuse programs whose log-probabilities do not add up to a bound."""
        for site in sites[0]:
            refuse_unspecified(site)
        for site in itertools.chain(*sites):
            check_infer(site)
        # A handler around the step may hide statements, which Pyro's traces alone have then.
        if pair is not None and all(map(node_of, itertools.chain(*sites))):
            refuse_mismatch(pair)
        if is_validation_enabled():
            check_model_guide_match(traces[1], traces[0], self.max_plate_nesting)
            self._check_marks(sites)

    @abc.abstractmethod
    def _check_marks(self, sites: Sequence[Sequence[_Site]]) -> None:
        """Warn, as Pyro does, where the marks of sites and the loss do not go together."""

    def _terms(self, sites: Sequence[Sequence[_Site]], pair: Pair | None) -> list[Density]:
        """Return what each site of the guide, and of the model, adds to the loss."""
        is_checked = is_validation_enabled()
        found: list[Density] = []
        evaluate_together(filter(None, map(node_of, itertools.chain(*sites))))
        for some, sign, program in zip(sites, (1, -1), ("guide", "model"), strict=True):
            for site in some:
                term = density_of(site)
                plain = aside(term)
                if is_checked:
                    check_shape(site, plain, self.max_plate_nesting)
                found.append(Density(term, plain, sign, node_of(site), program))
        return found


class TraceGraph_ELBO(_Loss, infer.TraceGraph_ELBO):  # noqa: N801 (as Pyro's)
    """Take the place of ``pyro.infer.TraceGraph_ELBO``, and of ``Trace_ELBO``, in Pyro's SVI.

        -ELBO = 1/K Σ_k [ Σ log q(z_k) - Σ log p(x, z_k) ],   z_k ~ q

    The value is Pyro's at the same draws. The gradient is unbiased also where Pyro's is not: where
    Python branches on a draw, writes it in place, or indexes by it; and what is independent need
    not be said to be by plates. Schulman et al. (2015), "Gradient estimation using stochastic
    computation graphs", theorem 1.

    Args:
        num_particles: how many draws of the guide, K.
        max_plate_nesting: how many dimensions plates have, from the right; only needed if
            `vectorize_particles`, and found by one run if it is not given.
        vectorize_particles: draw all of them at once, in an outer plate.
        baseline: what is subtracted from the costs of a site: see `ancestral.backward`. A site of
            the guide with Pyro's ``infer={"baseline": {...}}`` has that instead.
        estimator: how a reparameterized site gets its gradient.
        credit: which costs count for a site.
        options: others of Pyro's, such as `retain_graph`.

    Raises:
        GuideError: in a step, if the sites of guide and model do not match.
        NonFiniteDensityError: in a step, if the log-probability of a site is NaN or infinite.
    """

    def _check_marks(self, sites: Sequence[Sequence[_Site]]) -> None:
        for site in sites[0]:
            if site["infer"].get("enumerate") is not None:
                warnings.warn(
                    f"{named(site)} is marked to be enumerated, and is drawn; to sum over it, use "
                    "ancestral.infer.TraceEnum_ELBO",
                    stacklevel=stacklevel(),
                )


class TraceEnum_ELBO(_Loss, infer.TraceEnum_ELBO):  # noqa: N801 (as Pyro's)
    """Take the place of ``pyro.infer.TraceEnum_ELBO`` in Pyro's SVI.

        -ELBO = E_q[ log q(z) - log Σ_w p(x, z, w) ]

    The expectation is exact over the sites of the guide, and the sum over those of the model alone,
    that are marked by ``infer={"enumerate": "parallel"}``, as by ``pyro.infer.config_enumerate``.
    What is not marked is drawn, with the gradient of `TraceGraph_ELBO`, whose arguments these are.

    Raises:
        EnumerationError: in a step, if a marked site cannot be summed out: if it has infinitely
            many values, if Python reads it, or if what depends on it mixes its values.
    """

    def _runs(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[_Run]:
        """Yield the runs of both programs, within room for the values of sites."""
        self._find_nesting(model, guide, args, kwargs)
        return super()._runs(model, guide, args, kwargs)

    def _programs(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[_Traces, Pair | None]:
        """Return the traces of both programs, with the marked sites at all their values."""
        with Marked(first_dim=-1 - int(self.max_plate_nesting)):
            return super()._programs(model, guide, args, kwargs)

    def _check_marks(self, sites: Sequence[Sequence[_Site]]) -> None:
        marked = [s for s in itertools.chain(*sites) if s["infer"].get("enumerate") is not None]
        if self.strict_enumeration_warning and not marked:
            warnings.warn(
                "TraceEnum_ELBO found no sample sites configured for enumeration: mark them by "
                "pyro.infer.config_enumerate, or use ancestral.infer.TraceGraph_ELBO",
                stacklevel=stacklevel(),
            )

    def _terms(self, sites: Sequence[Sequence[_Site]], pair: Pair | None) -> list[Density]:
        """Return what all sites add to the loss, as it is expected."""
        if pair is None:
            return super()._terms(sites, pair)
        return [Density(t.value, aside(t.value), 1, t.node, t.program) for t in terms_of(pair)]


def _sites_of(trace: Any) -> list[_Site]:
    """Return the samples of a trace of Pyro, but for the subsamples of plates."""
    pruned: Any = prune_subsample_sites(trace)
    return [site for site in pruned.nodes.values() if site["type"] == "sample"]


def _has_gradient(run: _Run) -> bool:
    """Return whether anything is to be learned of a run."""
    return run.loss.requires_grad or (
        run.is_tracked and any(node.is_learned for node in run.trace.everything)
    )

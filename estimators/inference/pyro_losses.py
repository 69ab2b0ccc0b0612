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

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from pyro import infer, poutine
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import InferDict
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_if_enumerated, check_model_guide_match, check_site_shape
from torch import Tensor

from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice
from ancestral.estimators.gradient.loss_terms import non_finite_density
from ancestral.estimators.gradient.subtraction import Baselines, check_baseline
from ancestral.estimators.gradient.surrogate import backward, settle, surrogate
from ancestral.estimators.inference.model_guide import GuideError, Pair, misread, missing, observed
from ancestral.estimators.inference.pyro_baselines import PyroBaseline, baselines_of
from ancestral.provenance.tensor.tensor import provenance, untrack
from ancestral.trace.context.errors import SiteError, guessed, listed
from ancestral.trace.context.stack import suspended
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.node import Node
from ancestral.trace.pyro.bridge import node_of
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace

Program = Callable[..., Any]
_Site = Any  # Pyro's annotations of its messages want what its documentation does not


class _Run(NamedTuple):
    """A run of both programs: its recording, its loss, [], and the sites of the guide."""

    trace: Trace
    loss: Tensor
    guide_sites: list[_Site]


class _Cost(NamedTuple):
    """What a site adds to the loss: its log-probability, tracked, with a sign."""

    value: Tensor
    sign: int
    node: Node | None
    program: str


class TraceGraph_ELBO(infer.TraceGraph_ELBO):  # noqa: N801 (as Pyro's)
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
        """Take the options."""
        check_baseline(baseline)
        super().__init__(  # type: ignore[no-untyped-call]
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
        return sum(float(untrack(loss)) for loss in losses)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Accumulate the gradient of the negative bound, and return an estimate of it."""
        total = 0.0
        for run in self._runs(model, guide, args, kwargs):
            if _has_gradient(run):
                self._descend(run)
            settle(run.trace)
            total += float(untrack(run.loss).detach())
        return total

    def _descend(self, run: _Run) -> None:
        if provenance(run.loss) is None:
            run.loss.backward(retain_graph=self.retain_graph)
            return
        choices, learned = self._chosen(run)
        backward(run.loss, retain_graph=bool(self.retain_graph), **choices)
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
            if provenance(run.loss) is None or not torch.is_grad_enabled():
                parts.append(untrack(run.loss))
            else:
                choices, learned = self._chosen(run)
                parts.append(surrogate(run.loss, **choices))
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
        count = self.num_particles
        if self.vectorize_particles:
            if self.max_plate_nesting == float("inf"):
                with suspended():
                    self._guess_max_plate_nesting(model, guide, args, kwargs)  # type: ignore[no-untyped-call]
            model, guide = map(self._vectorized_num_particles, (model, guide))
            count = 1
        for _ in range(count):
            with suspended(), record(control="after") as trace:
                sites, costs = self._costs(model, guide, args, kwargs)
                loss = _loss(costs) / self.num_particles
            yield _Run(trace, loss, sites)

    def _costs(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[list[_Site], list[_Cost]]:
        """Return the sites of the guide, and what those of both programs add to the loss."""
        inner = poutine.unwrap(guide)
        recordings: tuple[Trace, ...] = ()
        if isinstance(inner, Messenger):
            guide(*args, **kwargs)
            traced: Any = inner
            model_trace, guide_trace = traced.get_traces()
        else:
            with record() as guided:
                guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            with record() as modelled:
                replayed = poutine.replay(model, trace=guide_trace)
                model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
            recordings = modelled, guided
        if is_validation_enabled():
            check_if_enumerated(guide_trace)
        pruned = [prune_subsample_sites(each) for each in (guide_trace, model_trace)]
        sites = [[s for s in each.nodes.values() if s["type"] == "sample"] for each in pruned]
        is_whole = all(node_of(site) is not None for each in sites for site in each)
        if recordings and is_whole:
            _refuse_mismatch(Pair(*recordings))
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        return sites[0], [
            self._cost(site, sign, program)
            for each, sign, program in zip(sites, (1, -1), ("guide", "model"), strict=True)
            for site in each
        ]

    def _cost(self, site: _Site, sign: int, program: str) -> _Cost:
        node = node_of(site)
        _check_infer(site, node)
        if program == "guide" and isinstance(site["fn"], Unit):
            _refuse_unspecified(site, node)
        if node is None:  # a handler of Pyro hid the statement, or it is there with another density
            density = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            term = scale_and_mask(density, site["scale"], site["mask"])
        else:
            term = node.tracked_log_prob
        if is_validation_enabled():
            site["log_prob"] = untrack(term) if node is None else _by_case(node, untrack(term))
            check_site_shape(site, self.max_plate_nesting)
        return _Cost(term, sign, node, program)


def _refuse_mismatch(pair: Pair) -> None:
    """Raise a GuideError where the sum of log-probabilities of a pair would be no bound."""
    for node in pair.guide_sites:
        if node.is_observed and not isinstance(node.fn, Factor):
            for error in observed(pair):
                raise error
    for error in (*missing(pair), *misread(pair)):
        raise error


def _refuse_unspecified(site: _Site, node: Node | None) -> None:
    """Raise unless a factor of the guide is one of the densities whose gradient is the whole."""
    factor, where = site["fn"], "" if node is None else f" ({node.location})"
    if "has_rsample" not in vars(factor):
        raise GuideError(
            f"factor {site['name']!r}{where} is missing specification of has_rsample; expected "
            "pyro.factor(name, value, has_rsample=True) in a guide: the density of what is drawn "
            "by a differentiable transformation"
        )
    if not factor.has_rsample and factor.log_factor.requires_grad:
        raise GuideError(
            f"factor {site['name']!r}{where} says has_rsample=False, so that it is the density of "
            "a draw that nobody sees, whose score it would need; draw it by pyro.sample, or say "
            "has_rsample=True if it is the density of a differentiable transformation"
        )


def _by_case(node: Node, term: Tensor) -> Tensor:
    """Return a log-probability over the batch that the user knows."""
    if not node.event_dims or tuple(term.shape) != node.shape:
        return term
    return term.sum(tuple(range(-node.event_dims, 0)))


def _loss(costs: list[_Cost]) -> Tensor:
    """Return the sum of costs, [], with its provenance.

    Raises:
        NonFiniteDensityError: if one is NaN or infinite.
    """
    parts = [cost.value.sum() * cost.sign for cost in costs]
    loss = sum(parts[1:], parts[0]) if parts else torch.zeros(())
    if not bool(torch.isfinite(untrack(loss)).all()):
        for cost in costs:
            if cost.node is not None and not bool(torch.isfinite(untrack(cost.value)).all()):
                raise non_finite_density(cost.node, cost.program)
    return loss


def _has_gradient(run: _Run) -> bool:
    """Return whether anything is to be learned of a run."""
    if untrack(run.loss).requires_grad:
        return True
    is_tracked = provenance(run.loss) is not None
    return is_tracked and any(node.is_learned for node in run.trace.everything)


_KNOWN = frozenset({*InferDict.__annotations__, "tmc", "baseline", "estimator", "credit"})


def _check_infer(site: _Site, node: Node | None) -> None:
    """Raise for what nothing reads in the ``infer`` of a site."""
    unknown = [k for k in site["infer"] if k not in _KNOWN and not str(k).startswith("_")]
    if unknown:
        where = "" if node is None else f" ({node.location})"
        raise SiteError(
            f"site {site['name']!r}{where}: nothing reads {unknown[0]!r} in its infer; expected of "
            f"{listed(sorted(_KNOWN))}{guessed(unknown, _KNOWN)}"
        )

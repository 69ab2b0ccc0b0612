"""Marginals: the evidence of an enumerated program, and the posteriors of its sites.

>>> import torch
>>> from torch.distributions import Bernoulli, Normal
>>> from ancestral.trace.enumeration.enumerate import enumerate
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> with record() as trace, enumerate(first_dim=-1):
...     z = sample("z", Bernoulli(torch.tensor(0.5)))
...     x = sample("x", Normal(4 * z, 1.0), obs=torch.tensor(2.0))
>>> bool(log_marginal(trace) == Normal(0.0, 1.0).log_prob(torch.tensor(2.0)))
True
>>> marginals(trace)["z"].exp()
tensor([0.5000, 0.5000])
"""

from dataclasses import replace

import torch
from torch import Tensor

from ancestral.estimators.elimination.eliminate import eliminated
from ancestral.estimators.elimination.factors import LogFactor, all_factors_of, batch_of, packed
from ancestral.estimators.elimination.log_table import log_of, product
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.graph.argument_types import check_trace
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.trace import Trace


def log_marginal(trace: Trace) -> Tensor:
    """Return the log-density of a trace, its enumerated sites summed out: [].

        log Σ_z Π_s p(s | parents),  over all values z of the enumerated sites

    It is exact, and differentiable. Observed sites have their data. A latent site that is not
    enumerated is taken as given: its density at its value counts too. So if all latent sites are
    enumerated it is the evidence, log p(data). A density that the program asks of torch itself is
    no site, and counts if it is given to `factor`.

    Each repetition of a plate is summed out by itself, and counts as often as the subsample stands
    for. What a mask hides has the density one, but for an enumerated site, which takes its values
    with their probabilities as ever. What `scale` says multiplies the logarithm of the sum over
    the sites in its block: they are summed out, then it is applied.

    The cost is the size of the greatest table that variable elimination meets: linear in the length
    of a chain. Obermeyer et al. (2019), "Tensor variable elimination for plated factor graphs".

    Raises:
        TypeError: if `trace` is none.
        EnumerationError: if the sum is intractable, if a latent site has no one value, if sites of
            different scales are summed out together, or if the trace lacks an enumerated site.
    """
    check_trace("log_marginal", trace)
    return eliminated(all_factors_of(trace))


def marginals(trace: Trace) -> dict[str, Tensor]:
    """Return the log-probabilities of each enumerated site given the data: [K, *plates].

        log p(z = k | data) = log ∂ log_marginal / ∂ log p(z = k | parents)

    They are in the order of the values, and are differentiable where gradients are on. Within
    `torch.inference_mode` they cannot be had: they are derivatives.

    Raises:
        TypeError: if `trace` is none.
        EnumerationError: if the data has probability zero; within `torch.inference_mode`; if
            `log_marginal` does.
    """
    check_trace("marginals", trace)
    if torch.is_inference_mode_enabled():
        raise EnumerationError(
            "the posteriors of enumerated sites are derivatives, which torch.inference_mode() does "
            "not take; use torch.no_grad() around the program and the question"
        )
    factors = all_factors_of(trace)
    nodes = [trace[factor.name] for factor in factors if factor.own is not None]
    with torch.enable_grad():
        probes = {node.name: _probe(node) for node in nodes}
        total = eliminated([_probed(f, trace, probes) for f in factors])
    if not nodes:
        return {}
    if not bool(untrack(total).isfinite()):
        raise impossible_data(nodes[0].name)
    found = torch.autograd.grad(
        untrack(total),
        list(probes.values()),
        create_graph=torch.is_grad_enabled() and any(f.table.log.requires_grad for f in factors),
        materialize_grads=True,
    )
    owned = [factor for factor in factors if factor.own is not None]
    return {
        factor.name: _normalized(factor, gradient)
        for factor, gradient in zip(owned, found, strict=True)
    }


def impossible_data(name: str) -> EnumerationError:
    """Return the error that a site has no posterior, as the data of its trace has none."""
    return EnumerationError(
        f"site {name!r} has no posterior: the program gives its data the probability zero (or "
        "no number) at some repetition; look at the log_prob of its observed sites"
    )


def _probe(node: Node) -> Tensor:
    """Return zeros for the values of a site, [K, 1 ..., *plates]."""
    assert node.fn is not None
    batch = node.value.shape[: node.value.dim() - len(node.fn.event_shape)]
    dtype = node.unscaled_log_prob.dtype
    return torch.zeros(batch, dtype=dtype, device=node.value.device, requires_grad=True)


def _probed(factor: LogFactor, trace: Trace, probes: dict[str, Tensor]) -> LogFactor:
    if factor.own is None:
        return factor
    probe = packed(trace[factor.name], probes[factor.name])
    return replace(factor, table=product([factor.table, probe]))


def _normalized(factor: LogFactor, weights: Tensor) -> Tensor:
    """Return the logarithms of weights along the first dimension, whose sum is the scale."""
    total = weights.sum(0)
    if not bool((total > 0).all()):
        raise impossible_data(factor.name)
    batch = batch_of(factor, tuple(weights.shape[1:]))
    return log_of(weights / total).reshape(weights.shape[0], *batch)

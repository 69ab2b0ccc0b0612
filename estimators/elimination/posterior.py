"""Posterior samples of enumerated sites, drawn jointly given the data.

>>> import torch
>>> from torch.distributions import Bernoulli
>>> from ancestral.trace.enumeration.enumerate import enumerate
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> with record() as trace, enumerate(first_dim=-1):
...     z = sample("z", Bernoulli(torch.tensor(0.5)))
...     x = sample("x", Bernoulli(0.0 + z), obs=torch.tensor(1.0))
>>> sample_posterior(trace, samples=3)
{'z': tensor([1., 1., 1.])}
"""

import math
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor
from torch.distributions import Categorical

from ancestral.estimators.elimination.eliminate import eliminated
from ancestral.estimators.elimination.factors import LogFactor, all_factors_of, batch_of
from ancestral.estimators.elimination.log_table import Table, along
from ancestral.estimators.elimination.marginals import impossible_data
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import check_count
from ancestral.trace.graph.argument_types import check_trace
from ancestral.trace.nodes.enum_dims import Variable
from ancestral.trace.nodes.node import Node
from ancestral.trace.program.site import unseen
from ancestral.trace.recording.trace import Trace

_DRAWS = "draws"  # the axis of the draws, beside those of repetitions


def sample_posterior(trace: Trace, samples: int) -> dict[str, Tensor]:
    """Return draws of the enumerated sites given the data: each [samples, *plates, *event].

        z ~ p(z | data),  all sites of one draw together

    They are exact and independent of each other. A latent site that is not enumerated is taken as
    given. The sites are summed out as in `log_marginal`; then each is drawn given those that were
    summed out after it, the last one first. `handlers.substitute`, or `Predictive`, takes them on.

    Args:
        trace: of one run within `an.handlers.enumerate`.
        samples: how many draws.

    Raises:
        ValueError: if `samples` is no positive number.
        EnumerationError: if the data has probability zero; if `log_marginal` does.
        TypeError: if `trace` is none.
    """
    check_trace("sample_posterior", trace)
    check_count("samples", samples)
    met: list[tuple[Variable, Table]] = []
    with torch.no_grad():
        factors = all_factors_of(trace)
        total = eliminated(factors, lambda variable, table: met.append((variable, table)))
        owned = [factor for factor in factors if factor.own is not None]
        if owned and not bool(untrack(total).isfinite()):
            raise impossible_data(owned[0].name)
        found: dict[Hashable, Table] = {}
        for variable, table in reversed(met):
            found[variable] = _drawn(variable, table, found, samples)
    return {f.name: _values(trace[f.name], f, found.get(f.own), samples) for f in owned}


def _drawn(
    variable: Variable, table: Table, known: Mapping[Hashable, Table], samples: int
) -> Table:
    """Return the numbers of values of a site, given those of all others that a table is of."""
    others = [axis for axis in table.axes if isinstance(axis, Variable) and axis is not variable]
    places = [axis for axis in table.axes if not isinstance(axis, Variable)]
    log = untrack(along(table, (*places, *others, variable)))
    sizes = log.shape[: len(places)]
    grid = [
        torch.arange(size, device=log.device).reshape(-1, *(1,) * (len(sizes) - 1 - i))
        for i, size in enumerate(sizes)
    ]
    values = [along(known[other], (_DRAWS, *places)) for other in others]
    weights = log[(*grid, *values)].expand(samples, *sizes, log.shape[-1])
    return Table(unseen(Categorical(logits=weights)), (_DRAWS, *places))


def _values(node: Node, factor: LogFactor, numbers: Table | None, samples: int) -> Tensor:
    """Return the values of a site that have some numbers, [samples, *plates, *event]."""
    assert node.fn is not None
    event = tuple(node.fn.event_shape)
    value = untrack(node.value)
    batch = batch_of(factor, tuple(value.shape[1 : value.dim() - len(event)]))
    axes = (_DRAWS, *range(-len(batch), 0))
    first = torch.zeros([1] * len(axes), dtype=torch.long, device=value.device)
    at = first if numbers is None else along(numbers, axes)  # one value needs no axis
    listed = value.reshape(len(value), math.prod(value.shape[1 : value.dim() - len(event)]), *event)
    return listed[at.expand(samples, *batch), 0]

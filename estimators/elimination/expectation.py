"""Expectation: the mean of a cost over sites that take all their values at once.

>>> import torch
>>> from torch.distributions import Bernoulli
>>> from ancestral.trace.enumeration.enumerate import enumerate
>>> from ancestral.trace.recording.record import record
>>> with record(), enumerate(sites=["k"]):
...     k = Bernoulli(torch.tensor([0.3, 0.9])).sample()
...     mean = expectation((k - 1) ** 2)
>>> mean
tensor([0.7000, 0.1000])
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ancestral.estimators.elimination.factors import by_chance, own_of
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.provenance.algebra.source_alignments import claimed
from ancestral.provenance.tensor.tensor import provenance, untrack
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.enumeration.dims import is_kept_at
from ancestral.trace.enumeration.enumerate import enumerate as enumeration
from ancestral.trace.nodes.enum_dims import Variable
from ancestral.trace.nodes.log_prob import tracked_density
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.enumerated_log_prob import Spread
from ancestral.trace.recording.message import handlers
from ancestral.trace.recording.plate_checks import mixed_by
from ancestral.trace.recording.trace import Trace


def expectation(cost: Tensor) -> Tensor:
    """Return the mean of a cost over the enumerated sites that it depends on, element by element.

        E[c] = Σ_k q(k | parents) c[k]

    It is exact, and differentiable in the cost and in the probabilities: what is enumerated has no
    score. Elements of the cost have to belong to elements of the sites: where a sum or mean over
    the repetitions of a site was taken before, its values are mixed, and it is refused.

    Args:
        cost: [K, ..., *shape], of the block of `an.handlers.enumerate` that is open; without such a
            site it is returned as it is.

    Returns:
        What the cost would be of a drawn site, [*shape], without leading dimensions of size 1.

    Raises:
        TypeError: if the cost is no tensor.
        EnumerationError: if it mixes the values or the repetitions of an enumerated site, or the
            block of one has ended.
    """
    if not isinstance(cost, Tensor):
        raise TypeError(f"expectation takes a tensor of costs, not {kind_of(cost)}")
    found = provenance(cost)
    owner = None if found is None else found.universe.owner
    if found is None or not isinstance(owner, Trace):
        return cost
    nodes = _enumerated(found, Spread(owner))
    if not nodes:
        return cost
    own = _dimensions_of(nodes.values())
    events = _events(cost, found, nodes)
    log_weight = sum(n.by_case(tracked_density(n, is_masked=False)) for n in nodes.values())
    assert isinstance(log_weight, Tensor)
    weight = log_weight.exp()[(..., *(None,) * events)]
    # What cannot happen may cost anything.
    mean = torch.where(untrack(weight).detach() > 0, weight * cost, 0)
    mean = mean.sum([variable.dim - events for variable in own], keepdim=True)
    size = list(mean.shape)
    while size and size[0] == 1:
        size = size[1:]
    mean = mean.reshape(size)
    left = provenance(mean)
    return mean if left is None else by_chance(mean, left)


def _enumerated(found: Provenance, spread: Spread) -> dict[Source, Node]:
    """Return the enumerated sites that something depends on, and those that these depend on."""
    nodes: dict[Source, Node] = {}
    pending = [found]
    while pending:
        part = pending.pop()
        for source in part.universe.origins(part.members):
            node = spread.nodes.get(source)
            if node is not None and node.is_enumerated and source not in nodes:
                nodes[source] = node
                if node.param_provenance is not None:
                    pending.append(node.param_provenance)
    return nodes


def _dimensions_of(nodes: Iterable[Node]) -> list[Variable]:
    """Return what stands for the values of some sites.

    Raises:
        EnumerationError: if one is out of scope: nobody looks any more at what is computed of it.
    """
    found: list[Variable] = []
    for node in nodes:
        own = own_of(node)
        assert own is not None
        if not any(isinstance(h, enumeration) and h.holds(own) for h in handlers()):
            raise EnumerationError(
                f"the cost depends on the enumerated site {own}, whose block has ended, or whose "
                "step is out of scope; call expectation within the block of an.handlers.enumerate, "
                "where what is computed of the site is looked at"
            )
        found.append(own)
    return found


def _events(cost: Tensor, found: Provenance, nodes: dict[Source, Node]) -> int:
    """Return how many dimensions of a cost stand right of the repetitions of the sites.

    Raises:
        EnumerationError: if these, or values, are mixed.
    """
    size, alignments = tuple(cost.shape), claimed(found)
    named = {source: node for source, node in nodes.items() if source in alignments}
    hidden = any(source.is_confined and source not in nodes for source in alignments)
    wrong: tuple[Source, int] | None = None
    for events in range(len(size)):
        wrong = next(
            (
                (source, i)
                for source, node in named.items()
                for batch in [source.shape[: len(source.shape) - node.event_dims]]
                for i, n in zip(range(len(batch)), batch, strict=True)
                if n != 1
                and not is_kept_at(
                    size[: len(size) - events], alignments[source], i, i - len(batch), n
                )
            ),
            None,
        )
        if wrong is None and named and not hidden:
            return events
    source, i = wrong or (next(iter(nodes)), 0)
    by = mixed_by(found, source, i)
    what = "values" if i == 0 else f"repetitions, along dimension {i - len(source.shape)},"
    raise EnumerationError(
        f"the cost, of shape {list(size)}, does not keep apart the {what} of the enumerated site "
        f"{source.name!r} ({nodes[source].location}){f': mixed by {by}' if by else ''}; give "
        "expectation the cost of each element, and sum or average what it returns"
    )

"""Scores: the sum over the sites of log-density times credit, differentiated by autograd.

A chain has thousands of small sites of one family. Where the density of a family is known to be
computed element by element, those of one shape are stacked and evaluated at once: the same numbers,
by a few ops instead of some for each site.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import unwrap
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal, Poisson

from ancestral.estimators.credit.credit import Credit
from ancestral.estimators.gradient.loss_pytree import SURROGATE
from ancestral.estimators.gradient.loss_terms import Term
from ancestral.provenance.algebra.provenance import Universe
from ancestral.provenance.tensor.linear_form import Weight
from ancestral.provenance.tensor.tensor import ProvenanceTensor, raw
from ancestral.provenance.tensor.torch_internals import DisableTorchFunction, detach
from ancestral.trace.context.place import place
from ancestral.trace.context.plain import aside
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.autograd_graph import mark_share
from ancestral.trace.nodes.distribution_params import factorized, is_class_of_torch, parameters
from ancestral.trace.nodes.known_families import is_method_of
from ancestral.trace.nodes.node import Node

Pair = tuple[Node, Credit]
NO_DENSITIES: Mapping[Node, Tensor] = MappingProxyType({})
NO_WEIGHTS: Mapping[Node, Weight] = MappingProxyType({})
_SMALL, _MANY = 256, 4
_PLAIN = frozenset({Tensor, ProvenanceTensor, nn.Parameter})
# By class, the parameters that it may have been given; those that log_prob reads come first.
_ELEMENTWISE: dict[type[Distribution], tuple[tuple[str, ...], ...]] = {
    Bernoulli: (("logits",), ("probs",)),
    Normal: (("loc", "scale"),),
    Poisson: (("rate",),),
}


def products(
    pairs: Sequence[Pair],
    less: Sequence[Tensor | None],
    known: Mapping[Node, Tensor] = NO_DENSITIES,
    own: Mapping[Node, Weight] = NO_WEIGHTS,
) -> Iterator[Tensor]:
    """Yield what adds up to the sum over all sites of score times (credit minus baseline).

        Σ_i Σ_s log q(z_i[s]) · (Σ_{(j,t) downstream of (i,s)} c_j[t] - b_i[s] - w_i[s])

    Args:
        pairs: the sites with their credit.
        less: the baseline of each.
        known: log-densities of sites at their draws that were computed before.
        own: what the loss multiplies some of these with, so that their own gradient goes away.

    Raises:
        NoDensityError: if a distribution has none.
        ModifiedParameterError: if a parameter was overwritten since the draw.
    """
    groups: dict[object, list[tuple[Node, Tensor]]] = {}
    are_many = len(pairs) >= _MANY
    for (node, credit), baseline in zip(pairs, less, strict=True):
        kind = _kind(node) if are_many and node not in known else None
        total = None if kind is None else _total(credit, baseline)
        if kind is None or total is None or total.ndim != len(node.shape):
            yield product(node, credit, baseline, known.get(node), own.get(node, 0.0))
        else:
            key = (kind, total.shape, total.dtype, total.device)
            groups.setdefault(key, []).append((node, total))
    for members in groups.values():
        density = _stacked([node for node, _ in members]) if len(members) >= _MANY else None
        if density is not None:
            yield (density * torch.stack([total for _, total in members])).sum()
        else:
            yield from ((node.score * total).sum() for node, total in members)


def added(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of scalars, in the type of the first; of many by one op."""
    first, *rest = parts
    if len(rest) < _MANY:
        return sum([each.to(first.dtype) for each in rest], first)
    return torch.stack([each.to(first.dtype) for each in parts]).sum()


def densities_in(terms: Iterable[Term]) -> dict[Node, Tensor]:
    """Return the log-densities of scored sites at their draws that are among some terms.

    What autograd goes through for the terms anyway serves as the score too. Not where the user has
    written into it or looks at its gradient, nor where some elements are masked.
    """
    found: dict[Node, Tensor] = {}
    with DisableTorchFunction():
        for term in terms:
            node, leaf = getattr(term.leaf, "_scored", None), term.leaf
            if node is None or node.is_reparameterized or node.mask is not None:
                continue
            if node.has_hidden_elements:
                continue
            is_seen = bool(_hooks(leaf)) or _retains(leaf)
            if leaf._version == 0 and _learns(leaf) and not (is_seen or node.has_moving_boundary):
                node.refuse_modified()
                found[node] = leaf[...]
    return found


# Torch's own, which know of no class.
_Tensor: Any = Tensor
_hooks, _retains = _Tensor._backward_hooks.__get__, _Tensor.retains_grad.__get__
_learns = _Tensor.requires_grad.__get__


def product(
    node: Node,
    credit: Credit,
    less: Tensor | None = None,
    density: Tensor | None = None,
    own: Weight = 0.0,
) -> Tensor:
    """Return the sum over the elements of a site of score times (credit minus baseline).

    `own` is what else is taken off, as the loss counts the density.
    """
    density = node.score if density is None else density
    is_own = isinstance(own, Tensor) or own != 0
    if tuple(density.shape) == node.shape:
        total = _total(credit, less)
        return (density * (total - own if is_own else total)).sum()
    # A density of another shape says nothing of elements: the draw is one.
    joint = credit.joint
    whole = density.sum() * _constant(joint if less is None else joint - less.mean())
    return whole - (density * own).sum() if is_own else whole


def _total(credit: Credit, less: Tensor | None) -> Tensor:
    return _constant(credit.total if less is None else credit.total - less)


def _constant(value: Tensor) -> Tensor:
    """Return a value that autograd can save, which one of inference mode is not."""
    return value.clone() if value.is_inference() else value


def _kind(node: Node) -> object:
    """Return what small sites share whose densities may be stacked, None for any other site."""
    return None if node.is_reparameterized else _kind_of_density(node)


def _kind_of_density(node: Node) -> object:
    """Return it whether or not a gradient flows through the value."""
    if node.fn is None or "elementwise_log_prob" in vars(node):
        return None
    fn = factorized(node.fn)
    names = _read(fn)
    if names is None or "log_prob" in vars(fn) or node.value.numel() > _SMALL:
        return None
    given = [*map(vars(fn).__getitem__, names), node.value]
    for item in given:  # what broadcasts has a density of another shape than its parameters
        if item.__class__ not in _PLAIN or item.shape != node.shape:
            return None
    return (type(fn), names, node.shape, *[(item.dtype, item.device) for item in given])


def _read(fn: Distribution) -> tuple[str, ...] | None:
    """Return the parameters that the density of a known family reads."""
    kind: Any = type(fn)
    for names in _parameters_of(kind):
        if vars(fn).keys() >= {*names}:
            return names
    return None


@functools.lru_cache(maxsize=1024)
def _parameters_of(kind: Any) -> tuple[tuple[str, ...], ...]:
    """Return those of a known family, also of a class of Pyro that has the density of torch's."""
    for known, names in _ELEMENTWISE.items():
        is_as = issubclass(kind, known) and is_class_of_torch(kind)
        if kind is known or (is_as and is_method_of(kind, unwrap(known.log_prob))):
            return names
    return ()


def evaluate_together(nodes: Iterable[Node]) -> None:
    """Let small sites of one kind keep their log-densities, which are computed at once.

    Those of other sites, and of one whose value is refused, are computed when they are asked for.
    """
    groups: dict[object, list[Node]] = {}
    for node in nodes:
        if node.mask is None and node.enumeration is None:
            kind = _kind_of_density(node)
            if kind is not None:
                groups.setdefault(kind, []).append(node)
    for members in groups.values():
        density = _stacked(members) if len(members) >= _MANY else None
        if density is not None:
            with DisableTorchFunction():
                parts = density.unbind()
            for node, part in zip(members, parts, strict=True):
                # A node of autograd for each: it tells which draw was scored, and by what.
                vars(node)["elementwise_log_prob"] = own = aside(part)
                held = () if node.fn is None else parameters(node.fn)
                mark_share(own, (*(tensor for tensor, _ in held), node.value))


def _stacked(nodes: Sequence[Node]) -> Tensor | None:
    """Return the log-densities of sites of one kind, [sites, *shape], None where one raises."""
    for node in nodes:
        node.refuse_modified()
    was_inside, local.is_inside = local.is_inside, True  # to ask is not to observe
    try:
        with torch.enable_grad():
            found: Tensor = raw(_density, nodes)
    except ValueError:  # a value outside of the support: the site that has it is to say so
        return None
    finally:
        local.is_inside = was_inside
    return found


def _density(nodes: Sequence[Node]) -> Tensor:
    fns: list[Any] = [factorized(node.fn) for node in nodes if node.fn is not None]
    names = _read(fns[0]) or ()
    given = {name: torch.stack([vars(fn)[name] for fn in fns]) for name in names}
    together = type(fns[0])(**given, validate_args=False)
    together._validate_args = any(fn._validate_args for fn in fns)
    density: Tensor = together.log_prob(torch.stack([node.value for node in nodes]))
    return density


def against(boxed: Tensor, less: Tensor, node: Node) -> Tensor:
    """Return what is subtracted for a site, with the derivative of its scores."""
    if tuple(boxed.shape) == node.shape:
        return (boxed * less).sum()
    return boxed.sum() * less.mean()


def box(x: Tensor, universe: Universe) -> Tensor:
    """Return exp(x - stopped(x)) - 1: zero, with the derivatives of a likelihood ratio."""
    ratio = torch.exp(x - detach(x))
    if ratio.grad_fn is not None:
        metadata: Any = ratio.grad_fn.metadata  # annotated as a method in torch
        metadata[SURROGATE] = (universe.token, str(place().location))
    return ratio - 1

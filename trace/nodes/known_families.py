"""Known families: distributions of torch that draw, and score, by a few known ops.

What a draw or a density depends on is read off the parameters and the value, so that the ops within
need not be followed one by one. That is left out where it can be proven to show nothing more:

- the method and the class are torch's own, and the method is one that was read: it looks at the
  declared parameters alone, writes into nothing but its own result, and reads no number;
- a draw is floating and made without a step that has no useful derivative. A draw of integers,
  as that of a `Categorical`, tells that the gradient of reparameterized parents stops there, also
  where `torch.no_grad` has hidden it: it is known where the parameters depend on nothing drawn.
  A density has the linear form that its ops give it;
- the parameters are plain or tracked tensors, and the shape is given in numbers; a value that is
  scored has the shape and the type of the logits.

A value that the distribution itself has drawn is in the support: there is nothing to check.
Whatever else there is, such as relaxed, transformed and rejection samplers, is followed op by op.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Exponential,
    FisherSnedecor,
    Gamma,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    Uniform,
    constraints,
)

from ancestral.provenance.algebra.alignment import LOST
from ancestral.provenance.algebra.alignment_loss import joined
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.dispatch.linear_forms import form_of
from ancestral.provenance.linear.transpose import negative
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.linear_form import serials, version_of
from ancestral.provenance.tensor.tensor import NO_KEYWORDS, ProvenanceTensor, Unseen, attach, raw
from ancestral.provenance.tensor.torch_internals import (
    detach,
    is_all_true,
    is_functorch_wrapped_tensor,
    len_torch_function_stack,
)
from ancestral.trace.context.patch import Patch
from ancestral.trace.context.switch import unmet
from ancestral.trace.nodes.distribution_params import is_class_of_torch
from ancestral.trace.nodes.versions import DRAWN_AT, OfLogits, as_drawn

_Method = Callable[..., Any]


class _Simple(NamedTuple):
    """How a method of a family draws."""

    kind: type[Distribution]  # the class that it is simple for
    read: tuple[str, ...]  # the attributes that it reads
    # Draws each case of a batch once, where the op is known; None for parameters of other shapes.
    one: Callable[..., Tensor | None] | None = None
    is_of_integers: bool = False
    forgotten: tuple[str, ...] = ()  # what it keeps of the parameters, untracked by then


def _normal(batch: Size, loc: Tensor, scale: Tensor) -> Tensor | None:
    if not loc.shape == batch == scale.shape:
        return None
    noise = _empty(loc.shape, dtype=loc.dtype, device=loc.device).normal_()
    return loc + noise * scale


def _coins(batch: Size, probs: Tensor) -> Tensor | None:
    return _bernoulli(detach(probs)) if probs.shape == batch else None


def _classes(batch: Size, probs: Tensor) -> Tensor | None:
    if probs.shape[:-1] != batch:
        return None
    if len(batch) < 2:
        return _multinomial(probs, 1, True).squeeze(-1)
    return _multinomial(probs.reshape(-1, probs.shape[-1]), 1, True).reshape(batch)


# Torch's own, which a recording may replace.
_empty, _bernoulli, _multinomial = torch.empty, torch.bernoulli, torch.multinomial
_SIMPLE: dict[_Method, _Simple] = {
    method: how
    for method, how in (
        (Bernoulli.sample, _Simple(Bernoulli, ("probs",), _coins)),
        (Categorical.sample, _Simple(Categorical, ("probs",), _classes, True)),
        (Exponential.rsample, _Simple(Exponential, ("rate",))),
        (Normal.sample, _Simple(Normal, ("loc", "scale"))),
        (Normal.rsample, _Simple(Normal, ("loc", "scale"), _normal)),
        (Poisson.sample, _Simple(Poisson, ("rate",))),
        (Uniform.rsample, _Simple(Uniform, ("low", "high"))),
        (Gamma.rsample, _Simple(Gamma, ("concentration", "rate"))),
        (StudentT.rsample, _Simple(StudentT, ("loc", "scale", "df"))),
        (FisherSnedecor.rsample, _Simple(FisherSnedecor, ("df1", "df2"))),
        (
            NegativeBinomial.sample,
            _Simple(NegativeBinomial, ("total_count", "logits"), forgotten=("_gamma",)),
        ),
    )
    if method.__module__ == how.kind.__module__  # or somebody has replaced it
}
"""How the methods draw that are known; the values are those that the method draws itself."""

# Returns how many function modes are open, which may want to see the ops of torch's own method.
_is_overridden: Callable[[], int] = len_torch_function_stack
_PLAIN = frozenset({Tensor, ProvenanceTensor, nn.Parameter})
_OF_VALUES = (RuntimeError, ValueError, IndexError, ArithmeticError)


def drawn(fn: Any, is_reparameterized: bool) -> Any:
    """Return a draw of a distribution, untracked where nothing shows."""
    name = "rsample" if is_reparameterized else "sample"
    method = getattr(type(fn), name)
    original = getattr(method, "__wrapped__", method)  # it is replaced while a recording is open
    return drawing(original)(fn) if original in _SIMPLE else getattr(fn, name)()


def drawing(original: _Method) -> _Method:
    """Return a method that draws, such that it is run untracked where nothing shows."""
    if original is _sample:
        return _sampled
    return _drawing(original) if original in _SIMPLE else original


_sample = vars(Distribution)["sample"]  # torch's own


def _sampled(fn: Any, *args: Any, **kwargs: Any) -> Any:
    """Draw as torch's own `sample` does: by ``rsample``, without a gradient."""
    method = getattr(type(fn), "rsample", None)
    original: Any = getattr(method, "__wrapped__", method)
    if original not in _SIMPLE or "rsample" in vars(fn):
        return _sample(fn, *args, **kwargs)
    with torch.no_grad():
        return _drawing(original)(fn, *args, **kwargs)


@functools.cache
def _drawing(original: _Method) -> _Method:
    kind: Any
    kind, read, one, is_of_integers, forgotten = _SIMPLE[original]
    thread = storage.local
    plain = _PLAIN - {ProvenanceTensor} if is_of_integers else _PLAIN

    def draws(fn: Any, *args: Any, **kwargs: Any) -> Any:
        # A guard wants to see every op, to refuse those on what is tracked.
        is_once = not kwargs and (not args or (type(args[0]) is Size and not args[0]))
        own: Any = type(fn)
        is_known = (own is kind or _is_as(own, kind)) and not thread.guards
        if is_known and (is_once or _is_of_numbers(args, kwargs)):
            is_one = one is not None and is_once and not _is_overridden()
            given = _passing(fn, plain) if is_one and own in _PROBS else None
            if given is None:
                if own in _PROBS:
                    _keep_probs(fn, *_PROBS[own])
                # Also what is computed at its first use, and kept for later ones.
                given = [*map(fn.__getattribute__, read)]
            if plain.issuperset(map(type, given)) and not (is_of_integers and storage.table):
                try:
                    with unmet():
                        if one is not None and is_one:
                            with Unseen():
                                value = one(fn._batch_shape, *given)
                            if value is not None:
                                return value
                        drawn = raw(original, fn, *args, **kwargs)
                        for name in forgotten:
                            vars(fn).pop(name, None)
                        return drawn
                except _OF_VALUES:  # to be raised once more, and noted
                    pass
        return original(fn, *args, **kwargs)

    return draws


def _passing(fn: Any, plain: frozenset[Any]) -> list[Tensor] | None:
    """Return the probabilities that a first draw needs, of a few numbers with a history, or None.

    Whoever asks for them has them made once more: kept, they are a sixth of a long recording.
    """
    attributes, (of_logits, *dim) = vars(fn), _PROBS[type(fn)]
    logits: Any = attributes.get("logits")
    if "probs" in attributes or DRAWN_AT in attributes or type(logits) not in plain:
        return None
    with Unseen():
        shape = _shape(logits)
        is_one = shape[: len(shape) - len(dim)] == fn._batch_shape and shape.numel() <= 16
        if not is_one or not _learns(logits) or _is_leaf(logits):
            return None
        attributes[DRAWN_AT] = version_of(logits)
        return [of_logits(detach(logits), *dim)]


def _keep_probs(fn: Any, of_logits: Callable[..., Tensor], *dim: int) -> None:
    """Let a family keep what it computes of its logits, as its property does by more calls."""
    attributes = vars(fn)
    if "probs" not in attributes and torch.is_grad_enabled():
        logits: Any = attributes.get("logits")
        if type(logits) in _PLAIN:
            as_drawn(attributes)
            attributes["probs"] = of_logits(logits, *dim)


_PROBS: dict[Any, tuple[Any, ...]] = {
    kind: how
    for kind, how in ((Bernoulli, (torch.sigmoid,)), (Categorical, (torch.softmax, -1)))
    if getattr(vars(kind)["probs"], "wrapped", _keep_probs).__module__ == kind.__module__
}
PROBS = [Patch(kind, "probs", OfLogits.of, is_raw=True, stays=True) for kind in _PROBS]


@functools.lru_cache(maxsize=1024)
def _is_as(kind: Any, known: Any) -> bool:
    """Return whether a class is one of Pyro that adds nothing to how the known one draws."""
    return issubclass(kind, known) and is_class_of_torch(kind)


def _is_of_numbers(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether the arguments are a shape that is given in numbers."""
    shape: Any = args[0] if args else kwargs.get("sample_shape")
    is_shape = type(shape) in (torch.Size, tuple, list) and len(args) + len(kwargs) == 1
    return is_shape and all(type(size) is int for size in shape)


class _Known(NamedTuple):
    """How a family scores a value."""

    method: Callable[..., Any]  # torch's own
    event: int  # dimensions of the logits that belong to one draw
    density: Callable[[Tensor, Tensor], Tensor]


def _of_bernoulli(logits: Tensor, value: Tensor) -> Tensor:
    return -_cross_entropy(logits, value, reduction=0)


def _of_categorical(logits: Tensor, value: Tensor) -> Tensor:
    return logits.gather(-1, value.unsqueeze(-1)).squeeze(-1)


# Torch's own, which a recording may replace.
_cross_entropy: Callable[..., Tensor] = torch.binary_cross_entropy_with_logits
_KNOWN: dict[type[Distribution], _Known] = {
    kind: _Known(kind.log_prob, event, density)
    for kind, event, density in ((Bernoulli, 0, _of_bernoulli), (Categorical, 1, _of_categorical))
    if kind.log_prob.__module__ == kind.__module__  # or somebody has replaced it
}


@functools.lru_cache(maxsize=1024)
def _known_as(kind: Any) -> _Known | None:
    """Return how a class scores, also one of Pyro that scores as torch's does."""
    known: Any
    for known, how in _KNOWN.items():
        if kind is known or _is_as(kind, known):
            return how
    return None


def is_method_of(kind: Any, method: Callable[..., Any]) -> bool:
    """Return whether a class scores by a method of torch, followed or not."""
    found = kind.log_prob
    while found is not method and hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return found is method


def own_density(fn: Distribution, value: Tensor) -> Tensor | None:
    """Return log q(z) of a value z, plain, that `fn` has drawn; None where it is no known op.

    Args:
        fn: the distribution of independent elements.
        value: what it drew, [*batch].
    """
    kind: Any = type(fn)
    known = _known_as(kind)
    if known is None or "log_prob" in vars(fn) or not is_method_of(kind, known.method):
        return None
    if version_of(value):  # somebody has written into it, what the distribution may not draw
        return None
    logits = _logits(fn, value, known.event)
    if logits is None:
        return None
    with Unseen():
        return known.density(logits, value)


def is_known(method: Callable[..., Any]) -> bool:
    """Return whether `tracked_density` may be asked in the place of a method of torch."""
    return any(known.method is method for known in _KNOWN.values())


def tracked_density(fn: Any, value: Any, *, is_own: bool) -> Tensor | None:
    """Return the density of a value, tracked; None where `log_prob` is to be followed.

    Args:
        fn: the distribution.
        value: of the shape of its batch, [*batch].
        is_own: whether the distribution drew it, and nobody has written into it since.

    Raises:
        ValueError: if the value is not in the support.
    """
    kind: Any = type(fn)
    known = _known_as(kind)
    if known is None or storage.table or storage.local.guards:
        return None
    logits = _logits(fn, value, known.event, may_spread=not known.event)
    if logits is None or not torch.is_grad_enabled():
        return None
    ours, theirs = getattr(logits, "_provenance", None), getattr(value, "_provenance", None)
    found = ours or theirs
    if found is None or found.universe.is_past or (known.event and ours is not None):
        return None
    if ours is not None and theirs is not None and ours is not theirs:
        if ours.universe is not theirs.universe:
            return None
        found = ours._memo.get(theirs) or joined(_cross_entropy.__name__, ours, theirs)
    if fn._validate_args and not (is_own or _is_in_support(fn, value)):
        fn._validate_sample(value)
    try:
        return _picked(logits, value, found) if known.event else _crossed(logits, value, found)
    except RuntimeError:  # to be raised once more, and noted
        return None


def _is_in_support(fn: Distribution, value: Tensor) -> bool:
    """Return whether a value of the shape of the logits is such that torch's check passes."""
    support = vars(type(fn)).get("support")
    if support is not constraints.boolean:  # of one that its parameters tell, torch is to say
        return False
    with unmet(), Unseen():
        return bool(is_all_true(support.check(value)))


def _crossed(logits: Tensor, value: Tensor, found: Provenance) -> Tensor:
    """Return the density of a Bernoulli, with the form of a cross-entropy whose sign is turned."""
    with Unseen():
        cross_entropy = _cross_entropy(logits, value, reduction=0)
        density = -cross_entropy
    attach(density, found)
    density._form = (next(serials), negative, attach(cross_entropy, found))  # type: ignore[attr-defined]
    return density


def _picked(logits: Tensor, value: Tensor, found: Provenance) -> Tensor:
    """Return the density of a Categorical whose logits depend on no source."""
    size = found.shape
    column = found.remap((*size, 1), (*range(len(size)), LOST))
    assert column is not None
    with Unseen():
        index = attach(value.unsqueeze(-1), column)  # by which the graph tells what was scored
        picked = logits.gather(-1, index)
        density = picked.squeeze(-1)
    given = (attach(picked, column), -1)
    attach(density, found)._form = form_of(Tensor.squeeze, size, given, NO_KEYWORDS)  # type: ignore[attr-defined]
    return density


def _logits(fn: Distribution, value: Any, event: int, *, may_spread: bool = False) -> Tensor | None:
    """Return the logits of a distribution, if they and the value are what is known.

    With `may_spread`, plain ones of fewer dimensions are expanded to the shape of the value.
    """
    logits: Any = vars(fn).get("logits")  # not to be computed here, and kept for others
    if type(logits) not in _PLAIN or type(value) not in _PLAIN or len_torch_function_stack():
        return None
    if is_functorch_wrapped_tensor(logits) or is_functorch_wrapped_tensor(value):
        return None
    with Unseen():
        # Torch's own, which know of no class.
        ours, theirs = _shape(logits), _shape(value)
        if not (event or _dtype(value) is _dtype(logits)):
            return None
        known: Tensor = logits
        if theirs == (ours[:-1] if event else ours):
            return known
        is_within = may_spread and type(logits) is not ProvenanceTensor
        if is_within and len(ours) < len(theirs) and theirs[len(theirs) - len(ours) :] == ours:
            return known.expand(theirs)
    return None


_shape: Any = Tensor.shape.__get__  # type: ignore[attr-defined]
_dtype: Any = Tensor.dtype.__get__  # type: ignore[attr-defined]
_learns: Any = Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_is_leaf: Any = Tensor.is_leaf.__get__  # type: ignore[attr-defined]

"""Random functions of torch: bernoulli, binomial, multinomial, normal, poisson, gamma, dirichlet.

They are caught in torch's dispatcher, under a key that is switched on for the recording thread
only: whatever way the function was reached (``from torch import bernoulli``, a method, a scripted
function, ``out=``) it is seen, and no other op pays. A draw that is given a tensor of parameters is
a site, constants included; memory that is filled by numbers alone, as dropout does with
``bernoulli_(0.5)`` and initial weights are with ``normal_()``, is noise.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Dirichlet,
    Distribution,
    Gamma,
    Normal,
    Poisson,
    constraints,
)

from ancestral.provenance.dispatch.inplace import mark_shared, refuse_parameters
from ancestral.provenance.tensor.tensor import alias, attach, provenance, raw
from ancestral.provenance.tensor.torch_internals import (
    EnableTorchFunction,
    include_dispatch_key,
    is_alias_of,
)
from ancestral.trace.context.place import place
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import KEY, KEY_NAME, Interceptor, unmet
from ancestral.trace.intercept.unrecorded_threads import refuse_away
from ancestral.trace.nodes.autograd_graph import edge_of
from ancestral.trace.nodes.distribution_params import Held
from ancestral.trace.program.site import found
from ancestral.trace.recording.constant_draws import (
    is_noise,
    is_within_transform,
    refuse_transformed,
    transformed_draw,
)
from ancestral.trace.recording.message import is_handled
from ancestral.trace.recording.record_site import draw

# Untyped in torch.
_rows: Any = partial(constraints.independent, reinterpreted_batch_ndims=1)
_Library: Any = torch.library.Library


class WithoutReplacement(Distribution):
    """The ordered draws of `torch.multinomial` without replacement, [*batch, draws].

    log p(k_1 ... k_n) = sum_i log w_{k_i} - log(sum_k w_k - sum_{j<i} w_{k_j})
    """

    arg_constraints = {"weights": _rows(constraints.nonnegative)}  # noqa: RUF012
    support = _rows(constraints.nonnegative_integer)

    def __init__(self, weights: Tensor, draws: int) -> None:
        """Take weights [*batch, classes] and the number of draws."""
        self.weights = weights
        super().__init__(weights.shape[:-1], torch.Size((draws,)), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, [*sample, *batch, draws]."""
        rows = self.weights.expand(*sample_shape, *self.weights.shape)
        found = torch.multinomial(rows.reshape(-1, rows.shape[-1]), *self.event_shape)
        return found.reshape(*rows.shape[:-1], *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the draws in their order, [*batch]."""
        picked = self.weights.gather(-1, value)
        before = picked.cumsum(-1) - picked
        left = self.weights.sum(-1, keepdim=True) - before
        return (picked.log() - left.log()).sum(-1)


FAMILIES = frozenset[type[Distribution]](
    {Bernoulli, Binomial, Categorical, Dirichlet, Gamma, Normal, Poisson, WithoutReplacement}
)
"""Of which the random functions draw."""

_Draw = tuple[Distribution, list[Held]]


def _bernoulli(probs: Tensor, **_: Any) -> _Draw:
    return Bernoulli(probs=probs, validate_args=False), [Held(probs, 0)]


def _bernoulli_(target: Tensor, probs: Any, **_: Any) -> _Draw:
    given = probs if isinstance(probs, Tensor) else torch.tensor(probs)
    return _bernoulli(given.expand(target.shape))


def _multinomial(weights: Tensor, draws: int, replacement: bool = False, **_: Any) -> _Draw:
    if draws == 1 or replacement:
        # One more batch dimension: the draws from one row of weights are independent.
        rows = weights.unsqueeze(-2).expand(*weights.shape[:-1], draws, weights.shape[-1])
        return Categorical(probs=rows, validate_args=False), [Held(rows, 1)]
    return WithoutReplacement(weights, draws), [Held(weights, 1)]


def _normal(mean: Any, std: Any = 1.0, *_: Any, **__: Any) -> _Draw:
    held = [Held(item, 0) for item in (mean, std) if isinstance(item, Tensor)]
    return Normal(mean, std, validate_args=False), held


def _binomial(count: Tensor, probs: Tensor, **_: Any) -> _Draw:
    return Binomial(count, probs, validate_args=False), [Held(count, 0), Held(probs, 0)]


def _poisson(rate: Tensor, **_: Any) -> _Draw:
    return Poisson(rate, validate_args=False), [Held(rate, 0)]


def _normal_of_numbers(mean: float, std: float, size: Sequence[int], **_: Any) -> _Draw:
    return Normal(mean, std, validate_args=False).expand(torch.Size(size)), []


def _gamma(concentration: Tensor, **_: Any) -> _Draw:
    return Gamma(concentration, 1.0, validate_args=False), [Held(concentration, 0)]


def _dirichlet(concentration: Tensor, **_: Any) -> _Draw:
    return Dirichlet(concentration, validate_args=False), [Held(concentration, 1)]


_CAUGHT: dict[str, Callable[..., _Draw]] = {
    "bernoulli bernoulli.out": _bernoulli,
    "bernoulli.p bernoulli.float_out bernoulli.Tensor bernoulli.Tensor_out": _bernoulli_,
    "bernoulli_.Tensor": _bernoulli_,
    "binomial binomial.out": _binomial,
    "multinomial multinomial.out": _multinomial,
    "normal.Tensor_float normal.float_Tensor normal.Tensor_Tensor": _normal,
    "normal.Tensor_float_out normal.float_Tensor_out normal.Tensor_Tensor_out": _normal,
    "normal.float_float normal.float_float_out": _normal_of_numbers,
    "poisson poisson.out": _poisson,
    "_standard_gamma _standard_gamma.out": _gamma,
    "_sample_dirichlet _sample_dirichlet.out": _dirichlet,
}


def _kernel(op: Any, described: Callable[..., _Draw]) -> Callable[..., Tensor]:
    is_in_place = op._schema.arguments[0].alias_info is not None

    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        if local.is_inside or not local.traces:
            if not local.is_inside:
                refuse_away(op.name(), [t for t in args[is_in_place:] if isinstance(t, Tensor)])
            with unmet():
                inner: Tensor = raw(op, *args, **kwargs)
            return inner
        target = args[0] if is_in_place else kwargs.get("out")
        given = args if target is None else _before(args, target, is_in_place)
        with unmet():
            tensors = [item for item in given[is_in_place:] if isinstance(item, Tensor)]
            try:
                value: Tensor = raw(op, *args, **kwargs)
            except RuntimeError as error:
                refuse_transformed(op.name(), tensors, error)
                raise
            is_transformed = any(is_within_transform(item) for item in (*tensors, value))
            if (is_transformed or isinstance(target, nn.Parameter)) and is_noise(tensors):
                return value
            if is_transformed:
                raise transformed_draw(op.name(), place())
            options = {k: v for k, v in kwargs.items() if k not in ("generator", "out")}
            local.is_inside = True  # building the distribution draws and scores nothing
            try:
                # Called from an op that runs with tracking off, and perhaps under no_grad: the
                # parameters need both on.
                with EnableTorchFunction(), torch.inference_mode(False):
                    fn, held = described(*map(_alive, given), **options)
            finally:
                local.is_inside = False
            if described is _dirichlet:  # torch knows no derivative of it
                value = value.detach()
            drawn = _answered(fn, held, value, described is _gamma and value.requires_grad)
            return drawn if target is None else _written(op, target, value, drawn)

    return kernel


def _alive(item: Any) -> Any:
    """Return an argument without a gradient that ends nowhere, as a view of no_grad has one.

    Within the kernel gradients are on, and what is computed of it would not show that.
    """
    is_view = isinstance(item, Tensor) and item.requires_grad and item.is_leaf and item._is_view()
    return item.detach() if is_view and edge_of(item) is None else item


def _before(args: tuple[Any, ...], target: Tensor, is_in_place: bool) -> tuple[Any, ...]:
    """Return the arguments as they are before the draw is written, perhaps over one of them."""
    with EnableTorchFunction(), torch.inference_mode(False):
        return tuple(
            item.clone()
            if isinstance(item, Tensor)
            and index >= is_in_place  # of the target itself the shape alone is read
            and raw(is_alias_of, item, target)
            else item
            for index, item in enumerate(args)
        )


def _answered(
    fn: Distribution, held: list[Held], value: Tensor, is_reparameterized: bool
) -> Tensor:
    """Return what was drawn, or what a handler gives in its place."""
    where = place()
    if not is_handled():
        kept: Tensor = draw(fn, held, value, is_reparameterized=is_reparameterized, where=where)
        return kept
    with EnableTorchFunction(), torch.inference_mode(False):
        given: Tensor = found(
            fn, held, lambda: value, is_reparameterized=is_reparameterized, where=where
        )
        return given.reshape(value.shape).to(value.dtype)


def _written(op: Any, target: Tensor, value: Tensor, drawn: Tensor) -> Tensor:
    """Return what was drawn in the memory that the op was to write into, which others may see."""
    refuse_parameters(op.__name__.split(".")[0], (drawn,), {}, [target])
    sources = provenance(drawn)
    assert sources is not None
    if raw(Tensor.data_ptr, drawn) != raw(Tensor.data_ptr, value):
        raw(Tensor.copy_, value, drawn)
        drawn = attach(alias(value), sources)
    mark_shared(drawn, sources, None)
    return drawn


def _kernels() -> Iterator[tuple[Any, Callable[..., Tensor]]]:
    for names, described in _CAUGHT.items():
        for name in names.split():
            packet, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
            yield op, _kernel(op, described)


KERNELS = tuple(_kernels())
"""The ops that draw, each with its kernel."""


class Dispatcher(Interceptor):
    """Switches the dispatch key on for this thread.

    Args:
        kernels: the ops that it meets, each with its kernel.
    """

    def __init__(self, kernels: Iterable[tuple[Any, Callable[..., Any]]]) -> None:
        self._kernels = kernels
        self._libraries: list[Any] = []

    def prepare(self) -> None:
        """Register the kernels."""
        through = _Library("_", "IMPL", KEY_NAME)
        through.fallback(torch.library.fallthrough_kernel)
        library = _Library("aten", "IMPL", KEY_NAME)
        for op, kernel in self._kernels:
            library.impl(op.name(), kernel)
        self._libraries = [through, library]

    # Without a function of Python in between: each step does both.
    enter_thread = staticmethod(partial(include_dispatch_key, KEY, True))
    leave_thread = staticmethod(partial(include_dispatch_key, KEY, False))

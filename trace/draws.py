"""Draws of torch's random functions themselves: bernoulli, multinomial, normal, poisson.

They are caught in torch's dispatcher, under a key that is switched on for the recording thread
only: whatever way the function was reached (``from torch import bernoulli``, a method, a scripted
function) it is seen, and no other op pays. A draw whose parameters have neither gradient nor
provenance is noise, of which there is nothing to learn: dropout masks, coin flips.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Normal,
    Poisson,
    constraints,
)

from ancestral.provenance.tensor import alias, attach, provenance, raw
from ancestral.provenance.writes import mark_shared
from ancestral.trace.drawing import draw
from ancestral.trace.found import found
from ancestral.trace.interceptors import Interceptor, interceptors
from ancestral.trace.keys import KEY, KEY_NAME, unmet
from ancestral.trace.naming import place
from ancestral.trace.noise import TransformedDrawError, is_noise, is_within_transform
from ancestral.trace.parameters import Held
from ancestral.trace.request import is_handled
from ancestral.trace.stack import local

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

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the draws in their order, [*batch]."""
        picked = self.weights.gather(-1, value)
        before = picked.cumsum(-1) - picked
        left = self.weights.sum(-1, keepdim=True) - before
        return (picked.log() - left.log()).sum(-1)


_Draw = tuple[Distribution, list[Held]]


def _bernoulli(probs: Tensor, **_: Any) -> _Draw:
    return Bernoulli(probs=probs, validate_args=False), [Held(probs, 0)]


def _bernoulli_(target: Tensor, probs: Tensor, **_: Any) -> _Draw:
    return _bernoulli(probs.expand(target.shape))


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


_aten = torch.ops.aten
_CAUGHT: dict[Any, Callable[..., _Draw]] = {
    _aten.bernoulli.default: _bernoulli,
    _aten.bernoulli.out: _bernoulli,
    _aten.bernoulli_.Tensor: _bernoulli_,
    _aten.binomial.default: _binomial,
    _aten.multinomial.default: _multinomial,
    _aten.normal.Tensor_float: _normal,
    _aten.normal.float_Tensor: _normal,
    _aten.normal.Tensor_Tensor: _normal,
    _aten.poisson.default: _poisson,
}


def _kernel(op: Any, described: Callable[..., _Draw]) -> Callable[..., Tensor]:
    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        with unmet():
            value: Tensor = raw(op, *args, **kwargs)
            if local.is_inside or not local.traces:
                return value
            given = [item for item in args if isinstance(item, Tensor)]
            if is_noise(given):
                return value
            if any(is_within_transform(item) for item in (*given, value)):
                raise TransformedDrawError(op.name(), place())
            options = {k: v for k, v in kwargs.items() if k not in ("generator", "out")}
            local.is_inside = True  # building the distribution draws and scores nothing
            try:
                # Called from an op that runs with tracking off, and perhaps under no_grad: the
                # parameters need both on.
                with torch._C._EnableTorchFunction(), torch.enable_grad():
                    fn, held = described(*args, **options)
            finally:
                local.is_inside = False
            drawn = _answered(fn, held, value)
            sources = provenance(drawn)
            if value is args[0] or "out" in kwargs:  # written into memory that others may see
                assert sources is not None
                drawn = _written(value, drawn)
                mark_shared(drawn, sources, None)
            return drawn

    return kernel


def _answered(fn: Distribution, held: list[Held], value: Tensor) -> Tensor:
    """Return what was drawn, or what a handler gives in its place."""
    where = place()
    if not is_handled():
        kept: Tensor = draw(fn, held, value, is_reparameterized=False, where=where)
        return kept
    with torch._C._EnableTorchFunction(), torch.enable_grad():
        given: Tensor = found(fn, held, lambda: value, is_reparameterized=False, where=where)
        return given.reshape(value.shape).to(value.dtype)


def _written(value: Tensor, drawn: Tensor) -> Tensor:
    """Return what was drawn in the memory that the op was to write into."""
    if raw(Tensor.data_ptr, drawn) == raw(Tensor.data_ptr, value):
        return drawn
    raw(Tensor.copy_, value, drawn)
    sources = provenance(drawn)
    assert sources is not None
    return attach(alias(value), sources)


class _Dispatcher(Interceptor):
    """Switches the dispatch key on for this thread."""

    def __init__(self) -> None:
        self._libraries: list[Any] = []

    def enter(self) -> None:
        """Register the kernels the first time."""
        if not self._libraries:
            through = _Library("_", "IMPL", KEY_NAME)
            through.fallback(torch.library.fallthrough_kernel)
            library = _Library("aten", "IMPL", KEY_NAME)
            for op, described in _CAUGHT.items():
                library.impl(op.name(), _kernel(op, described))
            self._libraries = [through, library]

    def enter_thread(self) -> None:
        """Include the key."""
        torch._C._dispatch_tls_set_dispatch_key_included(KEY, True)

    def leave_thread(self) -> None:
        """Exclude the key with the last recording of this thread."""
        torch._C._dispatch_tls_set_dispatch_key_included(KEY, False)


interceptors.append(_Dispatcher())

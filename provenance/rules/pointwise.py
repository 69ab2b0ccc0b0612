"""Rules of the ops that work element by element: with broadcasting, alone or in the first operand.

>>> from torch import ones
>>> [dims for _, dims in pointwise((2, 3), (ones(2, 3), ones(3)), {}) or ()]
[(0, 1), (-1, 0)]
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.rules.operands import (
    NOWHERE,
    Args,
    Kwargs,
    Pair,
    Rule,
    argument,
    identity,
    lost,
    rank_of,
    tensors_in,
)


def pointwise(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element, with broadcasting: dimensions meet at the right."""
    found = list(tensors_in(args, kwargs))
    if any(rank_of(tensor) > len(shape) for tensor in found):
        return None  # a reduction was asked for as well
    return [(t, (LOST,) * (len(shape) - rank_of(t)) + tuple(range(rank_of(t)))) for t in found]


def where(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element; with the condition alone it is `nonzero`, which has no rule."""
    return None if len(args) + len(kwargs) == 1 else pointwise(shape, args, kwargs)


def rrelu(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element; in training, how much noise was taken depends on the elements before."""
    is_training = argument(args, kwargs, 3, "training", default=False)
    return None if is_training else pointwise(shape, args, kwargs)


def first_pointwise(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element in the first operand; of all others only shape or type matter."""
    others: list[Pair] = [(t, None) for t in tensors_in(args[1:], kwargs)]
    return [*(pointwise(shape, args[:1], {}) or []), *others]


def first_alone(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element in the first operand; the others are sizes, whose values matter."""
    return pointwise(shape, args[:1], {})


def separately(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element, each result from its own operand alone: handled by `operands_of`."""
    return pointwise(shape, args, kwargs)


def value_free(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Only the shape or the type of the operand matters; a number that is given is read."""
    return [*((t, None) for t in tensors_in(args[:1])), *lost(shape, args[1:], kwargs)]


def binned(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element, each looked up among all that is given besides: bucketize, isin."""
    x = argument(args, kwargs, 0, "input", "elements")
    others = [*args[1:], *(kwargs[name] for name in kwargs if kwargs[name] is not x)]
    return [*(pointwise(shape, (x,), {}) or ()), *lost(shape, *others)]


def searched(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Each element is looked up in its own sorted row: searchsorted."""
    row, x = (
        argument(args, kwargs, 0, "sorted_sequence"),
        argument(args, kwargs, 1, "input", "self"),
    )
    rows = [t for t in (row, argument(args, kwargs, NOWHERE, "sorter")) if isinstance(t, Tensor)]
    kept = tuple(range(len(shape) - 1)) if rank_of(row) > 1 else (LOST,) * (len(shape) - 1)
    if rank_of(row) > 1 and rank_of(row) != len(shape):
        return None
    end = (LOST,) * min(len(shape), 1)
    return [*(pointwise(shape, (x,), {}) or ()), *((t, (*kept, *end)) for t in rows)]


def by_channel(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Element by element, with one number for each channel, dimension 1: prelu."""
    weight = argument(args, kwargs, 1, "weight")
    dims = tuple(0 if d == 1 else LOST for d in range(len(shape)))
    return [
        (args[0], identity(len(shape))),
        (weight, dims if rank_of(weight) else (LOST,) * len(shape)),
    ]


TABLE: dict[Rule, str] = {
    pointwise: """
        abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan
        arctan2 arctanh asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not
        bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip clone
        conj_physical copy copysign cos cosh deg2rad digamma div divide dropout elu eq erf erfc
        erfinv exp exp2 expand expit expm1 fill fix float_power floor floor_divide fmax fmin fmod
        frac gcd ge gelu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh
        heaviside hypot i0 igamma igammac isclose isfinite isinf isnan isneginf isposinf isreal
        lcm ldexp le leaky_relu lerp less less_equal lgamma log log10 log1p log2 log_ndtr
        logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit logsigmoid lt
        masked_fill maximum minimum mish mul multigammaln multiply mvlgamma nan_to_num ndtr
        ndtri ne neg negative nextafter not_equal polygamma positive pow rad2deg reciprocal relu
        relu6 remainder round rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc
        sinh softplus softshrink softsign sqrt square sub subtract tan tanh tanhshrink threshold
        true_divide trunc xlog1py xlogy zeta __abs__ __add__ __and__ __div__ __eq__
        __floordiv__ __ge__ __gt__ __iadd__ __iand__ __idiv__ __ifloordiv__ __imod__ __imul__
        __invert__ __ior__ __ipow__ __isub__ __itruediv__ __ixor__ __le__ __lt__ __mod__ __mul__
        __ne__ __neg__ __or__ __pos__ __pow__ __radd__ __rand__ __rdiv__ __rfloordiv__ __rmod__
        __rmul__ __ror__ __rpow__ __rsub__ __rtruediv__ __rxor__ __sub__ __truediv__ __xor__
        airy_ai alpha_dropout  bessel_j0 bessel_j1 bessel_y0 bessel_y1
        chebyshev_polynomial_t chebyshev_polynomial_u chebyshev_polynomial_v
        chebyshev_polynomial_w complex  dropout1d dropout2d dropout3d entr erfcx
        feature_alpha_dropout feature_dropout fill_diagonal gammainc gammaincc gammaln
        hermite_polynomial_h hermite_polynomial_he i0e i1 i1e laguerre_polynomial_l
        legendre_polynomial_p modified_bessel_i0 modified_bessel_i1 modified_bessel_k0
        modified_bessel_k1 polar psi scaled_modified_bessel_k0
        scaled_modified_bessel_k1 shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u
        shifted_chebyshev_polynomial_v shifted_chebyshev_polynomial_w spherical_bessel_j0
        tril triu
        nn.log_sigmoid
    """,
    binned: "bucketize isin",
    searched: "searchsorted",
    by_channel: "prelu",
    where: "where",
    rrelu: "rrelu",
    first_pointwise: """
        alias_copy bfloat16 bool byte char conj contiguous cpu cuda detach detach_copy double
        expand_as float half int
        long pin_memory real imag requires_grad_ resolve_conj resolve_neg short to type type_as
    """,
    first_alone: """
        broadcast_to chunk dsplit frexp hsplit split split_with_sizes tensor_split
        unsafe_chunk unsafe_split unravel_index vsplit
    """,
    separately: "VF.broadcast_tensors broadcast_tensors",
    value_free: """
        empty_like ones_like rand_like randint_like randn_like zeros_like new_empty new_ones
        new_zeros new_full new_tensor new_empty_strided full_like is_floating_point is_complex
        result_type
    """,
}
GETTERS: dict[Rule, str] = {
    first_pointwise: "data imag real",
}


_NAMES = """
    angle ceil copysign fix floor floor_divide fmod frac hardshrink heaviside histc histogram
    histogramdd mode nextafter remainder round sgn sign threshold trunc bucketize searchsorted
    bincount unique unique_consecutive fake_quantize_per_tensor_affine
    fake_quantize_per_channel_affine __floordiv__ __rfloordiv__ __ifloordiv__ __mod__ __rmod__
    __imod__
"""
_ROUNDED = frozenset(
    getattr(space, name)
    for space in (torch, Tensor)
    for name in "div div_ divide divide_".split()
    if hasattr(space, name)
)

KINKS: frozenset[Callable[..., Any]] = frozenset(
    getattr(space, spelling)
    for space in (torch, Tensor, F, torch.special)
    for name in _NAMES.split()
    for spelling in (name, name + "_")
    if hasattr(space, spelling)
)
"""The functions whose results are floating, and whose derivatives are zero or not defined."""


def is_kink(func: Callable[..., Any], dtype: torch.dtype, kwargs: Any) -> bool:
    """Return whether a result of this type of a function has no useful derivative."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return True
    return func in KINKS or (func in _ROUNDED and kwargs.get("rounding_mode") is not None)

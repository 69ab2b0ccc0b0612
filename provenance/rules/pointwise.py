"""Rules of the ops that work element by element: with broadcasting, alone or in the first operand.

>>> from torch import ones
>>> [dims for _, dims in pointwise((2, 3), (ones(2, 3), ones(3)), {}) or ()]
[(0, 1), (-1, 0)]
"""

from collections.abc import Iterable
from functools import partial

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.linear.build import Row
from ancestral.provenance.linear.rows import (
    CAST,
    COPY,
    EXPANSION,
    PLAIN,
    QUOTIENT,
    SINGLE,
    are_floating,
    has_floating,
    is_product,
    is_sum,
    sum_of,
    times,
)
from ancestral.provenance.linear.transpose import scaled
from ancestral.provenance.rules.op import FIRST, Op, Pair, Written, identity, lost, own, rank_of
from ancestral.provenance.tensor.arguments import NOWHERE, Args, Kwargs, argument, tensors_in


def pointwise(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element, with broadcasting: dimensions meet at the right."""
    pairs: list[Pair] = []
    for tensor in tensors_in(args, kwargs):
        rank = rank_of(tensor)
        if rank > len(shape):
            return None  # a reduction was asked for as well
        pairs.append((tensor, (LOST,) * (len(shape) - rank) + tuple(range(rank))))
    return pairs


def where(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element; with the condition alone it is `nonzero`, which has no rule."""
    return None if len(args) + len(kwargs) == 1 else pointwise(shape, args, kwargs)


def is_alone(args: Args, kwargs: Kwargs) -> bool:
    """Return whether one argument is given, of which the indices or the counts are asked for."""
    return len(args) + len(kwargs) == 1


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


def drawn(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Each element is drawn by its own parameters: within a class of the user, for one."""
    return pointwise(shape, args, kwargs)


def by_row(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Each row is drawn by its own weights, which stand along the last dimension."""
    x = argument(args, kwargs, 0, "input")
    return [(x, (*range(len(shape) - 1), *(LOST,) * min(len(shape), 1)))]


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


def is_rounded(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a quotient is rounded."""
    return kwargs.get("rounding_mode") is not None


def is_cut_early(args: Args, kwargs: Kwargs) -> bool:
    """Return whether `softplus` is the identity from where the two differ."""
    threshold = argument(args, kwargs, 2, "threshold", default=20)
    return isinstance(threshold, Tensor) or threshold < 20


OPS = (
    Op(
        """
        abs absolute acos acosh airy_ai alpha_dropout_ arccos arccosh arcsin arcsinh arctan
        arctanh asin asinh atan atanh bessel_j0 bessel_j1 bessel_y0 bessel_y1 bitwise_and
        bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor clamp_max
        clamp_min complex conj_physical copy cos cosh deg2rad digamma entr erf erfc erfcx
        erfinv exp exp2 expit expm1 feature_alpha_dropout_ feature_dropout_ fill_diagonal
        fmax fmin gammainc gammaincc gammaln gcd gelu hardsigmoid hardswish hypot i0 i0e i1
        i1e igamma igammac lcm ldexp lgamma log log10 log1p log2 log_ndtr logaddexp
        logaddexp2 logit logsigmoid maximum minimum mish modified_bessel_i0
        modified_bessel_i1 modified_bessel_k0 modified_bessel_k1 multigammaln mvlgamma
        nan_to_num ndtr ndtri nn.log_sigmoid polar polygamma positive psi rad2deg reciprocal
        relu relu6 rsqrt scaled_modified_bessel_k0 scaled_modified_bessel_k1 selu sigmoid
        silu sin sinc sinh softsign spherical_bessel_j0 sqrt square tan tanh tanhshrink
        xlog1py xlogy zeta __abs__ __and__ __div__ __invert__ __ipow__ __or__ __pos__
        __rand__ __rdiv__ __ror__ __rtruediv__ __rxor__ __xor__
        """,
        pointwise,
    ),
    Op(
        """
        celu clamp clip dropout elu fill float_power hardtanh leaky_relu pow softshrink
        __pow__ __rpow__
        """,
        pointwise,
        reads_numbers=True,
    ),
    Op(
        """
        angle arctan2 atan2 ceil chebyshev_polynomial_t chebyshev_polynomial_u
        chebyshev_polynomial_v chebyshev_polynomial_w copysign eq fix floor floor_divide
        fmod frac ge greater greater_equal gt heaviside hermite_polynomial_h
        hermite_polynomial_he isclose isfinite isinf isnan isneginf isposinf isreal
        laguerre_polynomial_l le legendre_polynomial_p less less_equal logical_and
        logical_not logical_or logical_xor lt ne nextafter not_equal remainder round sgn
        shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u
        shifted_chebyshev_polynomial_v shifted_chebyshev_polynomial_w sign signbit trunc
        __eq__ __floordiv__ __ge__ __gt__ __ifloordiv__ __imod__ __le__ __lt__ __mod__
        __ne__ __rfloordiv__ __rmod__
        """,
        pointwise,
        kink=True,
    ),
    Op("softplus", pointwise, kink=is_cut_early, reads_numbers=True),
    Op("hardshrink threshold _threshold", pointwise, kink=True, reads_numbers=True),
    Op("__iand__ __ior__ __ixor__", pointwise, written=FIRST),
    Op("__ilshift__ __irshift__ __set__", written=FIRST),
    Op(
        "add add_ __add__ __radd__ __iadd__",
        pointwise,
        Row("input + other", is_sum, sum_of(1.0, 1.0)),
        reads_numbers=True,
    ),
    Op(
        "sub sub_ subtract __sub__ __isub__",
        pointwise,
        Row("input + other", is_sum, sum_of(1.0, -1.0)),
        reads_numbers=True,
    ),
    Op(
        "rsub __rsub__",
        pointwise,
        Row("input + other", is_sum, sum_of(-1.0, 1.0, scaled_by_alpha=0)),
        reads_numbers=True,
    ),
    Op("neg neg_ negative __neg__", pointwise, Row(adjoint=sum_of(-1.0))),
    Op(
        "mul mul_ multiply __mul__ __rmul__ __imul__",
        pointwise,
        Row("input * other", is_product, partial(times, scaled)),
        reads_numbers=True,
    ),
    Op("div div_ divide", pointwise, QUOTIENT, kink=is_rounded),
    Op("true_divide __truediv__ __itruediv__ __idiv__", pointwise, QUOTIENT),
    Op("addcmul", pointwise, Row("input + tensor1 * tensor2", are_floating), reads_numbers=True),
    Op("addcdiv", pointwise, Row("input + tensor1 [tensor2]", are_floating), reads_numbers=True),
    Op("lerp", pointwise, Row("input + end [weight]"), reads_numbers=True),
    Op("masked_fill", pointwise, Row("input [mask] + value", has_floating), reads_numbers=True),
    Op(
        "torch.where",
        where,
        # One that is named `self` is a number, not a tensor.
        Row("[condition] + input + other", lambda args, kwargs: "self" not in kwargs),
        escapes=is_alone,
        reads_numbers=True,
    ),
    Op(
        "Tensor.where",
        where,
        Row("input [condition] + other"),
        escapes=is_alone,
        reads_numbers=True,
    ),
    Op("expand", pointwise, EXPANSION),
    Op("tril triu", pointwise, PLAIN),
    Op("clone", pointwise, COPY),
    Op("bucketize", binned, kink=True),
    Op("isin", binned),
    Op("searchsorted", searched, kink=True),
    Op("prelu", by_channel),
    Op("rrelu", rrelu),
    Op("bernoulli binomial normal poisson _standard_gamma", drawn),
    Op("multinomial _sample_dirichlet", by_row),
    Op("rrelu_with_noise rrelu_with_noise_", written=Written(((1, "noise"),))),
    Op(
        """
        alias_copy bfloat16 bool byte char conj cpu cuda detach detach_copy half imag int long
        pin_memory real requires_grad_ resolve_conj resolve_neg short type get.data get.imag
        get.real
        """,
        first_pointwise,
    ),
    Op("contiguous", first_pointwise, COPY),
    Op("double to type_as", first_pointwise, CAST),
    Op("float", first_pointwise, SINGLE),
    Op("expand_as", first_pointwise, EXPANSION),
    Op("broadcast_to", first_alone, EXPANSION),
    Op("frexp", first_alone, kink=True),
    Op("unravel_index", first_alone),
    Op("VF.broadcast_tensors broadcast_tensors", separately, operands=own),
    Op(
        """
        empty_like ones_like rand_like randint_like randn_like zeros_like new_empty new_ones
        new_zeros new_full new_tensor new_empty_strided is_floating_point is_complex result_type
        """,
        value_free,
    ),
    Op("full_like", value_free, reads_numbers=True),
    Op("quantize_per_tensor", reads_numbers=True),
    Op("fake_quantize_per_tensor_affine", kink=True, reads_numbers=True),
    Op("fake_quantize_per_channel_affine", kink=True),
    Op(
        "fused_moving_avg_obs_fake_quant _fused_moving_avg_obs_fq_helper",
        kink=True,
        written=Written(((3, "running_min"), (4, "running_max"), (5, "scale"), (6, "zero_point"))),
    ),
)

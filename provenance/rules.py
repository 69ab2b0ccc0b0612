"""The rules of alignment: for each family of ops, which dimension of an operand indexes the result.

A rule answers with one pair for each operand that it knows: the tensor, and for every dimension of
the result the dimension of the operand whose index it shares (`LOST` where there is none), or None
where no value of the operand reaches the result. The engine in `ancestral.provenance.tensor` joins
the pairs; a tracked tensor that no pair names, and every op that has no rule, loses its alignments
and never its sources.

A dimension that changes its size is lost by itself (`Provenance.remap`), so that a rule need not
care for broadcasting ones or for slices.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance.algebra import LOST, Alignment, Shape

Function = Callable[..., Any]
Args = Sequence[Any]
Kwargs = Mapping[str, Any]
Pair = tuple[Tensor, Alignment | None]
Rule = Callable[[Shape, Args, Kwargs], Iterable[Pair] | None]

RULES: dict[Function, Rule] = {}


def tensors_in(*nested: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments, at any depth of sequences and mappings."""
    for item in nested:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (tuple, list, set, frozenset)):
            yield from tensors_in(*item)
        elif isinstance(item, Mapping):
            yield from tensors_in(*item.values())
        elif isinstance(item, slice):
            yield from tensors_in(item.start, item.stop, item.step)


def argument(args: Args, kwargs: Kwargs, position: int, *names: str, default: Any = None) -> Any:
    """Return an argument by its position or by one of its names."""
    for name in names:
        if name in kwargs:
            return kwargs[name]
    return args[position] if len(args) > position else default


def positional(args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
    """Return the arguments with the operand at its place, even if it was given as ``input=``."""
    if args or "input" not in kwargs:
        return args, kwargs
    return (kwargs["input"],), {name: kwargs[name] for name in kwargs if name != "input"}


def rank_of(tensor: Tensor) -> int:
    """Return the number of dimensions."""
    return len(tensor.shape)


def identity(rank: int, *lost: int) -> Alignment:
    """Return the alignment of a tensor with itself, without the dimensions `lost`."""
    gone = {d % rank for d in lost} if rank else set[int]()
    return tuple(LOST if d in gone else d for d in range(rank))


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
    """Only the shape or the type of the operand matters; a size that is given is read."""
    return [(t, None) for t in tensors_in(args[:1])]


def reduction(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Dimensions are summed, averaged, maximized ... away, or kept with size one."""
    x, dim = args[0], argument(args, kwargs, 1, "dim", "axis")
    if isinstance(dim, Tensor):
        return pointwise(shape, args, kwargs)  # torch.max(x, y)
    rank = rank_of(x)
    if dim is None or isinstance(dim, bool) or (isinstance(dim, (tuple, list)) and not dim):
        return [(x, (LOST,) * len(shape))]
    gone = {d % rank if rank else 0 for d in ([dim] if isinstance(dim, int) else dim)}
    if len(shape) == rank:
        return [(x, identity(rank, *gone))]
    kept = tuple(d for d in range(rank) if d not in gone)
    return [(x, kept)] if len(kept) == len(shape) else None


def along(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Elements along one dimension, or some, are mixed; the others stay apart."""
    x, dim = args[0], argument(args, kwargs, 1, "dim", "dims", "axis")
    if not isinstance(dim, (int, tuple, list)) or rank_of(x) != len(shape):
        return None
    others = [d for d in args[2:] if type(d) is int]  # flip(0, 1)
    return [(x, identity(rank_of(x), *others, *([dim] if isinstance(dim, int) else dim)))]


def along_last(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """As `along`, where the dimension is the last by default."""
    dim = argument(args, kwargs, 1, "dim", default=-1)
    return along(shape, args[:1], {"dim": dim})


def third_along(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """As `along`, where the dimensions are the third argument: roll, renorm."""
    dim = argument(args, kwargs, 2, "dim", "dims")
    return along(shape, args[:1], {"dim": dim})


def third_reduction(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """As `reduction`, where the dimensions are the third argument: norms."""
    return reduction(shape, args[:1], {"dim": argument(args, kwargs, 2, "dim")})


def paired_reduction(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Two operands of one shape are reduced together: cosine_similarity."""
    dim = argument(args, kwargs, 2, "dim", default=1)
    x, y = args[0], argument(args, kwargs, 1, "x2")
    if tuple(x.shape) != tuple(y.shape):
        return None
    return [pair for t in (x, y) for pair in reduction(shape, (t,), {"dim": dim}) or ()]


def normalized(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The last dimensions are normalized together: layer_norm, rms_norm."""
    gone = len(argument(args, kwargs, 1, "normalized_shape"))
    return [(args[0], identity(len(shape), *range(len(shape) - gone, len(shape))))]


def batched(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Only the batch survives: convolutions, whose input has the rank of the weight if batched."""
    x, weight = args[0], argument(args, kwargs, 1, "weight")
    return [(x, (0, *(LOST,) * (len(shape) - 1)))] if rank_of(x) == rank_of(weight) else None


def padded(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The last dimensions move; the others stay."""
    moved = len(argument(args, kwargs, 1, "pad")) // 2
    return [(args[0], identity(len(shape), *range(len(shape) - moved, len(shape))))]


def matmul(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Rows come from the left, columns from the right; the contracted dimension is lost."""
    x, y = args[0], argument(args, kwargs, 1, "other", "mat2", "vec", "tensor2")
    rows, columns = rank_of(x) > 1, rank_of(y) > 1
    tail = rows + columns
    batch = len(shape) - tail

    def right(rank: int) -> Alignment:
        held = max(rank - 2, 0)
        return (LOST,) * (batch - held) + tuple(range(held))

    left = right(rank_of(x)) + ((rank_of(x) - 2,) if rows else ()) + ((LOST,) if columns else ())
    other = right(rank_of(y)) + ((LOST,) if rows else ()) + ((rank_of(y) - 1,) if columns else ())
    return [(x, left), (y, other)]


def reversed_matmul(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Matrix product whose operands come in the other order: ``y.__rmatmul__(x)``."""
    return matmul(shape, (args[1], args[0]), kwargs)


def add_matmul(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Matrix product plus a tensor that is broadcast: addmm, addmv, baddbmm."""
    mat1 = argument(args, kwargs, 1, "mat1", "mat", "batch1")
    mat2 = argument(args, kwargs, 2, "mat2", "vec", "batch2")
    return [*(pointwise(shape, args[:1], {}) or []), *matmul(shape, (mat1, mat2), {})]


def linear(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Batch dimensions survive; the features of the result are the rows of the weight."""
    names = enumerate(("input", "weight", "bias"))
    x, weight, bias = (argument(args, kwargs, position, name) for position, name in names)
    head = (LOST,) * (len(shape) - 1)
    found: list[Pair] = [(x, (*range(rank_of(x) - 1), LOST)[: len(shape)])]
    if rank_of(weight) == 2:
        found.append((weight, (*head, 0)))
        if bias is not None:
            found.append((bias, (*head, 0)))
    return found


def einsum(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """A letter that is kept indexes the operands that have it."""
    equation = args[0]
    operands = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        return None
    inputs, output = equation.replace(" ", "").split("->")
    pairs = zip(operands, inputs.split(","), strict=True)
    return [(x, tuple(letters.find(letter) for letter in output)) for x, letters in pairs]


def reshape(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """A dimension that is neither split nor merged keeps its index."""
    # view_as(other) reads a shape only; a scalar tensor among the sizes is read for its value.
    others: list[Pair] = [(t, None) for t in tensors_in(args[1:], kwargs) if rank_of(t)]
    return [(args[0], regrouped(tuple(args[0].shape), shape)), *others]


def regrouped(old: Shape, new: Shape) -> Alignment:
    """Return, for a row-major reshape, the old dimension that each new one is (or `LOST`).

    >>> regrouped((64, 8, 8), (64, 1, 64))
    (0, -1, -1)
    """
    dims = [LOST] * len(new)
    i = j = 0
    while i < len(old) and j < len(new):
        if old[i] == new[j]:
            if old[i] != 1:
                dims[j] = i
            i, j = i + 1, j + 1
        elif old[i] == 1:
            i += 1
        elif new[j] == 1:
            j += 1
        else:  # one group of dimensions became another with the same number of elements
            a, b = old[i], new[j]
            while a != b:
                if a < b:
                    i += 1
                    if i == len(old):
                        return tuple(dims)
                    a *= old[i]
                else:
                    j += 1
                    if j == len(new):
                        return tuple(dims)
                    b *= new[j]
            i, j = i + 1, j + 1
    return tuple(dims)


def transpose(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Two dimensions change places."""
    rank = rank_of(args[0])
    a = argument(args, kwargs, 1, "dim0", "axis0")
    b = argument(args, kwargs, 2, "dim1", "axis1")
    dims = list(range(rank))
    if rank:
        dims[a], dims[b] = dims[b], dims[a]
    return [(args[0], tuple(dims))]


def last_two(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The last two dimensions change places: ``t``, ``mT``, ``mH``; ``T`` and ``H`` of a matrix."""
    rank = rank_of(args[0])
    dims = tuple(range(rank))
    return [(args[0], dims if rank < 2 else (*dims[:-2], rank - 1, rank - 2))]


def all_reversed(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """All dimensions in the opposite order: ``T``."""
    return [(args[0], tuple(reversed(range(rank_of(args[0])))))]


def permute(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Dimensions in a new order."""
    dims = argument(args, kwargs, 1, "dims")
    order = dims if isinstance(dims, (tuple, list)) else args[1:]
    return [(args[0], tuple(d % rank_of(args[0]) for d in order))]


def movedim(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Some dimensions move, the rest keep their order."""
    rank = rank_of(args[0])
    source = argument(args, kwargs, 1, "source")
    destination = argument(args, kwargs, 2, "destination")
    if any(True for _ in tensors_in(source, destination)):
        return None
    moved, places = (
        [d % rank for d in ([given] if isinstance(given, int) else given)]
        for given in (source, destination)
    )
    rest = iter(d for d in range(rank) if d not in moved)
    landing = dict(zip(places, moved, strict=True))
    return [(args[0], tuple(landing[d] if d in landing else next(rest) for d in range(rank)))]


def select(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """One dimension is dropped: select, unbind."""
    rank, dim = rank_of(args[0]), argument(args, kwargs, 1, "dim", default=0)
    return [(args[0], tuple(d for d in range(rank) if d != dim % rank))]


def getitem(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Slices keep a dimension, integers drop it, None inserts one; anything else has no rule."""
    x, index = args
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    if not all(
        item is None or item is Ellipsis or type(item) is int or isinstance(item, slice)
        for item in items
    ):
        return None
    if any(isinstance(item, slice) and any(True for _ in tensors_in(item)) for item in items):
        return None
    consumed = sum(1 for item in items if item is not None and item is not Ellipsis)
    if Ellipsis not in items:
        items.append(Ellipsis)
    dims: list[int] = []
    at = 0
    for item in items:
        if item is None:
            dims.append(LOST)
        elif item is Ellipsis:
            width = rank_of(x) - consumed
            dims.extend(range(at, at + width))
            at += width
        else:
            if isinstance(item, slice):
                dims.append(at)
            at += 1
    return [(x, tuple(dims))]


def setitem(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """What was there before stays where it was; so does what a mask of the same shape chooses."""
    index, same = args[1], identity(len(shape))
    found: list[Pair] = [(t, (LOST,) * len(shape)) for t in tensors_in(args[2])]
    if isinstance(index, Tensor) and index.dtype == torch.bool and rank_of(index) == len(shape):
        found.append((index, same))
    return [(args[0], same), *found]


def cat(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The dimension that is joined is lost."""
    dim = argument(args, kwargs, 1, "dim", "axis", default=0)
    operands = argument(args, kwargs, 0, "tensors")
    return [(x, identity(len(shape), dim)) for x in operands if rank_of(x) == len(shape)]


def stack(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """A new dimension is inserted that indexes none of an operand's."""
    rank = len(shape)
    dim = argument(args, kwargs, 1, "dim", "axis", default=0) % rank
    alignment = (*range(dim), LOST, *range(dim, rank - 1))
    return [(x, alignment) for x in argument(args, kwargs, 0, "tensors")]


def gather(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Elements are picked along one dimension; the others of operand and index run together."""
    dim = argument(args, kwargs, 1, "dim")
    index = argument(args, kwargs, 2, "index")
    rank = len(shape)
    if rank_of(args[0]) != rank:
        return []  # a scalar, or an index that picks nothing
    return [(args[0], identity(rank, dim)), (index, identity(rank))]


def index_select(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Elements are picked along one dimension by an index of their own."""
    return [(args[0], identity(len(shape), argument(args, kwargs, 1, "dim")))]


def appended(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Every element becomes a vector: one_hot, embedding (whose table has no rule)."""
    x = argument(args, kwargs, 0, "input")
    return [(x, (*range(rank_of(x)), LOST))]


def table_first(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """As `appended`, with the table before the indices: `torch.embedding`, unlike functional's."""
    return appended(shape, (argument(args, kwargs, 1, "indices"),), {})


def class_loss(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Losses over the classes in dimension 1, one for each example and place."""
    x, target = args[0], argument(args, kwargs, 1, "target")
    if rank_of(x) != len(shape) + 1:
        return None  # reduced
    kept = tuple(range(rank_of(x)))
    kept = kept[:1] + kept[2:] if rank_of(x) > 1 else ()
    return [(x, kept), (target, kept if rank_of(target) == rank_of(x) else identity(len(shape)))]


def operands_of(function: Function, index: int, args: Args) -> Args:
    """Return the arguments that result number `index` comes from."""
    if function in _LENGTHS_APART and index == 1:
        return args[1:2]
    if RULES.get(function) is not separately:
        return args
    single = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
    return (single[index],)


# Their second result, the sizes of the batch or the lengths, comes from the second argument alone.
_LENGTHS_APART = frozenset({torch._VF._pack_padded_sequence, torch._VF._pad_packed_sequence})

# One row for each family: the rule, and the names in torch, Tensor and torch.nn.functional.
_TABLE: dict[Rule, str] = {
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
        masked_fill maximum minimum mish mul multigammaln multiply mvlgamma nan_to_num narrow ndtr
        ndtri ne neg negative nextafter not_equal polygamma positive pow rad2deg reciprocal relu
        relu6 remainder repeat round rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc
        sinh softplus softshrink softsign sqrt square sub subtract tan tanh tanhshrink threshold
        tile true_divide trunc xlog1py xlogy zeta __abs__ __add__ __and__ __div__ __eq__
        __floordiv__ __ge__ __gt__ __iadd__ __iand__ __idiv__ __ifloordiv__ __imod__ __imul__
        __invert__ __ior__ __ipow__ __isub__ __itruediv__ __ixor__ __le__ __lt__ __mod__ __mul__
        __ne__ __neg__ __or__ __pos__ __pow__ __radd__ __rand__ __rdiv__ __rfloordiv__ __rmod__
        __rmul__ __ror__ __rpow__ __rsub__ __rtruediv__ __rxor__ __sub__ __truediv__ __xor__
        binary_cross_entropy binary_cross_entropy_with_logits huber_loss kl_div l1_loss mse_loss
        poisson_nll_loss smooth_l1_loss soft_margin_loss hinge_embedding_loss
    """,
    first_pointwise: """
        bfloat16 bool byte char conj contiguous cpu cuda detach double expand_as float half int
        long real imag requires_grad_ resolve_conj resolve_neg short to type type_as
    """,
    first_alone: "broadcast_to chunk split split_with_sizes",
    where: "where",
    rrelu: "rrelu",
    separately: "broadcast_tensors",
    value_free: """
        empty_like ones_like rand_like randint_like randn_like zeros_like new_empty new_ones
        new_zeros is_floating_point is_complex result_type
    """,
    reduction: """
        all amax amin any argmax argmin count_nonzero logsumexp max mean median min mode nanmean
        nanmedian nansum prod std std_mean sum var var_mean
    """,
    third_reduction: "norm vector_norm",
    paired_reduction: "cosine_similarity",
    normalized: "layer_norm rms_norm",
    batched: """
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    """,
    padded: "pad",
    along: "cummax cummin cumprod cumsum flip log_softmax logcumsumexp softmax softmin",
    along_last: "argsort glu sort",
    third_along: "kthvalue normalize roll topk",
    matmul: "bmm matmul mm mv __matmul__",
    reversed_matmul: "__rmatmul__",
    add_matmul: "addmm addmv baddbmm",
    linear: "linear",
    einsum: "einsum",
    reshape: """
        flatten ravel reshape reshape_as squeeze unflatten unsqueeze view view_as atleast_1d
    """,
    transpose: "swapaxes swapdims transpose",
    last_two: "adjoint t",
    permute: "permute",
    movedim: "moveaxis movedim",
    select: "select unbind",
    getitem: "__getitem__",
    setitem: "__setitem__",
    cat: "cat concat concatenate",
    stack: "stack",
    gather: "gather",
    index_select: "index_select",
    appended: "embedding one_hot",
    class_loss: "cross_entropy nll_loss",
}

_GETTERS: dict[Rule, str] = {
    first_pointwise: "data imag real",
    all_reversed: "T",
    last_two: "H mH mT",
}

_NAMESPACES = (torch, Tensor, F, torch.special, torch._C._nn, torch.linalg)  # pyright: ignore[reportPrivateUsage]

for _rule, _names in _TABLE.items():
    for _name in _names.split():
        # An in-place op is its own family: what is written is the operand, element by element.
        _family = (_name, _name + "_") if _rule is pointwise or _rule is along else (_name,)
        for _spelling in _family:
            for _namespace in _NAMESPACES:
                if hasattr(_namespace, _spelling):
                    RULES[getattr(_namespace, _spelling)] = _rule
RULES[torch.embedding] = table_first
for _rule, _names in _GETTERS.items():
    for _name in _names.split():
        RULES[getattr(Tensor, _name).__get__] = _rule

"""Rules of products that are summed: of matrices and vectors, linear maps, einsum.

>>> from torch import ones
>>> [dims for _, dims in matmul((5, 2, 3), (ones(5, 2, 4), ones(4, 3)), {})]
[(0, 1, -1), (-1, -1, 1)]
"""

from collections import Counter
from collections.abc import Iterable

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Dims, Shape
from ancestral.provenance.linear.build import ONE, Row, is_tracked
from ancestral.provenance.linear.rows import CONTRACTION, is_exact, is_of_constant
from ancestral.provenance.rules.op import (
    Op,
    Pair,
    Signature,
    Written,
    is_count_of_pairs,
    numbered,
    rank_of,
)
from ancestral.provenance.rules.pointwise import pointwise
from ancestral.provenance.rules.scan import Mixed
from ancestral.provenance.tensor.arguments import NOWHERE, Args, Kwargs, argument


def matmul(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Rows come from the left, columns from the right; the contracted dimension is lost."""
    x, y = args[0], argument(args, kwargs, 1, "other", "mat2", "vec", "tensor2")
    rows, columns = rank_of(x) > 1, rank_of(y) > 1
    tail = rows + columns
    batch = len(shape) - tail

    def right(rank: int) -> Dims:
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


def add_outer(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Outer product plus a tensor that is broadcast: addr."""
    vectors = (argument(args, kwargs, 1, "vec1"), argument(args, kwargs, 2, "vec2"))
    return [*(pointwise(shape, args[:1], {}) or []), *outer(shape, vectors, {})]


def add_summed_matmul(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Products of a batch of matrices, summed, plus a tensor that is broadcast: addbmm."""
    x, y = argument(args, kwargs, 1, "batch1"), argument(args, kwargs, 2, "batch2")
    return [*(pointwise(shape, args[:1], {}) or []), (x, (1, LOST)), (y, (LOST, 2))]


def outer(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Each element of a vector times each of another."""
    return [(args[0], (0, LOST)), (argument(args, kwargs, 1, "vec2"), (LOST, 0))]


def kron(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Every element times a whole tensor: sizes multiply, so that an index stays along a one."""
    return pointwise(shape, args, kwargs)


def inner(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """The last dimensions of both are contracted, the others stand side by side."""
    x, y = args[0], argument(args, kwargs, 1, "other")
    if not rank_of(x) or not rank_of(y):
        return pointwise(shape, (x, y), {})
    return _side_by_side(shape, x, y, [rank_of(x) - 1], [rank_of(y) - 1])


def tensordot(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Some dimensions of both are contracted, the others stand side by side."""
    x, y = argument(args, kwargs, 0, "a"), argument(args, kwargs, 1, "b")
    dims = argument(args, kwargs, 2, "dims", default=2)
    if isinstance(dims, int):
        count = rank_of(x)
        return _side_by_side(shape, x, y, [*range(count - dims, count)], [*range(dims)])
    if not isinstance(dims, (tuple, list)) or len(dims) != 2:
        return None
    ours, theirs = ([d] if isinstance(d, int) else d for d in dims)
    is_listed = all(isinstance(given, (tuple, list)) for given in (ours, theirs))
    if not is_listed or not all(isinstance(d, int) for d in (*ours, *theirs)):
        return None
    return _side_by_side(
        shape, x, y, [d % rank_of(x) for d in ours], [d % rank_of(y) for d in theirs]
    )


def _side_by_side(
    shape: Shape, x: Tensor, y: Tensor, ours: list[int], theirs: list[int]
) -> list[Pair] | None:
    """Return the pairs of a product that contracts some dimensions of both."""
    left = tuple(d for d in range(rank_of(x)) if d not in ours)
    right = tuple(d for d in range(rank_of(y)) if d not in theirs)
    if len(shape) != len(left) + len(right):
        return None
    return [(x, left + (LOST,) * len(right)), (y, (LOST,) * len(left) + right)]


def chain(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """A product of many matrices, of which the first and the last may be vectors."""
    given = argument(args, kwargs, 0, "tensors", "matrices")
    operands = given if isinstance(given, (tuple, list)) else args
    first, last = operands[0], operands[-1]
    rows = () if rank_of(first) == 1 else (0,)
    columns = () if rank_of(last) == 1 else (1,)
    between: list[Pair] = [(t, (LOST,) * len(shape)) for t in operands[1:-1]]
    ends: list[Pair] = [
        (first, rows + (LOST,) * len(columns)),
        (last, (LOST,) * len(rows) + columns),
    ]
    return ends + between


def linear(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Batch dimensions survive; the features of the result are the rows of the weight."""
    names = enumerate(("input", "weight", "bias"))
    x, weight, bias = (argument(args, kwargs, position, name) for position, name in names)
    head = (LOST,) * (len(shape) - 1)
    found: list[Pair] = [(x, (*range(rank_of(x) - 1), LOST)[: len(shape)])]
    if rank_of(weight) == 2:
        found.append((weight, (*head, 0)))
        if bias is not None:
            found.append((bias, (*head, 0) if rank_of(bias) == 1 else (LOST,) * len(shape)))
    return found


def einsum(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """A letter that is kept indexes the operands that have it; dots meet at the right."""
    equation = args[0]
    operands = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if not isinstance(equation, str):
        return None
    left, arrow, right = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands):
        return None
    labels = [_labels(text, rank_of(x)) for text, x in zip(inputs, operands, strict=True)]
    dots = max(sum(type(label) is int for label in each) for each in labels)
    if arrow:
        output = _labels(right, len(right.replace("...", "")) + dots * ("..." in right))
    else:  # the letters that occur once, in their order
        counts = Counter(label for each in labels for label in each if isinstance(label, str))
        output = [*range(-dots, 0), *sorted(s for s, count in counts.items() if count == 1)]
    if len(output) != len(shape):
        return None
    return [
        (x, tuple(each.index(label) if label in each else LOST for label in output))
        for x, each in zip(operands, labels, strict=True)
    ]


def _labels(text: str, rank: int) -> list[str | int]:
    """Return a label for each dimension: its letter; its place from the right under dots."""
    before, dots, after = text.partition("...")
    width = rank - len(before) - len(after) if dots else 0
    return [*before, *range(-width, 0), *after]


_OF_A_MATRIX = Signature("A(mn)")
_OF_MATRICES = Signature("A(mm) B(mK) -> (mK)")
_OF_VECTORS = Signature("A(mm) B(m)")
_FROM_THE_RIGHT = Signature("A(mm) B(Km) -> (Km)")


def solve(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Systems of linear equations: the right-hand sides stay apart.

    These are vectors where they have one dimension less than the matrices, and their batch.
    """
    a, b = argument(args, kwargs, 0, "A"), argument(args, kwargs, 1, "B")
    is_left = argument(args, kwargs, NOWHERE, "left", default=True)
    is_alike = tuple(b.shape) == tuple(a.shape[:-1])
    if rank_of(b) == 1 or (is_alike and rank_of(b) == len(shape)):
        return _OF_VECTORS(shape, (a, b), {})
    return (_OF_MATRICES if is_left else _FROM_THE_RIGHT)(shape, (a, b), {})


def of_determinant(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """The sign, result number 0, and the logarithm of a determinant for each matrix."""
    return _OF_A_MATRIX(shape, args[1:], kwargs) if _is_numbered(args) else None


def _is_numbered(args: Args) -> bool:
    """Return whether this is a result, and no tensor that was given for one."""
    return len(args) > 0 and type(args[0]) is int


def is_sign(args: Args, kwargs: Kwargs) -> bool:
    """Return whether it is the sign that is looked at, or both may be."""
    return not _is_numbered(args) or args[0] == 0


def fourier(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Transforms along all dimensions, unless some are named or a length is given for the last."""
    x, sizes = args[0], argument(args, kwargs, 1, "s")
    dims = argument(args, kwargs, 2, "dim")
    if dims is None:
        count = rank_of(x) if sizes is None else len(sizes)
        dims = tuple(range(-count, 0))
    return Mixed(1)(shape, (x, dims), {})


def shifted(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """All dimensions are shifted, unless some are named: fftshift."""
    dims = argument(args, kwargs, 1, "dim", default=tuple(range(rank_of(args[0]))))
    return Mixed(1)(shape, (args[0], dims), {})


def is_map(args: Args, kwargs: Kwargs) -> bool:
    """Return whether the weight is no layer's."""
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    return not (weight.requires_grad and not is_tracked(weight)) and is_exact(args, kwargs)


OPS = (
    Op("bmm matmul mm mv __matmul__", matmul, CONTRACTION),
    Op("linalg.matmul", matmul),
    Op("__rmatmul__", reversed_matmul, CONTRACTION),
    Op("dot vdot", linear=CONTRACTION),
    Op("addmm", add_matmul, Row("input + mat1 * mat2", is_exact), reads_numbers=True),
    Op("addmv", add_matmul, Row("input + mat * vec", is_exact), reads_numbers=True),
    Op("baddbmm", add_matmul, Row("input + batch1 * batch2", is_exact), reads_numbers=True),
    Op("addbmm", add_summed_matmul, Row("input + batch1 * batch2", is_exact), reads_numbers=True),
    Op("addr", add_outer, Row("input + vec1 * vec2", is_exact), reads_numbers=True),
    Op("ger outer", outer, CONTRACTION),
    Op("kron", kron, CONTRACTION),
    Op("inner", inner, CONTRACTION),
    Op("tensordot", tensordot, Row("a * b [dims]", is_of_constant)),
    Op("VF.chain_matmul chain_matmul", chain),
    Op("linalg.multi_dot", chain, Row(ONE, is_exact)),
    Op("linear", linear, Row("input * weight + bias", is_map)),
    Op("einsum", einsum, Row(ONE, is_exact)),
    Op("cdist", Signature("x1(Pm) x2(Rm) -> (PR)"), kink=is_count_of_pairs),
    Op("bilinear", Signature("input1(i) input2(j) weight(Oij) bias(O) -> (O)")),
    Op(
        "fbgemm_linear_fp16_weight fbgemm_linear_fp16_weight_fp32_activation",
        written=Written(((3, "output"),)),
    ),
    Op("linalg.solve linalg.solve_ex linalg.solve_triangular", solve),
    Op(
        """
        cholesky cholesky_inverse det eig geqrf inverse logdet lu matrix_exp matrix_power
        matrix_rank pinverse qr svd linalg.cholesky linalg.cholesky_ex linalg.cond
        linalg.det linalg.eig linalg.eigh linalg.eigvals linalg.eigvalsh linalg.inv linalg.inv_ex
        linalg.ldl_factor linalg.ldl_factor_ex linalg.lu linalg.lu_factor linalg.lu_factor_ex
        linalg.matrix_exp linalg.matrix_power linalg.matrix_rank linalg.pinv linalg.qr
        linalg.svd linalg.svdvals
        """,
        _OF_A_MATRIX,
    ),
    Op("slogdet linalg.slogdet", of_determinant, kink=is_sign, operands=numbered),
    Op("linalg_lstsq", escapes=True),
    Op("lu_unpack", Signature("LU(mn) pivots(k)")),
    Op("cholesky_solve", Signature("B(mK) A(mm) -> (mK)")),
    Op("triangular_solve", Signature("B(mk) A(mm)")),
    Op("torch.lu_solve Tensor.lu_solve", Signature("B(mK) LU(mm) pivots(m) -> (mK)")),
    Op("linalg.lu_solve", Signature("LU(mm) pivots(m) B(mk)")),
    Op("linalg.ldl_solve", Signature("LD(mm) pivots(m) B(mk)")),
    Op("orgqr linalg.householder_product", Signature("input(mn) tau(k)")),
    Op("ormqr", Signature("input(mn) tau(k) other(mn)")),
    Op("linalg.vander vander", Signature("x(N) -> (N.)")),
    Op("stft", Signature("input(l)")),
    Op("istft", Signature("input(ft)")),
    Op("fft.fft fft.ifft fft.rfft fft.irfft fft.hfft fft.ihfft", Mixed(2, (-1,))),
    Op("fft.fft2 fft.ifft2 fft.rfft2 fft.irfft2 fft.hfft2 fft.ihfft2", Mixed(2, (-2, -1))),
    Op("fft.fftn fft.ifftn fft.rfftn fft.irfftn fft.hfftn fft.ihfftn", fourier),
    Op("fft.fftshift fft.ifftshift", shifted),
)

"""Rules of products that are summed: of matrices and vectors, linear maps, einsum.

>>> from torch import ones
>>> [dims for _, dims in matmul((5, 2, 3), (ones(5, 2, 4), ones(4, 3)), {})]
[(0, 1, -1), (-1, -1, 1)]
"""

from collections.abc import Iterable

from ancestral.provenance.alignment import LOST, Dims, Shape
from ancestral.provenance.operands import Args, Kwargs, Pair, Rule, argument, rank_of
from ancestral.provenance.pointwise import pointwise


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


TABLE: dict[Rule, str] = {
    matmul: "bmm matmul mm mv __matmul__",
    reversed_matmul: "__rmatmul__",
    add_matmul: "addmm addmv baddbmm",
    linear: "linear",
    einsum: "einsum",
}

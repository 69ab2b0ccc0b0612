"""One call of every op that is linear: the cases that the tests of adjoints are made of.

A case makes the arguments of an op from a source of tensors; `x()` gives a tracked tensor, whose
weight is looked at, `c()` a constant.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

import ancestral as an

Arguments = tuple[Any, ...]


@dataclass
class Source:
    """Makes the tensors of a case: [rows, columns] unless told otherwise."""

    rows: int
    columns: int
    seed: int
    made: list[Tensor] = field(default_factory=list[Tensor])

    def c(self, *shape: int) -> Tensor:
        """Return a constant, in double precision."""
        generator = torch.Generator().manual_seed(self.seed)
        self.seed += 1
        size = shape or (self.rows, self.columns)
        return torch.randn(size, dtype=torch.float64, generator=generator)

    def x(self, *shape: int) -> Tensor:
        """Return a tracked tensor that no linear step has made."""
        value = an.track(self.c(*shape), f"x{len(self.made)}").clone()
        value._form = None  # type: ignore[attr-defined]
        self.made.append(value)
        return value

    def single(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a tracked tensor in a smaller type."""
        value = an.track(self.c().to(dtype), f"x{len(self.made)}").clone()
        value._form = None  # type: ignore[attr-defined]
        self.made.append(value)
        return value

    def vector(self) -> Tensor:
        """Return a tracked tensor of one dimension."""
        return self.x(self.columns)

    def mask(self) -> Tensor:
        """Return truth values."""
        return self.c() > 0

    def rows_of(self, count: int) -> Tensor:
        """Return indices of rows, with repeats."""
        return torch.arange(count) % self.rows


Case = Callable[[Source], Arguments | tuple[Arguments, dict[str, Any]]]

CASES: dict[str, Case] = {
    "add __add__ __radd__ __iadd__ add_": lambda s: (s.x(), s.c()),
    "sub subtract __sub__ __isub__ sub_": lambda s: (s.x(), s.x()),
    "rsub __rsub__": lambda s: (s.x(), s.c()),
    "neg negative neg_": lambda s: (s.x() + s.x(),),
    "mul multiply __mul__ __rmul__ __imul__ mul_": lambda s: (s.x() + s.c(), s.c(s.columns)),
    "div divide true_divide __truediv__ __idiv__ div_": lambda s: (s.x() - s.x(), s.c(s.rows, 1)),
    "addcmul": lambda s: ((s.x(), s.c(), s.x()), {"value": 0.5}),
    "addcdiv": lambda s: ((s.x(), s.x(), s.c()), {"value": -2}),
    "lerp": lambda s: (s.x(), s.x(), 0.3),
    "masked_fill": lambda s: (s.x(), s.mask(), 1.5),
    "clone": lambda s: (s.x(),),
    "contiguous": lambda s: (s.x().t(),),
    "double": lambda s: (s.single(),),
    "float": lambda s: (s.single(torch.float16),),
    "to": lambda s: (s.single(), torch.float64),
    "type_as": lambda s: (s.single(), s.c()),
    "sum mean": lambda s: (s.x(), 0),
    "cumsum": lambda s: (s.x(), 1),
    "diff": lambda s: (s.x(s.rows + 1, s.columns),),
    "trace": lambda s: (s.x(),),
    "sum_to_size": lambda s: (s.x(), (1, s.columns)),
    "dot vdot inner outer ger": lambda s: (s.vector(), s.c(s.columns)),
    "mv": lambda s: (s.c(), s.vector()),
    "mm matmul __matmul__": lambda s: (s.x(), s.c(s.columns, 2)),
    "__rmatmul__": lambda s: (s.x(), s.c(2, s.rows)),
    "bmm": lambda s: (s.x(2, s.rows, s.columns), s.c(2, s.columns, 3)),
    "tensordot": lambda s: ((s.x(), s.c(s.columns, 2)), {"dims": 1}),
    "kron": lambda s: (s.x(), s.c(2, 2)),
    "linalg_vecdot": lambda s: (s.x(), s.c()),
    "einsum": lambda s: ("ij,kj,i->k", s.x(), s.c(2, s.columns), s.c(s.rows)),
    "linalg_multi_dot": lambda s: ([s.c(2, s.rows), s.x(), s.c(s.columns, 2)],),
    "addmv": lambda s: ((s.x(s.rows), s.c(), s.vector()), {"alpha": 2, "beta": 0.5}),
    "addmm": lambda s: ((s.c(s.rows, 2), s.x(), s.c(s.columns, 2)), {"beta": 3}),
    "addbmm": lambda s: (s.x(s.rows, 2), s.c(3, s.rows, s.columns), s.x(3, s.columns, 2)),
    "baddbmm": lambda s: (s.x(3, s.rows, 2), s.x(3, s.rows, s.columns), s.c(3, s.columns, 2)),
    "addr": lambda s: (s.x(), s.x(s.rows), s.c(s.columns)),
    "linear": lambda s: (s.x(), s.c(2, s.columns), s.c(2)),
    "reshape view": lambda s: (s.x(), (s.columns, s.rows)),
    "flatten ravel": lambda s: (s.x(),),
    "squeeze": lambda s: (s.x(s.rows, 1),),
    "unsqueeze": lambda s: (s.x(), 1),
    "unflatten": lambda s: (s.x(2 * s.rows), 0, (2, s.rows)),
    "view_as reshape_as": lambda s: (s.x(), s.c(s.columns, s.rows)),
    "atleast_1d atleast_2d atleast_3d": lambda s: (s.x(1)[0],),
    "expand broadcast_to": lambda s: (s.x(1, s.columns), (s.rows, s.columns)),
    "expand_as": lambda s: (s.x(1, s.columns), s.c()),
    "permute": lambda s: (s.x(), (1, 0)),
    "transpose swapaxes swapdims movedim moveaxis": lambda s: (s.x(), 0, 1),
    "t adjoint T mT H mH fliplr flipud rot90": lambda s: (s.x(),),
    "flip": lambda s: (s.x(), (0,)),
    "roll": lambda s: (s.x(), 1, 0),
    "select": lambda s: (s.x(), 0, s.rows - 1),
    "narrow": lambda s: (s.x(), 1, 0, s.columns - 1),
    "diagonal diag": lambda s: (s.x(), 1),
    "__getitem__": lambda s: (s.x(), (slice(1, None), s.rows_of(3) * 0)),
    "index_select": lambda s: (s.x(), 0, s.rows_of(4)),
    "gather": lambda s: (s.x(), 0, s.rows_of(s.columns).reshape(1, -1)),
    "take_along_dim": lambda s: (s.x(), s.rows_of(s.columns).reshape(1, -1), 0),
    "take": lambda s: (s.x(), torch.tensor([0, 1, 0])),
    "masked_select": lambda s: (s.x(), s.mask()),
    "unfold": lambda s: (s.x(), 1, 2, 1),
    "repeat tile": lambda s: (s.x(), (2, 3)),
    "repeat_interleave": lambda s: ((s.x(), 2), {"dim": 0}),
    "tril triu diag_embed": lambda s: (s.x(),),
    "diagflat": lambda s: (s.vector(),),
    "cat concat concatenate stack hstack vstack dstack column_stack row_stack": lambda s: (
        [s.x(), s.c(), s.x()],
    ),
    "block_diag": lambda s: (s.x(), s.c(), s.x()),
    "scatter_add": lambda s: (s.x(), 0, s.rows_of(2 * s.columns).reshape(2, -1), s.x(2, s.columns)),
    "index_add": lambda s: ((s.x(), 0, s.rows_of(3), s.x(3, s.columns)), {"alpha": 2}),
    "select_scatter": lambda s: (s.x(), s.x(s.columns), 0, 1),
    "slice_scatter": lambda s: (s.x(), s.x(1, s.columns), 0, 1, 2),
    "diagonal_scatter": lambda s: (s.x(2, 2), s.x(2)),
    "pad": lambda s: (s.x(), (1, 2)),
}
SPLIT_CASES: dict[str, Case] = {
    "unbind": lambda s: (s.x(), 1),
    "split chunk": lambda s: ((s.x(), 2), {"dim": 1}),
    "split_with_sizes": lambda s: (s.x(), [1, s.rows - 1]),
    "tensor_split": lambda s: (s.x(), 2),
    "hsplit vsplit": lambda s: (s.x(), (1,)),
    "dsplit": lambda s: (s.x(2, s.rows, s.columns), (1,)),
}


def where_case(function: Callable[..., Any], s: Source) -> Arguments:
    """Return the arguments of `where`, which the method takes in another order."""
    return (s.mask(), s.x(), s.c()) if function is torch.where else (s.x(), s.mask(), 0.5)


def loss_case(function: Callable[..., Any], s: Source) -> tuple[Arguments, dict[str, Any]]:
    """Return the arguments of a loss of `torch.nn.functional`."""
    labels = s.rows_of(s.rows) % s.columns
    signs = s.c(s.rows).sign()
    given: dict[Callable[..., Any], Arguments] = {
        F.binary_cross_entropy: (s.x().sigmoid(), s.c().sigmoid()),
        F.cosine_embedding_loss: (s.x(), s.c(), signs),
        F.cross_entropy: (s.x(), labels),
        F.gaussian_nll_loss: (s.x(), s.c(), s.c().exp()),
        F.hinge_embedding_loss: (s.x(), s.c().sign()),
        F.kl_div: (s.x(), s.c().softmax(1)),
        F.margin_ranking_loss: (s.x(s.rows).exp(), -s.c(s.rows).exp(), -torch.ones(s.rows)),
        F.multi_margin_loss: (s.x(), labels),
        F.multilabel_soft_margin_loss: (s.x(), s.c().sigmoid().round()),
        F.nll_loss: (s.x(), labels),
        F.soft_margin_loss: (s.x(), s.c().sign()),
        F.triplet_margin_loss: (s.x(), s.c(), s.c()),
    }
    return given.get(function, (s.x(), s.c())), {"reduction": "sum"}


def called(function: Callable[..., Any], case: Case, s: Source) -> Any:
    """Return what a function returns in a case."""
    given = case(s)
    is_named = len(given) == 2 and type(given[0]) is tuple and type(given[1]) is dict
    args, kwargs = given if is_named else (given, {})
    return function(*args, **kwargs)

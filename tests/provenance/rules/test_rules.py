"""Every rule against brute force: perturb one element of a source, see which results change."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Alignment, Dims
from ancestral.provenance.algebra.factors import Factor
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.rules import registry
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.tensor import provenance, provenance_of, track, untrack
from ancestral.trace.recording.record import record
from perturbation import reachable

Op = Callable[[Tensor, Tensor], Tensor]

# Of x [B, N, M] and y [B, N, M]: an op, and the dimension of x that each of the result's keeps.
KEPT: dict[str, tuple[Op, Dims | Alignment]] = {
    "add": (lambda x, y: x + y, (0, 1, 2)),
    "radd a number": (lambda x, y: 1 + x, (0, 1, 2)),
    "subtract in place": (lambda x, y: torch.zeros_like(y).sub_(x), (0, 1, 2)),
    "function form": (lambda x, y: torch.mul(y, x), (0, 1, 2)),
    "keyword": (lambda x, y: torch.add(input=y, other=x, alpha=2), (0, 1, 2)),
    "out": (lambda x, y: torch.mul(x, y, out=torch.empty_like(y)), (0, 1, 2)),
    "unary": (lambda x, y: x.exp().tanh().neg().relu(), (0, 1, 2)),
    "power": (lambda x, y: x**2 + 2**x, (0, 1, 2)),
    "compare": (lambda x, y: (x > y).double(), (0, 1, 2)),
    "masked_fill": (lambda x, y: y.masked_fill(x > 0, 1.0), (0, 1, 2)),
    "clamp": (lambda x, y: x.clamp(min=0.0), (0, 1, 2)),
    "broadcast a reduction": (lambda x, y: y + x.mean(1, keepdim=True), (0, LOST, 2)),
    "dropout off": (lambda x, y: F.dropout(x, 0.5, training=False), (0, 1, 2)),
    "type": (lambda x, y: x.float().to(torch.float64).type_as(y), (0, 1, 2)),
    "detach and clone": (lambda x, y: x.detach().clone().contiguous(), (0, 1, 2)),
    "data": (lambda x, y: x.data, (0, 1, 2)),
    "mean over two": (lambda x, y: x.mean((0, -1)), (1,)),
    "argmax": (lambda x, y: x.argmax(-1), (0, 1)),
    "log_softmax": (lambda x, y: F.log_softmax(x, dim=1), (0, LOST, 2)),
    "mm": (lambda x, y: torch.mm(x[0], y[0].T), (1, LOST)),
    "reshape splits none": (
        lambda x, y: x.reshape(x.shape[0], -1),
        (0, (Factor(1, 5), Factor(2, 4))),
    ),
    "view inserts ones": (lambda x, y: x.view(x.shape[0], 1, *x.shape[1:]), (0, LOST, 1, 2)),
    "flatten": (lambda x, y: x.flatten(), ((Factor(0, 3), Factor(1, 5), Factor(2, 4)),)),
    "squeeze": (lambda x, y: x[:, None].squeeze(1), (0, 1, 2)),
    "unsqueeze": (lambda x, y: x.unsqueeze(-1), (0, 1, 2, LOST)),
    "expand": (lambda x, y: x[None].expand(2, -1, -1, -1), (LOST, 0, 1, 2)),
    "a slice": (lambda x, y: x[:, 1:], Alignment((0, 1, 2), there=((1, 1, 5),))),
    "a whole slice": (lambda x, y: x[:, :, :], (0, 1, 2)),
    "iteration": (lambda x, y: next(iter(x)), (1, 2)),
    "split": (lambda x, y: x.split(1, 2)[0], (0, 1, LOST)),
    "chunk": (lambda x, y: x.chunk(2, 0)[1], (LOST, 1, 2)),
    "cat": (lambda x, y: torch.cat([y, x], 1), Alignment((0, 1, 2), here=((1, 5, 10),))),
    "bce": (
        lambda x, y: F.binary_cross_entropy_with_logits(x, (y > 0).double(), reduction="none"),
        (0, 1, 2),
    ),
    "put into a buffer": (
        lambda x, y: _written(x),
        Alignment((LOST, 1, 2), here=((0, 0, 1),), there=((0, 0, 1),)),
    ),
    "unknown op": (lambda x, y: x.as_strided(x.shape, x.stride()), (LOST, LOST, LOST)),
    "the same twice": (lambda x, y: x[:, :, :1] + x, (0, 1, LOST)),
    "with its transpose": (lambda x, y: x[0, :2, :2] + x[0, :2, :2].T, (LOST, LOST)),
}


def _written(x: Tensor) -> Tensor:
    buffer = torch.zeros(x.shape, dtype=x.dtype)
    buffer[0] = x[0]
    return buffer


def changed(op: Op, x: Tensor, y: Tensor, element: tuple[int, ...]) -> Tensor:
    """Return which elements of the result change with one element of x."""
    moved = x.clone()
    moved[element] += 0.7
    before, after = op(x, y), op(moved, y)
    return before != after


def check(op: Op, x: Tensor, y: Tensor) -> Provenance:
    """Assert that nothing changes but what the alignment claims; return the provenance."""
    result = op(track(x, "x"), y)
    found = provenance(result)
    assert found is not None
    assert found.shape == tuple(op(x, y).shape)
    torch.testing.assert_close(torch.Tensor.view_as(result, result) * 1, op(x, y) * 1)
    claims = [alignment for alignment, _ in found.entries]
    for element in torch.cartesian_prod(*[torch.arange(size) for size in x.shape]).tolist():
        region = torch.zeros(x.shape, dtype=torch.bool)
        region[tuple(element)] = True
        claimed = reachable(claims, region, found.shape)
        assert not (changed(op, x, y, tuple(element)) & ~claimed).any()
    return found


@pytest.mark.parametrize("name", KEPT)
def test_a_rule_keeps_what_it_says_and_claims_no_more(name: str) -> None:
    op, kept = KEPT[name]
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    ((alignment, _),) = check(op, x, y).entries
    assert (alignment if isinstance(kept, Alignment) else alignment.dims) == kept


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(KEPT)), st.tuples(*[st.integers(2, 3)] * 3), st.integers(0, 9))
def test_no_rule_claims_more_than_a_perturbation_shows(
    name: str, shape: tuple[int, int, int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    check(KEPT[name][0], x, y)


@pytest.mark.parametrize("name", ["polar", "exp", "cumsum", "cat", "dropout", "sum"])
def test_a_function_of_linalg_that_is_new_is_not_taken_for_another_of_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new(x: Tensor) -> Tensor:
        return x @ x

    monkeypatch.setattr(torch.linalg, name, new, raising=False)
    assert new not in list(registry.functions(name))
    assert new in list(registry.functions(f"linalg.{name}"))


def test_tensors_are_found_at_any_depth() -> None:
    x, y, z = (torch.tensor(float(i)) for i in range(3))
    nested = {"a": [x, ({"b": y},)], "c": (slice(z, None),)}
    assert [float(t) for t in tensors_in(nested, 1, "x")] == [0.0, 1.0, 2.0]


def test_an_op_on_shapes_alone_depends_on_nothing() -> None:
    x = track(torch.ones(3), "x")
    made = [torch.zeros_like(x), x.new_ones(2), torch.randn_like(x), torch.ones(3).expand_as(x)]
    assert all(type(result) is Tensor for result in made)
    assert all(provenance(result) is None for result in made)
    assert x.shape == (3,)


def test_a_mask_and_an_index_of_one_shape_are_told_apart() -> None:
    z = track(torch.tensor([1.0, 0.0, 2.0]), "z")
    masked, indexed = torch.zeros(3), torch.zeros(3)
    masked[z > 0] = 1.0  # element n is chosen by element n
    indexed[z.long()] = 1.0  # element n is chosen by any
    found = [provenance(tensor) for tensor in (masked, indexed)]
    assert [p.entries[0][0].dims for p in found if p is not None] == [(0,), (LOST,)]


def test_a_tensor_that_is_broadcast_alone_keeps_all_that_is_known_of_it() -> None:
    """As every distribution does with its one parameter."""
    z = track(torch.rand(4, 3), "z")
    (alone,) = torch.broadcast_tensors(z)
    torch.testing.assert_close(untrack(alone), untrack(z), rtol=0, atol=0)
    assert provenance(alone) is provenance(z)
    ours, _ = torch.broadcast_tensors(z, torch.zeros(2, 4, 3))
    found = provenance(ours)
    assert found is not None
    assert [alignment.dims for alignment, _ in found.entries] == [(-1, 0, 1)]


def test_a_tensor_that_is_broadcast_alone_shows_what_was_written_into_its_memory() -> None:
    with record():
        x, y = track(torch.zeros(3), "x"), track(torch.ones(3), "y")
        plain = torch.zeros(3)
        view = plain[:]
        view.copy_(y)
        assert provenance_of(torch.broadcast_tensors(plain)[0]) == {"y"}
        assert view.shape == plain.shape
        both = x + plain
        assert provenance_of(torch.broadcast_tensors(both)[0]) == {"x", "y"}

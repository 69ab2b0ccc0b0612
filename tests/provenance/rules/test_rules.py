"""Every rule against brute force: perturb one element of a source, see which results change."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Alignment, Dims
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.rules import registry
from ancestral.provenance.rules.registry import tensors_in
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
    "where": (lambda x, y: torch.where(x > 0, x, y), (0, 1, 2)),
    "masked_fill": (lambda x, y: y.masked_fill(x > 0, 1.0), (0, 1, 2)),
    "clamp": (lambda x, y: x.clamp(min=0.0), (0, 1, 2)),
    "broadcast to the left": (lambda x, y: x + y[None], (LOST, 0, 1, 2)),
    "broadcast a reduction": (lambda x, y: y + x.mean(1, keepdim=True), (0, LOST, 2)),
    "dropout off": (lambda x, y: F.dropout(x, 0.5, training=False), (0, 1, 2)),
    "type": (lambda x, y: x.float().to(torch.float64).type_as(y), (0, 1, 2)),
    "detach and clone": (lambda x, y: x.detach().clone().contiguous(), (0, 1, 2)),
    "data": (lambda x, y: x.data, (0, 1, 2)),
    "sum": (lambda x, y: x.sum(), ()),
    "sum over one": (lambda x, y: x.sum(1), (0, 2)),
    "mean over two": (lambda x, y: x.mean((0, -1)), (1,)),
    "sum keeping": (lambda x, y: x.sum(-1, keepdim=True), (0, 1, LOST)),
    "max": (lambda x, y: x.max(1).values, (0, 2)),
    "max of two": (lambda x, y: torch.max(x, y), (0, 1, 2)),
    "amax": (lambda x, y: x.amax(dim=(1, 2)), (0,)),
    "argmax": (lambda x, y: x.argmax(-1), (0, 1)),
    "std": (lambda x, y: x.std(2), (0, 1)),
    "logsumexp": (lambda x, y: x.logsumexp(0), (1, 2)),
    "softmax": (lambda x, y: x.softmax(-1), (0, 1, LOST)),
    "log_softmax": (lambda x, y: F.log_softmax(x, dim=1), (0, LOST, 2)),
    "cumsum": (lambda x, y: x.cumsum(1), (0, LOST, 2)),
    "sort": (lambda x, y: x.sort(2).values, (0, 1, LOST)),
    "flip several": (lambda x, y: x.flip(0, 1), (LOST, LOST, 2)),
    "roll": (lambda x, y: x.roll(1, 0), (LOST, 1, 2)),
    "matmul from the left": (lambda x, y: x @ y.mT, (0, 1, LOST)),
    "matmul from the right": (lambda x, y: torch.matmul(y.mT, x), (0, LOST, 2)),
    "matmul a vector": (lambda x, y: x @ y[0, 0], (0, 1)),
    "bmm": (lambda x, y: torch.bmm(x, y.transpose(1, 2)), (0, 1, LOST)),
    "mm": (lambda x, y: torch.mm(x[0], y[0].T), (1, LOST)),
    "rmatmul": (lambda x, y: y.mT.__rmatmul__(x), (0, 1, LOST)),
    "linear": (lambda x, y: F.linear(x, y[0], y[0, :, 0]), (0, 1, LOST)),
    "linear with its weight": (lambda x, y: F.linear(y, x[0]), (LOST, LOST, 1)),
    "baddbmm": (lambda x, y: torch.baddbmm(y @ y.mT, x, y.mT), (0, 1, LOST)),
    "einsum": (lambda x, y: torch.einsum("bnm,bkm->bnk", x, y), (0, 1, LOST)),
    "einsum a diagonal": (lambda x, y: torch.einsum("bnm->mb", x), (2, 0)),
    "reshape splits none": (lambda x, y: x.reshape(x.shape[0], -1), (0, ((1, 5), (2, 4)))),
    "view inserts ones": (lambda x, y: x.view(x.shape[0], 1, *x.shape[1:]), (0, LOST, 1, 2)),
    "flatten": (lambda x, y: x.flatten(), (((0, 3), (1, 5), (2, 4)),)),
    "squeeze": (lambda x, y: x[:, None].squeeze(1), (0, 1, 2)),
    "unsqueeze": (lambda x, y: x.unsqueeze(-1), (0, 1, 2, LOST)),
    "expand": (lambda x, y: x[None].expand(2, -1, -1, -1), (LOST, 0, 1, 2)),
    "transpose": (lambda x, y: x.transpose(0, 2), (2, 1, 0)),
    "permute": (lambda x, y: x.permute(2, 0, 1), (2, 0, 1)),
    "permute a tuple": (lambda x, y: x.permute((1, 2, 0)), (1, 2, 0)),
    "movedim": (lambda x, y: x.movedim(0, -1), (1, 2, 0)),
    "T of a matrix": (lambda x, y: x[0].T, (2, 1)),
    "t": (lambda x, y: x[:, 0].t(), (2, 0)),
    "an integer": (lambda x, y: x[:, 0], (0, 2)),
    "a slice": (lambda x, y: x[:, 1:], Alignment((0, 1, 2), there=((1, 1, 5),))),
    "a whole slice": (lambda x, y: x[:, :, :], (0, 1, 2)),
    "none and dots": (lambda x, y: x[..., None, 0], (0, 1, LOST)),
    "select": (lambda x, y: x.select(1, 0), (0, 2)),
    "unbind": (lambda x, y: x.unbind(2)[0], (0, 1)),
    "iteration": (lambda x, y: next(iter(x)), (1, 2)),
    "narrow": (lambda x, y: x.narrow(1, 1, 1), (0, LOST, 2)),
    "split": (lambda x, y: x.split(1, 2)[0], (0, 1, LOST)),
    "chunk": (lambda x, y: x.chunk(2, 0)[1], (LOST, 1, 2)),
    "cat": (
        lambda x, y: torch.cat([y, x], 1),
        Alignment((0, 1, 2), here=((1, 5, 10),)),
    ),
    "stack": (lambda x, y: torch.stack([x, y], 1), (0, LOST, 1, 2)),
    "gather": (lambda x, y: x.gather(1, y.long() * 0), (0, LOST, 2)),
    "index_select": (lambda x, y: x.index_select(1, torch.tensor([1, 0])), (0, LOST, 2)),
    "one_hot": (lambda x, y: F.one_hot((x > 0).long(), 2), (0, 1, 2, LOST)),
    "embedding": (lambda x, y: F.embedding((x > 0).long(), y[0]), (0, 1, 2, LOST)),
    "mse_loss": (lambda x, y: F.mse_loss(x, y, reduction="none"), (0, 1, 2)),
    "mse_loss reduced": (lambda x, y: F.mse_loss(x, y), ()),
    "bce": (
        lambda x, y: F.binary_cross_entropy_with_logits(x, (y > 0).double(), reduction="none"),
        (0, 1, 2),
    ),
    "cross_entropy": (
        lambda x, y: F.cross_entropy(x, y[:, 0].long() * 0, reduction="none"),
        (0, 2),
    ),
    "put into a buffer": (
        lambda x, y: _written(x),
        Alignment((LOST, 1, 2), here=((0, 0, 1),), there=((0, 0, 1),)),
    ),
    "norm": (lambda x, y: torch.linalg.norm(x, dim=1), (0, 2)),
    "normalize": (lambda x, y: F.normalize(x, dim=-1), (0, 1, LOST)),
    "layer_norm": (lambda x, y: F.layer_norm(x, x.shape[-2:]), (0, LOST, LOST)),
    "convolution": (lambda x, y: F.conv1d(x, y), (0, LOST, LOST)),
    "convolution without a batch": (lambda x, y: F.conv1d(x[0], y), (LOST, LOST)),
    "padding that shifts": (lambda x, y: F.pad(x, (1, -1)), (0, 1, LOST)),
    "cosine_similarity": (lambda x, y: F.cosine_similarity(x, y, dim=1), (0, 2)),
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
    assert new not in list(registry._named(name))
    assert new in list(registry._named(f"linalg.{name}"))


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

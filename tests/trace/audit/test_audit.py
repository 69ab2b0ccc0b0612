"""Audits: no program that is right raises, every planted leak does and is named with its line."""

# Numbers given as tensors, functions of torch that are not annotated, and planted leaks.
# mypy: disable-error-code="no-untyped-call,call-overload,func-returns-value"
# mypy: disable-error-code="attr-defined,union-attr"

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import programs
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from programs.example import EXAMPLES
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.utils.checkpoint import checkpoint

import ancestral as an
from ancestral.provenance.algebra.provenance import Source
from ancestral.provenance.dispatch import torch_function
from ancestral.provenance.dispatch.shadow_memory import Memory
from ancestral.provenance.tensor.tensor import TYPES, run
from ancestral.trace.audit.tables import EXPLAINED, Audited
from ancestral.trace.context.switch import KEY
from ancestral.trace.intercept import tensor_reads
from oracles import paths, replaying

assert programs.__all__  # they register the examples


Leak = Callable[[Tensor, pytest.MonkeyPatch], Any]


def drawn() -> Tensor:
    """Return a draw with something to learn."""
    z: Tensor = Bernoulli(torch.full((3,), 0.4, requires_grad=True)).sample()
    return z


@pytest.fixture(autouse=True)
def _modes_are_left() -> Any:
    """Compare torch's modes before and after."""
    yield
    assert torch._C._len_torch_function_stack() == 0
    assert torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_program_that_is_right_passes(name: str) -> None:
    example = EXAMPLES[name]
    found = paths(example.program, example.parameters)
    for path in {id(p): p for p in (found[0], found[-1])}.values():
        with replaying(path), an.record(audit=True) as trace:
            loss = example.program(*example.parameters)
            an.cost("loss", loss)
            an.backward(loss)
        assert trace.audited is not None
        assert trace.audited.ops > 0
        assert trace.audited.sources > 0


class Product(torch.autograd.Function):
    """A custom function whose backward pass uses a tracked value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y = ctx.saved_tensors
        return grad * y, grad * x


@torch.library.custom_op("ancestral_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    """Return a tensor times two, as its own op."""
    return x * 2


def ones() -> Tensor:
    return torch.ones(3, requires_grad=True)


def grad_of_a_plain_backward(z: Tensor) -> Tensor:
    x = ones()
    torch.autograd.backward((x * z).sum())
    assert x.grad is not None
    return x.grad * 2


def written_through_views(z: Tensor) -> Tensor:
    buffer = torch.zeros(6)
    early, late = buffer[:3], buffer[3:]
    early.copy_(z)
    return early.sum() * late.sum() + buffer.sum()


def written_between(kind: str) -> Callable[[Tensor], Tensor]:
    """Return a program that writes beside a view of the same memory, and goes on with that."""

    def program(z: Tensor) -> Tensor:
        buffer = torch.zeros(3, 2)
        written, other = buffer.unbind(1)
        if kind == "out":
            torch.mul(z, 2, out=written)
        elif kind == "rows":
            rows = torch.zeros(3, 3)
            other = rows[1]
            rows[0].copy_(z)
            rows[2].copy_(z)
        elif kind == "twice":
            buffer.t()[0, :2].copy_(z[:2])
            buffer[2, 0] += z[0]
        else:
            written.add_(z)
        assert an.provenance_of(other * 2) == frozenset()
        return other * 2 + buffer.sum()

    return program


def two_accounts(z: Tensor) -> Tensor:
    """A your own source beside the tensor that it was made of."""
    x = torch.ones(3)
    return an.track(x, "t")[1:] * 2 + x[1:] * z[1:]


_BETWEEN = ("in place", "out", "rows", "twice")
LEGITIMATE: dict[str, Callable[[Tensor], Any]] = {
    "a custom function": lambda z: Product.apply(z, ones()).sum(),
    "a custom op": lambda z: doubled(z) * 2,
    "autograd.grad": lambda z: torch.autograd.grad((ones() * z).sum(), ones(), allow_unused=True),
    "a plain backward": grad_of_a_plain_backward,
    "a checkpoint": lambda z: checkpoint(torch.mul, ones(), z, use_reentrant=False) * 2,
    "writes through views": written_through_views,
    **{f"writes between views: {kind}": written_between(kind) for kind in _BETWEEN},
    "your own sources": two_accounts,
    "what is untracked": lambda z: an.untrack(z)[1:] * 2,
    "an if": lambda z: torch.ones(2) * (2.0 if z[0] > 0 else 1.0),
    "numpy": lambda z: torch.from_numpy(z.numpy()) * 2,
    "tolist": lambda z: torch.tensor(z.tolist()) * 2,
    "a mask": lambda z: torch.ones(3)[z > 0].sum(),
    "an index": lambda z: torch.arange(5.0)[z[0].long()] * 2,
    "one_hot": lambda z: F.one_hot(z.long(), 3) * 2.0,
    "a factory": lambda z: torch.full((2,), z[0]) + torch.tensor([z[0], z[1]]),
    "a number of an op": lambda z: torch.add(torch.ones(3), 1.0, alpha=z[0]),
    "like": lambda z: torch.zeros_like(z) + torch.full_like(z, 2.0),
    "recurrent": lambda z: nn.LSTM(3, 3)(z.view(1, 1, 3))[0],
    "attention": lambda z: nn.MultiheadAttention(3, 1)(*[z.view(1, 1, 3)] * 3)[0],
    "normalization": lambda z: nn.BatchNorm1d(3)(z.expand(4, 3) + torch.rand(4, 3)),
    "sparse": lambda z: z.to_sparse().to_dense() * 2,
    "meshgrid": lambda z: torch.meshgrid(z, torch.ones(2), indexing="ij")[1] * 2,
    "printing": lambda z: f"{z} {z[0]} {z!r}",
    "set data": lambda z: setattr(x := torch.zeros(3), "data", z) or x * 2,
    "a draw in place": lambda z: torch.zeros(6)[2:5].bernoulli_(torch.sigmoid(z)) * 2,
    "a draw of a draw": lambda z: Normal(Normal(z, 1.0).rsample(), 1.0).rsample().sum(),
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_what_the_recording_follows_passes(name: str) -> None:
    with an.record(audit=True) as trace:
        LEGITIMATE[name](drawn())
    assert trace.audited is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_function_passes_and_loses_its_source_without_its_door() -> None:
    scripted: Any = torch.jit.script(_halved)
    with an.record(audit=True):
        assert an.provenance_of(scripted(drawn()) * 1) == {"z"}
    kind: Any = torch.jit.ScriptFunction
    with pytest.raises(an.errors.AuditError, match=r"aten\.div.*'z'"), an.record(audit=True):  # noqa: PT012
        z = drawn()
        open_door = kind.__call__
        kind.__call__ = open_door.__wrapped__
        try:
            halved = scripted(z)
        finally:
            kind.__call__ = open_door
        halved.sum()


def _halved(x: Tensor) -> Tensor:
    return x / 2


def stripped_by_hand(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    del z._provenance
    z.__class__ = Tensor
    return torch.stack([z, z])


def run_with_tracking_off(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return z.cumsum(0)  # leak


def used_after_tracking_was_off(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    with torch._C.DisableTorchFunction():
        y = z.cumsum(0)  # leak
    return (y + 1).sum()


DETACH = Tensor.detach  # torch's own, whose place a recording takes


def a_copy_by_hand(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    return run(DETACH, TYPES, (z,), {})  # leak


def a_rule_that_forgets(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(torch_function, "infer", lambda *_: None)
    return z.cumsum(0)  # leak


def a_write_that_is_not_followed(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(torch_function, "run_write", lambda f, types, a, k, _: run(f, types, a, k))
    buffer = torch.zeros(3)
    return buffer.copy_(z)  # leak


def a_write_seen_by_an_older_view(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    buffer = torch.zeros(3)
    view = buffer[:2]
    with torch._C.DisableTorchFunction():
        buffer.copy_(z)  # leak
    return view.exp()


UNNOTED: dict[str, Callable[[Tensor], Any]] = {
    r"torch\.Tensor\.item": lambda z: z[0].item(),
    r"torch\.Tensor\.__bool__": lambda z: 1 if z[0] > 0.5 else 2,
    r"torch\.Tensor\.numpy": lambda z: z.numpy(),
    r"torch\.Tensor\.__getitem__": lambda z: torch.ones(3)[z > 0],
    r"torch\.Tensor\.repeat": lambda z: torch.ones(2).repeat(z[0].long() + 1),
}
"""What lets a value out, where that is not noted, by the op that does."""


def unnoted(op: str) -> Leak:
    def leak(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
        patch.setattr(torch_function, "escape", lambda *_, **__: None)
        return UNNOTED[op](z)

    return leak


def a_number_of_an_op_that_is_not_noted(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(tensor_reads, "escape", lambda *_: None)
    torch.add(torch.ones(3), 1.0, alpha=z[0])  # leak


def a_factory_without_its_door(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    with patch.context() as inner:
        inner.setattr(torch, "tensor", torch.tensor.__wrapped__)
        inner.setattr(tensor_reads, "escape", lambda *_: None)
        inner.setattr(torch_function, "escape", lambda *_, **__: None)
        return torch.tensor([z[0], z[1]])  # leak


def a_custom_op_that_is_not_followed(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        lost = doubled(z)  # leak
    return lost + 1  # some versions of torch show no mode such a call itself


def untracked(probs: Callable[[Tensor], Tensor]) -> Leak:
    def leak(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
        torch._C._dispatch_tls_set_dispatch_key_included(KEY, False)
        try:
            return torch.bernoulli(torch.sigmoid(probs(z)))  # leak
        finally:
            torch._C._dispatch_tls_set_dispatch_key_included(KEY, True)

    return leak


def a_parent_that_is_lost(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    patch.setattr("ancestral.trace.recording.record_site.param_provenance", lambda *_, **__: None)
    return torch.bernoulli(torch.sigmoid(z))  # leak


def a_cost_that_is_lost(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    patch.setattr("ancestral.trace.recording.record_site.provenance", lambda *_: None)
    return an.cost("c", z)  # leak


def a_source_from_nowhere(z: Tensor, patch: pytest.MonkeyPatch) -> Any:
    found, infer = vars(z)["_provenance"], torch_function.infer
    patch.setattr(torch_function, "infer", lambda *call: infer(*call).union(found.lost((3,))))
    return torch.cumsum(an.track(torch.ones(3), "other"), 0)  # leak


a_learned_draw_untracked = untracked(lambda z: ones())
LEAKS: list[tuple[Leak, str]] = [
    (stripped_by_hand, r"the draw of 'z'"),
    (run_with_tracking_off, r"torch\.Tensor\.cumsum"),
    (used_after_tracking_was_off, r"aten\.cumsum"),
    (a_copy_by_hand, r"torch\.Tensor\.detach"),
    (a_rule_that_forgets, r"torch\.Tensor\.cumsum"),
    (a_write_that_is_not_followed, r"torch\.Tensor\.copy_"),
    (a_write_seen_by_an_older_view, r"aten\.copy_"),
    *((unnoted(op), op) for op in UNNOTED),
    (a_number_of_an_op_that_is_not_noted, r"torch\.add"),
    (a_factory_without_its_door, r"torch\.tensor"),
    (a_custom_op_that_is_not_followed, "ancestral_tests.*doubled"),
    (untracked(lambda z: z), r"aten\.bernoulli"),
    (a_learned_draw_untracked, r"aten\.bernoulli"),
    (a_parent_that_is_lost, "the site 'bernoulli'"),
    (a_cost_that_is_lost, "the cost 'c'"),
    (a_source_from_nowhere, r"torch\.cumsum"),
]
every_leak = pytest.mark.parametrize(("leak", "shown"), LEAKS)


def line_of(leak: Leak, shown: str) -> int | None:
    """Return the line that a function marks as its leak, or on which a row lets a value out."""
    if shown in UNNOTED:
        return UNNOTED[shown].__code__.co_firstlineno
    lines, first = inspect.getsourcelines(leak)
    marked = [first + i for i, line in enumerate(lines) if line.rstrip().endswith("# leak")]
    return marked[0] if marked else None


@every_leak
def test_a_leak_is_named_with_its_op_and_line(
    leak: Leak, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(an.errors.AuditError, match=rf"^{shown}") as caught:  # noqa: PT012
        kept: Any = None  # what nobody holds cannot mislead
        with an.record(audit=True):
            z = drawn()
            kept = leak(z, monkeypatch)
    del kept
    found = caught.value
    assert found.location.filename == __file__
    assert str(found.location) in str(found)
    line = line_of(leak, shown)
    if line is None:  # the value was fine when it was made, and is lost where it is used
        lines, first = inspect.getsourcelines(leak)
        assert f"{__file__}:{first + len(lines) - 1}" in str(found)
    else:
        assert found.location.line == line
    assert found.names <= {"z", "bernoulli"}
    assert bool(found.names) is (leak is not a_learned_draw_untracked)


@every_leak
def test_without_an_audit_nothing_is_compared(
    leak: Leak, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with an.record() as trace:
        leak(drawn(), monkeypatch)
    assert trace.audited is None


def test_memory_that_comes_back_from_numpy_is_the_same_memory() -> None:
    with pytest.raises(an.errors.AuditError, match="'z'"), an.record(control="ignore", audit=True):
        torch.from_numpy(drawn().numpy()) * 2


@pytest.mark.parametrize("step", [1, 2])
def test_memory_is_followed_byte_by_byte(step: int) -> None:
    """Views of one storage, against the numbers of their elements."""
    buffer, source = torch.zeros(24), Source("z", (2,))
    views = [
        buffer.as_strided(shape, strides, offset)
        for shape, strides in [((2,), (step,)), ((2, 2), (6, step)), ((0, 2), (1, 1)), ((), ())]
        for offset in (0, 1, 5, 11)
    ]
    numbers = torch.arange(24)
    for written in views:
        memory = Memory()
        memory.add(written, {source: ""})
        for seen in views:
            if not written.numel() or not seen.numel():
                continue
            ours, others = (
                set(numbers.as_strided(v.shape, v.stride(), v.storage_offset()).flatten().tolist())
                for v in (written, seen)
            )
            assert bool(memory.of(seen)) == bool(ours & others)
        assert memory.of(buffer)
        assert memory.of(torch.from_numpy(buffer.numpy()))


def test_a_finding_waits_for_no_later_op_and_comes_at_the_end() -> None:
    with pytest.raises(an.errors.AuditError, match=r"torch\.Tensor\.mul"), an.record(audit=True):  # noqa: PT012
        z = drawn()
        with torch._C.DisableTorchFunctionSubclass():
            lost = z * 2
    assert an.provenance_of(lost) == frozenset()


def test_an_error_of_the_program_comes_through() -> None:
    with pytest.raises(ZeroDivisionError), an.record(audit=True):  # noqa: PT012
        with torch._C.DisableTorchFunctionSubclass():
            drawn() * 2
        raise ZeroDivisionError


@pytest.mark.parametrize("is_outer", [True, False])
@pytest.mark.parametrize("is_inner", [True, False])
def test_recordings_within_each_other_are_audited_once(is_outer: bool, is_inner: bool) -> None:
    leaks = pytest.raises(an.errors.AuditError) if is_outer or is_inner else nullcontext()
    with leaks, an.record(audit=is_outer):
        z = drawn()
        with an.record(audit=is_inner):
            y = Bernoulli(torch.sigmoid(z)).sample()
            with torch._C.DisableTorchFunctionSubclass():
                lost = y * 2
            lost.sum()


def test_a_value_from_before_the_audit_is_taken_as_it_is() -> None:
    outside = an.track(torch.ones(3), "outside")
    with an.record():
        z = drawn()
        with an.record(audit=True) as trace:
            (z * outside).sum()
    assert trace.audited is not None
    assert trace.audited.sources == 2


@pytest.mark.parametrize("retain_graph", [True, False])
def test_gradients_of_a_recording_are_constants(retain_graph: bool) -> None:
    x = ones()
    optimizer = torch.optim.Adam([x])
    with an.record(audit=True):
        z = Bernoulli(logits=x).sample()
        an.backward((x * z).sum(), retain_graph=retain_graph)
        optimizer.step()
        (x * 2).sum()
        with torch.set_grad_enabled(retain_graph):  # else its score would be lost
            Bernoulli(logits=x).sample()


def test_a_report_counts_what_was_compared() -> None:
    with an.record(audit=True) as trace:
        (drawn() * 2).sum()
    assert trace.audited is not None
    assert str(trace.audited) == str(Audited(trace.audited.ops, 1))
    assert str(Audited(4, 2)) == "nothing was lost: 4 ops compared, with 2 sources in all"


def test_every_reason_to_carry_more_is_said() -> None:
    assert all(len(reason) > 20 for reason in EXPLAINED.values())

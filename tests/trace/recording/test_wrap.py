"""Wrapping: every call of a module is recorded, and nothing else about it changes."""

import copy
import gc
import inspect
import pickle
import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an


class Coins(nn.Module):
    """Draws coins, twice as often on demand."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.register_buffer("scale", torch.ones(()))
        self.calls = 0

    def forward(self, x: Tensor, *, is_doubled: bool = False) -> Tensor:
        self.calls += 1
        z: Tensor = Bernoulli(logits=self.linear(x) * self.scale).sample()
        return 2 * z if is_doubled else z

    def energy(self, x: Tensor) -> Tensor:
        """Call the module from within its own method."""
        total: Tensor = self(x).sum()
        return total


class Pair(nn.Module):
    """Holds two layers, the first of which may be wrapped itself."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = Coins()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


class Fails(nn.Module):
    def forward(self, p: Tensor) -> Tensor:
        z = Bernoulli(p).sample()
        if z.shape:
            raise ZeroDivisionError
        return z  # type: ignore[no-any-return]


X = torch.ones(2, 3)


def trace_of(wrapped: nn.Module) -> an.Trace:
    """Return what wrapping adds to a module."""
    trace = wrapped.trace
    assert isinstance(trace, an.Trace)
    return trace


def test_every_call_is_recorded_in_a_trace_of_its_own() -> None:
    model = an.wrap(Coins())
    model(X)
    first = trace_of(model)
    model(torch.ones(5, 3))
    assert list(first) == list(trace_of(model)) == ["z"]
    assert (first["z"].shape, trace_of(model)["z"].shape) == ((2, 3), (5, 3))
    loss = model(X, is_doubled=True).sum()
    assert an.provenance_of(loss) == {"z"}
    an.backward(loss)
    assert model.linear.weight.grad is not None


def test_a_call_from_within_a_method_is_recorded_too() -> None:
    model = an.wrap(Coins())
    loss = model.energy(X)
    assert an.provenance_of(loss) == {"z"}
    assert list(trace_of(model)) == ["z"]


def test_the_original_is_not_recorded() -> None:
    original = Coins()
    wrapped = an.wrap(original)
    value = original(X)
    assert type(value) is Tensor
    with pytest.raises(
        RuntimeError, match=r"this Coins has not been called yet.*call it, then read its trace"
    ):
        _ = trace_of(wrapped)
    assert not hasattr(original, "trace")
    assert type(original) is Coins


def test_class_name_signature_and_documentation_are_the_modules() -> None:
    wrapped = an.wrap(Coins())
    assert isinstance(wrapped, Coins)
    kind = type(wrapped)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(kind, name) == getattr(Coins, name)
    assert inspect.signature(wrapped.forward) == inspect.signature(Coins().forward)
    assert repr(wrapped) == repr(Coins())
    assert type(an.wrap(Coins())) is kind


def test_state_is_the_same_under_the_same_keys() -> None:
    original = Coins()
    wrapped = an.wrap(original)
    ours, theirs = wrapped.state_dict(), original.state_dict()
    assert list(ours) == list(theirs) == ["scale", "linear.weight", "linear.bias"]
    assert all(ours[key].data_ptr() == theirs[key].data_ptr() for key in ours)
    assert [id(p) for p in wrapped.parameters()] == [id(p) for p in original.parameters()]
    assert [n for n, _ in wrapped.named_modules()] == [n for n, _ in original.named_modules()]
    other = Coins()
    wrapped.load_state_dict(other.state_dict())
    assert original.linear.weight.equal(other.linear.weight)


def test_an_attribute_set_on_one_is_seen_on_the_other() -> None:
    original = Coins()
    wrapped = an.wrap(original)
    wrapped.note = "ours"  # type: ignore[assignment]
    original.remark = "theirs"  # type: ignore[assignment]
    layer = wrapped.linear = nn.Linear(3, 3)
    assert vars(original)["note"] == "ours"
    assert vars(wrapped)["remark"] == "theirs"
    assert original.linear is layer
    original.extra = nn.Parameter(torch.zeros(1))
    assert dict(wrapped.named_parameters())["extra"] is original.extra
    del wrapped.note
    assert not hasattr(original, "note")
    wrapped(X)
    assert original.calls == 1


def test_training_mode_and_type_follow_both_ways() -> None:
    original = Coins()
    wrapped = an.wrap(original)
    assert wrapped.eval() is wrapped
    assert (original.training, original.linear.training) == (False, False)
    original.train()
    assert wrapped.training
    assert wrapped.to(torch.float64) is wrapped
    assert original.linear.weight.dtype is torch.float64
    assert original.scale.dtype is torch.float64
    assert wrapped(X.double()).dtype is torch.float64
    wrapped.requires_grad_(False)
    assert not original.linear.weight.requires_grad
    wrapped.zero_grad()


def test_hooks_of_either_fire_with_the_call() -> None:
    original = Coins()
    wrapped = an.wrap(original)
    fired: list[str] = []

    def noted(name: str) -> Callable[..., None]:
        return lambda *_: fired.append(name)

    original.register_forward_pre_hook(noted("before"))
    wrapped.register_forward_hook(noted("after"))
    original.linear.register_forward_hook(noted("inside"))
    wrapped(X)
    assert fired == ["before", "inside", "after"]


def test_a_hook_that_draws_is_recorded() -> None:
    wrapped = an.wrap(Coins())
    wrapped.register_forward_hook(lambda _, __, z: Bernoulli(z * 0.5).sample())
    y = wrapped(X)
    assert list(trace_of(wrapped)) == ["z", "bernoulli"]
    assert trace_of(wrapped)["bernoulli"].parents == {"z"}
    assert an.provenance_of(y) == {"bernoulli"}


def test_a_deep_copy_is_wrapped_and_shares_nothing() -> None:
    original = Coins()
    wrapped = an.wrap(original)
    wrapped(X)
    twin = copy.deepcopy(wrapped)
    assert isinstance(twin, Coins)
    with pytest.raises(RuntimeError, match="has not been called yet"):
        _ = trace_of(twin)
    with torch.no_grad():
        twin.linear.weight.add_(1.0)
    assert not original.linear.weight.equal(twin.linear.weight)
    twin(torch.ones(4, 3))
    assert (trace_of(twin)["z"].shape, trace_of(wrapped)["z"].shape) == ((4, 3), (2, 3))


def test_a_pickled_module_comes_back_wrapped_with_its_state() -> None:
    wrapped = an.wrap(Coins())
    wrapped(X)
    twin = pickle.loads(pickle.dumps(wrapped))
    assert type(twin) is type(wrapped)
    assert all(
        a.equal(b)
        for a, b in zip(twin.state_dict().values(), wrapped.state_dict().values(), strict=True)
    )
    twin(X)
    assert list(trace_of(twin)) == ["z"]
    assert twin.calls == 2


def test_the_original_can_be_pickled_without_the_wrapper() -> None:
    original = Coins()
    an.wrap(original)(X)
    twin = pickle.loads(pickle.dumps(original))
    assert type(twin) is Coins
    assert type(copy.deepcopy(original)) is Coins


def test_a_wrapped_module_inside_a_wrapped_module_has_a_trace_of_its_own() -> None:
    first = an.wrap(Coins())
    model = an.wrap(Pair(first))
    y = model(X)
    assert list(trace_of(model)) == ["first.z", "second.z"]
    assert list(trace_of(first)) == ["first.z"]
    assert trace_of(first)["first.z"] is trace_of(model)["first.z"]
    assert trace_of(model)["second.z"].parents == {"first.z"}
    an.backward(y.sum())
    assert first.linear.weight.grad is not None


def test_a_wrapped_module_within_a_recording_adds_to_it() -> None:
    model = an.wrap(Coins())
    with an.record() as outer:
        a = model(X)
        b = model(a)
        loss = (a + b).sum()
    assert list(outer) == ["z", "z_1"]
    assert list(trace_of(model)) == ["z_1"]
    an.backward(loss)
    assert model.linear.weight.grad is not None


def test_wrapping_twice_is_wrapping_once() -> None:
    model = an.wrap(Coins())
    assert an.wrap(model) is model


@pytest.mark.parametrize("thing", [lambda x: x, Coins, torch.ones(1), None])
def test_what_is_no_module_is_refused(thing: object) -> None:
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not"):
        an.wrap(thing)  # type: ignore[type-var]


def test_a_scripted_module_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module: nn.Module = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="wrap the module it was made from"):
        an.wrap(module)


def test_a_model_that_raises_leaves_the_trace_up_to_there() -> None:
    model = an.wrap(Fails())
    with pytest.raises(ZeroDivisionError):
        model(torch.full((2,), 0.5))
    assert list(trace_of(model)) == ["z"]
    assert "Bernoulli" in str(trace_of(model))
    assert type(Bernoulli(torch.full((2,), 0.5)).sample()) is Tensor


def test_a_wrapped_module_is_freed_with_its_trace() -> None:
    model = an.wrap(Coins())
    model(X)
    trace = weakref.ref(trace_of(model))
    gc.collect()
    assert trace() is not None
    del model
    gc.collect()
    assert trace() is None


def test_an_optimizer_trains_the_original_through_the_wrapper() -> None:
    original = Coins()
    model = an.wrap(original)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    before = original.linear.bias.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        an.backward((model(X) - 1).square().sum())
        optimizer.step()
    assert not original.linear.bias.equal(before)


def test_a_wrapped_module_records_with_the_control_it_was_given() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(2))

        def forward(self) -> Tensor:
            z = Bernoulli(logits=self.logits).sample()
            return z.sum() * (2 if z[0] > 0 else 1)  # type: ignore[no-any-return]

    with pytest.raises(an.errors.EscapeError, match="'z'"):
        an.wrap(Branching(), control="error")()
    with pytest.raises(ValueError, match="'strict', 'after', 'error', 'ignore'"):
        an.wrap(Branching(), control="never")
    model = an.wrap(Branching())
    assert model().shape == ()
    assert len(model.trace.escapes) == 1  # type: ignore[union-attr, arg-type]

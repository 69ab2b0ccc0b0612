"""Autograd: what a pass returns, accumulates, hands to hooks or computes in Python is followed."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import ancestral as an
from ancestral.errors import TransformError
from ancestral.provenance.tensor import storage
from perturbation import check, gradients, numbers


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield  # the gradient of a leaf that lives on is watched
    OLD.grad = None
    storage.table.clear()
    storage.unwatch()


class Scaled(Function):
    """The old style, with something that is no tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, words: dict[str, int]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.factor = factor * words["two"]
        result: Tensor = x.detach() ** 2 * ctx.factor
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return gradient * 2 * x * ctx.factor, None, None


class Written(Function):
    """Writes into its first argument."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, x: Tensor) -> Tensor:
        target.add_(x)
        ctx.mark_dirty(target)
        return target

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, gradient


class Split(Function):
    """The new style, with several results, one of which has no derivative."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * y, (x > 0).long()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> Any:
        x, y = ctx.saved_tensors
        return gradient * y, gradient * x

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, y: Tensor) -> Any:
        return (x * y, (x > 0).long()), (0, 0)


class Twin(Function):
    """Gives back what it was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def seen_by_hooks(x: Tensor) -> Any:
    """Gradients that hooks keep, of leaves and of what is computed."""
    seen: list[Any] = []
    weight = numbers(3).requires_grad_()
    middle = weight * 2
    weight.register_hook(seen.append)
    middle.register_hook(seen.append)
    middle.register_hook(lambda g: g * 2)
    (x * middle).sum().backward()
    return seen, weight.grad


def seen_by_older_hooks(x: Tensor) -> Any:
    seen: list[Any] = []
    OLD.grad = None
    handles = [
        OLD.register_hook(lambda g: seen.append(g)),
        OLD.register_post_accumulate_grad_hook(lambda w: seen.append(w.grad.clone())),
    ]
    (x * OLD).sum().backward()
    for handle in handles:
        handle.remove()
    return seen, OLD.grad


OLD = torch.ones(3, requires_grad=True)


def seen_by_modules(x: Tensor) -> Any:
    seen: list[Any] = []
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    layer[1].register_full_backward_hook(lambda m, into, out: seen.append((into, out)))
    layer[1].register_full_backward_pre_hook(lambda m, out: seen.append(out))
    (layer(torch.ones(2, 3)).sum() * x.sum()).backward()
    return seen, [parameter.grad for parameter in layer.parameters()]


def seen_by_multi(x: Tensor) -> Any:
    seen: list[Any] = []
    a, b = (numbers(3, seed=s).requires_grad_() for s in (1, 2))
    torch.autograd.graph.register_multi_grad_hook((a, b), lambda both: seen.append(tuple(both)))
    (x * a * b).sum().backward()
    return seen, a.grad, b.grad


class Logged(Function):
    """Keeps what its backward computes."""

    seen: list[Tensor] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        Logged.seen.append(gradient.norm())
        return gradient


def kept_by_backward(x: Tensor) -> Any:
    Logged.seen.clear()
    weight = numbers(3).requires_grad_()
    (applied(Logged, weight) * x).sum().backward()
    return list(Logged.seen), weight.grad


def brought_by_hook(x: Tensor) -> Any:
    """A loss that depends on no source, whose gradient a hook scales by one."""
    weight, other = numbers(3).requires_grad_(), numbers(3).requires_grad_()
    weight.register_hook(lambda g: g * x[0])
    other.register_hook(lambda g: x[0])
    ((weight**2).sum() + other.sum()).backward()
    return weight.grad, other.grad


def brought_by_backward(x: Tensor) -> Any:
    class Hidden(Function):
        @staticmethod
        def forward(ctx: Any, weight: Tensor) -> Tensor:
            return weight * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * x[0]

    weight = numbers(3).requires_grad_()
    return torch.autograd.grad(applied(Hidden, weight).sum(), weight)


def accumulated(x: Tensor) -> Any:
    a, b, c = (numbers(3, seed=s).requires_grad_() for s in (1, 2, 3))
    a.grad, view = torch.ones(3), None
    view = a.grad[1:]
    (x * a).sum().backward(retain_graph=True)
    torch.autograd.backward([(x * b).sum(), (x * c).sum()], inputs=[b])
    middle = a * 2
    middle.retain_grad()
    (middle * x).sum().backward()
    return a.grad, view * 1, b.grad, c.grad, middle.grad


def weighed(x: Tensor) -> Any:
    """Tracked gradients of what depends on nothing."""
    a, b = (numbers(3, seed=s).requires_grad_() for s in (1, 2))
    (a * 2).backward(x[0])
    torch.autograd.backward(b * 2, grad_tensors=x[0])
    return a.grad, b.grad, torch.autograd.grad(a**2, a, grad_outputs=x[1])


def returned(x: Tensor) -> Any:
    w = numbers(3).requires_grad_()
    loss = (torch.sin(w) * x).sum()
    (first,) = torch.autograd.grad(loss, w, create_graph=True)
    second = torch.autograd.grad(first.sum(), w, retain_graph=True)
    batched = torch.autograd.grad(
        torch.sin(w) * x[0], w, torch.eye(3), retain_graph=True, is_grads_batched=True
    )
    unused = torch.autograd.grad(loss, [w, numbers(2).requires_grad_()], allow_unused=True)
    return first, second, batched, unused


def bound_early(x: Tensor) -> Any:
    a, b = (numbers(3, seed=s).requires_grad_() for s in (1, 2))
    _early_backward((a * x).sum())
    return a.grad, _early_grad((b * x).sum(), b), _early_grad(b**2, b, x[0])


_early_backward, _early_grad = torch.autograd.backward, torch.autograd.grad


def functional(x: Tensor) -> Any:
    v, api = numbers(3), torch.autograd.functional
    return (
        api.jacobian(lambda w: torch.sin(w) * x[0], v),
        api.hessian(lambda w: (w**3 * x).sum(), v),
        *(api.vjp(lambda w: torch.sin(w) * x[0], v, torch.ones(3)), api.vjp(torch.sin, v, x[0])),
        *(api.jvp(torch.sin, v, x[0]), api.jvp(lambda w: w * x[0], v, torch.ones(3))),
        *(api.vhp(lambda w: (w**3).sum(), v, x[0]), api.hvp(lambda w: (w**3).sum(), v, x[0])),
        api.jacobian(torch.sin, x[0]),
    )


def dual(x: Tensor) -> Any:
    with forward.dual_level():
        a = forward.make_dual(numbers(3), x[0])
        b = forward.make_dual(x[1], torch.ones(3))
        made = [a * 2, b.sin(), applied(Split, numbers(3), x[0])[0]]
        return [forward.unpack_dual(y) for y in made[:2]], made[2]


def packed(x: Tensor) -> Any:
    """What a hook keeps of the tensors that are saved, their values before they have a source."""
    w, kept = numbers(3).requires_grad_(), list[Tensor]()

    def pack(saved: Tensor) -> Tensor:
        kept.extend((saved.detach(), saved.abs().sum()))
        return saved.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        y = (torch.sin(w) * x).exp()
    return kept, torch.autograd.grad(y.sum(), w, create_graph=True)


def saved_on_cpu(x: Tensor) -> Any:
    w = numbers(3).requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        y = (torch.sin(w) * x).exp()
    return torch.autograd.grad(y.sum(), w)


def anomalous(x: Tensor) -> Any:
    w = numbers(3).requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        loss = (torch.sin(w) * x).sum()
        loss.backward()
    return w.grad


def checkpointed(x: Tensor) -> Any:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Dropout(0.2), nn.Linear(3, 3))
    w = numbers(3).requires_grad_()
    results = []
    for reentrant in (True, False):
        y = checkpoint(lambda a, b: layers(a * b), w * 1, x, use_reentrant=reentrant)
        results += [y, torch.autograd.grad(y.sum(), w)[0] if not reentrant else y]
    z = checkpoint_sequential(layers, 2, x * w, use_reentrant=False)
    z.sum().backward()
    return results, z, w.grad, [p.grad for p in layers.parameters()]


def reentrant(x: Tensor) -> Any:
    w, v = (numbers(3, seed=s).requires_grad_() for s in (1, 2))
    checkpoint(lambda a: torch.sin(a * v) * x, w * 1, use_reentrant=True).sum().backward()
    return w.grad, v.grad


def applied(function: Any, *args: Any) -> Any:
    return function.apply(*args)


CALLS: dict[str, Callable[[Tensor], Any]] = {
    "a function": lambda x: applied(Scaled, x, 3.0, {"two": 2}),
    "a function that writes": lambda x: (t := torch.zeros(4, 3), applied(Written, t, x), t * 1)[1:],
    "a function in the new style": lambda x: applied(Split, x, numbers(4, 3)),
    "a function of a constant and a source": lambda x: applied(Split, numbers(4, 3), x),
    "a function that gives back": lambda x: applied(Twin, x),
    **{
        function.__name__.replace("_", " "): function
        for function in (
            *(seen_by_hooks, seen_by_older_hooks, seen_by_modules, seen_by_multi, kept_by_backward),
            *(brought_by_hook, brought_by_backward, accumulated, weighed, returned, bound_early),
            *(functional, dual, packed, saved_on_cpu, anomalous, checkpointed, reentrant),
        )
    },
}
DIFFERENTIABLE = [name for name in CALLS if name.startswith("a function")] + ["returned"]


@pytest.mark.filterwarnings("ignore")  # of torch: anomaly mode is slow
@pytest.mark.parametrize("name", CALLS)
def test_autograd_is_followed(name: str) -> None:
    check(CALLS[name], numbers(4, 3))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_gradient_is_torchs_own(name: str) -> None:
    gradients(CALLS[name], numbers(4, 3))


def test_a_gradient_that_depends_on_nothing_stays_plain() -> None:
    with an.record():
        an.track(torch.ones(3), "z")
        w = torch.ones(3, requires_grad=True)
        (w * 2).sum().backward()
        (returned,) = torch.autograd.grad((w * 2).sum(), w)
    assert type(w.grad) is type(returned) is Tensor


def test_an_estimate_is_a_constant() -> None:
    w = torch.ones(3, requires_grad=True)
    with an.record():
        z = torch.distributions.Bernoulli(logits=w).sample()
        an.backward((z * w).sum(), retain_graph=True)
        assert type(w.grad) is Tensor
        an.backward((z * w).sum())
    assert type(w.grad) is Tensor
    torch.optim.SGD([w], lr=0.1).step()


def test_outside_a_recording_a_gradient_is_torchs_own() -> None:
    w = torch.ones(3, requires_grad=True)
    (an.track(torch.ones(3), "z") * w).sum().backward()
    assert type(w.grad) is Tensor


def test_hooks_are_torchs_own_after_the_recording() -> None:
    seen: list[Tensor] = []
    w = torch.ones(3, requires_grad=True)
    with an.record():
        w.register_hook(seen.append)
    (w * 2).sum().backward()
    assert type(seen[0]) is Tensor
    assert Tensor.retain_grad is torch._C.TensorBase.retain_grad


def drawing(logits: Tensor, weight: Tensor) -> Tensor:
    z = torch.distributions.Bernoulli(logits=logits * 2).sample()
    return torch.sigmoid(z * weight)


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_checkpoint_that_is_not_reentrant_draws_once(is_recorded: bool) -> None:
    found: list[list[float]] = []
    for through in (checkpoint, lambda function, *args, use_reentrant: function(*args)):
        torch.manual_seed(3)
        logits, weight = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
        with an.record() as trace:
            y = through(drawing, logits, weight, use_reentrant=False).sum()
            if is_recorded:
                an.backward(y)
        if not is_recorded:
            an.backward(y)
        assert len(trace) == 1
        assert logits.grad is not None
        assert weight.grad is not None
        found.append(logits.grad.tolist() + weight.grad.tolist())
    assert found[0] == found[1]
    assert any(found[0])


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")  # it reads
@pytest.mark.parametrize("sign", ["+", "-", "*", "/", "**", "%", "@"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_checkpoint_after_a_read_finds_what_it_saved(sign: str, is_first: bool) -> None:
    """What was tracked for the read is plain when it runs again, and saved in the same order."""
    operator = eval(f"lambda x, y: (x {sign} y).sin() * x")
    found: list[Tensor] = []
    for through in (checkpoint, lambda function, *args, use_reentrant: function(*args)):
        torch.manual_seed(3)
        p = torch.tensor([0.3, 0.7, 1.2], dtype=torch.float64, requires_grad=True)
        with an.record(control="after"):
            z = torch.distributions.Bernoulli(p / 2).sample()
            z.tolist()

            def after(x: Tensor, p: Tensor = p) -> Tensor:
                made = p.exp() + 1  # of what is closed over
                result: Tensor = operator(made, x) if is_first else operator(x, made)
                return result

            loss = through(after, p.cos() + 1, use_reentrant=False).sum()
        an.backward(loss)
        assert p.grad is not None
        found.append(p.grad)
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    "draw",
    [
        lambda p: torch.distributions.Bernoulli(logits=p * 2).sample(),
        lambda p: torch.bernoulli(torch.sigmoid(p)),
        lambda p: torch.distributions.Normal(p * 2, 1.0).rsample(),
    ],
)
def test_a_reentrant_checkpoint_refuses_a_draw(draw: Callable[[Tensor], Tensor]) -> None:
    p = torch.zeros(3, requires_grad=True)
    with (
        an.record(),
        pytest.raises(TransformError, match=r"test_functions.py:\d+ .*use_reentrant=False"),
    ):
        checkpoint(draw, p, use_reentrant=True)
    checkpoint(draw, p, use_reentrant=True)


def test_a_reentrant_checkpoint_may_draw_where_no_gradient_is_asked() -> None:
    with an.record(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch: no input requires a gradient
        z = checkpoint(drawing, torch.zeros(3), torch.ones(3), use_reentrant=True)
        assert an.provenance_of(z) == {"z"}


class Binarized(Function):
    """Draws in its forward, and lets the gradient straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.bernoulli(torch.sigmoid(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def test_a_draw_in_the_forward_of_a_function_is_refused_with_its_line() -> None:
    x = torch.ones(3, requires_grad=True)
    with an.record(), pytest.raises(TransformError, match=r"test_functions.py:\d+ .*Binarized"):
        Binarized.apply(x)  # type: ignore[no-untyped-call]
    with an.record() as trace:
        Binarized.apply(x.detach())  # type: ignore[no-untyped-call]  # nothing to learn
    assert not trace["bernoulli"].is_learned
    assert Binarized.apply(x).shape == (3,)  # type: ignore[no-untyped-call]


def test_what_lies_beyond_a_view_in_its_memory_is_followed() -> None:
    with an.record():
        first = torch.distributions.Bernoulli(torch.full((3,), 0.5, requires_grad=True)).sample()
        second = torch.distributions.Bernoulli(torch.full((3,), 0.5, requires_grad=True)).sample()
        view = torch.cat([first, second])[:3]
        beyond = [view.as_strided((3,), (1,), 3), torch.as_strided(view, (6,), (1,), 0)]
        copied = torch.as_strided_copy(view, (3,), (1,), 3)
        buffer = torch.zeros(6)
        buffer[3:] = second
        beside = [buffer[:3].as_strided((6,), (1,), 0), torch.as_strided(buffer[:2], (3,), (2,), 1)]
        beside.append(buffer[:3].resize_(6))
    assert an.provenance_of(view) == {"first"}
    assert [an.provenance_of(x) for x in (*beyond, copied)] == [{"first", "second"}] * 3
    assert [an.provenance_of(x) for x in beside] == [{"second"}] * 3
    assert an.provenance_of(buffer[:3]) == set()

"""Opaque calls: what torch runs untracked is followed as one op, or run eagerly; never lost."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import io
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch
from programs.estimates import by
from torch import Tensor, nn
from torch._higher_order_ops import map as _map
from torch._higher_order_ops import scan, while_loop
from torch.distributions import Bernoulli

import ancestral as an
from oracles import exact_gradient, moments
from perturbation import check, seeded


def test_a_factory_of_plain_numbers_stays_plain_and_one_of_a_draw_does_not() -> None:
    with an.record():
        assert type(torch.tensor([1.0, 2.0])) is Tensor
        assert type(torch.full((2,), 1.0)) is Tensor
        end: Any = an.track(torch.ones(3), "z").sum() + 1
        assert an.provenance_of(torch.arange(end) * 1) == {"z"}


class Scaled(nn.Module):
    """A module with a buffer that it writes into."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(x.sum(0))
        return self.seen * 1


class Keeping(nn.Module):
    """A module with tensors that are neither parameters nor buffers."""

    several: list[Tensor]
    named: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.zeros(3)
        self.several = [torch.zeros(3), torch.zeros(3)]
        self.named = {"a": torch.zeros(3)}
        self.inner = Kept()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.one, self.inner(x)[0], self.several[1], self.named["a"]])


class Kept(nn.Module):
    """A module with one such tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.one


class Holding(nn.Module):
    """A module that holds a scripted one and calls it by keyword."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        result: Any = self.inner(input=x)
        return result


@torch.library.custom_op("ancestral_tests::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy() * 2)


@torch.library.custom_op("ancestral_tests::add_into", mutates_args={"into"})
def add_into(x: Tensor, into: Tensor) -> None:
    into.add_(x)


@torch.library.custom_op("ancestral_tests::scale_all", mutates_args=())
def scale_all(xs: list[Tensor], factor: float) -> list[Tensor]:
    return [x * factor for x in xs]


def scripted_write(x: Tensor) -> Any:
    script = torch.jit.CompilationUnit(
        "def write(x: Tensor, y: Tensor):\n    x.add_(y)\n    return y * 2, x\n"
    )
    target = torch.zeros(4, 3)
    view = target[1:]
    return *script.write(target, x), view * 1


def scripted_buffers(x: Tensor) -> Any:
    module = torch.jit.script(Scaled())
    first = module(x)
    return first, module.seen, module(torch.ones(4, 3))


def scripted_given(x: Tensor) -> Any:
    module = torch.jit.script(Scaled())
    module.seen.copy_(x[0])
    return module(torch.ones(4, 3))


def scripted_attributes(x: Tensor) -> Any:
    module = torch.jit.script(Keeping())
    found = []
    for tensor in (module.one, module.inner.one, module.several[1], module.named["a"]):
        tensor.copy_(x[0])
        found.append(module(torch.ones(4, 3)))
    return found


def scripted_mapping(x: Tensor) -> Any:
    script = torch.jit.CompilationUnit(
        "def f(x: Tensor, ys: Dict[str, List[Tensor]]):\n"
        "    return {'a': x * 2, 'b': ys['k'][0] + 1}\n"
    )
    return script.f(ys={"k": [x]}, x=torch.ones(2))


def written_by_ops(x: Tensor) -> Any:
    a, b, c = (torch.zeros(4, 3) for _ in range(3))
    add_into(x, a)
    torch.ops.ancestral_tests.add_into(x, b)
    torch.ops.ancestral_tests.add_into.default(x=x, into=c)
    return a, b, c


def called_ops(x: Tensor) -> Any:
    ops = torch.ops
    return (
        *(ops.ancestral_tests.double(x), double(x=x), ops.ancestral_tests.double.default(x)),
        *(scale_all([torch.ones(2), x], 3.0), ops.aten.add(x, 1), ops.aten.mul.Tensor(x, other=x)),
        *(ops.aten.sum.dim_IntList(x, [0]), ops.aten.cat([x, x]), ops.prims.mul(x, x)),
        ops.aten.sort(x, 0),
    )


def conditions(x: Tensor) -> Any:
    yes = torch.tensor(True)
    return (
        torch.cond(yes, lambda a: a * 2, lambda a: a * 3, (x,)),
        torch.cond(x[0, 0] > -5, lambda a: a * 2, lambda a: a * 3, (torch.ones(2),)),
        torch.cond(x[0, 0] > 1.58, lambda a: a * 2, lambda a: a * 3, (torch.ones(2),)),
        torch.cond(yes, lambda a: a * x, lambda a: a - x, (torch.ones(3),)),
    )


map_over: Any = _map  # partly typed in torch


def loops(x: Tensor) -> Any:
    return (
        while_loop(lambda a: a.abs().sum() < 10, lambda a: (a * 2,), (x,)),
        map_over(lambda a: a * 2, x),
        map_over(lambda a: a * x[0, 0], torch.ones(2)),
        scan(lambda c, a: (c + a, c + a), torch.zeros(3), x),
    )


def compiled_early(x: Tensor) -> Any:
    return EARLY(x), EARLY_MODULE(x)


EARLY = torch.compile(lambda x: x * 2, backend="eager")
torch.manual_seed(0)
EARLY_MODULE = torch.compile(nn.Linear(3, 2), backend="eager")


def compiled(x: Tensor) -> Any:
    return (
        torch.compile(lambda y: y * 2, backend="eager")(x),
        torch.compile(lambda y: y * x, backend="eager", fullgraph=True)(torch.ones(3)),
    )


def graphs(x: Tensor) -> Any:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    return (
        torch.fx.symbolic_trace(layer)(x),
        torch.fx.symbolic_trace(lambda y: y * x)(torch.ones(3)),
        torch.export.export(layer, (torch.ones(4, 3),)).module()(x),
    )


def scripted(x: Tensor) -> Any:
    torch.manual_seed(0)
    inner = torch.jit.script(nn.Linear(3, 2))
    buffer = io.BytesIO()
    torch.jit.save(inner, buffer)
    buffer.seek(0)
    return (
        *(Holding(inner)(x), inner.forward(x), torch.jit.trace(nn.Tanh(), torch.ones(3))(x)),
        *(torch.jit.freeze(inner.eval())(x), torch.jit.load(buffer)(x)),
        torch.jit.wait(torch.jit.fork(lambda y: y * 2, x)),
    )


def differentiated(x: Tensor) -> Any:
    """Derivatives of `torch.autograd.functional`, vectorized: they are no transforms."""
    v, api = torch.tensor([0.1, 0.2, 0.3]), torch.autograd.functional
    return (
        api.jacobian(lambda w: w.sin() * x[0], v, vectorize=True),
        api.jacobian(lambda w: w.sin() * x[0], v, vectorize=True, strategy="forward-mode"),
        api.hessian(lambda w: (w.sin() * x[0]).sum(), v, vectorize=True),
        api.jacobian(torch.sin, x[0], vectorize=True),
    )


def given(x: Tensor) -> Any:
    """What torch.func computes without a transform."""
    layers = [nn.Linear(3, 2) for _ in range(2)]
    stacked, _ = torch.func.stack_module_state(layers)
    _, push = torch.func.linearize(torch.sin, torch.ones(3))
    value, pull = torch.func.vjp(torch.sin, torch.ones(3))[:2]
    return (
        torch.func.functional_call(layers[0], {"weight": x[:2]}, torch.ones(3)),
        *([tensor.shape for tensor in stacked.values()], push(x[0]), pull(x[0]), value),
    )


FOLLOWED: dict[str, Callable[[Tensor], Any]] = {
    function.__name__.replace("_", " "): function
    for function in (
        *(scripted, scripted_write, scripted_buffers, scripted_given, scripted_attributes),
        *(scripted_mapping, written_by_ops, called_ops, conditions, loops, compiled_early),
        *(compiled, graphs, differentiated, given),
    )
}
LETTING_OUT = {"loops", "graphs"}  # the tests of while_loop, the guards of export


@pytest.mark.filterwarnings("ignore")  # of torch: scripting is deprecated
@pytest.mark.parametrize("name", FOLLOWED)
def test_what_runs_untracked_follows_its_input(name: str) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    with an.record() as trace:
        seeded(FOLLOWED[name], an.track(x, "x"))
    check(FOLLOWED[name], x, escapes=bool(trace.escapes) and name in LETTING_OUT)


@pytest.mark.filterwarnings("ignore")
def test_an_argument_that_a_script_gives_back_stays_plain() -> None:
    script = torch.jit.CompilationUnit("def f(x: Tensor, y: Tensor):\n    return x, y * 2\n")
    plain = torch.ones(3)
    with an.record():
        first, second = script.f(plain, an.track(torch.ones(3), "z"))
        assert type(plain) is type(first) is Tensor
        assert an.provenance_of(second) == {"z"}


@pytest.mark.filterwarnings("ignore")
def test_a_number_that_a_script_gives_back_has_escaped() -> None:
    script = torch.jit.CompilationUnit("def f(x: Tensor):\n    return float(x.sum())\n")
    with an.record() as trace:
        script.f(an.track(torch.ones(3), "z"))
        assert [escape.filename for escape in trace.escapes] == [__file__]
        assert an.provenance_of(script.f(torch.ones(3)) * torch.ones(2)) == {"z"}


@pytest.mark.filterwarnings("ignore")
def test_what_a_script_gives_back_after_an_escape_depends_on_it() -> None:
    script = torch.jit.CompilationUnit("def f(x: Tensor):\n    return x * 2\n")
    with an.record():
        an.track(torch.ones(()), "z").item()
        assert an.provenance_of(script.f(torch.ones(3))) == {"z"}
        assert an.provenance_of(
            torch.cond(torch.tensor(True), torch.sin, torch.cos, (torch.ones(2),))
        ) == {"z"}


SCRIPTS = torch.jit.CompilationUnit(
    """
def checked(x: Tensor) -> Tensor:
    if bool(x > 0.5):
        raise ValueError("too large")
    return x

def taken(x: Tensor) -> Tensor:
    return torch.index_select(torch.ones(1), 0, x.long().view(1))
"""
)
AT = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("control", ["strict", "after"])
def test_a_script_that_raises_by_a_value_decides_as_one_that_returns(control: str) -> None:
    def program(theta: Tensor) -> Tensor:
        z, scale = Bernoulli(logits=theta[0]).sample(), 1.0
        with suppress(torch.jit.Error):
            SCRIPTS.checked(z)
            scale = 2.0
        return Bernoulli(logits=theta[1]).sample() * scale + z

    found = moments(program, [AT], by(control=control))
    torch.testing.assert_close(found.mean, exact_gradient(program, [AT]))


@torch.library.custom_op("ancestral_tests::small", mutates_args=())
def small(x: Tensor) -> Tensor:
    """Return a number below a half, times two; it tells nothing of shapes alone."""
    if x.item() > 0.5:
        raise RuntimeError("too large")
    return x * 2


def test_a_custom_op_that_raises_by_a_value_refuses_the_gradient() -> None:
    for value in (0.0, 1.0):
        with an.record():
            z = Bernoulli(logits=AT[0]).sample()
            with suppress(RuntimeError):
                small(z * 0 + value)
            loss = z * AT[1]
        raised = pytest.raises(an.errors.CaughtError, match="too large") if value else nullcontext()
        with raised:
            an.backward(loss)


def test_an_op_of_a_script_that_raises_by_a_value_refuses_the_gradient() -> None:
    for value in (0.0, 1.0):
        with an.record():
            z = Bernoulli(logits=AT[0]).sample()
            with suppress(RuntimeError, IndexError):
                SCRIPTS.taken(z * 0 + value)
            loss = z * AT[1]
        raised = pytest.raises(an.errors.CaughtError, match="index") if value else nullcontext()
        with raised:
            an.backward(loss)

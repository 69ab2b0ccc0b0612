"""Code that torch compiles and that records: it runs eagerly, as if nobody had compiled it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

import ancestral as an

# The programs branch by what is drawn, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")

_Compile = Callable[[Any], Any]


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.3, -0.5]]))
            self.layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = Bernoulli(logits=self.layer(x)).sample()
        if z.sum() > 1:
            z = z * 2
        return (z - 0.3).pow(2).sum()


def _rows(trace: Any) -> list[Any]:
    return [
        (n.name, n.type, n.value.tolist(), sorted(n.parents), n.log_prob.tolist())
        for n in trace.values()
        if n.fn is not None
    ]


_X = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 1.0]])


def _wrapped(compile_: _Compile) -> Any:
    model = an.wrap(_Net())
    loss = compile_(model)(_X)
    an.backward(loss)
    return loss.item(), _rows(model.trace), model.layer.weight.grad


def _compiled_in_place(compile_: _Compile) -> Any:
    model = an.wrap(_Net())
    if compile_ is not _plain:
        model.compile(backend="eager")
    loss = model(_X)
    an.backward(loss)
    return loss.item(), _rows(model.trace), model.layer.weight.grad


def _opens(compile_: _Compile) -> Any:
    model = _Net()

    def step(x: Tensor) -> Any:
        y = x * 2  # something to compile before
        with an.record() as trace:
            loss = model(y / 2)
        return loss, trace

    loss, trace = compile_(step)(_X)
    an.backward(loss)
    return loss.item(), _rows(trace), model.layer.weight.grad


def _goes_on(compile_: _Compile) -> Any:
    model = _Net()

    def step(x: Tensor) -> Any:
        with an.record(control="after") as trace, an.handlers.scale(2.0):
            loss = an.cost("loss", model(x))
        an.backward(loss)
        return loss.detach() * 2 + x.sum(), trace

    compiled = compile_(step)
    compiled(_X)
    loss, trace = compiled(_X)
    return loss.item(), _rows(trace), model.layer.weight.grad


def _decorated(compile_: _Compile) -> Any:
    model = _Net()
    recorded = an.record()(lambda x: model(x))
    loss = compile_(recorded)(_X)
    an.backward(loss)
    return loss.item(), _rows(recorded.trace), model.layer.weight.grad


def _within(compile_: _Compile) -> Any:
    """Record a function that was compiled, and called, outside of any recording before."""
    model = _Net()

    def statements(x: Tensor) -> Tensor:
        z = an.sample("z", Bernoulli(logits=model.layer(x)))
        an.deterministic("d", z + 1)
        return an.cost("c", (z - 0.3).pow(2).sum())

    compiled = compile_(statements)
    compiled(_X)
    with an.record() as trace, an.handlers.condition({}):
        loss = compiled(_X)
    an.backward(loss)
    return loss.item(), _rows(trace), model.layer.weight.grad


def _gradient(compile_: _Compile) -> Any:
    model = _Net()
    with an.record() as trace:
        loss = model(_X)
    compile_(lambda value: an.backward(value))(loss)
    return loss.item(), _rows(trace), model.layer.weight.grad


def _bound(compile_: _Compile) -> Any:
    model = _Net()

    def guide(x: Tensor) -> None:
        an.sample("z", Independent(Bernoulli(logits=model.layer(x)), 2))

    def prior(x: Tensor) -> None:
        z = an.sample("z", Independent(Bernoulli(torch.full((3, 1), 0.5)), 2))
        an.sample("y", Normal(z.sum(), 1.0), obs=torch.tensor(1.0))

    surrogate = compile_(lambda x: an.infer.elbo(prior, guide, x).surrogate)(_X)
    surrogate.backward()
    return surrogate.item(), [], model.layer.weight.grad


def _plain(function: Any) -> Any:
    return function


_CASES = (
    _wrapped,
    _compiled_in_place,
    _opens,
    _goes_on,
    _decorated,
    _within,
    _gradient,
    _bound,
)


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.__name__.strip("_"))
def test_code_that_is_compiled_and_records_does_what_it_does_uncompiled(
    case: Callable[[_Compile], Any], backend: str
) -> None:
    torch.manual_seed(3)
    value, rows, gradient = case(_plain)
    torch.manual_seed(3)
    compiled = case(lambda function: torch.compile(function, backend=backend))
    assert compiled[:2] == (value, rows)
    torch.testing.assert_close(compiled[2], gradient, rtol=0, atol=0)
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_code_around_a_recording_is_compiled_again_after_it() -> None:
    seen: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        seen.append(len(list(graph.graph.nodes)))
        return graph.forward

    def step(x: Tensor) -> Tensor:
        with an.record():
            Bernoulli(x.sigmoid()).sample()
        return x

    torch.compile(step, backend=backend)(_X)
    before = len(seen)
    torch.compile(lambda x: x * 2 + 1, backend=backend)(_X)
    assert len(seen) == before + 1


@pytest.mark.parametrize("case", [_wrapped, _opens, _decorated, _gradient, _bound])
def test_a_whole_graph_is_refused_with_the_reason(case: Callable[[_Compile], Any]) -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported, match="leave out fullgraph=True"):
        case(lambda function: torch.compile(function, backend="eager", fullgraph=True))
    with an.record() as trace:  # nothing of the attempt is left
        Bernoulli(torch.tensor(0.5)).sample()
    assert len(trace) == 1

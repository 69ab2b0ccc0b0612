"""What is replaced in torch, between recordings: everything answers as it did before them."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributions as d
from families import FAMILIES, parameters_of
from recorded import Doubled, P, recorded
from torch import Tensor, bernoulli

import ancestral as an

pytestmark = pytest.mark.usefixtures("restored")
LOGITS = torch.tensor([0.3, -0.2], requires_grad=True)
_SAVED: Any = (d.Normal.rsample, d.Bernoulli.log_prob)  # before any recording of this file


def _answers(name: str) -> list[Any]:
    """Return what a distribution of a family answers, errors among it."""
    fn = FAMILIES[name].make(**parameters_of(name))
    torch.manual_seed(3)
    asked: list[Callable[[], Any]] = [
        fn.sample,
        lambda: fn.sample((4,)),
        lambda: fn.sample(sample_shape=torch.Size((2,))),
        fn.rsample,
        lambda: fn.log_prob(fn.sample()),
        lambda: fn.log_prob(value=fn.sample()),
        lambda: fn.log_prob("no tensor"),
        lambda: fn.log_prob(),
        lambda: fn.sample(1, 2, 3),
        *(fn.entropy, lambda: fn.mode, lambda: fn.mean, lambda: fn.variance),
        lambda: fn.cdf(fn.sample()),
        lambda: fn.icdf(torch.full(fn.batch_shape, 0.3, dtype=torch.float64)),
        lambda: d.kl_divergence(fn, fn),
    ]
    return [_answer(each) for each in asked]


def _answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.filterwarnings("ignore")  # of families that draw again and again
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_answers_between_recordings_as_before(name: str) -> None:
    before = _answers(name)
    recorded()
    assert hasattr(vars(d.Bernoulli)["sample"], "__wrapped__")
    after = _answers(name)
    for one, other in zip(before, after, strict=True):
        if isinstance(one, Tensor):
            assert type(other) is type(one)
            assert torch.equal(other, one) or bool((other.isnan() == one.isnan()).all())
        else:
            assert one == other


def test_a_function_that_was_saved_is_still_the_one_and_is_followed() -> None:
    rsample, log_prob = _SAVED
    recorded()
    assert torch.bernoulli is bernoulli
    with an.record() as trace:
        z = bernoulli(LOGITS.sigmoid())
        x = d.Normal(LOGITS, 1.0).rsample()
        rsample(d.Normal(x, 1.0))
        log_prob(d.Bernoulli(P), z)
    assert list(trace)[:2] == ["z", "x"]


def test_methods_are_pickled_and_copied() -> None:
    for _ in range(2):
        for method in (d.Bernoulli.sample, d.Normal.log_prob, torch.bernoulli, d.Beta):
            assert pickle.loads(pickle.dumps(method)) is method
            assert copy.deepcopy(method) is method
        coin = pickle.loads(pickle.dumps(d.Bernoulli(P)))
        torch.manual_seed(0)
        one = coin.sample()
        torch.manual_seed(0)
        assert torch.equal(one, copy.deepcopy(coin).sample())
        recorded()


def test_while_another_thread_records_plain_draws_are_plain() -> None:
    begun, end = threading.Event(), threading.Event()

    def run() -> None:
        with an.record():
            begun.set()
            end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    torch.manual_seed(0)
    found = d.Bernoulli(P).sample(), d.Normal(P, P).rsample(), d.Normal(P, P).log_prob(P)
    end.set()
    thread.join()
    torch.manual_seed(0)
    for one, other in zip(
        found,
        (d.Bernoulli(P).sample(), d.Normal(P, P).rsample(), d.Normal(P, P).log_prob(P)),
        strict=True,
    ):
        assert type(one) is type(other) is Tensor
        assert torch.equal(one, other)


COMPILED: dict[str, Callable[[Tensor], Tensor]] = {
    "a draw": lambda p: d.Bernoulli(p).sample(),
    "a density": lambda p: d.Independent(d.Normal(p, p), 1).log_prob(p),
    "a transformed draw": lambda p: d.LogNormal(p, p).rsample(),
    "a mode": lambda p: d.Beta(p + 2, p + 2).mode,
    "functions": lambda p: torch.bernoulli(p.detach()) + torch.full((2,), 1.0),
    "methods of tensors": lambda p: (
        Tensor.detach(p) + p.detach() + p.data + p.new_full((2,), 1.0) + p.new_tensor([1.0, 2.0])
    ),
    "a function with its own backward": lambda p: Doubled.apply(p),  # type: ignore[no-untyped-call]
    "a transform": lambda p: torch.vmap(lambda x: d.Normal(x, 1.0).log_prob(x))(p),
}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by the compiler
@pytest.mark.parametrize("name", COMPILED)
def test_what_is_compiled_between_recordings_is_the_same_whole_graph(name: str) -> None:
    graphs: list[str] = []

    def backend(module: Any, _: Any) -> Any:
        graphs.append(module.print_readable(print_output=False).split("# File")[0])
        graphs.append(str([(node.op, str(node.target)) for node in module.graph.nodes]))
        return module.forward

    def run(between: Callable[[], None]) -> Tensor:
        torch._dynamo.reset()
        compiled: Any = torch.compile(COMPILED[name], backend=backend, fullgraph=True)
        torch.manual_seed(0)
        compiled(P)
        between()
        torch.manual_seed(0)
        found: Tensor = compiled(P)
        return found

    d.Distribution.set_default_validate_args(False)  # which the compiler cannot follow
    before = run(lambda: None)
    recorded()
    after = run(recorded)
    assert torch.equal(before, after)
    half = len(graphs) // 2
    assert graphs[:half] == graphs[half:]
    assert half == 2  # one graph, once


def _log_prob(x: Tensor) -> Any:
    return d.Normal(x, 1.0).log_prob(P[0])


def scripted(p: Tensor) -> Tensor:
    return torch.bernoulli(p) + p.detach() + torch.full([2], 1.0)


def test_what_is_scripted_or_transformed_between_recordings_is_as_before() -> None:
    def run() -> list[Tensor]:
        torch.manual_seed(0)
        score: Any = torch.func.grad(_log_prob)
        return [torch.jit.script(scripted)(P), torch.func.vmap(score)(P)]

    before = run()
    recorded()
    for one, other in zip(before, run(), strict=True):
        assert torch.equal(one, other)


EXIT = """
import atexit, torch
import ancestral as an
from torch.distributions import Bernoulli

class Last:
    def __del__(self):
        Bernoulli(torch.tensor(0.3)).sample()

kept = Last()
with an.record():
    Bernoulli(torch.tensor(0.3)).sample()
atexit.register(lambda: Bernoulli(torch.tensor(0.3)).sample())
"""


def test_an_interpreter_that_ends_says_nothing() -> None:
    path = os.pathsep.join(["", *(each for each in sys.path if each)])
    done = subprocess.run(
        [sys.executable, "-c", EXIT],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.returncode, done.stderr) == (0, "")

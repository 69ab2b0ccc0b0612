"""What is replaced in torch, between recordings: everything answers as it did before them."""

import concurrent.futures
import copy
import gc
import inspect
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributions as d
from families import FAMILIES, parameters_of
from torch import Tensor, bernoulli

import ancestral as an
from ancestral.trace.context.patch import Patch, own_of
from ancestral.trace.context.switch import switch

P = torch.tensor([0.2, 0.7], dtype=torch.float64)
LOGITS = torch.tensor([0.3, -0.2], requires_grad=True)
_SAVED: Any = (d.Normal.rsample, d.Bernoulli.log_prob)  # before any recording of this file


def recorded() -> None:
    """Record something, and end the recording."""
    with an.record():
        d.Bernoulli(P).sample()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    an.restore_torch()
    yield
    assert not switch.is_on
    an.restore_torch()


def _patches() -> list[Patch]:
    """Return what stays and what is put back, but for classes of users and what others replace."""
    with an.record():
        places = [(patch.owner, patch.name) for patch in switch.replaced]
        return [
            patch
            for patch in switch.replaced
            if str(getattr(patch.owner, "__module__", "torch")).partition(".")[0] in _OWNERS
            and places.count((patch.owner, patch.name)) == 1
        ]


_OWNERS = ("torch", "threading", "multiprocessing", "concurrent", "asyncio", "ancestral")
PATCHES = _patches()


def _name(patch: Patch) -> str:
    return f"{getattr(patch.owner, '__name__', patch.owner)}.{patch.name}"


def _shown(value: Any) -> tuple[Any, ...]:
    """Return what inspection says of an attribute."""
    try:
        signature: Any = inspect.signature(value)
    except (TypeError, ValueError):
        signature = None
    told = ("__name__", "__qualname__", "__module__", "__doc__")
    return signature, *(getattr(value, each, None) for each in told)


@pytest.mark.parametrize("patch", PATCHES, ids=_name)
def test_an_attribute_is_back_after_a_recording_or_when_torch_is_restored(patch: Patch) -> None:
    own, held = patch.there, getattr(patch.owner, patch.name, None)
    shown = _shown(held)
    with an.record():
        assert patch.there is not own
    if not patch.stays:
        assert patch.there is own or isinstance(patch.owner, type)
        assert getattr(patch.owner, patch.name, None) == held
        assert patch.there is own
    if patch.name != "__init_subclass__":  # nobody looks at what Python alone calls
        assert _shown(getattr(patch.owner, patch.name, None)) == shown
    an.restore_torch()
    assert patch.there is own
    with an.record():
        assert patch.there is not own  # it is replaced anew


def test_a_step_of_a_training_loop_gives_nothing_back() -> None:
    adam = torch.optim.Adam([LOGITS], lr=0.1)
    for _ in range(2):
        with an.record():
            loss = (d.Bernoulli(logits=LOGITS).sample() - 0.3).square().sum()
            waiting = [patch for patch in PATCHES if own_of(patch.there) is not patch.there]
            places = [patch.there for patch in waiting]
        adam.zero_grad()
        an.backward(loss)
        adam.step()
        assert [patch.there for patch in waiting] == places
        assert len(waiting) > 30
    assert Tensor.detach is vars(Tensor)["detach"]
    recorded()
    assert [patch.there for patch in waiting] == places


def test_who_asks_while_another_thread_opens_a_recording_is_answered_at_once() -> None:
    recorded()
    x = torch.ones(2, requires_grad=True)
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        with switch.lock:
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(60)
    assert not x.detach().requires_grad
    x.data = torch.zeros(2)
    assert Tensor.detach == torch._C.TensorBase.detach is not vars(Tensor)["detach"]
    end.set()
    thread.join()
    x.detach()
    assert torch.equal(x.data, torch.zeros(2))
    assert Tensor.detach is vars(Tensor)["detach"]
    with pytest.raises(RuntimeError, match="Deleting tensor data"):
        del x.data


def test_a_class_below_two_finds_what_its_order_says() -> None:
    told: list[type] = []

    class Beside:
        def __init_subclass__(cls, **options: Any) -> None:
            told.append(cls)
            super().__init_subclass__(**options)

    recorded()

    class Mine(concurrent.futures.Executor, Beside):
        pass

    class Doubled(Tensor, Beside):
        pass

    assert told == [Mine, Doubled]


def test_only_what_draws_or_scores_stays() -> None:
    staying = {patch.name for patch in PATCHES if patch.stays}
    assert staying == {
        *("sample", "rsample", "log_prob", "__init__", "_validate_sample", "broadcast_all"),
        "__init_subclass__",
        *("cdf", "icdf", "entropy", "mode", "variance"),
    }
    owners = {getattr(p.owner, "__module__", p.owner.__name__) for p in PATCHES if p.stays}
    assert all(owner.startswith(("torch.distributions.", "ancestral.")) for owner in owners)


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


def test_it_is_refused_to_restore_torch_while_a_recording_is_open() -> None:
    def held() -> Generator[None]:
        with an.record():
            yield

    generator = held()
    next(generator)
    with pytest.raises(RuntimeError, match=r"an\.restore_torch\(\).*a recording is open"):
        an.restore_torch()
    failed: list[BaseException] = []

    def elsewhere() -> None:
        try:
            an.restore_torch()
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(failed) == 1
    generator.close()
    an.restore_torch()
    assert not hasattr(vars(d.Bernoulli)["sample"], "__wrapped__")


def test_torch_is_restored_twice_and_the_next_recording_replaces_again() -> None:
    own = vars(d.Bernoulli)["sample"]
    for _ in range(2):
        with an.record() as trace:
            d.Bernoulli(P).sample()
        assert len(trace) == 1
        assert vars(d.Bernoulli)["sample"] is not own
        an.restore_torch()
        an.restore_torch()
        assert vars(d.Bernoulli)["sample"] is own


def ones(self: Any, sample_shape: Any = ()) -> Tensor:
    return torch.ones(2, dtype=torch.float64)


PLACES = [(d.Bernoulli, "sample"), (Tensor, "detach"), (torch, "full"), (torch.nested, "narrow")]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(("owner", "name"), PLACES)
def test_what_a_test_puts_there_is_there_between_recordings(
    owner: Any, name: str, is_first: bool
) -> None:
    own = vars(owner).get(name)
    if not is_first:
        recorded()
    with mock.patch.object(owner, name, ones):
        for _ in range(2):
            assert vars(owner)[name] is ones
            with an.record():
                assert vars(owner)[name] is not ones
        assert vars(owner)[name] is ones
    an.restore_torch()
    assert vars(owner).get(name) is own


def test_what_a_test_puts_there_is_a_draw() -> None:
    for _ in range(2):
        with mock.patch.object(d.Bernoulli, "sample", ones), an.record() as trace:
            z = d.Bernoulli(P).sample()
        assert torch.equal(trace["z"].value, torch.ones(2, dtype=torch.float64))
        assert an.provenance_of(z) == {"z"}
        recorded()


@pytest.mark.parametrize(("owner", "name"), PLACES)
def test_a_patch_of_a_test_may_end_after_the_recording_that_it_began_in(
    owner: Any, name: str
) -> None:
    own = vars(owner).get(name)
    patch = mock.patch.object(owner, name, ones)
    with an.record():
        patch.start()
    assert vars(owner)[name] is ones
    patch.stop()
    recorded()
    an.restore_torch()
    assert vars(owner).get(name) is own


def test_a_mock_is_a_draw_and_counts_its_calls() -> None:
    recorded()
    with mock.patch.object(d.Bernoulli, "sample", autospec=True) as spy:
        spy.return_value = torch.ones(2)
        with an.record() as trace:
            d.Bernoulli(P).sample()
        assert d.Bernoulli.sample is spy
        d.Bernoulli(P).sample()
        assert spy.call_count == 2
    assert list(trace) == ["bernoulli"]
    with mock.patch.object(d.Bernoulli, "sample", mock.Mock(return_value=torch.ones(2))):
        with an.record() as trace:
            d.Bernoulli(P).sample()
        d.Bernoulli.sample.assert_called_once()
    assert list(trace) == ["bernoulli"]


def test_a_wrapper_of_another_library_stays_and_draws_once() -> None:
    own = vars(d.Bernoulli)["sample"]
    recorded()
    ours: Any = d.Bernoulli.sample
    calls: list[int] = []

    def theirs(self: Any, *args: Any) -> Any:
        calls.append(1)
        return ours(self, *args)

    with mock.patch.object(d.Bernoulli, "sample", theirs):
        for _ in range(2):
            with an.record() as trace:
                d.Bernoulli(P).sample()
            assert len(trace) == 1
        an.restore_torch()
        assert vars(d.Bernoulli)["sample"] is theirs
        assert d.Bernoulli(P).sample().shape == (2,)
        assert len(calls) == 3
    an.restore_torch()
    assert vars(d.Bernoulli)["sample"] is own


def test_a_class_that_is_defined_between_recordings_is_caught_and_left_alone() -> None:
    recorded()

    class Silent:
        def __init_subclass__(cls) -> None:
            """Tell nobody above."""

    class Late(Silent, d.Bernoulli):
        again: Any = d.Bernoulli.sample
        sample = ones

    class Below(Late):
        def sample(self, sample_shape: Any = ()) -> Any:
            return super().sample() + super().again()

    assert vars(Late)["sample"] is ones
    for _ in range(2):
        with an.record() as trace:
            z = Late(P).sample()
            x = Below(P).sample()
            y = Late(P).again()
        assert list(trace) == ["z", "x", "y"]
        assert an.provenance_of(z + x + y) == {"z", "x", "y"}
        assert vars(Late)["sample"] is ones
        assert not hasattr(vars(Below)["sample"], "__wrapped__")
    Late.sample = d.Bernoulli.sample
    with an.record() as trace:
        Late(P).sample()
    assert len(trace) == 1


def test_a_class_of_a_user_is_let_go_of() -> None:
    def used() -> "weakref.ref[type]":
        kind = type("Mine", (d.Bernoulli,), {"log_prob": lambda self, value: value})
        recorded()
        return weakref.ref(kind)

    held = used()
    gc.collect()
    assert held() is None


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


def test_an_error_in_the_block_leaves_everything_as_before() -> None:
    recorded()
    places = [(patch, patch.there) for patch in PATCHES if not patch.stays]
    with pytest.raises(ZeroDivisionError), an.record(), an.record():
        raise ZeroDivisionError
    assert all(patch.there is was for patch, was in places)
    assert not switch.is_on


def test_an_error_while_a_recording_begins_leaves_everything_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded()
    places = [(patch, patch.there) for patch in PATCHES if not patch.stays]

    def fail() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(switch, "_finding", [*switch._finding, fail])
        with pytest.raises(KeyboardInterrupt), an.record():
            pass
    assert all(patch.there is was for patch, was in places)
    assert not switch.is_on
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


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


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

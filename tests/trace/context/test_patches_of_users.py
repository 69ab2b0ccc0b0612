"""Classes of users below those of torch: met in recordings, their own between, let go of."""

import concurrent.futures
import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributions as d
from recorded import P, recorded
from torch import Tensor

import ancestral as an
from ancestral.trace.context.switch import switch

pytestmark = pytest.mark.usefixtures("restored")


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    """Look for what nobody holds only where a test says so: recordings look anew after that."""
    gc.disable()
    yield
    gc.enable()


def ones(self: Any, sample_shape: Any = ()) -> Tensor:
    return torch.ones(2)


def twos(self: Any, sample_shape: Any = ()) -> Tensor:
    return torch.full((2,), 2.0)


def opens_as_before() -> bool:
    known = switch._as_before
    return known is not None and bool(known.unchanged)


class Meta(type):
    """A metaclass whose classes are all equal, and which counts what is set."""

    count = 0

    def __setattr__(cls, name: str, value: Any) -> None:
        Meta.count += 1
        super().__setattr__(name, value)

    def __eq__(cls, other: object) -> bool:
        return isinstance(other, Meta)

    def __hash__(cls) -> int:
        return 1


class Silent:
    """A base that tells nobody above of classes below."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Tell nobody."""


KINDS: dict[str, Callable[[], Any]] = {
    "a class": lambda: type("Mine", (d.Bernoulli,), {"sample": ones}),
    "a silent class": lambda: type("Mine", (Silent, d.Bernoulli), {"sample": ones}),
    "a class of a metaclass": lambda: Meta("Mine", (d.Bernoulli,), {"sample": ones}),
    "a class with slots": lambda: type(
        "Mine", (d.Bernoulli,), {"sample": ones, "__slots__": ("slot",)}
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield KINDS[request.param]()
    gc.collect()


def drawn(kind: Any) -> tuple[float, int]:
    """Return what a class draws, as its site says too, and how many sites there are."""
    with an.record() as trace:
        z = kind(P).sample()
    assert an.provenance_of(z) == set(trace)
    assert torch.equal(trace["z"].value, an.untrack(z))
    return float(an.untrack(z)[0]), len(trace)


def test_a_class_is_its_own_between_recordings_which_open_as_before(kind: Any) -> None:
    before = dict(vars(kind))
    for count in range(4):
        assert drawn(kind) == (1.0, 1)
        after = dict(vars(kind))
        assert after.keys() == before.keys()
        assert all(after[name] is before[name] for name in before)
        assert inspect.getsource(kind.sample).startswith("def ones")
        assert opens_as_before() == (count > 0)  # where classes were the same twice


def _dict_of(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = gc.get_referents(vars(kind))[0]
    return found


def _set(kind: Any, *values: object) -> None:
    for value in values:
        kind.sample = value


def _deleted(kind: Any) -> None:
    _dict_of(kind).pop("sample")
    kind.sample = twos


def _added(kind: Any) -> None:
    kind.rsample = twos
    kind.sample = lambda self: self.rsample()


CHANGES: dict[str, Callable[[Any], object]] = {
    "set": lambda kind: setattr(kind, "sample", twos),
    "set past the metaclass": lambda kind: type.__setattr__(kind, "sample", twos),
    "set in the dictionary": lambda kind: _dict_of(kind).update(sample=twos),
    "deleted there": lambda kind: _deleted(kind),
    "set twice": lambda kind: _set(kind, len, twos),
    "added": lambda kind: _added(kind),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_method_that_is_replaced_between_recordings_is_met_and_kept(
    kind: Any, change: str
) -> None:
    assert drawn(kind) == drawn(kind) == (1.0, 1)
    CHANGES[change](kind)
    put = dict(vars(kind))
    assert not opens_as_before()
    for _ in range(3):
        assert drawn(kind) == (2.0, 1)
        assert dict(vars(kind)) == put
    assert opens_as_before()


def test_a_method_that_is_deleted_or_inherited_is_met(kind: Any) -> None:
    drawn(kind)
    del kind.sample
    assert not opens_as_before()
    torch.manual_seed(0)
    assert drawn(kind)[1] == 1
    assert "sample" not in vars(kind)
    drawn(kind)
    base: Any = type(kind)("Base", (d.Bernoulli,), {"sample": twos})
    below: Any = type(kind)("Below", (base,), {})
    assert not opens_as_before()
    assert drawn(below) == drawn(below) == (2.0, 1)
    base.sample = ones
    assert not opens_as_before()
    assert drawn(below) == (1.0, 1)
    base.log_prob = lambda self, value: value
    assert not opens_as_before()
    assert drawn(below) == (1.0, 1)


def test_what_is_put_there_within_a_recording_stays(kind: Any) -> None:
    for _ in range(2):
        drawn(kind)
    with an.record():
        kind.sample = twos
    assert vars(kind)["sample"] is twos
    assert drawn(kind) == (2.0, 1)
    assert vars(kind)["sample"] is twos


def test_a_class_that_replaces_another_is_met() -> None:
    held: list[Any] = [KINDS["a class of a metaclass"]()]
    for value in (twos, ones, twos, ones):
        drawn(held[0])
        drawn(held[0])
        held[0] = None
        gc.collect()
        held[0] = Meta("Mine", (d.Bernoulli,), {"sample": value})
        assert not opens_as_before()
        assert drawn(held[0]) == (2.0 if value is twos else 1.0, 1)


def test_a_class_that_is_defined_within_a_recording_is_met_in_the_next() -> None:
    with an.record() as trace:
        kind: Any = type("Mine", (d.Bernoulli,), {"sample": ones})
        z = kind(P).sample()
    assert an.provenance_of(z) == set(trace) == {"z"}
    assert vars(kind)["sample"] is ones
    for _ in range(3):
        assert drawn(kind) == (1.0, 1)
        assert vars(kind)["sample"] is ones


def _of_distribution() -> Any:
    class Mine(d.Bernoulli):
        def sample(self, sample_shape: Any = ()) -> Any:
            return super().sample()  # type: ignore[no-untyped-call]

    return Mine


def _of_tensor() -> Any:
    class Mine(Tensor):
        @classmethod
        def __torch_function__(cls, *args: Any) -> Any:
            return super().__torch_function__(*args)  # type: ignore[no-untyped-call]

    return Mine


def _of_executor() -> Any:
    class Mine(concurrent.futures.Executor):
        def submit(self, *args: Any) -> Any:  # type: ignore[override]
            return super().submit(*args)

    return Mine


@pytest.mark.parametrize("make", [_of_distribution, _of_tensor, _of_executor])
@pytest.mark.parametrize("count", [1, 3])
def test_a_class_is_let_go_of(make: Callable[[], Any], count: int) -> None:
    held = weakref.ref(make())
    for _ in range(count):
        recorded()
    assert count == 1 or opens_as_before()
    gc.collect()
    assert held() is None
    recorded()
    recorded()
    assert opens_as_before()


def test_the_collector_may_come_while_a_recording_is_open_or_opens(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = vars(kind)["sample"]
    for _ in range(2):
        drawn(kind)
        with an.record() as trace:
            gc.collect()
            z = kind(P).sample()
        assert an.provenance_of(z) == set(trace) == {"z"}
        assert vars(kind)["sample"] is own
    with monkeypatch.context() as patch:
        patch.setattr(switch, "_entering", [*switch._entering, gc.collect])
        assert drawn(kind) == drawn(kind) == (1.0, 1)
    assert drawn(kind) == drawn(kind) == (1.0, 1)
    known = switch._as_before
    assert known is not None
    with monkeypatch.context() as patch:
        hold = known.unchanged._do_hold
        patch.setattr(known.unchanged, "_do_hold", lambda: hold() and gc.collect() >= 0)
        assert drawn(kind) == (1.0, 1)
    assert vars(kind)["sample"] is own

"""Checkpoints: a run that stops and goes on is bit for bit one that did not."""

import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, constraints

import ancestral as an
from ancestral.estimators import AcrossRanks, Neural, Optimal, RunningMean
from ancestral.tools.demo.belief_net import BeliefNet

pytest.importorskip("safetensors", reason="needs pip install 'ancestral[safetensors]'")

DATA = torch.bernoulli(torch.full((8, 6), 0.4), generator=torch.Generator().manual_seed(0))
GENERATOR = torch.default_generator


class Net:
    """A belief net that is trained with something that has a state."""

    def __init__(self, **held: Any) -> None:
        self.model, self.held = BeliefNet(pixels=6, units=4, causes=3), held
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.parts = {"model": self.model, "optimizer": self.optimizer, **held}

    def begin(self) -> None:
        """Make what the first run of a program makes."""

    def gradient(self) -> None:
        with an.record():
            loss = self.model(DATA)
        an.backward(loss, **self.held)

    def train(self, steps: int) -> list[Any]:
        """Return all that is known after some steps."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.gradient()
            self.optimizer.step()
        return [*leaves({name: part.state_dict() for name, part in self.parts.items()})]


class Compiled(Net):
    def __init__(self, **held: Any) -> None:
        super().__init__(**held)
        self.step = an.compile(self.model, backend="eager", **held)

    def gradient(self) -> None:
        self.step(DATA).backward()


class Program(Net):
    """A guide whose parameters come in another order than that of their names."""

    def __init__(self) -> None:
        self.store, self.held = an.ParamStore(), {}
        self.parts = {"store": self.store}

    def begin(self) -> None:
        self.bound()
        self.optimizer = torch.optim.Adam(self.store.parameters(), lr=0.05)
        self.parts = {"store": self.store, "optimizer": self.optimizer}

    def bound(self) -> Tensor:
        def model() -> None:
            z = an.sample("z", Independent(Normal(torch.zeros(3), 1.0), 1))
            an.sample("x", Bernoulli(logits=z.sum()), obs=torch.tensor(1.0))

        def guide() -> None:
            scale = an.param("scale", torch.ones(3), constraint=constraints.positive)
            place = an.param("place", torch.zeros(3))
            an.sample("z", Independent(Normal(place, scale), 1))

        with self.store:
            return an.infer.elbo(model, guide).surrogate

    def gradient(self) -> None:
        self.bound().backward()


def shared() -> Neural:
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    return Neural(torch.linspace(0, 1, 16).view(8, 2), net)


RUNS: dict[str, Callable[[], Net]] = {
    "running mean": lambda: Net(baseline=RunningMean()),
    "optimal": lambda: Net(baseline=Optimal()),
    "neural": lambda: Net(baseline=Neural()),
    "one network for all sites": lambda: Net(baseline=shared()),
    "across ranks": lambda: Net(baseline=AcrossRanks(Optimal())),
    "networks across ranks": lambda: Net(baseline=AcrossRanks(Neural())),
    "monitor": lambda: Net(monitor=an.Monitor(every=2)),
    "compiled": lambda: Compiled(baseline=RunningMean()),
    "store": Program,
}


def leaves(state: Any) -> Iterator[Any]:
    """Yield what a state holds, in its order."""
    if isinstance(state, Mapping):
        state = [each for item in state.items() for each in item]
    if isinstance(state, (list, tuple)):
        for each in state:
            yield from leaves(each)
    else:
        yield state.clone() if isinstance(state, Tensor) else state


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )


def by_torch(run: Net, path: Path) -> Callable[[Net], None]:
    torch.save({name: part.state_dict() for name, part in run.parts.items()}, path)
    numbers = GENERATOR.get_state()

    def load(other: Net) -> None:
        for name, state in torch.load(path, weights_only=True).items():
            other.parts[name].load_state_dict(state)
        GENERATOR.set_state(numbers)

    return load


def by_checkpoint(run: Net, path: Path) -> Callable[[Net], None]:
    an.save_checkpoint(path, **run.parts, generator=GENERATOR, step=4)

    def load(other: Net) -> None:
        assert an.load_checkpoint(path, **other.parts, generator=GENERATOR) == {"step": 4}

    return load


WAYS = [(name, save) for name in RUNS for save in (by_torch, by_checkpoint)]
WAYS.remove(("compiled", by_torch))  # it takes seconds to compile


@pytest.mark.parametrize(("name", "save"), WAYS)
def test_a_run_goes_on_bit_for_bit(
    name: str, save: Callable[[Net, Path], Callable[[Net], None]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    run = RUNS[name]()
    run.begin()
    run.train(4)
    load = save(run, tmp_path / "first")
    kept = {key: part.state_dict() for key, part in run.held.items()}
    was = [*leaves(kept)]
    whole = [*run.train(3), GENERATOR.get_state()]
    assert same([*leaves(kept)], was)  # no step changes a state that was taken before
    for trip in range(2):
        torch.manual_seed(1 + trip)
        other = RUNS[name]()
        other.begin()
        load(other)
        load = save(other, tmp_path / f"trip {trip}")  # before it has met a site
        assert same([*other.train(3), GENERATOR.get_state()], whole)


def test_every_public_class_with_a_state_is_among_these_runs() -> None:
    tried = {type(part) for make in RUNS.values() for part in make().parts.values()}
    public = {
        found
        for home in (an, an.estimators, an.infer, an.handlers)
        for name in home.__all__
        if isinstance(found := getattr(home, name), type)
    }
    with_state = {each for each in public if hasattr(each, "state_dict")}
    assert with_state == {each for each in tried if each.__module__.startswith("ancestral.")} - {
        BeliefNet
    }


def test_a_state_loaded_before_the_program_ran_has_the_order_of_the_program() -> None:
    """Optimizers know parameters by their order, and safetensors by that of the names."""
    from safetensors.torch import load, save

    torch.manual_seed(0)
    run = Program()
    run.begin()
    other = Program()
    other.store.load_state_dict(load(save(run.store.state_dict())))
    assert sorted(other.store) == ["place", "scale"]
    other.begin()
    assert list(other.store) == list(run.store) == ["scale", "place"]


def test_what_is_no_plain_state_is_refused_and_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run"
    an.save_checkpoint(path, step=3)
    for wrong in (
        {"a": [object()]},
        torch.zeros(2).to_sparse(),
        torch.zeros(1, dtype=torch.cdouble),
    ):
        with pytest.raises(an.errors.CheckpointError, match=r"torch\.save"):
            an.save_checkpoint(path, part=wrong)
    assert an.load_checkpoint(path) == {"step": 3}
    with pytest.raises(an.errors.CheckpointError, match="no part 'model'; it has 'step'"):
        an.load_checkpoint(path, model=nn.Linear(1, 1))
    with pytest.raises(an.errors.CheckpointError, match="takes no state"):
        an.load_checkpoint(path, step=3)
    with pytest.raises(an.errors.StateError, match=r"LeaveOneOut.* learns nothing"):
        AcrossRanks(an.estimators.LeaveOneOut()).load_state_dict({"z": {}})


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    an.save_checkpoint(path, model=nn.Linear(3, 2))
    whole = path.read_bytes()
    for wrong in (
        b"",
        whole[:-3],
        whole[:40],
        b"\xff" * 64,
        whole.replace(b"ancestral", b"ancestrel"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(an.errors.CheckpointError, match="no file that save_checkpoint wrote"):
            an.load_checkpoint(path)


def test_tensors_of_any_kind_and_tied_ones_come_back(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    net[1].weight = net[0].weight
    state = {
        **{
            str(kind): torch.arange(6).view(2, 3).to(kind).T
            for kind in (torch.bfloat16, torch.bool)
        },
        "none": None,
        "of": {1: (2.5, float("inf")), "a.b": torch.ones(()), "a": {"b": torch.zeros(0)}},
    }
    an.save_checkpoint(tmp_path / "run", net=net, state=state)
    twin = deepcopy(net)
    nn.init.zeros_(next(twin.parameters()))
    found = an.load_checkpoint(tmp_path / "run", net=twin)["state"]
    assert same([*leaves(found)], [*leaves(state)])
    assert same([*leaves(twin.state_dict())], [*leaves(net.state_dict())])


def test_without_safetensors_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"ancestral\[safetensors\].*torch\.save"):
        an.save_checkpoint(tmp_path / "run", step=1)
    assert not list(tmp_path.iterdir())

"""Stores: what torch does with a store of parameters, as with any module."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

import ancestral as an


def program() -> None:
    """Ask for two parameters."""
    an.param("encoder.mean", torch.zeros((), dtype=torch.float64))
    an.param("spread", lambda: torch.ones(()).double(), constraints.positive)


def filled() -> an.ParamStore:
    store = an.ParamStore()
    store(program)()
    with torch.no_grad():
        store.unconstrained("encoder.mean").fill_(1.5)
        store.unconstrained("spread").fill_(-0.5)
    return store


def assert_equal(one: an.ParamStore, other: an.ParamStore) -> None:
    with one:
        program()  # which says what the constraints are
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
    assert one.constraints.keys() == other.constraints.keys()


def test_the_state_is_the_leaves_by_their_names() -> None:
    store = filled()
    assert {name: leaf.item() for name, leaf in store.state_dict().items()} == {
        "encoder.mean": 1.5,
        "spread": -0.5,
    }
    assert dict(store.named_parameters())["encoder.mean"] is store.unconstrained("encoder.mean")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_is_a_store_of_its_own(copied: Callable[[an.ParamStore], an.ParamStore]) -> None:
    store = filled()
    twin = copied(store)
    assert_equal(twin, store)
    with torch.no_grad():
        twin.unconstrained("spread").add_(1)
    assert store.unconstrained("spread").item() == -0.5


@pytest.mark.parametrize("assign", [False, True])
def test_an_empty_store_takes_any_state(assign: bool) -> None:
    store, empty = filled(), an.ParamStore()
    empty.load_state_dict(store.state_dict(), assign=assign)
    learned = {id(leaf) for leaf in empty.parameters()}
    assert_equal(empty, store)
    assert {id(leaf) for leaf in empty.parameters()} == learned  # an optimizer goes on


def test_a_store_is_saved_by_torch_and_by_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file, load_model, save_file, save_model

    store = filled()
    save_file(store.state_dict(), tmp_path / "state")
    torch.save(store.state_dict(), tmp_path / "pickled")
    save_model(store, str(tmp_path / "model"))
    for state in (load_file(tmp_path / "state"), torch.load(tmp_path / "pickled")):
        fresh = an.ParamStore()
        fresh.load_state_dict(state)
        assert_equal(fresh, store)
    fresh = an.ParamStore()
    missing, unexpected = load_model(fresh, str(tmp_path / "model"))
    assert not missing
    assert not unexpected
    assert_equal(fresh, store)


def test_a_store_changes_its_type_as_a_module_does() -> None:
    store = filled().to(torch.float32)
    assert {leaf.dtype for leaf in store.parameters()} == {torch.float32}
    assert store["spread"].dtype == torch.float32
    assert store.to("meta")["spread"].is_meta


NAMES = "w encoder.weight a..b .a b. training forward _parameters _extra_state é 0 x\ny".split(" ")


@pytest.mark.parametrize("name", [*NAMES, " ", "a b"])
def test_a_parameter_may_have_any_name(name: str) -> None:
    store = an.ParamStore()
    with store:
        an.param(name, torch.tensor(2.0), constraints.positive)
    store.eval().train()
    assert list(store.state_dict()) == list(store) == [name]
    assert name in store
    for assign in (False, True):
        empty = nn.ModuleDict({"inner": an.ParamStore()})
        state = nn.ModuleDict({"inner": store}).state_dict()
        assert empty.load_state_dict(state, assign=assign).missing_keys == []
        inner = empty["inner"]
        assert isinstance(inner, an.ParamStore)
        with inner:
            torch.testing.assert_close(an.param(name, constraint=constraints.positive), store[name])


class Network(nn.Module):
    """A network that runs a program in its own store."""

    def __init__(self, program: Callable[..., Tensor]) -> None:
        super().__init__()
        self.store = an.ParamStore()
        self.program = program

    def forward(self, *args: Tensor) -> Tensor:
        with self.store:
            return self.program(*args)


IN_PARALLEL = """
import os, sys
import torch
import ancestral as an
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.store = an.ParamStore()

    def forward(self, x):
        with self.store:
            positive = torch.distributions.constraints.positive
            return x * an.param("encoder.gain", torch.ones(2), positive)

network, x = Network(), torch.tensor([1.0, 3.0])
network(x)
torch.distributed.init_process_group("gloo", init_method=sys.argv[1], rank=0, world_size=1)
parallel = nn.parallel.DistributedDataParallel(network)
parallel(x).sum().backward()
grad = network.store.unconstrained("encoder.gain").grad
print(grad.tolist(), list(parallel.state_dict()), flush=True)
os._exit(0)
"""


def test_a_network_with_a_store_is_trained_in_parallel(tmp_path: Path) -> None:
    # In a process that ends at once: that of a group whose last holder is freed may wait for ever.
    command = [sys.executable, "-c", IN_PARALLEL, f"file://{tmp_path / 'rendezvous'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    # d exp(leaf) = exp(leaf) = 1
    assert done.stdout.strip() == "[1.0, 3.0] ['module.store.encoder.gain']"


def test_the_text_of_a_store_shows_what_it_has() -> None:
    store = filled()
    assert "(encoder.mean): [], Real()" in repr(store)
    fresh = an.ParamStore()
    fresh.load_state_dict(store.state_dict())
    assert "(spread): [], loaded" in repr(fresh)


@pytest.mark.parametrize("is_function", [False, True])
def test_a_state_of_another_shape_is_an_error_where_the_program_asks(is_function: bool) -> None:
    store, init = an.ParamStore(), torch.full((4,), 0.25)
    store.load_state_dict({"w": torch.zeros(5)})
    with pytest.raises(an.errors.ParamError) as caught, store:
        an.param("w", (lambda: init) if is_function else init, constraints.simplex)
    for part in ("'w'", f"{__file__}:", "[4], which is [3] unconstrained", "expected [5]"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"encoder.mean": torch.zeros(3), "spread": torch.zeros(())}, "mismatch for encoder.mean"),
        ({"encoder.mean": torch.zeros(())}, r'Missing key\(s\).*"spread"'),
        ({"w": 3}, r"parameter 'w' is a int; expected a torch\.Tensor"),
    ],
)
def test_a_state_that_does_not_fit_is_an_error_where_it_is_loaded(
    state: dict[str, Tensor], problem: str
) -> None:
    with pytest.raises(RuntimeError, match=problem):
        filled().load_state_dict(state)


def test_a_parameter_that_no_program_asked_for_has_no_constrained_value() -> None:
    store = an.ParamStore()
    store.load_state_dict({"w": torch.zeros(5)})
    assert store.unconstrained("w").shape == (5,)
    with pytest.raises(an.errors.SiteError, match=r"'w' was loaded.*store.unconstrained\('w'\)"):
        store["w"]
    with pytest.raises(an.errors.SiteError, match="no parameter 'v'; it has 'w'"):
        store["v"]


def test_constraints_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        filled().constraints["w"] = constraints.real  # type: ignore[index]


# Names with dots


def weighed() -> Tensor:
    """Return a value of parameters whose names are paths."""
    weight = an.param("encoder.layer.weight", torch.ones(2), constraints.positive)
    return weight * an.param("encoder.bias", torch.tensor(3.0)) + an.param("plain", torch.zeros(()))


def summed(x: Tensor) -> Tensor:
    return (x * weighed()).sum()


def test_a_name_with_dots_is_a_path_too() -> None:
    store = an.ParamStore()
    store(weighed)()
    leaf = store.unconstrained("encoder.layer.weight")
    assert store.get_parameter("encoder.layer.weight") is leaf
    assert store.encoder.layer.weight is leaf
    branch = store.get_submodule("encoder")
    assert [name for name, _ in branch.named_parameters()] == ["layer.weight", "bias"]
    assert list(store.state_dict()) == ["encoder.layer.weight", "encoder.bias", "plain"]
    assert [name for name, _ in store.named_modules()] == [""]
    for name in ("encoder.layer.wieght", "enc.bias", "encoder.layer"):
        with pytest.raises(AttributeError):
            store.get_parameter(name)
    with pytest.raises(AttributeError, match="no attribute 'decoder'"):
        _ = store.decoder


def test_a_name_that_begins_another_is_a_parameter_still() -> None:
    store = an.ParamStore()
    with store:
        an.param("a", torch.zeros(()))
        inner = an.param("a.b", torch.ones(()))
    assert store.get_parameter("a.b") is inner
    assert store.get_parameter("a") is store.unconstrained("a")


def test_a_functional_call_gives_leaves_other_values() -> None:
    network, x = Network(summed), torch.tensor([1.0, 2.0])
    before = network(x)
    values = {
        "store.encoder.layer.weight": torch.tensor([0.5, -1.0]),
        "store.encoder.bias": torch.tensor(2.0),
    }

    def called(values: dict[str, Tensor], strict: bool = False) -> Tensor:
        found: Tensor = torch.func.functional_call(network, values, (x,), strict=strict)
        return found

    expected = (x * values["store.encoder.layer.weight"].exp()).sum() * 2
    torch.testing.assert_close(called(values), expected)
    gradient = torch.func.grad(called)(values)
    torch.testing.assert_close(gradient["store.encoder.bias"], expected / 2)
    torch.testing.assert_close(network(x), before)  # which has its own values again
    whole: dict[str, Tensor] = dict(network.named_parameters())
    torch.testing.assert_close(called(whole, strict=True), before)
    assert all(isinstance(leaf, nn.Parameter) for leaf in network.parameters())


def test_a_functional_call_reaches_modules_whose_names_have_dots() -> None:
    inner = nn.Linear(2, 1)
    network = Network(lambda: an.module("encoder.net", inner)(torch.ones(2)))
    network()
    zeros: dict[str, Tensor] = {n: torch.zeros_like(p) for n, p in network.named_parameters()}
    assert list(zeros) == ["store.encoder.net.weight", "store.encoder.net.bias"]
    found = torch.func.functional_call(network, {**zeros, list(zeros)[1]: torch.tensor([7.0])}, ())
    assert found.tolist() == [7]
    assert network.get_submodule("store.encoder.net") is inner
    assert [name for name, _ in network.named_modules()] == ["", "store", "store.encoder.net"]


@pytest.mark.parametrize("name", ["net", "encoder.net"])
def test_a_functional_call_refuses_a_leaf_that_it_would_look_for_in_a_module(name: str) -> None:
    inner = nn.Linear(2, 1)
    network = Network(
        lambda: an.module(name, inner)(torch.ones(2)) * an.param(f"{name}.gain", torch.ones(()))
    )
    network()
    with pytest.raises(
        an.errors.SiteError, match=r"cannot reach '.*net.gain' in the module '.*net'"
    ):
        torch.func.functional_call(network, {f"store.{name}.gain": torch.tensor(9.0)}, ())
    assert not hasattr(inner, "gain")
    assert network.store.get_parameter(f"{name}.gain").item() == 1


def test_an_ensemble_is_mapped_over() -> None:
    networks, x = [Network(summed) for _ in range(3)], torch.tensor([1.0, 2.0])
    for number, network in enumerate(networks):
        network(x)
        with torch.no_grad():
            network.store.encoder.bias.fill_(number)
    stacked, _ = torch.func.stack_module_state(networks)

    def called(values: dict[str, Tensor]) -> Tensor:
        found: Tensor = torch.func.functional_call(networks[0], values, (x,))
        return found

    assert torch.vmap(called)(stacked).tolist() == [0.0, 3.0, 6.0]


def test_a_functional_call_of_a_store_says_what_to_call() -> None:
    store = an.ParamStore()
    store(weighed)()
    values = {"encoder.bias": torch.tensor(0.0)}
    with pytest.raises(an.errors.SiteError, match="make the store a submodule"):
        torch.func.functional_call(store, values, (weighed,))
    assert store.unconstrained("encoder.bias").item() == 3.0


def test_a_store_goes_around_a_function_only() -> None:
    with pytest.raises(TypeError, match=r"ParamStore\(...\) stands around a function, not a Ten"):
        an.ParamStore()(torch.zeros(2))  # type: ignore[arg-type]


# Parameters that come late


def late() -> None:
    """Ask for a parameter that no other program asks for."""
    an.param("late", torch.zeros(()))


@pytest.mark.parametrize("fused", [False, True])  # a fused step counts no version
def test_a_parameter_that_an_optimizer_cannot_know_warns(fused: bool) -> None:
    store = an.ParamStore()
    store(weighed)()
    optimizer = torch.optim.Adam(store.parameters(), fused=fused)
    store(weighed)().sum().backward()
    optimizer.step()
    with pytest.warns(
        an.errors.ParamWarning, match=r"'late' \(.*py:\d+\) is new.*add_param_group"
    ) as caught:
        store(late)()
    assert caught[0].filename == __file__
    store(late)()  # it is known now
    with pytest.warns(an.errors.ParamWarning, match=r"'net.weight' .* is new"):
        store(lambda: an.module("net", nn.Linear(1, 1)))()


def test_a_parameter_that_comes_before_training_or_was_loaded_does_not_warn() -> None:
    store = an.ParamStore()
    for program in (weighed, late):
        store(program)()
    again = an.ParamStore()
    again(weighed)()
    again.double()
    again(late)()
    new = an.ParamStore()
    new(lambda: an.param("new", torch.zeros(())))()
    new.load_state_dict(store.state_dict(), strict=False)
    new(late)()
    with torch.inference_mode():
        again.load_state_dict(store.state_dict())
        again(late)()
        loaded = an.ParamStore()
        loaded.load_state_dict(store.state_dict())
    loaded(late)()
    loaded.load_state_dict({}, strict=False)
    empty = nn.ModuleDict({"linear": nn.Linear(1, 1), "store": an.ParamStore()})
    empty.load_state_dict({f"linear.{n}": p for n, p in nn.Linear(1, 1).state_dict().items()})
    empty["store"](late)()  # of which the state says nothing


def test_a_parameter_that_the_loaded_state_lacks_warns() -> None:
    store, network = an.ParamStore(), Network(weighed)
    store(weighed)()
    network.load_state_dict({f"store.{name}": leaf for name, leaf in store.state_dict().items()})
    network()
    with pytest.warns(
        an.errors.ParamWarning, match=r"'late' \(.*py:\d+\) begins with its init.*strict=False"
    ):
        network.store(late)()
    network.store(late)()
    with pytest.warns(an.errors.ParamWarning, match=r"'net.weight' .* begins with its init"):
        network.store(lambda: an.module("net", nn.Linear(1, 1)))()

"""Stores: what torch does with a store of parameters, as with any module."""

import copy
import pickle
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
    """A network that opens its own store."""

    def __init__(self) -> None:
        super().__init__()
        self.store = an.ParamStore()

    def forward(self, x: Tensor) -> Tensor:
        with self.store:
            return x * an.param("encoder.gain", torch.ones(2), constraints.positive)


def test_a_network_with_a_store_is_trained_in_parallel(tmp_path: Path) -> None:
    network, x = Network(), torch.tensor([1.0, 3.0])
    network(x)
    file = f"file://{tmp_path / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=file, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(network)
        parallel(x).sum().backward()
        grad = network.store.unconstrained("encoder.gain").grad
        assert grad is not None
        torch.testing.assert_close(grad, x)  # d exp(leaf) = exp(leaf) = 1
        assert list(parallel.state_dict()) == ["module.store.encoder.gain"]
    finally:
        torch.distributed.destroy_process_group()


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
    with pytest.raises(an.ParamError) as caught, store:
        an.param("w", (lambda: init) if is_function else init, constraints.simplex)
    for part in ("'w'", f"{__file__}:", "[4], which is [3] unconstrained", "expected [5]"):
        assert part in str(caught.value)


def test_a_state_of_another_shape_is_an_error_where_it_is_loaded() -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for encoder.mean"):
        filled().load_state_dict({"encoder.mean": torch.zeros(3), "spread": torch.zeros(())})


def test_a_state_that_lacks_a_parameter_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r'Missing key\(s\).*"spread"'):
        filled().load_state_dict({"encoder.mean": torch.zeros(())})


def test_a_parameter_that_no_program_asked_for_has_no_constrained_value() -> None:
    store = an.ParamStore()
    store.load_state_dict({"w": torch.zeros(5)})
    assert store.unconstrained("w").shape == (5,)
    with pytest.raises(an.SiteError, match=r"'w' was loaded.*store.unconstrained\('w'\)"):
        store["w"]
    with pytest.raises(an.SiteError, match="no parameter 'v'; it has 'w'"):
        store["v"]


def test_constraints_cannot_be_written() -> None:
    with pytest.raises(TypeError):
        filled().constraints["w"] = constraints.real  # type: ignore[index]

"""Modules of programs: what a store keeps of a network, and what handlers make of it."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call, no-any-return"

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, constraints

import ancestral as an
from ancestral.trace.handlers import block, lift, seed, substitute
from ancestral.trace.program.module_statement import twin
from oracles import derivatives, exact_gradient, moments


class Tower(nn.Module):
    """Layers that its methods reach in every way that a module may."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.second = nn.Linear(3, 2)
        self.gain = nn.Parameter(torch.ones(2))
        self.layers = [self.first, self.second]
        self.by_name: dict[str, Any] = {"first": self.first, "all": (self.first, self.second)}
        self.bound = self.first.forward
        self.partial = functools.partial(self.second, input=torch.ones(3))
        self.closure = lambda x: self.second(self.first(x)) * self.gain

    def forward(self, x: Tensor) -> Tensor:
        return self.closure(x)

    def by_attributes(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) * self.gain

    def by_list(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x * self.gain

    def by_dictionary(self, x: Tensor) -> Tensor:
        return self.by_name["all"][1](self.by_name["first"](x)) * self.gain

    def by_function(self, x: Tensor) -> Tensor:
        weight, bias = self.second.weight, self.second.bias
        return nn.functional.linear(self.bound(x), weight, bias) * self.gain

    def by_iteration(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x * dict(self.named_parameters())["gain"]


WAYS = "forward __call__ by_attributes by_list by_dictionary by_function by_iteration".split()


def others(network: nn.Module) -> dict[str, Tensor]:
    """Return other values for the parameters of a network."""
    torch.manual_seed(3)
    return {f"net.{name}": torch.randn(p.shape) for name, p in network.named_parameters()}


def with_values(network: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    """Return a copy of a network that was given values, as torch does it."""
    found = copy.deepcopy(network)
    found.load_state_dict({name.removeprefix("net."): value for name, value in values.items()})
    return found


# The store


def test_the_module_itself_is_returned_and_its_parameters_are_kept() -> None:
    network, store = nn.Linear(2, 3), an.ParamStore()
    with store, an.record() as trace:
        assert an.module("net", network) is network
        assert an.module("net", network) is network
    assert list(store) == ["net.weight", "net.bias"]
    assert store["net.weight"] is store.unconstrained("net.weight") is network.weight
    assert [node.name for node in trace.param_nodes] == ["net.weight", "net.bias"]
    assert trace["net.bias"].value is network.bias
    assert set(store.constraints) == {"net.weight", "net.bias"}


def test_a_network_of_a_store_reaches_the_optimum_of_least_squares() -> None:
    x = torch.tensor([[1.0, 0.5], [1.0, -1.0], [1.0, 2.0], [1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [0.0], [4.0], [0.5]], dtype=torch.float64)
    network, store = nn.Linear(2, 1, bias=False).double(), an.ParamStore()
    nn.init.zeros_(network.weight)

    def model() -> None:
        an.sample("y", Normal(an.module("deep.net", network)(x), 1.0), obs=y)

    store(model)()
    optimizer = torch.optim.LBFGS(store.parameters(), tolerance_grad=1e-12, tolerance_change=0)

    def closure() -> float:
        optimizer.zero_grad()
        with store, an.record() as trace:
            model()
        trace.backward()
        return -trace.log_prob_sum().item()

    for _ in range(20):
        optimizer.step(closure)
    expected = torch.linalg.lstsq(x, y).solution.T
    torch.testing.assert_close(store["deep.net.weight"].detach(), expected)


def test_buffers_and_the_mode_belong_to_the_store() -> None:
    store = an.ParamStore()
    with store:
        an.module("norm", nn.BatchNorm1d(2))(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert store.state_dict()["norm.num_batches_tracked"].item() == 1
    assert store.eval().get_submodule("norm").training is False


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 3), lambda: nn.LSTM(2, 3), Tower])
def test_a_module_that_is_made_on_every_call_is_that_of_the_first(
    make: Callable[[], nn.Module],
) -> None:
    with an.ParamStore():
        assert an.module("net", make()) is an.module("net", make())


def test_a_copy_of_a_store_computes_with_its_own_module() -> None:
    network, store = nn.Linear(2, 2), an.ParamStore()
    store(lambda: an.module("net", network))()
    copied = copy.deepcopy(store)
    with torch.no_grad():
        copied.unconstrained("net.weight").zero_()
        copied.unconstrained("net.bias").fill_(7)
    with copied:
        assert an.module("net", network)(torch.ones(2)).tolist() == [7, 7]
    assert bool((network.bias != 7).all())


@pytest.mark.parametrize("make", [Tower, lambda: nn.LSTM(2, 3), lambda: nn.BatchNorm1d(2)])
def test_a_module_takes_the_state_that_was_loaded_before_it_came(
    make: Callable[[], nn.Module],
) -> None:
    network, store = make(), an.ParamStore()
    store(lambda: an.module("net", network))()
    for buffer in network.buffers():
        buffer.add_(1)
    fresh, loaded = make(), an.ParamStore()
    loaded.load_state_dict({**store.state_dict(), "net.sigma": torch.zeros(2)})
    leaves = {id(leaf) for leaf in loaded.parameters() if leaf.requires_grad}
    with loaded:
        assert an.module("net", fresh) is fresh
        assert an.param("net.sigma", torch.ones(2), constraints.positive).tolist() == [1, 1]
    for name, value in network.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)
    assert {id(leaf) for leaf in fresh.parameters()} <= leaves  # an optimizer goes on
    again = an.ParamStore()
    again(lambda: an.module("net", make()))()
    again.load_state_dict(loaded.state_dict())  # sigma is no parameter of the network
    assert sorted(again) == sorted(loaded)


def test_a_module_that_is_loaded_keeps_what_is_frozen_and_tied() -> None:
    def make() -> nn.Module:
        network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        first, second = network
        second.weight = first.weight
        first.bias.requires_grad_(False)
        return network

    store, loaded, fresh = an.ParamStore(), an.ParamStore(), make()
    store(lambda: an.module("net", make()))()
    loaded.load_state_dict(store.state_dict())
    with loaded:
        an.module("net", fresh)
    first, second = fresh.children()
    assert first.weight is second.weight
    assert not first.get_parameter("bias").requires_grad
    assert torch.equal(loaded["net.0.weight"], store["net.0.weight"])


def test_a_parameter_of_a_module_can_be_asked_for_by_its_name() -> None:
    network = nn.Linear(2, 3)
    with an.ParamStore():
        an.module("net", network)
        assert an.param("net.weight") is network.weight


# Other values


@pytest.mark.parametrize("way", WAYS)
def test_other_values_reach_every_way_to_compute(way: str) -> None:
    network, x = Tower(), torch.tensor([0.5, -1.0])
    values = others(network)
    expected = with_values(network, values).by_attributes(x)  # type: ignore[operator]
    before = network(x)
    with an.ParamStore(), substitute(values):
        changed = an.module("net", network)
    if way == "by_function":  # a bound method of a layer
        assert vars(changed)["bound"].__self__ is changed.first
        assert vars(changed)["partial"].func is changed.second
    torch.testing.assert_close(getattr(changed, way)(x), expected)
    torch.testing.assert_close(getattr(changed, way)(x), expected)  # for every call
    torch.testing.assert_close(network(x), before)
    assert isinstance(changed, Tower)
    for name, value in changed.named_parameters():
        assert value is values[f"net.{name}"]


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(2, 3), (4, 2)),
    "lstm": (lambda: nn.LSTM(2, 3, num_layers=2), (5, 1, 2)),
    "attention": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), (3, 2, 4)),
    "sequential": (lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), (4, 2)),
    "convolution": (lambda: nn.Conv2d(1, 2, 3), (2, 1, 5, 5)),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), (4, 2)),
    "batch_norm": (lambda: nn.BatchNorm1d(2), (4, 2)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("is_training", [False, True])
def test_layers_of_torch_compute_with_other_values(kind: str, is_training: bool) -> None:
    make, shape = LAYERS[kind]
    network = make().train(is_training)
    values = others(network)
    state = {f"net.{name}": b.clone() for name, b in network.named_buffers()}
    torch.manual_seed(1)
    x = torch.randn(shape)
    expected = with_values(network, {**values, **state})(x)
    with an.ParamStore(), substitute(values):
        found = an.module("net", network)(x)
    torch.testing.assert_close(found, expected)


def test_running_statistics_are_those_of_the_module() -> None:
    network, x = nn.BatchNorm1d(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    with an.ParamStore(), substitute({"net.weight": torch.zeros(2)}):
        an.module("net", network)(x)
    assert network.num_batches_tracked is not None
    assert network.num_batches_tracked.item() == 1
    assert network.running_mean is not None
    torch.testing.assert_close(network.running_mean, 0.1 * x.mean(0))


def test_hooks_run_once_and_within_the_twin() -> None:
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.seen: list[Tensor] = []
            self.layer.register_forward_hook(self.look)

        def look(self, *_: object) -> None:
            self.seen.append(self.layer.bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    network, bias = Watched(), torch.full((2,), 9.0)
    with an.ParamStore(), substitute({"net.layer.bias": bias}):
        an.module("net", network)(torch.ones(2))
    assert [seen is bias for seen in network.seen] == [True]


def test_tied_parameters_stay_tied() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    first, second = network
    second.weight = first.weight
    with an.ParamStore(), an.record() as trace, lift(Normal(0.0, 1.0)), seed(0):
        changed = an.module("net", network)
    assert list(trace) == ["net.0.weight"]
    weight = trace["net.0.weight"].value
    torch.testing.assert_close(changed(torch.eye(2)), (weight @ weight).T)


def test_gradients_reach_other_values_and_not_the_module() -> None:
    network, weight = nn.Linear(2, 1, bias=False), torch.ones(1, 2, requires_grad=True)
    with an.ParamStore(), substitute({"net.weight": weight}):
        an.module("net", network)(torch.tensor([3.0, 4.0])).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[3.0, 4.0]]
    assert network.weight.grad is None


def test_a_module_that_is_hidden_is_kept_nevertheless() -> None:
    store = an.ParamStore()
    with store, an.record() as trace, block():
        an.module("net", nn.Linear(2, 1))
    assert (len(list(store)), len(trace)) == (2, 0)


# Provenance


INPUTS = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)


def coins(theta: Tensor) -> Tensor:
    """Return a loss of a layer whose weights are coins."""
    network = nn.Linear(2, 1, bias=False).double()
    with lift(lambda message: Bernoulli(logits=theta)):
        output = an.module("net", network)(INPUTS)
    return (output - 0.3).square().sum()


def separate(theta: Tensor) -> Tensor:
    """Return a loss to which each weight adds its own term."""
    network = nn.Linear(3, 1, bias=False).double()
    with lift({"net.weight": Bernoulli(logits=theta)}):
        changed = an.module("net", network)
    return (changed.weight - torch.tensor([0.5, 1.0, 3.0])).square().sum()


def moments_of(program: Callable[[Tensor], Tensor], theta: list[Tensor], estimator: Any) -> Any:
    """Return the exact moments of the estimated gradient of a program."""

    def estimate(_: object, given: Any) -> Tensor:
        with an.record():
            loss = program(*given)
        return derivatives(an.surrogate(loss, credit=estimator, baseline=None), given)

    return moments(program, theta, estimate)


@pytest.mark.parametrize("program", [coins, separate])
def test_lifted_weights_have_the_exact_gradient(program: Callable[[Tensor], Tensor]) -> None:
    size = 2 if program is coins else 3
    theta = [torch.linspace(-0.4, 1.0, size, dtype=torch.float64).requires_grad_()]
    exact, by = exact_gradient(program, theta), an.estimators
    found = [moments_of(program, theta, e) for e in (by.by_element, by.by_site, by.total_cost)]
    for each in found:
        torch.testing.assert_close(each.mean, exact)
    if program is separate:  # whose elements stay apart
        assert (found[0].variance < found[1].variance).all()


def test_an_audit_finds_nothing_lost_in_a_network_that_is_lifted() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.LSTM(3, 2))
    with an.record(audit=True) as trace, lift(Normal(0.0, 1.0)), seed(0):
        output, _ = an.module("net", network)(torch.ones(4, 2))
    names = {f"net.{name}" for name, _ in network.named_parameters()}
    assert an.provenance_of(output) == names == set(trace)


# Bad input


HERE = rf"'net' \({__file__}:\d+\)"
NO_STORE = r"'net.weight' .*no store is open.*with store: model"
REFUSED: list[tuple[Any, str]] = [
    (torch.zeros(2), f"module {HERE}: it is a Tensor; expected a torch.nn.Module"),
    (nn.LazyLinear(2), f"{HERE}.*'net.weight', 'net.bias' have no shape yet; call it once"),
    (nn.Linear(3, 1), rf"{HERE}.*\[1, 3\].*expected a Linear with .*\[1, 2\]"),
]


@pytest.mark.parametrize(("network", "problem"), REFUSED, ids=["tensor", "lazy", "other"])
def test_what_is_no_module_of_the_name_is_refused(network: Any, problem: str) -> None:
    with an.ParamStore():
        an.module("net", nn.Linear(2, 1))
        with pytest.raises(an.errors.SiteError, match=problem):
            an.module("net", network)
    with pytest.raises(an.errors.SiteError, match=NO_STORE):
        an.module("net", nn.Linear(2, 1))


def test_a_state_that_does_not_fit_a_module_is_refused() -> None:
    for state, parts in (
        ({"net.weight": torch.zeros(1, 2)}, ["without 'net.bias'"]),
        (
            {"net.weight": torch.zeros(1, 3), "net.bias": torch.zeros(1)},
            ["the shape of 'net.weight' is [1, 2]; expected [1, 3]", "as it was loaded"],
        ),
    ):
        store, network = an.ParamStore(), nn.Linear(2, 1)
        weight = network.weight
        store.load_state_dict(state)
        with pytest.raises(an.errors.ParamError) as caught, store:
            an.module("net", network)
        assert all(part in str(caught.value) for part in [*parts, f"{__file__}:"])
        assert network.weight is weight


def test_a_name_that_a_parameter_has_is_refused() -> None:
    with an.ParamStore():
        an.param("net.weight", torch.zeros(1, 2))
        with pytest.raises(an.errors.ParamError, match=r"'net.weight'.*asked for at .*\.py:\d+"):
            an.module("net", nn.Linear(2, 1))


def test_a_value_of_another_shape_is_refused() -> None:
    with (
        pytest.raises(an.errors.ParamError, match=r"'net.bias'.*\[3\]; expected shape \[1\]"),
        an.ParamStore(),
        substitute({"net.bias": torch.zeros(3)}),
    ):
        an.module("net", nn.Linear(2, 1))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_scripted_module_is_kept_and_refuses_other_values() -> None:
    network = torch.jit.script(nn.Linear(2, 1))
    with an.ParamStore():
        assert an.module("net", network) is network
        with (
            substitute({"net.bias": torch.zeros(1)}),
            pytest.raises(an.errors.SiteError, match="script"),
        ):
            an.module("net", network)


def test_a_twin_of_no_other_values_shares_the_parameters() -> None:
    network = nn.Linear(2, 1)
    assert twin(network, {}).weight is network.weight

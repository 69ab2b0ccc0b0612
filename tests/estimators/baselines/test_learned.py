"""Baselines that learn: how little variance they leave, and that they learn what is lawful."""

import copy
import functools
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.coins import THETA, chain, trained, variance
from programs.estimates import library
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal

import ancestral as an
from ancestral.estimators.baselines.learned import Learned
from ancestral.estimators.baselines.optimal import score_squares
from ancestral.estimators.credit.credit import Credit
from oracles import forcing, mean_and_truth, moments_of

LEARNED: dict[str, Callable[[], Learned]] = {
    "running mean": an.estimators.RunningMean,
    "optimal": an.estimators.Optimal,
    "neural": an.estimators.Neural,
}
every_one = pytest.mark.parametrize("make", LEARNED.values(), ids=LEARNED)


Constants = Callable[[Tensor, Tensor], Tensor]


def by_hand(steps: int, constants: Constants) -> float:
    """Return the exact variance for a chain of which each site has a constant baseline.

    `constants` is given the squares of the scores, as they are likely, and the credit:
    [outcomes, sites].
    """
    z = torch.tensor(list(itertools.product((0.0, 1.0), repeat=steps)), dtype=torch.float64)
    before = torch.cat([torch.zeros(len(z), 1), z[:, :-1]], 1).long()
    p = THETA.detach().sigmoid()[before]
    weights = torch.where(z > 0, p, 1 - p).prod(1)
    credit = (z - 0.45).square().flip(1).cumsum(1).flip(1)
    credit = credit - constants(weights[:, None] * (z - p).square(), credit)
    scores = (z - p)[..., None] * torch.eye(2, dtype=torch.float64)[before]
    return float(moments_of(weights, (scores * credit[..., None]).sum(1)).variance.sum())


def none(squares: Tensor, credit: Tensor) -> Tensor:
    return torch.zeros(())


def best(squares: Tensor, credit: Tensor) -> Tensor:
    return (squares * credit).sum(0) / squares.sum(0)


def means(learned: an.estimators.RunningMean) -> Constants:
    found = [memory["sum"] / memory["weight"] for memory in learned.memories.values()]
    return lambda squares, credit: torch.stack(found)


def test_the_best_constant_is_learned_for_each_site_of_a_chain() -> None:
    assert variance(None, functools.partial(chain, steps=6)) == pytest.approx(by_hand(6, none))
    assert by_hand(10, best) == pytest.approx(0.04218, abs=5e-6)  # as the benchmark says
    optimal = variance(trained(an.estimators.Optimal(), chain, 500), chain)
    assert optimal < 1.02 * by_hand(10, best)
    few = functools.partial(chain, steps=3)
    mean = trained(an.estimators.RunningMean(), few, 20)
    assert variance(mean, few) == pytest.approx(by_hand(3, means(mean)))
    assert optimal < by_hand(10, means(trained(an.estimators.RunningMean(), chain, 500)))


def test_of_a_single_coin_no_variance_is_left() -> None:
    def coin(theta: Tensor) -> Tensor:
        return chain(theta, 1)

    assert variance(trained(an.estimators.Optimal(), coin, 500), coin) < 1e-3 * variance(None, coin)


ROWS = torch.tensor([1.0, -1.0, 3.0, 0.5], dtype=torch.float64)


def rows(theta: Tensor) -> Tensor:
    """Return a loss of 4 examples of two coins each, with a cost for each and one for both."""
    z = Bernoulli(logits=theta.expand(4, 2) * ROWS[:, None]).sample()
    return ((z.sum(1) - 0.4) ** 2 * ROWS).sum() + (z * ROWS[:, None]).exp().sum()  # type: ignore[no-any-return]


@every_one
def test_the_mean_stays_exact_while_it_learns(make: Callable[[], Learned]) -> None:
    torch.manual_seed(0)
    baseline = trained(make(), rows, 20)
    assert variance(baseline, rows) < variance(None, rows)


class Rows(nn.Module):
    """Ten classes for each of some rows, whose costs the inputs tell."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2 * 4)

    def forward(self, x: Tensor) -> Tensor:
        z = Categorical(logits=self.net(x).view(-1, 2, 4)).sample()
        return ((z.sum(1) + 10 * x[:, 0]) ** 2).mean()  # type: ignore[no-any-return]


def test_a_network_learns_what_the_inputs_tell() -> None:
    torch.manual_seed(0)
    model, x = Rows(), torch.randn(64, 3)
    found: dict[str, Tensor] = {}
    for name, baseline in {"auto": "auto", "neural": an.estimators.Neural()}.items():
        gradients = []
        for step in range(400):
            model.zero_grad()
            with an.record():
                loss = model(x)
            an.backward(loss, baseline=baseline)  # type: ignore[arg-type]
            if step >= 300 and model.net.weight.grad is not None:
                gradients.append(model.net.weight.grad.flatten().clone())
        found[name] = torch.stack(gradients).var(0).sum()
    assert found["neural"] < 0.2 * found["auto"]


def gradient(baseline: Learned, seed: int) -> Tensor:
    theta = THETA.detach().clone().requires_grad_()
    torch.manual_seed(seed)
    with an.record():
        loss = rows(theta)
    an.backward(loss, baseline=baseline)
    assert theta.grad is not None
    return theta.grad


@every_one
def test_a_state_goes_on_where_it_was(make: Callable[[], Learned], tmp_path: Any) -> None:
    torch.manual_seed(0)
    baseline = trained(make(), rows, 5)
    torch.save(baseline.state_dict(), tmp_path / "state.pt")
    other = make()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for seed in range(3):
        torch.testing.assert_close(gradient(other, seed), gradient(baseline, seed))


@every_one
def test_what_is_learned_holds_no_graph(make: Callable[[], Learned]) -> None:
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    learned = make()
    for _ in range(3):
        with an.record():
            loss = rows(theta)
        an.surrogate(loss, baseline=learned).backward()
    held = [value for memory in learned.memories.values() for value in memory.values()]
    assert held
    assert not any(value.requires_grad for value in held)


@every_one
def test_a_state_that_is_none_is_refused(make: Callable[[], Learned]) -> None:
    for wrong in ({"z": 3}, {"sites": {"z": [1.0]}, "nets": {}}):
        with pytest.raises(an.errors.StateError):
            make().load_state_dict(wrong)


@pytest.mark.parametrize("make", [an.estimators.RunningMean, an.estimators.Optimal])
def test_merged_baselines_know_the_mean_of_what_each_does(make: Callable[[], Learned]) -> None:
    torch.manual_seed(0)
    one, other = trained(make(), rows, 4), trained(make(), lambda t: 3 * rows(t), 4)
    expected = {
        key: (value + other.state_dict()["z"][key]) / 2
        for key, value in one.state_dict()["z"].items()
    }
    merged = one.merge_state([other])
    assert merged is one
    torch.testing.assert_close(one.state_dict()["z"], expected)


def weights_of(baseline: Learned) -> dict[str, Tensor]:
    (net,) = baseline.state_dict()["nets"].values()
    return {key: value.clone() for key, value in net["net"].items()}


def test_merged_networks_have_the_mean_of_their_parameters() -> None:
    torch.manual_seed(0)
    one = trained(an.estimators.Neural(), rows, 4)
    other = trained(an.estimators.Neural(), rows, 8)
    second = weights_of(other)
    expected = {key: (value + second[key]) / 2 for key, value in weights_of(one).items()}
    one.merge_state([other])
    torch.testing.assert_close(weights_of(one), expected)


def two_sites(theta: Tensor) -> Tensor:
    a = Bernoulli(logits=theta).sample()
    b = Bernoulli(logits=a * theta + 0.1).sample()
    return (5 * a * b - 2 * b + a).sum()  # type: ignore[no-any-return]


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_a_network_of_several_sites_learns_from_none_of_them_for_another(optimizer: Any) -> None:
    torch.manual_seed(0)
    inputs, net = torch.tensor([[1.0], [4.0]]), nn.Linear(1, 1)
    baseline = an.estimators.Neural(inputs, net, lambda given: optimizer(given, lr=0.1))
    before = net.weight.detach().clone()
    variance(trained(baseline, two_sites, 3), two_sites)
    assert not torch.equal(net.weight, before)


@every_one
def test_a_recording_that_is_asked_again_after_another_has_its_baseline_of_before(
    make: Callable[[], Learned],
) -> None:
    torch.manual_seed(0)
    baseline = trained(make(), rows, 3)
    theta = THETA.detach().clone().requires_grad_()
    with an.record():
        loss = rows(theta)
    an.backward(loss, baseline=baseline, retain_graph=True)
    first, theta.grad = theta.grad, None
    an.backward(loss, baseline=baseline, retain_graph=True)
    torch.testing.assert_close(theta.grad, first)
    theta.grad = None
    trained(baseline, rows, 2)
    baseline.load_state_dict(baseline.state_dict())
    an.backward(loss, baseline=baseline)
    torch.testing.assert_close(theta.grad, first)


SIZES = [(4, 3), (4, 2), (5, 2), (4, 1), (5,), (), (2, 3, 2)]
KINDS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@every_one
def test_shapes_and_types_may_change_from_step_to_step(make: Callable[[], Learned]) -> None:
    torch.manual_seed(0)
    baseline = make()
    for shape, dtype in [*((s, torch.float32) for s in SIZES), *(((4, 3), k) for k in KINDS)] * 2:
        logits = torch.randn(shape).to(dtype).requires_grad_()
        with an.record():
            z = Bernoulli(logits=logits).sample()
            loss = ((z - 0.3) * logits.detach()).square().sum()
        an.backward(loss, baseline=baseline)
        assert logits.grad is not None
        assert logits.grad.dtype is dtype
        assert torch.isfinite(logits.grad).all()


def test_an_example_that_outweighs_the_others_is_predicted_by_them_alone() -> None:
    """In single, with costs a thousand times those of the others."""
    weights = torch.tensor([1000.0, 1.0, 2.0, -1.0])

    def program(theta: Tensor) -> Tensor:
        z = Bernoulli(logits=theta).sample().float()
        single = (z * weights[:, None] * torch.tensor([1.0, 3.0])).sum()
        return single + (z.prod(1) * weights).sum()  # type: ignore[no-any-return]

    theta = torch.tensor([[0.3, -0.2], [0.1, 0.4], [-0.5, 0.2], [0.6, 0.3]]).double()
    given = [theta.requires_grad_()]
    torch.testing.assert_close(*mean_and_truth(program, given, library()), rtol=1e-7, atol=1e-7)


def sgd(given: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(given, lr=0.1)


def ones(fn: Any, shape: torch.Size) -> Tensor:
    return torch.ones(shape, dtype=torch.float64)


def test_what_learned_from_one_site_is_not_asked_for_another_of_that_recording() -> None:
    """After a step with another recording, the network holds draws of this one."""
    torch.manual_seed(0)
    inputs = torch.tensor([[1.0], [4.0]])
    learned = trained(an.estimators.Neural(inputs, nn.Linear(1, 1), sgd), two_sites, 3)

    def costs(theta: Tensor) -> tuple[Tensor, Tensor]:
        a = Bernoulli(logits=theta).sample()
        b = Bernoulli(logits=a * theta + 0.1).sample()
        return (5 * a * (b - 0.2)).sum(), b.sum() * 3

    def estimate(_: Any, given: Any) -> Tensor:
        baseline = copy.deepcopy(learned)
        theta: Tensor = given[0].detach().clone().requires_grad_()
        with an.record():
            first, second = costs(theta)
        an.backward(first, baseline={"b": None, "*": baseline}, retain_graph=True)
        with forcing(ones), an.record():
            other = two_sites(theta)
        an.backward(other, baseline=baseline)
        theta.grad = None
        an.backward(second, baseline={"a": None, "*": baseline})
        assert theta.grad is not None
        return theta.grad

    def program(theta: Tensor) -> Tensor:
        _, second = costs(theta)
        return second

    torch.testing.assert_close(*mean_and_truth(program, [THETA], estimate))


def test_one_object_that_learns_from_two_models_by_turns_is_told() -> None:
    baseline = an.estimators.RunningMean()
    models = [torch.zeros(3, requires_grad=True) for _ in range(2)]

    def step(logits: Tensor) -> None:
        with an.record():
            loss = Bernoulli(logits=logits * 1).sample().sum()
        an.backward(loss, baseline=baseline)

    for each in (0, 0, 1):  # one after the other
        step(models[each])
    with pytest.warns(an.errors.BaselineWarning, match=r"\(.*py:\d+\): one RunningMean learns by"):
        step(models[0])


def test_a_net_of_a_wrong_shape_names_the_site() -> None:
    logits = torch.zeros(3, requires_grad=True)
    baseline = an.estimators.Neural(net=nn.Linear(1, 2))
    with an.record():
        loss = Bernoulli(logits=logits).sample().sum()
    pattern = r"site 'bernoulli' \(.*\): the net .* \[3, 2\] .* expected .* \[3, 1\]"
    with pytest.raises(ValueError, match=pattern):
        an.backward(loss, baseline=baseline)
    assert logits.grad is None


FAMILIES = {
    "logits": lambda: Bernoulli(logits=torch.tensor([0.3, -1.0])),
    "one parameter for all": lambda: Bernoulli(logits=torch.tensor(0.3)).expand([2]),
    "classes": lambda: Categorical(logits=torch.tensor([[0.1, 0.5, -1.0], [0.0, 1.0, 2.0]])),
    "two parameters": lambda: Normal(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_squares_of_scores_are_those_by_autograd_one_by_one(family: str) -> None:
    with an.record() as trace:
        FAMILIES[family]().sample()  # type: ignore[no-untyped-call]
    (node,) = trace.values()
    assert node.fn is not None
    credit = Credit(node.name, (2,), (), site=node)
    expected = []
    for n in range(2):
        given = {
            name: (value if value.dim() == 0 else value[n]).detach().clone().requires_grad_()
            for name in ("logits", "loc", "scale")
            if isinstance(value := vars(node.fn).get(name), Tensor)
        }
        density = type(node.fn)(**given).log_prob(node.value[n])  # type: ignore[arg-type]
        scores = torch.autograd.grad(density, list(given.values()))
        expected.append(sum((s.square().sum() for s in scores), torch.zeros(())))
    torch.testing.assert_close(score_squares(credit), torch.stack(expected))


LEAKS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "the draw": lambda z, loss: z,
    "a function of the draw": lambda z, loss: lambda credit: z.detach() * 2,
    "the loss": lambda z, loss: loss,
    "the credit": lambda z, loss: lambda credit: credit.total,
    "the credit of others": lambda z, loss: lambda credit: credit.of_others(0),
    "what python read": lambda z, loss: lambda credit: torch.full((3,), float(z.sum())),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_inputs_that_the_draw_reaches_are_refused(leak: str) -> None:
    logits = torch.zeros(3, requires_grad=True)
    with an.record():
        z = Bernoulli(logits=logits).sample()
        loss = ((z - 0.3) ** 2).sum()
    baseline = an.estimators.Neural(inputs=LEAKS[leak](z, loss))
    with pytest.raises(an.errors.DependentBaselineError, match=r"site 'z' \(.*\): its baseline"):
        an.backward(loss, baseline=baseline)
    assert logits.grad is None


def test_inputs_of_another_batch_are_refused() -> None:
    with an.record():
        loss = Bernoulli(logits=torch.zeros(3, requires_grad=True)).sample().sum()
    pattern = r"site 'bernoulli' .* has inputs of shape \[5, 2\]; expected \[3, ...\]"
    with pytest.raises(an.errors.BaselineError, match=pattern):
        an.backward(loss, baseline=an.estimators.Neural(inputs=torch.ones(5, 2)))


def test_inputs_of_the_examples_are_taken() -> None:
    x, logits = torch.randn(3, 5), torch.zeros(3, requires_grad=True)
    with an.record():
        first = Bernoulli(logits=logits).sample()
        second = Bernoulli(logits=logits + first).sample()
        loss = ((second - 0.3) ** 2 + first).sum()
    inputs = {"second": lambda credit: torch.stack([first, first * 2], 1), "first": x}
    an.backward(
        loss,
        baseline={name: an.estimators.Neural(inputs=given) for name, given in inputs.items()},  # type: ignore[arg-type]
    )
    assert logits.grad is not None


def test_a_network_of_the_user_is_left_to_the_optimizer_of_the_user() -> None:
    net = nn.Linear(5, 1)
    before = net.weight.detach().clone()
    baseline = an.estimators.Neural(inputs=torch.randn(3, 5), net=net, optimizer=None)
    for _ in range(2):
        logits = torch.zeros(3, requires_grad=True)
        with an.record():
            loss = (Bernoulli(logits=logits).sample() + 1).sum()
        an.backward(loss, baseline=baseline)
    assert torch.equal(net.weight, before)
    assert net.weight.grad is not None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"inputs": 3}, "inputs must be a tensor or a function, not"),
        ({"net": "net"}, "net must be a torch.nn.Module, not"),
        ({"optimizer": 0.01}, "optimizer must be a function of parameters"),
    ],
)
def test_what_a_network_cannot_be_made_of_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        an.estimators.Neural(**options)


def test_inputs_that_are_no_tensor_name_the_site() -> None:
    with an.record():
        loss = Bernoulli(logits=torch.zeros(3, requires_grad=True)).sample().sum()
    with pytest.raises(an.errors.BaselineError, match=r"site 'bernoulli' .* has inputs of a list"):
        an.backward(loss, baseline=an.estimators.Neural(inputs=lambda credit: [1.0]))  # type: ignore


@every_one
def test_what_is_learned_has_no_history_and_comes_through_a_pickle(
    make: Callable[[], Learned],
) -> None:
    """A history would hold on to all earlier steps."""
    baseline = make()
    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)

    def program() -> Tensor:
        z = Bernoulli(logits=theta).sample()
        loss: Tensor = (z - 0.45).pow(2).sum() + 1.3 * z[0] * z[1]
        return loss

    def step(learned: Learned, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)
        surrogate = an.estimate(program, baseline=learned).surrogate
        return torch.autograd.grad(surrogate, [theta])[0]

    for seed in range(5):
        step(baseline, seed)
    memories = [each for memory in baseline.memories.values() for each in memory.values()]
    assert memories
    assert not any(each.requires_grad for each in memories)
    assert torch.equal(step(pickle.loads(pickle.dumps(baseline))), step(copy.deepcopy(baseline)))

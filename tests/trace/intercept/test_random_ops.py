"""Draws of torch's own random functions: what is a site, what is noise, and what they cost."""

import itertools
import random
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, bernoulli, nn
from torch import distributions as dist

import ancestral as an
from ancestral.errors import TransformError
from ancestral.provenance.dispatch.inplace import WriteIntoParameterError
from ancestral.trace.intercept.random_ops import WithoutReplacement

SHAPE = (4, 3)


def integers(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int64)


def scripted(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Compile a function with TorchScript, of which torch 2 warns that it is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled: Callable[[Tensor], Tensor] = torch.jit.script(function)
    return compiled


def coin_of_script(p: Tensor) -> Tensor:
    return torch.bernoulli(p)


IN_SCRIPT = scripted(coin_of_script)

Draw = Callable[[Tensor], Tensor]
Fn = Callable[[Tensor], dist.Distribution]


def pair(p: Tensor) -> dist.Distribution:
    return WithoutReplacement(p, 2)


def single(p: Tensor) -> dist.Distribution:
    return dist.Categorical(p.unsqueeze(1))


def located(p: Tensor) -> dist.Distribution:
    return dist.Normal(p, 2.0)


def scaled(p: Tensor) -> dist.Distribution:
    return dist.Normal(3.0, p)


# The call, and the distribution it stands for, by the dimensions of the parameter that it keeps.
DRAWS: dict[str, tuple[Draw, Fn]] = {
    "torch.bernoulli: 01": (torch.bernoulli, dist.Bernoulli),
    "an imported name: 01": (lambda p: bernoulli(p), dist.Bernoulli),
    "Tensor.bernoulli: 01": (lambda p: p.bernoulli(), dist.Bernoulli),
    "Tensor.bernoulli_: 01": (lambda p: torch.empty(SHAPE).bernoulli_(p), dist.Bernoulli),
    "bernoulli_ of a row: _01": (
        lambda p: torch.empty(2, *SHAPE).bernoulli_(p),
        lambda p: dist.Bernoulli(p.expand(2, *SHAPE)),
    ),
    "a scripted function: 01": (IN_SCRIPT, dist.Bernoulli),
    "torch.multinomial of one: 0_": (lambda p: torch.multinomial(p, 1), single),
    "torch.multinomial of one row: _": (
        lambda p: torch.multinomial(p[0], 2, replacement=True),
        lambda p: dist.Categorical(p[0].expand(2, 3)),
    ),
    "torch.multinomial with replacement: 0_": (
        lambda p: torch.multinomial(p, 5, replacement=True),
        lambda p: dist.Categorical(p.unsqueeze(1).expand(4, 5, 3)),
    ),
    "torch.multinomial without: 0": (lambda p: torch.multinomial(p, 2), pair),
    "Tensor.multinomial by keyword: 0": (
        lambda p: p.multinomial(num_samples=2, replacement=False),
        pair,
    ),
    "torch.normal of a mean: 01": (lambda p: torch.normal(p, 2.0), located),
    "torch.normal of a mean alone: 01": (torch.normal, lambda p: dist.Normal(p, 1.0)),
    "torch.normal of a scale: 01": (lambda p: torch.normal(3.0, p), scaled),
    "torch.normal of both: 01": (
        lambda p: torch.normal(p, p.square()),
        lambda p: dist.Normal(p, p.square()),
    ),
    "torch.poisson: 01": (torch.poisson, dist.Poisson),
    "torch.multinomial into a result: 0_": (
        lambda p: torch.multinomial(p, 1, out=integers(4, 1)),
        single,
    ),
    "torch.multinomial into a result that grows: 0": (
        lambda p: torch.multinomial(p, 2, out=integers(0)),
        pair,
    ),
    "Tensor.bernoulli_ by keyword: 01": (
        lambda p: torch.empty(SHAPE).bernoulli_(p=p),
        dist.Bernoulli,
    ),
    "torch._sample_dirichlet: 0": (torch._sample_dirichlet, dist.Dirichlet),
}
every_draw = pytest.mark.parametrize("name", DRAWS)


def parameter() -> Tensor:
    """Return probabilities with a gradient to learn."""
    return torch.linspace(0.1, 0.8, 12).reshape(SHAPE).requires_grad_()


@every_draw
def test_a_draw_is_a_site_with_its_density(name: str) -> None:
    call, distribution = DRAWS[name]
    p = parameter()
    with an.record() as trace:
        value = call(p)
    (node,) = trace.values()
    assert an.provenance_of(value) == {node.name}
    assert (node.is_learned, node.is_reparameterized, node.is_score) == (True, False, True)
    assert node.source_location.filename == __file__
    assert node.value.tolist() == an.untrack(value).tolist()
    fn = distribution(p)
    assert type(node.fn) is type(fn)
    torch.testing.assert_close(node.log_prob, fn.log_prob(node.value))
    assert node.log_prob.requires_grad
    assert node.log_prob.shape == torch.Size(node.shape)


@every_draw
def test_a_draw_is_a_child_of_what_its_parameters_came_from(name: str) -> None:
    call, _ = DRAWS[name]
    with an.record() as trace:
        z = torch.bernoulli(parameter())
        x = call(z * 0.5 + 0.25)
    names = list(trace)
    assert len(names) == 2
    param_provenance = trace[names[1]].param_provenance
    assert param_provenance is not None
    assert trace[names[1]].parents == {"z"}
    kept = [
        "".join("_" if d == -1 else str(d) for d in a.dims) for a, _ in param_provenance.entries
    ]
    if name.startswith(
        "a scripted function"
    ):  # what it does inside is not seen: one op, alignment lost
        assert an.provenance_of(x) == set(names)
        assert kept == ["__"]
    else:
        assert an.provenance_of(x) == {names[1]}
        assert kept == [name.rpartition(": ")[2]]


@every_draw
def test_the_values_are_those_of_the_same_seed_outside(name: str) -> None:
    call, _ = DRAWS[name]
    torch.manual_seed(7)
    outside = [call(parameter()), torch.rand(3)]
    torch.manual_seed(7)
    with an.record():
        inside = [an.untrack(call(parameter())), torch.rand(3)]
    assert type(outside[0]) is Tensor
    assert all(a.equal(b) for a, b in zip(inside, outside, strict=True))


@every_draw
def test_a_draw_of_constants_is_a_site_without_a_score(name: str) -> None:
    call, distribution = DRAWS[name]
    p = parameter().detach()
    with an.record() as trace:
        value = call(p)
    (node,) = trace.values()
    assert an.provenance_of(value) == {node.name}
    assert [node.is_learned, node.log_prob.requires_grad, *node.parents] == [False, False]
    torch.testing.assert_close(node.log_prob, distribution(p).log_prob(node.value))
    with pytest.raises(an.errors.LossError, match="nor has a parameter of any draw"):
        an.backward(value.sum() * 1.0)


@every_draw
def test_outside_a_recording_nothing_is_caught(name: str) -> None:
    call, _ = DRAWS[name]
    with an.record() as trace:
        pass
    assert type(call(parameter())) is Tensor
    assert len(trace) == 0


NOISE: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: nn.functional.dropout(x, 0.5),
    "a dropout layer": nn.Dropout(0.3),
    "dropout in place": lambda x: nn.functional.dropout(x + 0, 0.5, inplace=True),
    "a coin flip": lambda x: x * torch.empty(SHAPE).bernoulli_(0.5),
    "an initial weight": lambda x: x @ nn.init.normal_(torch.empty(3, 3)),
    "a mask": lambda x: x * (torch.rand(SHAPE) < 0.5),
    "waiting times": lambda x: x + torch.empty(SHAPE).exponential_(2.0),
    "rand": lambda x: x + torch.rand(SHAPE) + torch.randn(SHAPE),
    "normal_": lambda x: x + torch.empty(SHAPE).normal_(0.0, 1.0),
    "a permutation": lambda x: x[torch.randperm(4)],
    "leaky noise": lambda x: nn.functional.rrelu(x, training=True),
}


@pytest.mark.parametrize("name", NOISE)
def test_masks_and_coin_flips_are_no_sites(name: str) -> None:
    with an.record() as trace:
        z = dist.Normal(parameter(), 1.0).sample()
        noisy = NOISE[name](z)
        plain = NOISE[name](parameter())
    assert list(trace) == ["z"]
    assert an.provenance_of(noisy) == {"z"}
    assert an.provenance_of(plain) == frozenset()


def test_a_draw_inside_the_sample_of_a_distribution_is_recorded_once() -> None:
    p = parameter()
    with an.record() as trace:
        a = dist.Bernoulli(p).sample()  # draws with torch.bernoulli
        b = dist.Categorical(p).sample()  # draws with torch.multinomial
        c = dist.Normal(p, 1.0).sample()  # draws with torch.normal
        d = dist.Poisson(p).sample()  # draws with torch.poisson
    assert list(trace) == ["a", "b", "c", "d"]
    assert [an.provenance_of(t) for t in (a, b, c, d)] == [{"a"}, {"b"}, {"c"}, {"d"}]


# Those whose parameter is ours: what is computed under no_grad has no gradient to learn.
@pytest.mark.parametrize(
    "name",
    [
        n
        for n in DRAWS
        if not n.startswith(("torch.multinomial of one row", "torch.normal of both"))
    ],
)
def test_a_draw_under_no_grad_is_as_learned_as_outside(name: str) -> None:
    call, distribution = DRAWS[name]
    p, by_hand = parameter(), parameter()
    with an.record() as trace:
        with torch.no_grad():
            value = call(p)
        loss = value.sum() * 1.0
    (node,) = trace.values()
    an.backward(loss, credit=an.estimators.total_cost)
    (distribution(by_hand).log_prob(node.value).sum() * node.value.sum()).backward()
    torch.testing.assert_close(p.grad, by_hand.grad)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    weights=st.lists(st.floats(0.1, 10), min_size=2, max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_an_ordered_draw_is_as_likely_as_its_steps_by_hand(
    weights: list[float], order: random.Random
) -> None:
    picks = list(range(len(weights)))
    order.shuffle(picks)
    for draws in range(1, len(picks) + 1):
        left, expected = sum(weights), 1.0
        for pick in picks[:draws]:
            expected *= weights[pick] / left
            left -= weights[pick]
        fn = WithoutReplacement(torch.tensor(weights, dtype=torch.float64), draws)
        found = fn.log_prob(torch.tensor(picks[:draws])).exp().item()
        assert found == pytest.approx(expected, rel=1e-6)


def test_the_frequencies_of_torch_are_those_of_the_density() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    torch.manual_seed(0)
    drawn = torch.multinomial(weights.expand(40_000, 3), 2)
    for order in itertools.permutations(range(3), 2):
        share = (drawn == torch.tensor(order)).all(1).double().mean().item()
        expected = WithoutReplacement(weights, 2).log_prob(torch.tensor(order)).exp().item()
        assert share == pytest.approx(expected, abs=0.015)


def test_nested_recordings_share_a_draw_and_the_key_goes_with_the_last() -> None:
    p = parameter()
    with an.record() as outer:
        with an.record() as inner:
            torch.bernoulli(p)
        torch.bernoulli(p)
    assert (list(outer), list(inner)) == (["bernoulli", "bernoulli_1"], ["bernoulli"])
    assert type(torch.bernoulli(p)) is Tensor


def test_a_call_that_torch_refuses_raises_as_outside_and_recording_goes_on() -> None:
    p = parameter()
    with pytest.raises(RuntimeError) as outside:
        torch.multinomial(p, 9)
    with an.record() as trace:
        with pytest.raises(RuntimeError) as inside:
            torch.multinomial(p, 9)
        torch.bernoulli(p)
    assert str(inside.value) == str(outside.value)
    assert list(trace) == ["bernoulli"]


BY_OTHER_WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.binomial": lambda p: torch.binomial(torch.full(SHAPE, 3.0), p),
    "vmap": lambda p: torch.vmap(torch.bernoulli, randomness="different")(p),
}


@pytest.mark.parametrize("name", BY_OTHER_WAYS)
def test_a_draw_with_something_to_learn_is_recorded_or_refused(name: str) -> None:
    with an.record() as trace:
        try:
            value = BY_OTHER_WAYS[name](parameter())
        except TransformError:
            return
    assert an.provenance_of(value) == set(trace)
    assert len(trace) == 1


# Torch refuses most of these outside of no_grad. The call, given a result, and the distribution.
_out = torch.ops.aten
INTO: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Fn]] = {
    "torch.bernoulli": (lambda p, out: torch.bernoulli(p, out=out), dist.Bernoulli),
    "Tensor.bernoulli_": (lambda p, out: out.bernoulli_(p), dist.Bernoulli),
    "torch.normal of a mean": (lambda p, out: torch.normal(p, 2.0, out=out), located),
    "torch.normal of a scale": (lambda p, out: torch.normal(3.0, p, out=out), scaled),
    "torch.normal of both": (
        lambda p, out: torch.normal(p, p, out=out),
        lambda p: dist.Normal(p, p),
    ),
    "an overload for poisson": (lambda p, out: _out.poisson.out(p, out=out), dist.Poisson),
    "an overload for binomial": (
        lambda p, out: _out.binomial.out(torch.full(SHAPE, 3.0), p, out=out),
        lambda p: dist.Binomial(torch.full(SHAPE, 3.0), p),
    ),
    "an overload with probabilities": (
        lambda p, out: _out.bernoulli.Tensor_out(torch.empty(SHAPE), p, out=out),
        dist.Bernoulli,
    ),
    "an overload for gamma": (
        lambda p, out: _out._standard_gamma.out(p, out=out),
        lambda p: dist.Gamma(p, 1.0),
    ),
    "an overload for dirichlet": (
        lambda p, out: _out._sample_dirichlet.out(p, out=out),
        dist.Dirichlet,
    ),
}


@pytest.mark.parametrize("seen", ["what is returned", "what was given", "an older view"])
@pytest.mark.parametrize("name", INTO)
def test_a_draw_into_a_result_is_a_site_whose_score_counts(name: str, seen: str) -> None:
    call, distribution = INTO[name]
    p, by_hand = parameter(), parameter()
    with an.record() as trace:
        given = torch.zeros(2, *SHAPE)[0]
        older = given.view(-1)
        with torch.no_grad():
            returned = call(p, given)
        tensors = {"what is returned": returned, "what was given": given, "an older view": older}
        loss = (tensors[seen] * 2).square().sum()
    (node,) = trace.values()
    assert an.provenance_of(loss) == {node.name}
    an.backward(loss, credit=an.estimators.total_cost)
    (distribution(by_hand).log_prob(node.value).sum() * 4 * node.value.square().sum()).backward()
    torch.testing.assert_close(p.grad, by_hand.grad)


@pytest.mark.parametrize("name", [n for n in INTO if not n.startswith("an overload")])
def test_a_draw_over_its_own_parameter_keeps_the_density_of_what_was_there(name: str) -> None:
    call, distribution = INTO[name]
    p = parameter()
    with an.record() as trace:
        z = dist.Bernoulli(p).sample()
        weights = z * 0.5 + 0.25
        before = an.untrack(weights).clone()
        call(weights, weights)
    first, second = trace.values()
    assert second.parents == {first.name}
    torch.testing.assert_close(second.log_prob, distribution(before).log_prob(second.value))


def test_a_draw_into_a_parameter_is_refused_by_name_unless_it_is_of_constants() -> None:
    weight = nn.Parameter(torch.zeros(SHAPE))
    with an.record() as trace, torch.no_grad():
        weight.bernoulli_(parameter().detach())
        assert not trace
        with pytest.raises(WriteIntoParameterError, match=r"bernoulli_ would write .*'bernoulli'"):
            weight.bernoulli_(parameter())


def test_a_draw_of_gamma_is_reparameterized_and_knows_its_kinks() -> None:
    concentration, by_hand = parameter(), parameter()
    torch.manual_seed(0)
    with an.record() as trace:
        g = torch._standard_gamma(concentration)
        smooth = g.square().sum()
    torch.manual_seed(0)
    torch._standard_gamma(by_hand).square().sum().backward()
    an.backward(smooth)
    assert trace["g"].is_reparameterized
    torch.testing.assert_close(concentration.grad, by_hand.grad)
    concentration.grad = None
    with an.record() as trace:
        above = (torch._standard_gamma(concentration) > 0.3).double().sum()
    an.backward(above, credit=an.estimators.total_cost)
    (node,) = trace.values()
    by_hand.grad = None
    count = (node.value > 0.3).sum()
    (dist.Gamma(by_hand, 1.0).log_prob(node.value).sum() * count).backward()
    torch.testing.assert_close(concentration.grad, by_hand.grad)


def test_a_draw_of_numbers_that_returns_a_tensor_is_a_site() -> None:
    with an.record() as trace:
        a = torch.normal(0.5, 2.0, (3,))
        b = torch.normal(0.5, 2.0, (3,), out=torch.empty(3))
    assert [type(node.fn) for node in trace.values()] == [dist.Normal, dist.Normal]
    assert [an.provenance_of(t) for t in (a, b)] == [{"a"}, {"b"}]
    torch.testing.assert_close(trace["a"].log_prob, dist.Normal(0.5, 2.0).log_prob(an.untrack(a)))

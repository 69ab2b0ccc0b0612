"""Rescoring: the gradient of one pass, from draws without a gradient and a second pass."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs.estimates import fresh, gradients, higher_derivatives, library
from programs.texts import TABLE, Decoder, generate, generated, logits_after, until_the_end
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, Poisson

import ancestral as an
from ancestral.trace.handlers.rescore import Second
from ancestral.trace.nodes.distribution_params import family_name
from oracles import (
    Estimate,
    Parameters,
    Path,
    Program,
    derivatives,
    enumerated,
    estimates_on,
    moments_of,
    paths,
)


def cost(words: Tensor) -> Tensor:
    """Return what each text costs, and each word of it, [texts]."""
    at = torch.tensor([0.0, 0.7, -1.2, 0.4], dtype=torch.float64)
    return ((words - 0.3) * at).square().sum(1) + words.double().prod(1) * 2


def whole(table: Tensor) -> Tensor:
    return cost(generate(table)).mean()


def stacked(table: Tensor, words: Tensor, _: an.Trace) -> Second:
    return Categorical(logits=logits_after(table, words)[:, :-1])


def by_pattern(table: Tensor, words: Tensor, trace: an.Trace) -> Second:
    return {"word*": stacked(table, words, trace)}  # type: ignore[dict-item]


def by_name(table: Tensor, words: Tensor, _: an.Trace) -> Second:
    logits = logits_after(table, words)
    return {
        name: Categorical(logits=logits[:, t])
        for t, name in enumerate(["word", "word_1", "word_2"])
    }


def rerun(table: Tensor, _: Tensor, trace: an.Trace) -> Second:
    with an.record() as second, an.handlers.replay(trace):
        generate(table)
    return second


DRAW_BY_DRAW = library()


def again(
    first: Callable[..., Tensor],
    second: Callable[..., Second],
    *,
    is_inside: bool = False,
    is_followed: bool = True,
    baseline: Any = "auto",
    credit: Any = an.estimators.by_element,
) -> Estimate:
    """Return the estimate by draws without a gradient, and a second pass."""

    def estimate(_: Program, parameters: Parameters) -> Tensor:
        leaves = fresh(parameters)

        def rescored() -> None:
            seen = words if is_followed else an.untrack(words)
            an.rescore(trace, second(*leaves, seen, trace))

        with an.record() as trace:
            with torch.no_grad():
                words = first(*leaves)
            loss = cost(words).mean()
            if is_inside:
                rescored()
        if not is_inside:
            rescored()
        an.backward(loss, baseline=copy.deepcopy(baseline), credit=credit)
        return gradients(leaves)

    return estimate


@pytest.mark.parametrize(("is_inside", "is_followed"), [(False, False), (True, True)])
@pytest.mark.parametrize("second", [stacked, by_pattern, by_name, rerun])
def test_two_passes_have_the_gradient_of_one_draw_by_draw(
    second: Callable[..., Second], is_inside: bool, is_followed: bool
) -> None:
    assert_two_passes_are_one(
        again(generate, second, is_inside=is_inside, is_followed=is_followed), DRAW_BY_DRAW
    )


def assert_two_passes_are_one(
    twice: Estimate, once: Estimate, program: Program = whole, given: Parameters = (TABLE,)
) -> None:
    """Compare the estimates on every path, and their mean with the exact gradient."""
    runs, weights, expected, exact = one_pass(once, program, tuple(given))
    _, found = estimates_on(runs, program, given, twice)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(moments_of(weights, found).mean, exact, rtol=1e-9, atol=1e-12)


@functools.cache
def one_pass(
    once: Estimate, program: Program, given: Parameters
) -> tuple[list[Path], Tensor, Tensor, Tensor]:
    runs, exact = enumerated(program, [each.requires_grad_() for each in given])
    return runs, *estimates_on(runs, program, given, once), exact


@pytest.mark.parametrize(
    "options",
    [
        {"baseline": an.estimators.LeaveOneOut()},
        {"credit": an.estimators.by_site},
        {"credit": an.estimators.total_cost},
    ],
)
def test_two_passes_take_the_baselines_and_credits_of_one(options: dict[str, Any]) -> None:
    one = library(options.get("credit", an.estimators.by_element), options.get("baseline", "auto"))
    assert_two_passes_are_one(again(generate, stacked, **options), one)


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")  # texts end by it
def test_texts_that_end_early_are_scored_as_they_were_drawn() -> None:
    def program(table: Tensor) -> Tensor:
        return cost_of_any(until_the_end(table)).mean()

    def cost_of_any(words: Tensor) -> Tensor:
        return (words.double() - 0.3).square().sum(1) + words.double().prod(1)

    def estimate(_: Program, parameters: Parameters) -> Tensor:
        leaves = fresh(parameters)
        with an.record() as trace:
            with torch.no_grad():
                words = until_the_end(*leaves)
            loss = cost_of_any(words).mean()
        logits = logits_after(*leaves, an.untrack(words))[:, :-1]  # type: ignore[call-arg]
        an.rescore(trace, {"word*": Categorical(logits=logits)})
        an.backward(loss)
        return gradients(leaves)

    assert_two_passes_are_one(estimate, library(), program)


def test_draws_with_and_without_a_gradient_count_together() -> None:
    """The first is scored as it was drawn, two of constants have nothing to learn."""

    def program(a: Tensor, b: Tensor, *, is_second: bool = False) -> Tensor:
        z = Independent(Bernoulli(logits=a), 1).sample()
        coin = Bernoulli(torch.tensor(0.3, dtype=torch.float64)).sample()
        with torch.set_grad_enabled(not is_second):
            y = Independent(Bernoulli(logits=b * z + coin), 1).sample()
            x = Bernoulli(logits=b * y).sample()
        loss: Tensor = ((x - 0.2) * (1 + z) * (2 - y)).square().sum() + coin * z.sum()
        return loss

    def estimate(_: Program, parameters: Parameters) -> Tensor:
        a, b = leaves = fresh(parameters)
        with an.record() as trace:
            loss = program(a, b, is_second=True)
        z, coin, y = (trace[name].value for name in ("z", "coin", "y"))
        assert isinstance(trace["y"].fn, Independent)
        second = {"y": Independent(Bernoulli(logits=b * z + coin), 1), "coin": None}
        an.rescore(trace, {**second, "x": Bernoulli(logits=b * y)})
        assert trace["y"].log_prob.shape == ()
        an.backward(loss)
        return gradients(leaves)

    given = [torch.tensor(v, dtype=torch.float64) for v in ([0.3, -1.0], [0.5, 0.9])]
    assert_two_passes_are_one(estimate, library(), program, given)


FAMILIES: dict[str, tuple[Callable[[Tensor], Distribution], Callable[[Tensor], Distribution]]] = {
    "normal": (lambda p: Normal(p, 1.0), lambda p: Normal(p.expand(4, 2).T, 1.0)),
    "poisson": (lambda p: Poisson(p.exp()), lambda p: Poisson(p.exp().expand(4, 2).T)),
    "events": (
        lambda p: Independent(Normal(p.expand(3, 2), 1.0), 1),
        lambda p: Independent(Normal(p.expand(3, 4, 2), 1.0), 1),
    ),
    "joint": (
        lambda p: torch.distributions.MultivariateNormal(p, torch.eye(2)),
        lambda p: torch.distributions.MultivariateNormal(p.expand(4, 2), torch.eye(2)),
    ),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", ["sample", "rsample"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_draw_of_any_family_gets_the_score_of_its_density(
    name: str, method: str, mode: Callable[[], Any]
) -> None:
    if name == "poisson":
        method = "sample"
    one, all_ = FAMILIES[name]
    p = torch.tensor([0.3, -0.4], requires_grad=True)
    with an.record() as trace:
        with mode():
            draws = []
            for _ in range(4):
                z = getattr(one(p * 1), method)()
                draws.append(z)
        loss = sum((i + 1) * z.square().sum() for i, z in enumerate(draws))
    an.rescore(trace, {"z*": all_(p)})
    assert all(node.is_learned and node.is_score for node in trace.values())
    assert trace.graph.vertices[0].distribution == family_name(one(p))
    an.backward(loss, credit=an.estimators.total_cost)
    density = sum(one(p).log_prob(node.value).sum() for node in trace.values())
    by_hand = torch.autograd.grad(density * an.untrack(loss).clone(), p)[0]
    torch.testing.assert_close(p.grad, by_hand)


def test_a_wrapped_model_is_trained_on_the_texts_that_it_generates() -> None:
    torch.manual_seed(0)
    model = an.wrap(Decoder(), methods=("generate",))
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    start = torch.zeros(32, 1, dtype=torch.long)
    rewards = []
    for _ in range(40):
        optimizer.zero_grad()
        words = model.generate(start, 4)
        reward = (words == 3).double().mean(1)
        second = Categorical(logits=model(an.untrack(words))[:, :-1])
        an.rescore(model.trace, second)  # type: ignore[arg-type]
        an.backward(-reward.mean(), baseline=an.estimators.LeaveOneOut())
        optimizer.step()
        rewards.append(float(an.untrack(reward).mean()))
    assert sum(rewards[-5:]) / 5 > 0.7 > 0.4 > rewards[0]


def test_what_the_user_does_to_the_densities_later_changes_nothing() -> None:
    model, trace, words, loss = generated()
    logits = model(words)[:, :-1] * 1
    an.rescore(trace, Categorical(logits=logits, validate_args=False))
    by_hand = torch.cat([node.log_prob for node in trace.values()], 1)
    twin = copy.deepcopy(model)
    expected = torch.autograd.grad(
        Categorical(logits=twin(words)[:, :-1]).log_prob(words[:, 1:]).sum(), twin.head.weight
    )[0]
    found = torch.autograd.grad(by_hand.sum(), model.head.weight, retain_graph=True)[0]
    torch.testing.assert_close(found, expected)
    an.backward(loss)
    assert trace.detach_()["word"].is_learned


def test_a_recording_around_that_of_the_draws_is_rescored_too() -> None:
    torch.manual_seed(0)
    model = an.wrap(Decoder(), methods=("generate",))
    with an.record() as outer:
        words = model.generate(torch.zeros(3, 1, dtype=torch.long), 2)
        loss = words.double().mean()
    an.rescore(model.trace, Categorical(logits=model(an.untrack(words))[:, :-1]))  # type: ignore[arg-type]
    assert all(node.is_learned for node in outer.values())
    an.backward(loss)
    assert model.head.weight.grad is not None


def test_second_derivatives_are_those_of_one_pass() -> None:
    table = TABLE.clone().requires_grad_()

    def twice(_: Program, parameters: Parameters) -> Tensor:
        with an.record() as trace:
            with torch.no_grad():
                words = generate(*parameters)
            loss = cost(words).mean()
        an.rescore(trace, stacked(*parameters, an.untrack(words), trace))  # type: ignore[arg-type, call-arg]
        return derivatives(an.surrogate(loss), parameters, 2)

    runs = paths(whole, [table])[::12]
    _, found = estimates_on(runs, whole, [table], twice)
    _, once = estimates_on(runs, whole, [table], higher_derivatives(2))
    torch.testing.assert_close(found, once, rtol=1e-9, atol=1e-12)


def test_a_rescored_trace_is_shown_copied_explained_and_stored(tmp_path: Any) -> None:
    model, trace, words, loss = generated()
    before = (str(trace), trace.format_shapes(), str(trace.graph))
    an.rescore(trace, Categorical(logits=model(words)[:, :-1]))
    assert (str(trace), trace.format_shapes(), str(trace.graph)) == before
    assert trace.copy()["word"].is_learned
    assert "word_3" in str(trace.explain(loss))
    trace.save(tmp_path / "t")
    stored = an.Trace.load(tmp_path / "t")
    torch.testing.assert_close(stored["word"].log_prob, trace["word"].log_prob.detach())
    assert stored.graph.vertices[0].distribution == "Categorical"
    an.backward(loss)


def test_named_sites_within_a_plate_keep_its_scale_and_the_declared_costs() -> None:
    data = torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64)

    def program(logits: Tensor) -> None:
        with an.plate("data", 8, subsample_size=4, dim=-1) as index:
            z = an.sample("z", Bernoulli(logits=logits.expand(4)))
            y = an.sample("y", Bernoulli(logits=logits * z - 0.3))
            an.cost("error", (z + y - data[index % 4]).square())

    def estimate(is_second: bool) -> Estimate:
        def ask(_: Program, parameters: Parameters) -> Tensor:
            (logits,) = leaves = fresh(parameters)
            with an.handlers.seed(3), an.record() as trace, torch.set_grad_enabled(not is_second):
                program(logits)
            if is_second:
                with an.record() as again, an.handlers.replay(trace):
                    program(logits)
                an.rescore(trace, again)
                assert trace["z"].scale == 2
            trace.backward()
            return gradients(leaves)

        return ask

    def whole_program(logits: Tensor) -> Tensor:
        with an.handlers.seed(3):
            program(logits)
        return logits.sum()

    given = [torch.tensor(0.4, dtype=torch.float64, requires_grad=True)]
    runs = paths(whole_program, given)[::17]
    _, once = estimates_on(runs, whole_program, given, estimate(is_second=False))
    _, twice = estimates_on(runs, whole_program, given, estimate(is_second=True))
    assert bool(once.any())
    torch.testing.assert_close(twice, once, rtol=1e-9, atol=1e-12)

"""Rescoring: the gradient of one pass, from draws without a gradient and a second pass."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs.estimates import fresh, gradients, higher_derivatives, library
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, Poisson

import ancestral as an
from ancestral.errors import RescoreError
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

WORDS, TEXTS = 3, 2
TABLE = torch.tensor([[0.4, -0.2], [0.1, 0.5]], dtype=torch.float64)
FIRST = torch.tensor([0, 1])


def logits_after(table: Tensor, words: Tensor) -> Tensor:
    """Return the logits of the word after each, [texts, time, 2]: a causal language model."""
    before = words.double().cumsum(1)[..., None]
    return table[words] * (1 + 0.3 * before)


def generate(table: Tensor) -> Tensor:
    """Draw the words after the first, one by one: [texts, 1 + WORDS]."""
    words = FIRST[:, None]
    for _ in range(WORDS):
        word = Categorical(logits=logits_after(table, words)[:, -1]).sample()
        words = torch.cat([words, word[:, None]], 1)
    return words


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


def until_the_end(table: Tensor) -> Tensor:
    """Draw words until all texts have ended, with 1; what is drawn after that is padding, 0."""
    words = FIRST[:, None] * 0
    is_going = torch.ones(TEXTS, dtype=torch.long)
    for _ in range(WORDS):
        word = Categorical(logits=logits_after(table, words)[:, -1]).sample()
        word = word * is_going
        is_going = is_going * (1 - word)
        words = torch.cat([words, word[:, None]], 1)
        if not bool(is_going.any()):
            break
    return words


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


class Decoder(nn.Module):
    """A language model with a layer of dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 5)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.dropout(self.words(ids).cumsum(1))
        logits: Tensor = self.head(h)
        return logits

    @torch.no_grad()
    def generate(self, ids: Tensor, steps: int, temperature: float = 1.0) -> Tensor:
        for _ in range(steps):
            chances = (self(ids)[:, -1] / temperature).softmax(-1)
            word = torch.multinomial(chances, 1)
            ids = torch.cat([ids, word], 1)
        return ids


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


def recorded(**options: Any) -> tuple[Decoder, an.Trace, Tensor, Tensor]:
    torch.manual_seed(1)
    model = Decoder(options.pop("dropout", 0.0))
    with an.record() as trace:
        words = model.generate(torch.zeros(3, 1, dtype=torch.long), 4, **options)
        loss = words.double().sum(1).mean()
    return model, trace, an.untrack(words), loss


WRONG: dict[str, tuple[Callable[[Decoder, Tensor], object], str]] = {
    "one step too late": (
        lambda m, w: Categorical(logits=m(w)[:, 1:]),
        r"site 'word' \(.*test_rescore.py:\d+\), element \[\d, 0\]: what was drawn had "
        r"log-probability -\d.* and has -\d.*expected the same, within 0.001.*position in time",
    ),
    "another temperature": (lambda m, w: Categorical(logits=m(w)[:, :-1] / 0.7), "temperature"),
    "other weights": (
        lambda m, w: Categorical(logits=m(w)[:, :-1] + torch.eye(5)[0]),
        "the same weights",
    ),
    "too few words": (
        lambda m, w: Categorical(logits=m(w)[:, :-2]),
        r"site 'word' \(.*\) and 3 more drew values of shape \[3, 1\].* of shape \[3, 3\]; "
        "expected one with the 4 sites, in program order, along the last",
    ),
    "other texts": (lambda m, w: Categorical(logits=m(w)[:1, :-1]), r"of shape \[1, 4\]"),
    "one word": (
        lambda m, w: {"word": Categorical(logits=m(w)[:, 0])},
        r"site 'word' \(.*\) drew values of shape \[3, 1\].* of shape \[3\]; expected one of that",
    ),
    "a word left out": (
        lambda m, w: {"word_[12]": Categorical(logits=m(w)[:, 1:3]), "word_3": None},
        r"site 'word' \(.*\) has no score.*would be biased; give its distribution, or None .*"
        r"Left out: 'word'$",
    ),
    "a word twice": (
        lambda m, w: {"word*": Categorical(logits=m(w)[:, :-1]), "word_3": None},
        r"site 'word_3' \(.*\) is scored twice, by 'word\*' and by 'word_3'",
    ),
    "an unknown name": (
        lambda m, w: {"words": Categorical(logits=m(w)[:, :-1])},
        "draws no site 'words'; it draws 'word', 'word_1', .*did you mean 'word'",
    ),
    "no gradient": (
        lambda m, w: Categorical(logits=m(w)[:, :-1].detach()),
        r"'word' .*the second pass has no gradient either; compute .*requires_grad=True",
    ),
}
OF_NO_KIND: dict[str, tuple[Callable[[Decoder, Tensor], object], str]] = {
    "logits": (lambda m, w: m(w)[:, :-1], "takes a distribution, .* not a Tensor"),
    "logits by name": (
        lambda m, w: {"word*": m(w)},
        r"distributions by the names of sites, not a Tensor by 'word\*'",
    ),
    "a number for a name": (lambda m, w: {1: None}, "not None by 1"),
}


@pytest.mark.parametrize("name", WRONG | OF_NO_KIND)
def test_a_second_pass_that_does_not_fit_is_refused_and_changes_nothing(name: str) -> None:
    second, text = (WRONG | OF_NO_KIND)[name]
    model, trace, words, loss = recorded()
    with pytest.raises(RescoreError if name in WRONG else TypeError, match=text):
        an.rescore(trace, second(model, words))  # type: ignore[arg-type]
    assert not any(node.is_learned for node in trace.values())
    an.rescore(trace, Categorical(logits=model(words)[:, :-1]))
    an.backward(loss)
    assert model.head.weight.grad is not None


def test_dropout_that_draws_another_mask_is_refused() -> None:
    model, trace, words, _ = recorded(dropout=0.5)
    with pytest.raises(RescoreError, match="dropout off in both"):
        an.rescore(trace, Categorical(logits=model(words)[:, :-1]))


def test_more_than_rounding_is_allowed_by_a_number() -> None:
    model, trace, words, _ = recorded()
    second = Categorical(logits=model(words)[:, :-1] * 1.01)
    with pytest.raises(RescoreError, match=r"within 0\.001"):
        an.rescore(trace, second)
    an.rescore(trace, second, atol=0.1)
    torch.testing.assert_close(trace["word"].log_prob[:, 0], second.log_prob(words[:, 1:])[:, 0])


def test_weights_that_have_changed_since_are_refused() -> None:
    model, trace, words, _ = recorded()
    with torch.no_grad():
        model.head.weight.mul_(2.0)
    with pytest.raises(RescoreError, match="the same weights"):
        an.rescore(trace, Categorical(logits=model(words)[:, :-1]))


def test_weights_that_change_after_the_second_pass_are_noticed() -> None:
    model, trace, words, loss = recorded()
    an.rescore(trace, Categorical(logits=model(words)[:, :-1]))
    model.head.weight.data.mul_(2.0)
    with pytest.raises(an.errors.ModifiedParameterError, match="'word"):
        an.backward(loss)


def test_what_the_user_does_to_the_densities_later_changes_nothing() -> None:
    model, trace, words, loss = recorded()
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


def test_what_has_a_score_cannot_be_given_another() -> None:
    p = torch.tensor([0.3, 0.4], requires_grad=True)
    with an.record() as trace:
        z = Bernoulli(p).sample()
        y = Bernoulli(z.detach() * 0.5 + 0.2).sample()
    with pytest.raises(RescoreError, match=r"'z' \(.*has a score already, which would count twice"):
        an.rescore(trace, {"z": Bernoulli(p), "y": None})
    model, trace, words, _ = recorded()
    second = Categorical(logits=model(words)[:, :-1])
    an.rescore(trace, second)
    with pytest.raises(RescoreError, match="every draw of this trace has a gradient already"):
        an.rescore(trace, second)
    assert y.shape == (2,)


def test_a_trace_without_draws_is_told_from_the_one_that_is_meant() -> None:
    torch.manual_seed(0)
    model = an.wrap(Decoder(), methods=("forward", "generate"))
    words = an.untrack(model.generate(torch.zeros(3, 1, dtype=torch.long), 2))
    second = Categorical(logits=model(words)[:, :-1])
    with pytest.raises(RescoreError, match=r"draws nothing; .* hold model.trace before a second"):
        an.rescore(model.trace, second)  # type: ignore[arg-type]


def test_a_second_run_must_replay_the_first() -> None:
    with an.record() as trace, torch.no_grad():
        generate(TABLE)
    with an.record() as drawn:
        generate(TABLE)
    with pytest.raises(RescoreError, match=r"'word' \(.*\) of the second run was drawn anew"):
        an.rescore(trace, drawn)
    values = {name: node.value for name, node in trace.items()}
    with an.record() as given, an.handlers.substitute(values):
        generate(TABLE)
    with pytest.raises(RescoreError, match="not the one drawn at"):
        an.rescore(trace, given)
    with an.record() as short, an.handlers.replay(trace):
        word = Categorical(logits=logits_after(TABLE, FIRST[:, None])[:, -1]).sample()
    with pytest.raises(RescoreError, match=r"no score.*must come by it too. Left out: 'word_1', "):
        an.rescore(trace, short)
    assert torch.equal(word, trace["word"].value)


def test_a_recording_that_is_done_or_loaded_is_refused(tmp_path: Any) -> None:
    model, trace, words, loss = recorded()
    second = Categorical(logits=model(words)[:, :-1])
    trace.save(tmp_path / "t")
    with pytest.raises(an.errors.SettledError, match="loaded"):
        an.rescore(an.Trace.load(tmp_path / "t"), second)
    an.rescore(trace, second)
    an.backward(loss)
    with pytest.raises(an.errors.SettledError, match="already taken"):
        an.rescore(trace, second)
    with pytest.raises(TypeError, match="takes the Trace of the draws, not a Decoder"):
        an.rescore(model, second)  # type: ignore[arg-type]


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


def test_a_loss_that_holds_the_scores_of_the_second_pass_is_noticed() -> None:
    model = Decoder()
    with an.record() as trace:
        drawn = model.generate(torch.zeros(3, 1, dtype=torch.long), 2)
        reward = drawn.double().sum(1)
    logits = model(drawn)[:, :-1]
    an.rescore(trace, Categorical(logits=logits))
    logps = logits.log_softmax(-1).gather(-1, drawn[:, 1:, None])[..., 0]
    with pytest.warns(an.errors.HeldScoreWarning, match="'word'"):
        an.backward(-(logps.sum(1) * reward.detach()).mean())


def test_torchs_own_backward_leaves_the_scores_out_and_says_so() -> None:
    model, value = Decoder(), nn.Linear(5, 1)
    with an.record() as trace:
        drawn = model.generate(torch.zeros(3, 1, dtype=torch.long), 4)
        loss = value(drawn.float()).mean()
    an.rescore(trace, Categorical(logits=model(an.untrack(drawn))[:, :-1]))
    with pytest.warns(an.errors.MissingScoreWarning, match="'word', 'word_1'"):
        loss.backward()


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
    model, trace, words, loss = recorded()
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


@pytest.mark.parametrize("atol", [-1.0, "1", torch.ones(())])
def test_a_tolerance_that_is_none_is_refused(atol: Any) -> None:
    model, trace, words, _ = recorded()
    second = Categorical(logits=model(words)[:, :-1])
    with pytest.raises(ValueError, match="atol must be a number of at least 0, not"):
        an.rescore(trace, second, atol=atol)


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

"""What is refused of a second pass: one that does not fit, or comes too often, or too late."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs.texts import FIRST, TABLE, Decoder, generate, generated, logits_after
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical

import ancestral as an
from ancestral.errors import RescoreError

WRONG: dict[str, tuple[Callable[[Decoder, Tensor], object], str]] = {
    "one step too late": (
        lambda m, w: Categorical(logits=m(w)[:, 1:]),
        r"site 'word' \(.*texts.py:\d+\), element \[\d, 0\]: what was drawn had "
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
    model, trace, words, loss = generated()
    with pytest.raises(RescoreError if name in WRONG else TypeError, match=text):
        an.rescore(trace, second(model, words))  # type: ignore[arg-type]
    assert not any(node.is_learned for node in trace.values())
    an.rescore(trace, Categorical(logits=model(words)[:, :-1]))
    an.backward(loss)
    assert model.head.weight.grad is not None


def test_dropout_that_draws_another_mask_is_refused() -> None:
    model, trace, words, _ = generated(dropout=0.5)
    with pytest.raises(RescoreError, match="dropout off in both"):
        an.rescore(trace, Categorical(logits=model(words)[:, :-1]))


def test_more_than_rounding_is_allowed_by_a_number() -> None:
    model, trace, words, _ = generated()
    second = Categorical(logits=model(words)[:, :-1] * 1.01)
    with pytest.raises(RescoreError, match=r"within 0\.001"):
        an.rescore(trace, second)
    an.rescore(trace, second, atol=0.1)
    torch.testing.assert_close(trace["word"].log_prob[:, 0], second.log_prob(words[:, 1:])[:, 0])


def test_weights_that_have_changed_since_are_refused() -> None:
    model, trace, words, _ = generated()
    with torch.no_grad():
        model.head.weight.mul_(2.0)
    with pytest.raises(RescoreError, match="the same weights"):
        an.rescore(trace, Categorical(logits=model(words)[:, :-1]))


def test_weights_that_change_after_the_second_pass_are_noticed() -> None:
    model, trace, words, loss = generated()
    an.rescore(trace, Categorical(logits=model(words)[:, :-1]))
    model.head.weight.data.mul_(2.0)
    with pytest.raises(an.errors.ModifiedParameterError, match="'word"):
        an.backward(loss)


def test_what_has_a_score_cannot_be_given_another() -> None:
    p = torch.tensor([0.3, 0.4], requires_grad=True)
    with an.record() as trace:
        z = Bernoulli(p).sample()
        y = Bernoulli(z.detach() * 0.5 + 0.2).sample()
    with pytest.raises(RescoreError, match=r"'z' \(.*has a score already, which would count twice"):
        an.rescore(trace, {"z": Bernoulli(p), "y": None})
    model, trace, words, _ = generated()
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
    model, trace, words, loss = generated()
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


@pytest.mark.parametrize("atol", [-1.0, "1", torch.ones(())])
def test_a_tolerance_that_is_none_is_refused(atol: Any) -> None:
    model, trace, words, _ = generated()
    second = Categorical(logits=model(words)[:, :-1])
    with pytest.raises(ValueError, match="atol must be a number of at least 0, not"):
        an.rescore(trace, second, atol=atol)

"""Lost credit is said: which line read which value, how many terms, what it costs, the ways out."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.errors import BlurredCreditWarning

LOGITS = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(4, 3)


def coins(logits: Tensor = LOGITS) -> Tensor:
    return Bernoulli(logits=logits.clone().requires_grad_()).sample()


SITE = "bernoulli"


def line_of(text: str) -> int:
    """Return the number of the line of this file that has a text in a comment."""
    lines = Path(__file__).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.endswith(f"# {text}"))


def costs(z: Tensor) -> Tensor:
    return (z - 0.45) ** 2


def test_a_log_line_within_the_block_warns_with_its_line_its_cost_and_the_ways_out() -> None:
    with an.record() as trace:
        z = coins()
        loss = costs(z).mean()
        loss.item()  # the log line
    with pytest.warns(BlurredCreditWarning) as caught:
        an.backward(loss)
    (warning,) = [each.message for each in caught]
    assert isinstance(warning, BlurredCreditWarning)
    text, line = str(warning), line_of("the log line")
    assert text.startswith(f"{__file__}:{line} (loss.item()  # the log line) reads a value")
    for part in (f"'{SITE}'", "1 of 1 terms", "an.untrack(value)", "after the block", "trust=("):
        assert part in text
    for part in ("an.cost", "control='after'", "an.external(function)", "times what it was"):
        assert part in text
    assert (warning.filename, warning.line, warning.terms) == (__file__, line, 1)
    assert caught[0].filename == __file__
    (escape,) = trace.escapes
    assert (escape.line, escape.terms_blurred) == (line, 1)


def test_the_ratio_is_that_of_the_squared_credits_at_this_draw() -> None:
    with an.record():
        z = coins()
        loss = costs(z).sum()
        loss.item()
    with pytest.warns(BlurredCreditWarning) as caught:
        an.backward(loss)
    c = costs(an.untrack(z))
    warning = caught[0].message
    assert isinstance(warning, BlurredCreditWarning)
    assert warning.ratio == pytest.approx(float(12 * c.sum() ** 2 / c.square().sum()))


def test_no_ratio_is_told_where_a_term_is_computed_from_what_was_read() -> None:
    """Without the read it would have been nobody's, which is not what it was."""
    with an.record():
        z = coins()
        rewards = torch.tensor(z.sum(1).tolist())  # the decision alone says that they depend on z
        loss = 1e-3 * z.sum() + rewards.sum()
    with pytest.warns(BlurredCreditWarning) as caught:
        an.backward(loss)
    warning = caught[0].message
    assert isinstance(warning, BlurredCreditWarning)
    assert warning.ratio is None
    assert "squared credit" not in str(warning)


def logged_after(z: Tensor) -> Tensor:
    return costs(z).mean()


def untracked(z: Tensor) -> Tensor:
    an.untrack(z).sum().item()
    return costs(z).mean()


def in_a_scope(z: Tensor) -> Tensor:
    with an.control_scope():
        z.sum().item()
    return costs(z).mean()


def checked(z: Tensor) -> Tensor:
    if not torch.isfinite(z).all():
        raise ValueError
    return costs(z).mean()


@pytest.mark.parametrize("body", [logged_after, untracked, in_a_scope, checked])
def test_the_ways_out_do_not_warn(body: Callable[[Tensor], Tensor]) -> None:
    with an.record():
        loss = body(coins())
    assert f"{loss:.2f}"
    an.backward(loss)


def test_a_library_that_is_trusted_a_setting_and_a_declared_cost_do_not_warn() -> None:
    for options in ({"trust": __name__}, {"control": "after"}, {"control": "ignore"}):
        with an.record(**options):  # type: ignore[arg-type]
            loss = costs(coins()).mean()
            loss.item()
        an.backward(loss)
    with an.record() as trace:
        an.cost("loss", costs(coins()).mean())
        trace["loss"].value.item()
    trace.backward()


def test_a_read_in_a_loop_warns_once_a_line() -> None:
    with an.record() as trace:
        total = torch.zeros((), dtype=torch.float64)
        for step in range(5):
            z = coins(LOGITS[step % 4])
            total = total + costs(z).sum()
            print(f"{z.sum():.1f}")
            z.sum().item()
    with pytest.warns(BlurredCreditWarning) as caught:
        an.backward(total)
    assert len(caught) == 2
    assert len(trace.escapes) == 10
    assert all(escape.terms_blurred == 5 for escape in trace.escapes)


def test_the_default_filter_shows_a_line_once() -> None:
    shown: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda *args: shown.append(str(args[0]))
        for _ in range(6):
            with an.record():
                loss = costs(coins()).mean()
                loss.item()
            an.backward(loss)
    assert len(shown) == 1


def test_what_was_not_apart_is_not_lost() -> None:
    with an.record() as trace:
        z = coins(torch.tensor(0.3, dtype=torch.float64))
        loss = costs(z)
        loss.item()
    an.backward(loss)
    assert [escape.terms_blurred for escape in trace.escapes] == [0]


def test_a_term_that_is_reached_through_another_draw_is_not_blurred() -> None:
    """Two draws in turn, whose costs all depend on the first by numbers already."""
    with an.record() as trace:
        z = coins(torch.tensor(0.3, dtype=torch.float64))
        w = coins(z - 0.5)
        loss = costs(w) + costs(z)
        z.item()
    an.backward(loss)
    assert [escape.terms_blurred for escape in trace.escapes] == [0]


def test_the_terms_of_each_read_are_counted() -> None:
    with an.record() as trace:
        x, y, z = (coins(torch.tensor(0.3, dtype=torch.float64)) for _ in range(3))
        loss = costs(x) + costs(y) + (x + 1) * (y + 1)
        x.item()  # the term of y alone
        z.item()  # all three
    with pytest.warns(BlurredCreditWarning) as caught:
        an.backward(loss)
    assert [escape.terms_blurred for escape in trace.escapes] == [1, 3]
    messages = [each.message for each in caught]
    assert [(m.line, m.terms) for m in messages if isinstance(m, BlurredCreditWarning)] == [
        (line_of("the term of y alone"), 1),
        (line_of("all three"), 3),
    ]


def test_a_draw_without_anything_to_learn_blurs_nothing_but_what_is_upstream_does() -> None:
    with an.record():
        constant = Bernoulli(torch.full((4,), 0.4)).sample()
        loss = costs(coins()).mean()
        constant.sum().item()
    an.backward(loss)
    with an.record():
        z = coins()
        noise = Bernoulli(0.2 + 0.5 * z).sample()
        loss = costs(z).mean()
        noise.sum().item()
    with pytest.warns(BlurredCreditWarning, match="depends on 'noise'"):
        an.backward(loss)


def test_a_plain_term_after_a_read_that_follows_the_block_warns_with_what_to_do() -> None:
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for is_before in (True, False):
        with an.record():
            loss = costs(coins()).mean()
        if is_before:
            loss = loss + 0.1 * weight.pow(2).sum()
        loss.item()
        if is_before:
            an.backward(loss)
        else:
            with pytest.warns(BlurredCreditWarning, match="before the read or within the block"):
                an.backward(loss + 0.1 * weight.pow(2).sum())
    with an.record():
        loss = costs(coins()).mean()
    loss.item()
    an.backward(0 + loss / 4 + 0.0)


def test_a_batch_that_python_looks_into_under_after_warns_and_one_draw_does_not() -> None:
    for count in (1, 4):
        with an.record(control="after"):
            z = coins(LOGITS[:count, 0])
            rewards = torch.from_numpy(1 + z.numpy())
            loss = costs(z).sum() + rewards.sum()
        if count == 1:
            an.backward(loss)
        else:
            with pytest.warns(BlurredCreditWarning, match=r"an.external\(function\)"):
                an.backward(loss)


def test_a_surrogate_and_declared_costs_warn_as_well() -> None:
    with an.record():
        loss = costs(coins()).mean()
        loss.item()
    with pytest.warns(BlurredCreditWarning):
        an.surrogate(loss)
    with an.record() as trace:
        z = coins()
        z.sum().item()
        an.cost("loss", costs(z))
    with pytest.warns(BlurredCreditWarning):
        trace.backward()


def test_an_explanation_has_a_row_for_a_site_of_one_element_and_names_the_decision() -> None:
    with an.record() as trace:
        z, w = coins(torch.tensor(0.3, dtype=torch.float64)), coins()
        loss = costs(z) + costs(w).sum()
        z.item()  # the decision
    lines = {line.site: line for line in trace.explain(loss).lines if line.size != 3}
    assert (lines[SITE].dim, lines[SITE].size, lines[SITE].separate, lines[SITE].costs) == (
        None,
        1,
        1,
        2,
    )
    (mix,) = lines[SITE].mixes
    assert (mix.op, mix.place) == ("the decision", f"{__file__}:{line_of('the decision')}")
    text = str(trace.explain(loss))
    assert f"the decision at test_blur.py:{line_of('the decision')}: read an.untrack" in text
    assert lines[SITE].excess is not None
    assert lines[SITE].excess > 1
    an.explain(z, loss)


def test_an_explanation_of_elements_names_the_decision_too() -> None:
    with an.record() as trace:
        z = coins()
        loss = costs(z).mean()
        loss.item()  # the decision on all
    for line in trace.explain(loss).lines:
        assert line.mixes[0].op == "the decision"
        assert line.mixes[0].place == f"{__file__}:{line_of('the decision on all')}"


def test_a_site_of_one_element_that_nothing_blurs_has_a_row() -> None:
    with an.record() as trace:
        z = coins(torch.tensor([0.3], dtype=torch.float64))
        loss = costs(z).sum()
    (line,) = trace.explain(loss).lines
    assert (line.site, line.dim, line.size, line.is_separate) == (SITE, None, 1, True)


TAKES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a subscript": lambda x, mask: x[mask],
    "masked_select": lambda x, mask: x.masked_select(mask),
    "nonzero": lambda x, mask: x[mask.nonzero(as_tuple=True)],
    "argwhere": lambda x, mask: x[tuple(mask.argwhere().T)],
    "where": lambda x, mask: x[torch.where(mask)],
}


@pytest.mark.parametrize("take", TAKES)
def test_elements_taken_by_a_mask_that_was_drawn_are_said_to_mix_the_draws(take: str) -> None:
    with an.record():
        z = coins()
        loss = costs(TAKES[take](LOGITS, z > 0)).sum()
    with pytest.warns(
        BlurredCreditWarning, match=r"takes elements by a mask.*torch\.where"
    ) as caught:
        an.backward(loss)
    (warning,) = [each.message for each in caught]
    assert isinstance(warning, BlurredCreditWarning)
    assert (warning.line, warning.terms) == (line_of_take(take), 1)


def line_of_take(take: str) -> int:
    return TAKES[take].__code__.co_firstlineno


def test_a_sparse_dispatch_is_said_to_mix_the_draws_and_its_way_out_does_not() -> None:
    x = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)

    def sparse(z: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[z > 0] = x[z > 0] ** 2
        return out

    squared: dict[str, Callable[[Tensor], Tensor]] = {
        "takes elements": sparse,
        "": lambda z: torch.where(z > 0, x**2, torch.zeros_like(x)),
    }
    for said, program in squared.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with an.record():
                loss = costs(program(coins())).mean()
            an.backward(loss)
        assert [said in str(each.message) for each in caught] == [True] * bool(said)


def test_a_mask_of_data_or_of_one_draw_says_nothing() -> None:
    def kept(z: Tensor) -> Tensor:
        return costs(z)[LOGITS > 0].sum()

    def of_one(z: Tensor) -> Tensor:
        return LOGITS[(z.flatten()[:1] > 0).expand(4)].sum()

    for program, logits in ((kept, LOGITS), (of_one, torch.zeros(1, dtype=torch.float64))):
        with an.record():
            loss = program(coins(logits))
        an.backward(loss)

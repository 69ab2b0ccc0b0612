"""The four settings of control: what an escape does, and what it leaves alone."""

import asyncio
import re
import threading
from collections.abc import Generator

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an

# The programs read on purpose, for what control makes of it.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")


@pytest.fixture
def p() -> Tensor:
    return torch.tensor(0.4, requires_grad=True)


def coin(p: Tensor) -> Tensor:
    return Bernoulli(p).sample()  # type: ignore[no-any-return]


def test_after_an_escape_plain_tensors_carry_the_taint(p: Tensor) -> None:
    for control in ("strict", "after"):
        with an.record(control=control):
            z = coin(p)
            before = torch.ones(2) + 1
            assert bool(z > -1)
            after = torch.ones(2) + 1
        assert an.provenance_of(before) == frozenset()
        assert an.provenance_of(after) == {"bernoulli"}


def test_ignored_escapes_are_listed_and_taint_nothing(p: Tensor) -> None:
    with an.record(control="ignore") as trace:
        z = coin(p)
        z.item()
        w = coin(p)
        assert an.provenance_of(torch.ones(2) + 1) == frozenset()
    an.backward(z * 2 + w)
    assert trace["bernoulli_1"].parents == frozenset()
    (noted,) = trace.escapes
    assert noted.sources == {"bernoulli"}
    assert noted.terms_blurred == 0


def test_an_escape_under_error_names_the_site_the_line_and_the_ways_out(p: Tensor) -> None:
    with an.record(control="error"):
        z = coin(p)
        with pytest.raises(an.errors.EscapeError) as raised:
            z.item()
    line = raised.traceback[0].lineno + 1
    text = str(raised.value)
    assert text.startswith(f"{__file__}:{line}: ")
    assert "'bernoulli'" in text
    assert "torch.where" in text
    assert "an.untrack" in text


def test_under_error_an_untracked_value_and_the_end_of_the_recording_let_out(p: Tensor) -> None:
    with an.record(control="error") as trace:
        z = coin(p)
        assert an.untrack(z).item() in (0, 1)
        loss = z * 2
    assert loss.item() in (0, 2)
    an.backward(loss)
    assert len(trace.escapes) == 1


def test_an_exception_that_depends_on_a_value_is_an_escape(p: Tensor) -> None:
    with an.record(control="error"):
        z = coin(p)
        with pytest.raises(an.errors.EscapeError):
            torch.ones(1)[(z + 5).long()]


def test_a_loss_after_a_caught_error_that_values_raised_is_refused(p: Tensor) -> None:
    """Where it does not raise nothing shows, so that what the other runs count is no estimate."""
    with an.record():
        z = coin(p)
        with pytest.raises(IndexError):
            torch.ones(1)[(z + 5).long()]
        with pytest.raises(
            an.errors.CaughtError, match=rf"{re.escape(__file__)}:\d+ raised .*'bernoulli'"
        ):
            an.backward(z * 2)


def test_an_error_that_shapes_raise_is_no_escape(p: Tensor) -> None:
    with an.record(control="error"):
        z = Bernoulli(p.expand(2)).sample()
        with pytest.raises(RuntimeError, match="size"):
            z + torch.ones(3)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            torch.mm(z[None], torch.ones(3, 3))
        with pytest.raises(IndexError):
            z[7]
        an.backward(z.sum())


def test_a_check_of_a_distribution_is_no_escape_unless_it_fails(p: Tensor) -> None:
    with an.record() as trace:
        z = coin(p)
        Bernoulli(0.5 * z + 0.2, validate_args=True).sample()
        assert trace.escapes == ()
        with pytest.raises(ValueError, match="constraint"):
            Bernoulli(z + 2, validate_args=True)
        with pytest.raises(an.errors.CaughtError, match="a check of torch"):
            an.backward(z * 2)


def test_an_unknown_control_names_the_allowed_ones() -> None:
    allowed = "'strict', 'after', 'error', 'ignore'"
    with pytest.raises(ValueError, match=re.escape(allowed)):
        an.record(control="lenient")


def test_an_inner_recording_keeps_the_control_around_it_unless_it_says_so(p: Tensor) -> None:
    with an.record(control="error"):
        z = coin(p)
        with an.record(), pytest.raises(an.errors.EscapeError):
            z.item()
        with an.record(control="ignore"):
            z.item()
        with pytest.raises(an.errors.EscapeError):
            z.item()


def test_a_scope_ends_the_taint(p: Tensor) -> None:
    with an.record() as trace:
        z = coin(p)
        with an.control_scope():
            assert bool(z > -1)
            inside = torch.ones(2).exp()
        outside = torch.ones(2) + 1
        w = coin(p)
    assert an.provenance_of(inside) == {"bernoulli"}
    assert an.provenance_of(outside) == frozenset()
    assert trace["bernoulli_1"].parents == frozenset()
    an.backward((inside.sum() + w) * 1)
    assert [e.terms_blurred for e in trace.escapes] == [1]


def test_a_scope_outside_a_recording_does_nothing() -> None:
    with an.control_scope():
        assert type(torch.ones(2) + 1) is Tensor


def test_the_terms_that_an_escape_blurred_are_counted(p: Tensor) -> None:
    with an.record() as trace:
        z, w = coin(p), coin(p)
        own, other = (z - 0.45) ** 2, (w - 0.3) ** 2
        z.item()
        w.item()
    assert [e.terms_blurred for e in trace.escapes] == [None, None]
    an.backward(own + other)
    assert [e.terms_blurred for e in trace.escapes] == [1, 1]
    assert all(f"{__file__}:" in str(e) and "blurred: 1" in str(e) for e in trace.escapes)


def test_a_plain_loss_chosen_by_an_escape_has_a_gradient(p: Tensor) -> None:
    with an.record():
        z = coin(p)
        costs = [torch.tensor(1.0), torch.tensor(3.0)]
        chosen = costs[int(z)]
        an.backward(chosen)
    expected = chosen * (1 / 0.4 if z.item() else -1 / 0.6)
    torch.testing.assert_close(p.grad, expected)


def test_an_escape_in_another_thread_blurs_every_term(p: Tensor) -> None:
    with an.record(control="after"):
        z = coin(p)
        finished = torch.tensor(2.0)
        thread = threading.Thread(target=z.item)
        thread.start()
        thread.join()
        an.backward(finished + 0 * z)
    assert p.grad is not None
    assert p.grad.abs() > 1


def test_a_task_started_in_a_recording_takes_part_until_it_ends(p: Tensor) -> None:
    async def draw(gate: asyncio.Event) -> Tensor:
        await gate.wait()
        return coin(p)

    async def run() -> tuple[an.Trace, Tensor, Tensor]:
        now, later = asyncio.Event(), asyncio.Event()
        with an.record() as trace:
            first, second = asyncio.ensure_future(draw(now)), asyncio.ensure_future(draw(later))
            now.set()
            z = await first
        later.set()
        return trace, z, await second

    trace, z, late = asyncio.run(run())
    assert list(trace) == ["bernoulli"]
    assert an.provenance_of(z) == {"bernoulli"}
    assert type(late) is Tensor


def test_a_generator_that_suspends_in_a_recording_ends_it_out_of_order(p: Tensor) -> None:
    def steps() -> Generator[Tensor]:
        with an.record():
            z = coin(p)
            yield z
            an.backward(z + coin(p))
        yield p

    outer, inner = steps(), steps()
    next(outer)
    next(inner)
    next(outer)
    # Its values were settled with the outer recording, of which it is a part.
    late = pytest.raises(an.errors.SettledError, match="is drawn in a recording whose gradient")
    with late:
        coin(p)
    with late:
        next(inner)
    assert type(coin(p)) is Tensor

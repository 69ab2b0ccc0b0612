"""Markov: steps that see a few steps back, and give the dimensions of their sites back."""

import pytest
import torch
from enumerated import refused
from torch import Tensor
from torch.distributions import Categorical, Normal

import ancestral as an
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import markov

START = torch.tensor([0.5, 0.3, 0.2]).double()
MOVE = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]).double()


def chain(length: int, history: int = 1) -> Tensor:
    z = torch.zeros(())
    for t in markov(range(length), history=history):
        z = an.sample(f"z{t}", Categorical(MOVE[z] if t else START))
        an.observe(f"x{t}", Normal(z.double(), 1.0), torch.tensor(1.0).double())
    return z


def dims(trace: an.Trace) -> list[int]:
    return [
        node.enumeration.own.dim
        for node in trace.values()
        if node.enumeration is not None and node.enumeration.own is not None
    ]


def test_markov_yields_what_it_is_given() -> None:
    assert list(markov("abc", history=2)) == ["a", "b", "c"]


def test_without_enumeration_the_steps_are_drawn_as_ever() -> None:
    with an.record() as trace:
        chain(4)
    assert all(trace[f"z{t}"].value.shape == () for t in range(4))


@pytest.mark.parametrize("history", [1, 2, 3])
def test_a_chain_needs_one_dimension_more_than_its_history(history: int) -> None:
    with an.record() as trace, enumeration(first_dim=-1):
        chain(200, history)
    assert set(dims(trace)) == set(range(-history - 1, 0))


def test_steps_without_history_share_one_dimension() -> None:
    with an.record() as trace, enumeration(first_dim=-1):
        for t in markov(range(100), history=0):
            an.sample(f"z{t}", Categorical(START))
    assert set(dims(trace)) == {-1}


def test_turns_of_a_plate_share_one_dimension() -> None:
    with an.record() as trace, enumeration(first_dim=-1):
        for n in an.plate("data", 100):
            z = an.sample(f"z{n}", Categorical(START))
            an.observe(f"x{n}", Normal(z.double(), 1.0), torch.tensor(0.5).double())
    assert set(dims(trace)) == {-1}
    assert an.infer.log_marginal(trace).isfinite()


def test_a_loop_within_a_loop_gives_its_dimensions_back_at_its_end() -> None:
    with an.record() as trace, enumeration(first_dim=-1):
        for s in markov(range(10), history=0):
            z = torch.zeros(())
            for t in markov(range(5)):
                z = an.sample(f"z{s}_{t}", Categorical(MOVE[z] if t else START))
    assert set(dims(trace)) == {-1, -2}


def test_two_sites_of_one_step_have_two_dimensions() -> None:
    with an.record() as trace, enumeration(first_dim=-1):
        a = b = torch.zeros(())
        for t in markov(range(5)):
            a = an.sample(f"a{t}", Categorical(MOVE[a] if t else START))
            b = an.sample(f"b{t}", Categorical(MOVE[b] if t else START))
            an.observe(f"x{t}", Normal((a + b).double(), 1.0), torch.tensor(0.5).double())
    assert set(dims(trace)) == {-1, -2, -3, -4}
    assert an.infer.log_marginal(trace).isfinite()


def look_back(steps: int, length: int, history: int) -> None:
    seen: list[Tensor] = []
    for t in markov(range(length), history=history):
        weights = MOVE[seen[-steps]] if t >= steps else START
        seen.append(an.sample(f"z{t}", Categorical(weights)))


def test_to_look_further_back_than_the_history_raises() -> None:
    refused(lambda: look_back(2, 3, history=1), r"site 'z2' .* 'z0' .*out of scope.*history")


def test_the_same_look_back_within_the_history_is_no_error() -> None:
    with an.record() as trace, enumeration():
        look_back(2, 9, history=2)
    assert trace["z8"].parents == {"z6"}


def test_to_look_into_a_loop_that_has_ended_raises() -> None:
    refused(
        lambda: an.sample("end", Categorical(MOVE[chain(3)])), r"site 'end' .* 'z2' .*out of scope"
    )


def test_a_draw_for_each_value_of_a_site_is_out_of_scope_with_it() -> None:
    def program() -> None:
        drawn = torch.zeros(())
        for t in markov(range(2), history=0):
            if t:
                an.sample("x", Normal(drawn, 1.0))
            else:
                z = an.sample("z0", Categorical(START))
                drawn = an.sample("drawn", Normal(z.double(), 1.0))

    refused(program, r"site 'x' .* 'z0' .*out of scope")


def test_a_loop_that_is_left_early_is_out_of_scope() -> None:
    with an.record() as trace, enumeration(first_dim=-1):
        for t in markov(range(5)):
            an.sample(f"z{t}", Categorical(START))
            if t == 1:
                break
        an.sample("after", Categorical(START))
    assert dims(trace) == [-1, -2, -1]


def test_without_markov_a_long_chain_finds_no_dimension_and_the_error_names_markov() -> None:
    def program() -> None:
        for t in range(70):
            an.sample(f"z{t}", Categorical(START))

    refused(program, r"site 'z64'.*64 at most.*markov", first_dim=-1)

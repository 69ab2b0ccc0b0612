"""Errors of sites: one family, each with the site, the user's line, what was expected and found."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.distributions import Bernoulli, Beta, Normal

import ancestral as an
from ancestral import handlers

ZERO = torch.tensor(0.0)


def line_of(function: Callable[[], object], text: str) -> str:
    """Return the place, as errors give it, of the one line of a function that has this text."""
    lines, first = inspect.getsourcelines(function)
    (found,) = (number for number, line in enumerate(lines) if text in line)
    return f"{__file__}:{first + found}"


@dataclass(frozen=True)
class Said:
    """A program, and the site, the words and the line that its error has."""

    program: Callable[[], None]
    site: str
    words: str
    place: tuple[Callable[[], None], str]


ERRORS: list[Said] = []


def says(
    site: str, words: str, place: tuple[Callable[[], None], str] | None = None
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a program with what its error says; the line is its own that ends with "# here"."""

    def register(program: Callable[[], None]) -> Callable[[], None]:
        ERRORS.append(Said(program, site, words, place or (program, "# here")))
        return program

    return register


def recorded(program: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with an.record():
            program()

    return run


def model() -> None:
    z = an.sample("z", Normal(0.0, 1.0))
    an.sample("x", Normal(z, 1.0), obs=ZERO)


def wide() -> None:
    an.sample("z", Normal(torch.zeros(3), 1.0))


def nothing() -> None:
    pass


def larger() -> None:
    an.sample("z", Normal(0.0, 1.0))
    an.sample("extra", Normal(0.0, 1.0))


def infinite() -> None:
    z = an.sample("z", Normal(0.0, 1.0))
    an.sample("bad", Normal(z, torch.tensor(float("inf")), validate_args=False), obs=ZERO)


@says("z", r"twice.*expected its own name.*f'z_{i}")
def duplicate_site() -> None:
    an.sample("z", Normal(0.0, 1.0))
    an.sample("z", Normal(1.0, 1.0))  # here


@says("z", r"outside the support of Beta: 1 of 2 elements.*1\.5; expected Interval")
def outside_the_support() -> None:
    an.sample("z", Beta(1.0, 1.0), obs=torch.tensor([0.5, 1.5]))  # here


@says("z", r"replayed from 'z' \(.*outside the support of Beta.*; expected Interval")
def draw_outside_the_support_of_the_model() -> None:
    an.infer.elbo(lambda: an.sample("z", Beta(1.0, 1.0)), larger_than_one)  # here


def larger_than_one() -> None:
    an.sample("z", Normal(7.0, 0.1))


@says("z", r"observed value has shape \[2\]; expected \[3\]: the batch \[3\]")
def observed_of_wrong_shape() -> None:
    an.sample("z", Normal(torch.zeros(3), 1.0), obs=torch.zeros(2))  # here


@says("z", r"observed value must be of a floating dtype, such as torch.float32, not torch.int64")
def observed_of_wrong_dtype() -> None:
    an.sample("z", Normal(torch.tensor(0.5), 1.0), obs=torch.tensor(1))  # here


@says(
    "zz", r"condition at .* no site 'zz'; the others that it has are 'z', 'x'; did you mean 'z'\?"
)
def unknown_name_in_condition() -> None:
    handlers.condition({"zz": ZERO})(model)()  # here


@says(
    "z",
    r"replayed from .*has shape \[3\]; expected \[\]: give both the same plates and events",
    (model, '"z"'),
)
def replay_of_another_shape() -> None:
    with an.record() as trace:
        wide()
    handlers.replay(trace)(model)()


@says("zz", r"do at .* no site 'zz'; the others that it has are 'z', 'x'; did you mean 'z'\?")
def do_on_a_missing_site() -> None:
    handlers.do({"zz": ZERO})(model)()  # here


@says(
    "columns",
    r"dimension -1 is that of plate 'rows', which is open; expected a free one, such as dim=-2",
)
def two_plates_on_one_dimension() -> None:
    with an.plate("rows", 3, dim=-1), an.plate("columns", 2, dim=-1):  # here
        an.sample("z", Normal(0.0, 1.0))


@says(
    "extra",
    r'expected the model to draw it, but .*\'z\'.*infer={"is_auxiliary": True}',
    (larger, '"extra"'),
)
def guide_site_that_the_model_lacks() -> None:
    an.infer.elbo(model, larger)


@says(
    "z",
    r'expected the guide to draw it, but .*nothing.*infer={"is_auxiliary": True}',
    (model, '"z"'),
)
def model_site_that_the_guide_lacks() -> None:
    an.infer.elbo(model, nothing)


@says(
    "extra",
    r'expected the model to draw it, but .*\'z\'.*infer={"is_auxiliary": True}',
    (larger, '"extra"'),
)
def checked_site_that_the_model_lacks() -> None:
    an.infer.check_guide(model, larger).require()


@says(
    "bad",
    r"1 of 1 elements of its log-probability are not finite.*-inf.*; expected finite numbers",
    (infinite, '"bad"'),
)
def non_finite_bound() -> None:
    an.infer.elbo(infinite, lambda: an.sample("z", Normal(0.0, 1.0)))


@says("bad", r"in 2 of 2 runs its log-probability under the model is nan")
def non_finite_weight() -> None:
    an.infer.importance(lambda: an.factor("bad", ZERO.log() * 0), samples=2)  # here


@says("bad", r"1 of 1 elements of its log-probability are not finite.*; expected finite numbers")
def non_finite_gradient() -> None:
    weight = torch.tensor(0.5, requires_grad=True)
    with an.record() as trace:
        z = an.sample("z", Bernoulli(weight))
        an.sample("bad", Normal(z * float("inf"), 1.0, validate_args=False), obs=ZERO)  # here
    trace.backward()


@pytest.mark.parametrize("error", ERRORS, ids=[error.program.__name__ for error in ERRORS])
def test_an_error_names_the_site_the_line_and_what_was_expected(error: Said) -> None:
    runs_by_itself = error.program in (non_finite_weight, non_finite_gradient)
    with pytest.raises(an.errors.SiteError, match=error.words) as caught:
        (error.program if runs_by_itself else recorded(error.program))()
    assert repr(error.site) in str(caught.value)
    assert line_of(*error.place) in str(caught.value)

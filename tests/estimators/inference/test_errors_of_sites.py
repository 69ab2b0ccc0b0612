"""Errors of sites: one family, each with the site, the user's line, what was expected and found."""

import inspect
from collections.abc import Callable

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


def duplicate_site() -> None:
    an.sample("z", Normal(0.0, 1.0))
    an.sample("z", Normal(1.0, 1.0))  # here


def outside_the_support() -> None:
    an.sample("z", Beta(1.0, 1.0), obs=torch.tensor([0.5, 1.5]))  # here


def draw_outside_the_support_of_the_model() -> None:
    an.infer.elbo(lambda: an.sample("z", Beta(1.0, 1.0)), larger_than_one)  # here


def larger_than_one() -> None:
    an.sample("z", Normal(7.0, 0.1))


def observed_of_wrong_shape() -> None:
    an.sample("z", Normal(torch.zeros(3), 1.0), obs=torch.zeros(2))  # here


def observed_of_wrong_dtype() -> None:
    an.sample("z", Normal(torch.tensor(0.5), 1.0), obs=torch.tensor(1))  # here


def unknown_name_in_condition() -> None:
    handlers.condition({"zz": ZERO})(model)()  # here


def replay_of_another_shape() -> None:
    with an.record() as trace:
        wide()
    handlers.replay(trace)(model)()


def do_on_a_missing_site() -> None:
    handlers.do({"zz": ZERO})(model)()  # here


def two_plates_on_one_dimension() -> None:
    with an.plate("rows", 3, dim=-1), an.plate("columns", 2, dim=-1):  # here
        an.sample("z", Normal(0.0, 1.0))


def guide_site_that_the_model_lacks() -> None:
    an.infer.elbo(model, larger)


def model_site_that_the_guide_lacks() -> None:
    an.infer.elbo(model, nothing)


def checked_site_that_the_model_lacks() -> None:
    an.infer.check_guide(model, larger).require()


def non_finite_bound() -> None:
    an.infer.elbo(infinite, lambda: an.sample("z", Normal(0.0, 1.0)))


def non_finite_weight() -> None:
    an.infer.importance(lambda: an.factor("bad", ZERO.log() * 0), samples=2)  # here


def non_finite_gradient() -> None:
    weight = torch.tensor(0.5, requires_grad=True)
    with an.record() as trace:
        z = an.sample("z", Bernoulli(weight))
        an.sample("bad", Normal(z * float("inf"), 1.0, validate_args=False), obs=ZERO)  # here
    trace.backward()


# Of each: the site, where the line is, and what the text says was expected, came, and may be done.
ERRORS: list[tuple[Callable[[], None], str, tuple[Callable[[], None], str], str]] = [
    (duplicate_site, "z", (duplicate_site, "# here"), r"twice.*expected its own name.*f'z_{i}"),
    (
        outside_the_support,
        "z",
        (outside_the_support, "# here"),
        r"outside the support of Beta: 1 of 2 elements.*1\.5; expected Interval",
    ),
    (
        draw_outside_the_support_of_the_model,
        "z",
        (draw_outside_the_support_of_the_model, "# here"),
        r"replayed from 'z' \(.*outside the support of Beta.*; expected Interval",
    ),
    (
        observed_of_wrong_shape,
        "z",
        (observed_of_wrong_shape, "# here"),
        r"observed value has shape \[2\]; expected \[3\]: the batch \[3\]",
    ),
    (
        observed_of_wrong_dtype,
        "z",
        (observed_of_wrong_dtype, "# here"),
        r"observed value must be of a floating dtype, such as torch.float32, not torch.int64",
    ),
    (
        unknown_name_in_condition,
        "zz",
        (unknown_name_in_condition, "# here"),
        r"condition at .* no site 'zz'; the others that it has are 'z', 'x'; did you mean 'z'\?",
    ),
    (
        replay_of_another_shape,
        "z",
        (model, '"z"'),
        r"replayed from .*has shape \[3\]; expected \[\]: give both the same plates and events",
    ),
    (
        do_on_a_missing_site,
        "zz",
        (do_on_a_missing_site, "# here"),
        r"do at .* no site 'zz'; the others that it has are 'z', 'x'; did you mean 'z'\?",
    ),
    (
        two_plates_on_one_dimension,
        "columns",
        (two_plates_on_one_dimension, "# here"),
        r"dimension -1 is that of plate 'rows', which is open; expected a free one, such as dim=-2",
    ),
    (
        guide_site_that_the_model_lacks,
        "extra",
        (larger, '"extra"'),
        r'expected the model to draw it, but .*\'z\'.*infer={"is_auxiliary": True}',
    ),
    (
        checked_site_that_the_model_lacks,
        "extra",
        (larger, '"extra"'),
        r'expected the model to draw it, but .*\'z\'.*infer={"is_auxiliary": True}',
    ),
    (
        model_site_that_the_guide_lacks,
        "z",
        (model, '"z"'),
        r'expected the guide to draw it, but .*nothing.*infer={"is_auxiliary": True}',
    ),
    (
        non_finite_bound,
        "bad",
        (infinite, '"bad"'),
        r"1 of 1 elements of its log-probability are not finite.*-inf.*; expected finite numbers",
    ),
    (
        non_finite_weight,
        "bad",
        (non_finite_weight, "# here"),
        r"in 2 of 2 runs its log-probability under the model is nan",
    ),
    (
        non_finite_gradient,
        "bad",
        (non_finite_gradient, "# here"),
        r"1 of 1 elements of its log-probability are not finite.*; expected finite numbers",
    ),
]


@pytest.mark.parametrize(
    ("program", "site", "place", "words"), ERRORS, ids=[row[0].__name__ for row in ERRORS]
)
def test_an_error_names_the_site_the_line_and_what_was_expected(
    program: Callable[[], None], site: str, place: tuple[Callable[[], None], str], words: str
) -> None:
    runs_by_itself = program in (non_finite_weight, non_finite_gradient)
    with pytest.raises(an.errors.SiteError, match=words) as caught:
        (program if runs_by_itself else recorded(program))()
    assert repr(site) in str(caught.value)
    assert line_of(*place) in str(caught.value)

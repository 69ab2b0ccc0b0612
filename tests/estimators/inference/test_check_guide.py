"""The check of a pair names every site that does not fit, with both lines."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    LogNormal,
    Normal,
    Poisson,
    Uniform,
)

import ancestral as an
from ancestral.errors import GuideError
from ancestral.trace.handlers import condition
from ancestral.trace.nodes.support import lies_within

STANDARD = Normal(0.0, 1.0)
AUXILIARY = {"is_auxiliary": True}
Draw = Callable[[], Any]

MISSING_IN_GUIDE = r"site '\w+' \(.*\) of the model is not observed"
MISSING_IN_MODEL = r"site '\w+' \(.*\) of the guide has no counterpart"
SHAPE = r"site '\w+' has shape .* in the guide"
SUPPORT = r"site '\w+' is drawn from .* whose support is"
PLATES = r"site '\w+' is within .* open the same plates around both"
OTHER_VALUE = r"site '\w+': the model .* expected it to be replayed"
COST = r"cost '\w+' .* is declared within a model or a guide"
KINDS = (MISSING_IN_GUIDE, MISSING_IN_MODEL, SHAPE, SUPPORT, PLATES, OTHER_VALUE, COST)


def drawing(*names: str, fn: Distribution = STANDARD, infer: Any = None) -> Draw:
    def program() -> None:
        for name in names:
            an.sample(name, fn, infer=infer)

    return program


def problems(model: Draw, guide: Draw) -> list[str]:
    return kinds(an.infer.check_guide(model, guide))


def kinds(report: Any) -> list[str]:
    found = []
    for problem in report.problems:
        assert isinstance(problem, GuideError)
        assert f"{__file__}:" in str(problem)
        (kind,) = (kind for kind in KINDS if re.match(kind, str(problem)))
        assert "expected" in str(problem) or kind == COST
        found.append(kind)
    return found


def test_a_pair_that_fits_has_no_problem() -> None:
    report = an.infer.check_guide(drawing("a", "b"), drawing("b", "a"))
    assert report.is_consistent
    report.require()
    assert str(report).splitlines()[0].split() == ["site", "model", "guide"]


def test_sites_that_one_of_both_lacks_are_found_at_once() -> None:
    report = an.infer.check_guide(drawing("a", "b"), drawing("b", "c"))
    assert kinds(report) == [MISSING_IN_GUIDE, MISSING_IN_MODEL]
    assert "'a'" in str(report.problems[0])
    assert "the guide draws 'b'" in str(report.problems[0])
    assert 'infer={"is_auxiliary": True}' in str(report.problems[1])
    with pytest.raises(GuideError, match=MISSING_IN_GUIDE) as error:
        report.require()
    assert error.value.__notes__ == [str(report.problems[1])]


def test_the_bound_refuses_sites_that_one_of_both_lacks() -> None:
    with pytest.raises(GuideError, match=MISSING_IN_GUIDE):
        an.infer.elbo(drawing("a", "b"), drawing("b"))
    with pytest.raises(GuideError, match=MISSING_IN_MODEL):
        an.infer.elbo(drawing("b"), drawing("a", "b"))


def test_auxiliary_sites_may_be_missing() -> None:
    assert not problems(drawing(), drawing("u", infer=AUXILIARY))
    assert not problems(drawing("u", infer=AUXILIARY), drawing())


def test_a_site_that_the_model_observes_is_no_counterpart() -> None:
    def model() -> None:
        an.sample("z", STANDARD, obs=torch.tensor(0.5))

    report = an.infer.check_guide(model, drawing("z"))
    assert kinds(report) == [MISSING_IN_MODEL]
    assert "an observed site of that name" in str(report.problems[0])


def test_a_shape_that_differs_is_named_with_both() -> None:
    model = drawing("z", fn=Independent(Normal(torch.zeros(3), 1.0), 1))
    report = an.infer.check_guide(model, drawing("z", fn=Normal(torch.zeros(2), 1.0)))
    assert kinds(report) == [SHAPE]
    assert "has shape [2] in the guide" in str(report.problems[0])
    assert "expected [3]" in str(report.problems[0])


@pytest.mark.parametrize(
    ("guide", "model", "fits"),
    [
        (STANDARD, LogNormal(0.0, 1.0), False),
        (LogNormal(0.0, 1.0), STANDARD, True),
        (LogNormal(0.0, 1.0), Gamma(1.0, 1.0), True),
        (Beta(1.0, 1.0), Gamma(1.0, 1.0), True),
        (Beta(1.0, 1.0), Uniform(0.0, 0.5), False),
        (Uniform(0.1, 0.4), Beta(1.0, 1.0), True),
        (Bernoulli(0.5), STANDARD, False),
        (Bernoulli(0.5), Poisson(1.0), True),
        (Poisson(1.0), Bernoulli(0.5), False),
        (Categorical(torch.ones(3)), Categorical(torch.ones(2)), False),
        (Dirichlet(torch.ones(3)), Dirichlet(torch.ones(3)), True),
    ],
)
def test_the_support_of_the_guide_must_lie_within_that_of_the_model(
    guide: Distribution, model: Distribution, fits: bool
) -> None:
    assert lies_within(guide.support, model.support) is fits
    found = problems(drawing("z", fn=model), drawing("z", fn=guide))
    assert found == ([] if fits else [SUPPORT])


def plated(size: int | None, part: int | None = None) -> Draw:
    def program() -> None:
        if size is None:
            an.sample("z", Normal(torch.zeros(2), 1.0))
            return
        with an.plate("data", size, subsample_size=part):
            an.sample("z", STANDARD)

    return program


def test_other_plates_are_found() -> None:
    assert problems(plated(2), plated(None)) == [PLATES]
    assert problems(plated(4, 2), plated(None)) == [PLATES]
    assert not problems(plated(4, 2), plated(4, 2))


def test_the_bound_refuses_plates_that_make_the_sites_count_unequally() -> None:
    an.infer.elbo(plated(2), plated(None))  # both count once
    with pytest.raises(GuideError, match="within no plate in the guide"):
        an.infer.elbo(plated(4, 2), plated(None))


def test_a_value_that_is_not_the_guides_is_refused() -> None:
    model = an.handlers.substitute({"z": torch.tensor(0.5)})(drawing("z"))
    with pytest.raises(GuideError, match="expected it to be replayed"):
        an.infer.elbo(model, drawing("z"))


def test_a_cost_is_refused() -> None:
    def model() -> None:
        z = an.sample("z", STANDARD)
        an.cost("c", z)

    assert problems(model, drawing("z")) == [COST]
    with pytest.raises(GuideError, match=r"an\.factor\('c', -cost\)"):
        an.infer.elbo(model, drawing("z"))


class Unsupported(Distribution):
    """A user's distribution that declares no support."""

    arg_constraints: Any = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(torch.Size(), torch.Size(), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.zeros(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return -(value**2)


def test_a_distribution_without_a_support_is_taken_as_it_is() -> None:
    def drawing_from(fn: Distribution) -> Callable[[], Tensor]:
        return lambda: an.sample("z", fn)

    for model, guide in ((Unsupported(), Unsupported()), (Normal(0.0, 1.0), Unsupported())):
        assert an.infer.check_guide(drawing_from(model), drawing_from(guide)).is_consistent
        assert an.infer.check_guide(drawing_from(guide), drawing_from(model)).is_consistent


# A guide that observes.


def swapped_model() -> None:
    z = an.sample("z", Normal(0.0, 1.0))
    an.observe("x", Normal(z, 1.0), torch.tensor(0.5))


def a_guide() -> None:
    an.sample("z", Normal(0.2, 0.7))


def another_guide() -> None:
    a_guide()
    an.sample("w", Normal(0.0, 1.0))


def observing_another() -> None:
    a_guide()
    an.observe("y", Normal(0.0, 1.0), torch.tensor(0.5))


def observing_the_same() -> None:
    a_guide()
    an.observe("x", Normal(0.0, 1.0), torch.tensor(0.5))


def observing_in_part() -> None:
    mask = torch.tensor([True, False])
    a_guide()
    an.sample("w", Normal(torch.zeros(2), 1.0), obs=torch.zeros(2), obs_mask=mask)


def weighed() -> None:
    a_guide()
    an.factor("weight", torch.tensor(0.3))


SWAPPED = "the two seem to be swapped"
OBSERVING: dict[str, tuple[Callable[[], None], Callable[[], None], str]] = {
    "another": (swapped_model, observing_another, "site 'y' .*observe it in the model alone"),
    "the same": (swapped_model, observing_the_same, "site 'x' .*observe it in the model alone"),
    "in part": (swapped_model, observing_in_part, "site 'w_observed' .*in the model alone"),
    "conditioned": (
        swapped_model,
        condition({"z": torch.tensor(0.1)})(a_guide),
        "site 'z' .*conditions it",
    ),
    "swapped": (a_guide, swapped_model, f"site 'x' .*{SWAPPED}"),
    "swapped, conditioned": (
        a_guide,
        condition({"w": torch.tensor(0.1)})(another_guide),
        f"site 'w' .*{SWAPPED}",
    ),
    "swapped, weighed": (a_guide, weighed, f"site 'weight' .*{SWAPPED}"),
}


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("name", OBSERVING)
def test_a_guide_that_observes_is_refused_and_reported(name: str, vectorized: bool) -> None:
    model, guide, pattern = OBSERVING[name]
    options: dict[str, Any] = {"vectorized": True, "max_plate_nesting": 1} if vectorized else {}
    with pytest.raises(GuideError, match=pattern):
        an.infer.elbo(model, guide, particles=2, **options)
    report = an.infer.check_guide(model, guide)
    assert re.search(pattern, str(report.problems[0]), re.S)


def test_a_guide_that_is_data_by_a_handler_around_both_is_refused() -> None:
    around = condition({"z": torch.tensor(0.1)})
    with pytest.raises(GuideError, match="site 'z'"), around:
        an.infer.elbo(swapped_model, a_guide)


def test_a_factor_of_a_guide_is_a_part_of_its_density() -> None:
    assert an.infer.check_guide(swapped_model, weighed).is_consistent
    torch.manual_seed(0)
    bound = an.infer.elbo(swapped_model, weighed).value
    torch.manual_seed(0)
    torch.testing.assert_close(bound, an.infer.elbo(swapped_model, a_guide).value - 0.3)

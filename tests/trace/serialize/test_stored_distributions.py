"""Saving: distributions of torch are the same, of others the density of their value is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, parameters_of
from stored import Blank, Triangle, again, run, triangle
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    constraints,
)

import ancestral as an
from ancestral.errors import UnloadedDistributionError


def draws_of(fn: Any) -> list[Tensor]:
    torch.manual_seed(1)
    return [fn.sample(), fn.expand((2, *fn.batch_shape)).sample()]


@pytest.mark.filterwarnings("ignore:Singular sample")  # a batch of Wishart says so always
@pytest.mark.parametrize("name", FAMILIES)
def test_a_distribution_of_torch_has_the_same_density_to_the_bit(name: str, tmp_path: Path) -> None:
    fn = FAMILIES[name].make(**parameters_of(name))
    trace = run(lambda: an.sample("z", fn))
    assert trace.compare(trace).is_equal  # distributions remember what they computed
    trace.save(tmp_path / "a.trace")
    loaded = an.Trace.load(tmp_path / "a.trace")
    found: Any = loaded["z"].fn
    assert type(found) is type(fn)
    assert trace.compare(loaded).is_equal  # of densities too, exactly
    assert (repr(found), str(found.support)) == (repr(fn), str(fn.support))
    assert type(found.batch_shape) is torch.Size
    for here, there in zip(draws_of(fn), draws_of(found), strict=True):
        assert torch.equal(here, there)


NAMESAKE, NOTED = type("Normal", (Normal,), {})(0.0, 1.0), Normal(0.0, 1.0)
NOTED.notes = {"class": "Normal"}  # type: ignore[attr-defined]
MIXTURE = MixtureSameFamily(Categorical(torch.ones(2)), triangle(2, 3), validate_args=False)
KNOWN = "a stored trace holds the name only, and the log-probability of the value it drew; make"


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (triangle(3), rf"Triangle is no class of torch\.distributions: of this Triangle {KNOWN}"),
        (MIXTURE, rf"Triangle is no class of .*: of this MixtureSameFamily {KNOWN}"),
        (Independent(Blank(torch.Size([3])), 1), r"Blank is no class of .* the name only; make"),
        (NAMESAKE, rf"Normal is no class of torch\.distributions: of this Normal {KNOWN}"),
        (NOTED, rf"a dictionary is no part of a .*: of this Normal {KNOWN}"),
    ],
)
def test_a_distribution_not_of_torch_keeps_its_name_and_the_density_of_its_value(
    fn: Distribution, message: str
) -> None:
    value = torch.zeros(fn.batch_shape + fn.event_shape)
    trace = run(lambda: an.sample("z", fn, obs=value))
    loaded = again(trace)
    for after in (loaded, again(loaded)):
        assert trace.compare(after).is_equal
        assert after.format_shapes() == trace.format_shapes()
        found: Any = getattr(after["z"].fn, "base_dist", after["z"].fn)
        for attribute in ("mean", "variance", "mode", "support", "stddev"):
            with pytest.raises(UnloadedDistributionError, match=f"^{message}"):
                getattr(found, attribute)
        for method in ("expand", "cdf", "entropy", "enumerate_support", "sample"):
            with pytest.raises(NotImplementedError, match=f"^{message}"):
                getattr(found, method)()
        with pytest.raises(UnloadedDistributionError, match=f"^{message}"):
            found.log_prob(value + 1)


class Narrow(Triangle):
    """A distribution of the user that says which values it can take."""

    support = constraints.unit_interval


@pytest.mark.parametrize("family", [Triangle, Narrow])
@pytest.mark.parametrize("keep", [(True, False, True), (False, True, True), (False,) * 3], ids=str)
@pytest.mark.parametrize("hidden", [0.2, 7.0, torch.nan])
def test_the_density_that_is_stored_is_masked_as_it_was(
    family: type[Triangle], keep: tuple[bool, ...], hidden: float
) -> None:
    def masked() -> None:
        fn = family(torch.Size((3, 2)), validate_args=False)
        value = torch.full((3, 2), 0.5)
        value[~torch.tensor(keep)] = hidden
        with an.handlers.mask(torch.tensor(keep)), an.handlers.scale(2.0):
            an.sample("x", Independent(fn, 1), obs=value)
            an.sample("z", Independent(fn, 1))

    trace = run(masked)
    loaded = again(trace)
    for after in (loaded, again(loaded)):
        assert trace.compare(after).is_equal, str(trace.compare(after))
        assert after.format_shapes() == trace.format_shapes()
        assert torch.equal(after.log_prob_sum(), trace.log_prob_sum())


def test_missing_data_have_the_density_that_is_stored() -> None:
    value = torch.tensor([0.5, torch.nan, 0.2])
    trace = run(lambda: an.sample("x", triangle(3), obs=value))
    assert trace.compare(again(trace)).is_equal


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_distribution_that_changed_after_the_draw_is_not_stored_as_that_of_the_draw(
    is_asked: bool,
) -> None:
    loc = torch.zeros(2, requires_grad=True)
    trace = run(lambda: an.sample("z", Independent(Normal(loc, 1.0), 1)))
    if is_asked:
        trace.log_prob_sum()
    with torch.no_grad():
        loc.add_(1)
    loaded = again(trace)
    assert trace.compare(loaded).is_equal
    if is_asked:  # which the trace remembers
        assert torch.equal(loaded["z"].log_prob, trace["z"].log_prob)
    else:
        with pytest.raises(UnloadedDistributionError, match=r"written into .*: of this Normal"):
            _ = loaded["z"].log_prob

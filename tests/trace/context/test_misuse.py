"""Misuse: what users of other libraries write first is told what is meant here."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Normal

import ancestral as an
from ancestral import handlers

untyped: Any = handlers  # these are wrong by their types as well


def model() -> None:
    z = an.sample("z", Normal(0.0, 1.0))
    an.sample("x", Normal(z, 1.0), obs=torch.tensor(0.3))


@pytest.mark.parametrize("verb", ["condition", "do", "substitute"])
def test_a_function_in_the_place_of_values_is_told_where_it_goes(verb: str) -> None:
    with pytest.raises(TypeError, match=rf"{verb}\(values\)\(model\)"):
        getattr(untyped, verb)(model)


def test_a_function_in_the_place_of_a_trace_is_told_where_it_goes() -> None:
    with pytest.raises(TypeError, match=r"replay takes a Trace, not a function.*\(trace\)\(model"):
        untyped.replay(model)


@pytest.mark.parametrize("verb", ["block", "expose"])
def test_a_list_of_names_is_to_be_unpacked(verb: str) -> None:
    with pytest.raises(TypeError, match=rf"{verb} takes names one by one.*not a list.*a star"):
        getattr(untyped, verb)(["z"])


@pytest.mark.parametrize(("log_factor", "came"), [(0.3, "a float"), (torch.tensor(3), "int64")])
def test_a_factor_that_is_no_tensor_of_numbers_names_itself(log_factor: Any, came: str) -> None:
    with pytest.raises(
        an.errors.SiteError, match=rf"factor 'f' \(.*test_misuse.py:\d+\) is .*{came}"
    ):
        an.factor("f", log_factor)


def test_the_class_of_a_strategy_is_told_from_a_strategy() -> None:
    named: Callable[[], None] = untyped.reparam({"z": handlers.LocScale})(model)
    with pytest.raises(handlers.ReparamError, match=r"the class LocScale.*expected one of it, Loc"):
        named()


def test_a_site_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(
        handlers.UnknownSiteError, match=r"no site 'y'; the others that it has are 'z', 'x'"
    ):
        handlers.condition({"y": torch.tensor(0.0)})(model)()


@pytest.mark.parametrize("verb", ["condition", "do", "substitute"])
def test_a_number_in_the_place_of_a_tensor_names_its_site(verb: str) -> None:
    with (
        an.record(),
        pytest.raises(an.errors.SiteError, match=r"'z'.* must be a torch.Tensor, not a flo"),
    ):
        getattr(untyped, verb)({"z": 1.0})(model)()


def test_a_file_of_something_else_is_told_from_a_trace(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hi")
    with pytest.raises(ValueError, match=r"not written by Trace\.save, or was damaged"):
        an.Trace.load(tmp_path / "notes.txt")


@pytest.mark.parametrize("handler", [an.handlers.do, an.handlers.substitute])
def test_a_free_site_takes_no_more_cases_than_it_has(handler: Any) -> None:
    def program() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        an.sample("x", Normal(z * torch.ones(4), 1.0), obs=torch.zeros(4))

    with (
        an.record(),
        pytest.raises(an.errors.SiteError, match=r"'z' .* has shape \[7, 1\]; expected \[\]"),
    ):
        handler({"z": torch.zeros(7, 1)})(program)()

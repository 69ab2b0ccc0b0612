"""Dependencies: those of Pyro where it is right, those of the precision matrix everywhere."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_programs import PLATES, Program, Statement, precision, random_program
from pyro.infer.inspect import get_dependencies
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an

Answers = dict[str, Any]
"""Dependencies of a model, in the format of Pyro."""


def ours(model: Callable[[], object]) -> Answers:
    with an.record() as trace:
        model()
    return {
        "prior_dependencies": an.infer.prior_dependencies(trace),
        "posterior_dependencies": an.infer.posterior_dependencies(trace),
    }


def direct(sample: Any, plate: Any, fns: Any) -> None:
    a = sample("a", fns.Normal(0.0, 1.0))
    sample("b", fns.Normal(a, 1.0), obs=torch.tensor(0.0))


def collider(sample: Any, plate: Any, fns: Any) -> None:
    a = sample("a", fns.Normal(0.0, 1.0))
    b = sample("b", fns.LogNormal(0.0, 1.0))
    c = sample("c", fns.Normal(a, b))
    sample("d", fns.Normal(c, 1.0), obs=torch.tensor(0.0))


def summed(sample: Any, plate: Any, fns: Any) -> None:
    with plate("p", 5):
        a = sample("a", fns.Normal(0.0, 1.0))
    sample("b", fns.Normal(a.sum(), 1.0), obs=torch.tensor(0.0))


def plates(sample: Any, plate: Any, fns: Any) -> None:
    p, q = plate("p", 4, dim=-1), plate("q", 3, dim=-2)
    a = sample("a", fns.Normal(0.0, 1.0))
    with p:
        b = sample("b", fns.Normal(a, 1.0))
    with q:
        c = sample("c", fns.Normal(a, 1.0))
    with p, q:
        d = sample("d", fns.Normal(b, c.exp()))
        sample("e", fns.Normal(d, 1.0), obs=torch.zeros(3, 4))
    with p:
        sample("f", fns.Normal(d.sum(-2), 1.0), obs=torch.zeros(4))


DOCUMENTED: dict[str, Answers] = {
    "direct": {
        "prior_dependencies": {"a": {"a": set()}, "b": {"a": set(), "b": set()}},
        "posterior_dependencies": {"a": {"a": set(), "b": set()}},
    },
    "collider": {
        "prior_dependencies": {
            "a": {"a": set()},
            "b": {"b": set()},
            "c": {"a": set(), "b": set(), "c": set()},
            "d": {"c": set(), "d": set()},
        },
        "posterior_dependencies": {
            "a": {"a": set(), "b": set(), "c": set()},
            "b": {"b": set(), "c": set()},
            "c": {"c": set(), "d": set()},
        },
    },
    "summed": {
        "prior_dependencies": {"a": {"a": set()}, "b": {"a": set(), "b": set()}},
        "posterior_dependencies": {"a": {"a": {"p"}, "b": set()}},
    },
}


@pytest.mark.parametrize("model", [direct, collider, summed])
def test_the_documented_examples_of_pyro_have_the_answers_in_its_documentation(
    model: Callable[..., None],
) -> None:
    assert (
        ours(lambda: model(an.sample, an.plate, torch.distributions)) == DOCUMENTED[model.__name__]
    )


@pytest.mark.parametrize("model", [direct, collider, summed, plates])
def test_the_answers_are_those_of_pyro(model: Callable[..., None]) -> None:
    theirs = get_dependencies(lambda: model(pyro.sample, pyro.plate, dist))
    assert ours(lambda: model(an.sample, an.plate, torch.distributions)) == theirs


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_have_the_answers_of_pyro(seed: int) -> None:
    program = random_program(random.Random(seed), is_plain=True)
    theirs = get_dependencies(lambda: program.run(pyro.sample, pyro.plate, dist.Normal))
    assert ours(lambda: program.run(an.sample, an.plate)) == theirs


def crossing(block: Tensor, one: Statement, other: Statement, plate: str) -> Tensor:
    """Return the precisions of elements whose index along a plate is not the same."""
    size, dim = PLATES[plate]
    n = len(one.shape)
    moved = block.movedim((n + dim, block.ndim + dim), (-2, -1))
    return moved[..., ~torch.eye(size, dtype=torch.bool)]


def expected(program: Program) -> dict[str, dict[str, set[str]]]:
    """Return which latent sites depend on which, by the precision matrix of the posterior."""
    latents = [site for site in program.sites if not site.is_observed]
    block = precision(program)
    return {
        one.name: {
            other.name: {
                plate
                for plate in one.plates & other.plates
                if crossing(block(one.name, other.name), one, other, plate).any()
            }
            for other in latents[place:]
            if block(one.name, other.name).any()
        }
        for place, one in enumerate(latents)
    }


@pytest.mark.parametrize("seed", range(60))
def test_what_is_coupled_is_what_the_precision_matrix_of_the_posterior_says(seed: int) -> None:
    program = random_program(random.Random(seed))
    found = ours(lambda: program.run(an.sample, an.plate))["posterior_dependencies"]
    latents = {site.name for site in program.sites if not site.is_observed}
    among = {a: {b: found[a][b] for b in found[a] if b in latents} for a in found}
    assert among == expected(program), program


def branch(sample: Any, fns: Any) -> None:
    z = sample("z", fns.Bernoulli(torch.tensor(0.4)))
    sample("x", fns.Normal(0.0, 1.0 if z > 0 else 2.0), obs=torch.tensor(0.3))


def write(sample: Any, fns: Any) -> None:
    z = sample("z", fns.Normal(0.0, 1.0))
    mean = torch.zeros(2)
    mean[0] = z
    sample("x", fns.Normal(mean, 1.0), obs=torch.zeros(2))


@pytest.mark.parametrize("model", [branch, write])
def test_branches_and_writes_that_pyro_loses_count(model: Callable[..., None]) -> None:
    theirs: Answers = get_dependencies(lambda: model(pyro.sample, dist))
    assert theirs["posterior_dependencies"] == {"z": {"z": set()}}
    found = ours(lambda: model(an.sample, torch.distributions))
    assert found["posterior_dependencies"] == {"z": {"z": set(), "x": set()}}
    assert found["prior_dependencies"]["x"] == {"z": set(), "x": set()}


def vector(sample: Any, plate: Any, fns: Any) -> None:
    with plate("p", 3):
        a = sample("a", fns.Normal(0.0, 1.0))
    sample("x", fns.Normal(a, 1.0), obs=torch.zeros(3))


def elements(sample: Any, plate: Any, fns: Any) -> None:
    with plate("p", 3):
        a = sample("a", fns.Normal(0.0, 1.0))
    for i in range(3):
        sample(f"x{i}", fns.Normal(a[i], 1.0), obs=torch.tensor(0.3))


@pytest.mark.parametrize("model", [vector, elements])
def test_a_child_outside_of_a_plate_that_sees_the_elements_apart_couples_none(
    model: Callable[..., None],
) -> None:
    theirs: Answers = get_dependencies(lambda: model(pyro.sample, pyro.plate, dist))
    assert theirs["posterior_dependencies"]["a"]["a"] == {"p"}
    found = ours(lambda: model(an.sample, an.plate, torch.distributions))
    assert found["posterior_dependencies"]["a"]["a"] == set()


def test_a_child_that_sees_each_element_and_its_neighbour_couples_them() -> None:
    def model() -> None:
        with an.plate("p", 3):
            a = an.sample("a", Normal(0.0, 1.0))
        an.sample("x", Normal(a[1:] - a[:-1], 1.0), obs=torch.zeros(2))

    assert ours(model)["posterior_dependencies"]["a"] == {"a": {"p"}, "x": set()}


def test_a_child_that_sees_only_neighbours_couples_none() -> None:
    def model() -> None:
        with an.plate("p", 3):
            a = an.sample("a", Normal(0.0, 1.0))
            b = an.sample("b", Normal(0.0, 1.0))
        an.sample("x", Normal(a[1:] * b[1:], 1.0), obs=torch.zeros(2))
        an.sample("y", Normal(a[1:] * b[:-1], 1.0), obs=torch.zeros(2))

    found = ours(model)["posterior_dependencies"]
    assert found["a"] == {"a": set(), "b": {"p"}, "x": set(), "y": set()}


def test_one_repetition_of_a_plate_stands_for_all() -> None:
    def model(sample: Any, plate: Any, fns: Any) -> None:
        with plate("p", 10, subsample_size=1):
            a = sample("a", fns.Normal(0.0, 1.0))
            b = sample("b", fns.Normal(a, 1.0))
            sample("x", fns.Normal(a * b, 1.0), obs=torch.zeros(1))
        sample("y", fns.Normal(b.sum(), 1.0), obs=torch.tensor(0.3))

    theirs = get_dependencies(lambda: model(pyro.sample, pyro.plate, dist))
    found = ours(lambda: model(an.sample, an.plate, torch.distributions))
    assert found == theirs
    assert found["posterior_dependencies"]["b"]["b"] == {"p"}


def test_data_that_a_mask_leaves_out_is_no_site() -> None:
    def model() -> None:
        a, b = an.sample("a", Normal(0.0, 1.0)), an.sample("b", Normal(0.0, 1.0))
        with an.handlers.mask(False):
            an.sample("x", Normal(a + b, 1.0), obs=torch.tensor(0.3))

    assert ours(model)["posterior_dependencies"] == {"a": {"a": set()}, "b": {"b": set()}}


def test_data_that_a_mask_leaves_out_for_some_draws_is_a_site() -> None:
    def model() -> None:
        a = an.sample("a", Bernoulli(torch.tensor(0.4)))
        with an.handlers.mask((a > 1) & (a < 0)):
            an.sample("x", Normal(0.0, 1.0), obs=torch.tensor(0.3))

    assert ours(model)["posterior_dependencies"]["a"] == {"a": set(), "x": set()}


def test_named_values_factors_and_data_upstream() -> None:
    def model() -> None:
        a = an.sample("a", Normal(0.0, 1.0))
        b = an.sample("b", Normal(a, 1.0), obs=torch.tensor(0.3))
        c = an.sample("c", Normal(b, 1.0))
        total = an.deterministic("total", a + c)
        an.factor("f", -(total**2))

    assert ours(model) == {
        "prior_dependencies": {
            "a": {"a": set()},
            "b": {"a": set(), "b": set()},
            "c": {"c": set()},
            "f": {"a": set(), "c": set(), "f": set()},
        },
        "posterior_dependencies": {
            "a": {"a": set(), "b": set(), "c": set(), "f": set()},
            "c": {"c": set(), "f": set()},
        },
    }


def test_a_trace_of_plain_torch_has_dependencies() -> None:
    def model() -> Tensor:
        a = Normal(torch.zeros(3), 1.0).rsample()
        b = Bernoulli(logits=a.sum()).sample()
        x = torch.tensor(0.3)
        density: Tensor = Normal(b, 1.0).log_prob(x)
        return density

    assert ours(model)["posterior_dependencies"] == {
        "a": {"a": set(), "b": set()},
        "b": {"b": set(), "x": set()},
    }


def test_many_sites_stand_in_program_order() -> None:
    def model() -> None:
        zs = [an.sample(f"z{i}", Normal(0.0, 1.0)) for i in range(50)]
        an.sample("x", Normal(torch.stack(zs).sum(), 1.0), obs=torch.tensor(0.3))

    found = ours(model)
    names = [f"z{i}" for i in range(50)]
    assert list(found["prior_dependencies"]["x"]) == [*names, "x"]
    pairs = {(a, b) for a, below in found["posterior_dependencies"].items() for b in below}
    assert pairs == {*itertools.combinations_with_replacement(names, 2), *((n, "x") for n in names)}

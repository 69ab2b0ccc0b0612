"""Messages: an error shows what came, whatever it is, in few words and without an escape."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Dirichlet, Exponential, Normal, Uniform
from torch.distributions import constraints as c

import ancestral as an
from ancestral.trace import handlers as h
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.errors import SiteError

HUGE = 10**6

GIVEN: dict[str, Callable[[Tensor], Any]] = {
    "a draw": lambda z: z,
    "an integer of a draw": lambda z: (z > 0).long(),
    "several of a draw": lambda z: torch.stack([z, z]),
    "many of a draw": lambda z: z + torch.zeros(HUGE).reshape(-1, *(1,) * z.dim()),
    "none of a draw": lambda z: z + torch.zeros(0, *(1,) * z.dim()),
    "a complex draw": lambda z: torch.complex(z, z),
    "many numbers": lambda z: torch.zeros(HUGE),
    "no values": lambda z: torch.zeros(3, device="meta"),
    "no numbers": lambda z: torch.zeros(0),
    "booleans": lambda z: torch.tensor([True, False]),
    "a complex number": lambda z: torch.tensor(1 + 2j),
    "an object": lambda z: object(),
    "a distribution of a draw": lambda z: Normal(z, 1.0),
    "draws in a tuple": lambda z: (z,) * 1000,
    "draws in a dictionary": lambda z: {"a": z},
    "a long text": lambda z: "x" * HUGE,
    "a large integer": lambda z: 10**6000,
    "nothing": lambda z: None,
}


def stored(program: Callable[[], Any]) -> None:
    with an.ParamStore():
        program()


def exponential() -> Tensor:
    return an.sample("q", Exponential(torch.ones(2)))


def reinforced(**options: Any) -> None:
    q = an.sample("q", Bernoulli(torch.tensor(0.5, requires_grad=True)))
    an.backward(q, **options)


CALLS: dict[str, Callable[[Any], Any]] = {
    "a name": lambda v: an.sample(v, Normal(0.0, 1.0)),
    "a distribution": lambda v: an.sample("q", v),
    "an observed value": lambda v: an.sample("q", Exponential(torch.tensor(1.0)), obs=v),
    "a negative value": lambda v: an.sample("q", Exponential(torch.tensor(1.0)), obs=v * -1 - 1e3),
    "a bound": lambda v: an.sample("q", Uniform(0.0, v.abs() + 1), obs=torch.tensor(1e9)),
    "an index": lambda v: an.sample("q", Categorical(torch.ones(2)), obs=v),
    "an event": lambda v: an.sample("q", Dirichlet(torch.ones(3)), obs=v),
    "an obs_mask": lambda v: an.sample("q", Normal(0.0, 1.0), torch.zeros(2), obs_mask=v),
    "a mask": h.mask,
    "a scale": h.scale,
    "a negative scale": lambda v: h.scale(-v.abs() - 1),
    "the mask of a site": lambda v: h.mask(v.real > 0)(
        lambda: an.sample("q", Normal(0.0, 1.0), obs=torch.zeros(3))
    )(),
    "the name of a plate": lambda v: an.plate(v, 5),
    "the size of a plate": lambda v: an.plate("p", v),
    "a subsample_size": lambda v: an.plate("p", 5, subsample_size=v),
    "a dimension": lambda v: an.plate("p", 5, dim=v),
    "what to subsample": lambda v: an.subsample(v),
    "a first_dim": lambda v: h.enumerate(first_dim=v),
    "whether to enumerate": lambda v: h.enumerate(first_dim=-9)(
        lambda: an.sample("q", Bernoulli(torch.tensor(0.5)), infer={"enumerate": v})
    )(),
    "a history": lambda v: h.markov(range(3), history=v),
    "values": h.condition,
    "the name of a value": lambda v: h.condition({v: torch.ones(())}),
    "a value": lambda v: h.condition({"q": v})(exponential)(),
    "a substitute": lambda v: h.substitute({"q": v})(exponential)(),
    "an intervention": lambda v: h.do({"q": v})(exponential)(),
    "a seed": h.seed,
    "priors": h.lift,
    "the name of a prior": lambda v: h.lift({v: Normal(0.0, 1.0)}),
    "a strategy": lambda v: h.reparam({"q": v}),
    "a factor": lambda v: an.factor("q", v),
    "a named value": lambda v: an.deterministic("q", v),
    "an event_dim": lambda v: an.deterministic("q", torch.ones(3), event_dim=v),
    "the name of a named value": lambda v: an.deterministic(v, v),
    "a cost": lambda v: an.cost("q", v),
    "an init": lambda v: stored(lambda: an.param("w", v, constraint=c.simplex)),
    "a constraint": lambda v: stored(lambda: an.param("w", torch.tensor(-5.0), constraint=v)),
    "the bounds of a constraint": lambda v: stored(
        lambda: an.param("w", torch.tensor(-5.0), constraint=c.interval(v.abs(), v.abs() + 1))
    ),
    "particles": lambda v: an.infer.elbo(lambda: None, lambda: None, particles=v),
    "samples": lambda v: an.infer.importance(lambda: None, None, samples=v),
    "a trace": an.infer.log_marginal,
    "a loss": lambda v: an.surrogate(v),
    "an estimator": lambda v: reinforced(estimator=v),
    "control": lambda v: an.record(control=v),
    "tracking": lambda v: an.track(v, v),
}
# Not asked for here: a recursion of the program, as many runs as it says.
_RUNS = {("particles", "a large integer"), ("samples", "a large integer")}


def raised(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("is_enumerated", [False, True])
@pytest.mark.parametrize("control", ["error", "strict"])
@pytest.mark.parametrize("call", CALLS)
def test_no_message_fails_or_lets_a_value_out(call: str, control: str, is_enumerated: bool) -> None:
    for given, make in GIVEN.items():
        if (call, given) in _RUNS:
            continue
        with an.record(control=control) as trace, contextlib.ExitStack() as around:
            if is_enumerated:
                around.enter_context(h.enumerate(first_dim=-4))
            fn = Bernoulli(torch.tensor(0.5)) if is_enumerated else Normal(torch.tensor(0.0), 1.0)
            value = make(an.sample("z", fn))
            error = raised(lambda value=value: CALLS[call](value))  # type: ignore[misc]
            if error is not None:
                assert len(str(error)) < 1500, (given, str(error)[:200])
                assert type(error).__name__ not in ("EscapeError", "ConfinedError"), given
                assert not trace.escapes, given


@pytest.mark.parametrize("control", ["error", "strict"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_value_outside_bounds_that_depend_on_an_enumerated_site_is_named(
    control: str, size: int
) -> None:
    high = torch.tensor([1.0, 2.0])
    data = torch.full((size,), 1.5)
    with an.record(control=control), h.enumerate(first_dim=-2):
        z = an.sample("z", Categorical(torch.ones(2)))
        an.sample("y", Uniform(0.0, high[z]), obs=torch.full((size,), 0.5))
        with pytest.raises(SiteError, match=rf"'x' .*{size} of {size} elements.* 1\.5; .*upper"):
            an.sample("x", Uniform(0.0, high[z]), obs=data)


def test_bounds_of_events_count_each_element_once() -> None:
    high = torch.tensor([1.0, 2.0])
    data = torch.tensor([[0.5, 1.5, 3.0], [0.1, 0.2, 0.3]])
    with an.record(control="error"), h.enumerate(first_dim=-2):
        z = an.sample("z", Categorical(torch.ones(2)))
        fn = torch.distributions.Independent(Uniform(0.0, high[z][..., None].expand(2, 1, 3)), 1)
        with pytest.raises(SiteError, match=r"2 of 6 elements, the first of them 1\.5"):
            an.sample("x", fn, obs=data)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_density_that_is_not_finite_shows_the_value_it_is_of(number: float) -> None:
    def model() -> None:
        z = an.sample("z", Bernoulli(torch.tensor(0.5)))
        an.sample("x", Normal(z, 1.0, validate_args=False), obs=torch.tensor([0.0, number]))

    def guide() -> None:
        an.sample("z", Bernoulli(torch.tensor(0.5, requires_grad=True)))

    with pytest.raises(SiteError, match=f"'x' .*not finite.*at the value {number!r}"):
        an.infer.elbo(model, guide)


def test_constraints_show_as_torch_shows_them_with_their_numbers() -> None:
    with an.record(control="error"):
        z = an.sample("z", Normal(torch.tensor(0.0), 1.0))
        wide = an.track(torch.zeros(4), "w")
        assert short(c.interval(z * 0, z * 0 + 2.0)) in (
            "Interval(lower_bound=0.0, upper_bound=2.0)",
            "Interval(lower_bound=-0.0, upper_bound=2.0)",
        )
        assert short(c.independent(c.greater_than(wide), 1)) == (
            "IndependentConstraint(GreaterThan(lower_bound=tensor[4]), 1)"
        )
    for plain in (c.positive, c.simplex, c.unit_interval, c.independent(c.real, 1)):
        assert short(plain) == repr(plain)

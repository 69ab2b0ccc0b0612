"""Versions: a density is that of the draw, or there is none."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.trace.node import ModifiedParameterError


def density_of(program: Callable[[], object], site: str = "z") -> Callable[[], Tensor]:
    """Return what asks for the density of a site after its program has run."""

    def ask() -> Tensor:
        with an.record() as trace:
            program()
        return trace[site].log_prob

    return ask


def reparameterized_value() -> None:
    z = an.sample("z", Normal(torch.zeros(2), 1.0))
    z += 10.0


def view_of_a_value() -> None:
    an.sample("z", Normal(torch.zeros(2), 1.0))[0] = 10.0


def data() -> None:
    buffer = torch.zeros(2)
    an.sample("z", Normal(torch.zeros(2), 1.0), obs=buffer)
    buffer.fill_(5.0)


def value_of_a_handler() -> None:
    with an.handlers.condition({"z": torch.zeros(2)}):
        reparameterized_value()


def plain_parameter() -> None:
    loc = torch.zeros(2)
    an.sample("z", Normal(loc, 1.0))
    loc.fill_(5.0)


def computed_parameter() -> None:
    loc = torch.zeros(2, requires_grad=True) * 2
    an.sample("z", Normal(loc, 1.0))
    torch.relu_(loc.add_(1.0))


@pytest.mark.parametrize(
    "program",
    [
        reparameterized_value,
        view_of_a_value,
        data,
        value_of_a_handler,
        plain_parameter,
        computed_parameter,
    ],
)
def test_what_was_written_into_since_has_no_density_any_more(program: Callable[[], None]) -> None:
    with pytest.raises(ModifiedParameterError, match=r"'z' \(.*clone what is written into"):
        density_of(program)()


def test_a_value_that_shares_no_memory_keeps_its_density() -> None:
    def program() -> None:
        z = an.sample("z", Bernoulli(torch.full((2,), 0.5)))  # the trace has a copy
        z += 10.0

    def outside() -> None:
        with torch.inference_mode():
            observed = torch.zeros(2)
        an.sample("z", Normal(torch.zeros(2), 1.0), obs=observed)

    torch.testing.assert_close(density_of(program)(), torch.full((2,), 0.5).log())
    torch.testing.assert_close(density_of(outside)(), Normal(0.0, 1.0).log_prob(torch.zeros(2)))


def test_a_score_of_a_value_that_was_written_into_is_refused() -> None:
    loc = torch.zeros(3, requires_grad=True)
    with an.record():
        z = Normal(loc, 1.0).rsample()
        z += 10.0
        loss = (z > 10.3).float().sum()  # a step: the score function is needed, at the draw
    with pytest.raises(ModifiedParameterError, match=r"'z' \(.*z = z \+ 1 for z \+= 1"):
        an.backward(loss)
    with an.record():
        z = Normal(loc, 1.0).rsample()
        z += 10.0
        loss = z.square().sum()  # a pathwise gradient asks for no density
    an.backward(loss)
    torch.testing.assert_close(loc.grad, 2 * z.detach())


def test_a_value_that_was_written_into_is_not_replayed() -> None:
    with an.record() as trace:
        reparameterized_value()
    with pytest.raises(ModifiedParameterError), an.handlers.replay(trace):
        reparameterized_value()

"""What is written into on the way to a loss counts as it was when the loss was computed of it.

A first draw of zeros shows nothing: the cost is zero, whatever it is multiplied with.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from steps import gradients
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an

LOGITS = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _halved_as_a_whole(z: Tensor) -> Tensor:
    total = torch.zeros_like(z)
    total += z
    total.mul_(0.5).sub_(0.1)
    return total.sum()


def _doubled_by_its_other_name(z: Tensor) -> Tensor:
    total = _zeros(2)
    returned = total.add_(z)
    total.mul_(2)
    return returned.sum()


def _doubled_through_a_view(z: Tensor) -> Tensor:
    total = _zeros(2)
    first = total.add_(z)[0]
    total.mul_(2)
    return first + total.sum()


def _summed_by_writes(z: Tensor) -> Tensor:
    loss = _zeros()
    loss += z.sum()
    loss *= 2
    loss -= (z * LOGITS).sum()
    return loss


def _given_out(z: Tensor) -> Tensor:
    total = _zeros(2)
    torch.add(total, z, out=total)
    total.mul_(3)
    return total.sum()


def _times_what_it_is_written_into(z: Tensor) -> Tensor:
    loss = 3 + _zeros()
    loss *= z.sum()
    return loss + z[0]


def _counted_by_a_number_that_grows(z: Tensor) -> Tensor:
    count, loss = 1 + _zeros(), _zeros()
    loss += (z * z).sum() / count
    count += 1
    return loss + (z - 1).sum() / count


def _changed_where_it_lies(z: Tensor) -> Tensor:
    half, cost = z.clone(), -z * LOGITS.exp()
    F.hardtanh(half, -1.0, 0.5, True)
    F.relu(cost, inplace=True)
    return cost.sum() + half.sum()


PROGRAMS: tuple[Callable[[Tensor], Tensor], ...] = (
    _halved_as_a_whole,
    _doubled_by_its_other_name,
    _doubled_through_a_view,
    _summed_by_writes,
    _given_out,
    _times_what_it_is_written_into,
    _counted_by_a_number_that_grows,
    _changed_where_it_lies,
)
COMPILED = frozenset(PROGRAMS) - {_doubled_through_a_view}


def _seeds() -> Iterator[int]:
    """Yield seeds of draws, those of zeros first."""
    found: dict[float, int] = {}
    for seed in range(40):
        torch.manual_seed(seed)
        found.setdefault(
            float(Bernoulli(logits=LOGITS).sample() @ torch.tensor([1.0, 2.0]).double()), seed
        )
    assert len(found) == 4
    yield from (found[value] for value in sorted(found))


@pytest.mark.filterwarnings("ignore::ancestral.errors.NotCompiledWarning")
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_gradient_is_that_of_a_recording(program: Callable[[Tensor], Tensor]) -> None:
    def loss_fn() -> Tensor:
        return program(Bernoulli(logits=LOGITS).sample())

    step = an.compile(loss_fn, baseline=None, backend="eager")
    for seed in _seeds():
        torch.manual_seed(seed)
        step().backward()
        ours = gradients([LOGITS])
        torch.manual_seed(seed)
        with an.record():
            loss = loss_fn()
        an.backward(loss, baseline=None)
        torch.testing.assert_close(ours, gradients([LOGITS]))
    assert step.plan is not None
    assert step.plan.is_compiled is (program in COMPILED), step.plan.refusal

"""A loss without provenance that Python chose is one of the outcomes of the choice."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from programs.estimates import by, fresh, gradients, higher_derivatives
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical

import ancestral as an
from ancestral.estimators.gradient.loss_pytree import LossError
from oracles import Parameters, Program, exact_gradient, moments

# The programs decide by what they read, for what is tested; recordings that other tests have left
# may have chosen a loss as well.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning"),
    pytest.mark.usefixtures("nothing_recorded"),
]

GLOBAL = torch.tensor(2.0, dtype=torch.float64)


def num(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def coin(logit: Tensor) -> Tensor:
    z: Tensor = Bernoulli(logits=logit).sample()
    return z


def constant(theta: Tensor) -> Tensor:
    z, t = coin(theta[0]), num(2.0)
    return t if z > 0 else t * 3


def made_before_the_draw(theta: Tensor) -> Tensor:
    t, s = num(2.0), num(-1.5)
    return (t, s)[int(coin(theta[0]) + coin(theta[1])) % 2]


def parameter(theta: Tensor) -> Tensor:
    weight = theta[1]
    return weight if coin(theta[0]) > 0 else weight * 3


def global_constant(theta: Tensor) -> Tensor:
    return GLOBAL if coin(theta[0]) > 0 else GLOBAL * theta[1]


def of_a_module(theta: Tensor) -> Tensor:
    module = nn.Module()
    module.register_buffer("bias", num(0.7))
    chosen = module.bias if coin(theta[0]) > 0 else coin(theta[1]) * 2
    assert isinstance(chosen, Tensor)
    return chosen


def of_a_list(theta: Tensor) -> Tensor:
    finished = [num(0.3), num(-2.0), num(1.1)]
    probs = torch.cat([theta, theta.new_zeros(1)]).softmax(0)
    return finished[int(Categorical(probs=probs).sample())]


def of_an_object(theta: Tensor) -> Tensor:
    held = SimpleNamespace(low=num(0.3), high=num(-2.0))
    return held.low if coin(theta[0]) > coin(theta[1]) else held.high  # type: ignore[no-any-return]


def of_a_loop(theta: Tensor) -> Tensor:
    best = num(0.0)
    for step in range(3):
        if coin(theta[step % 2]) > 0:
            return best
        best = num(float(step + 1))
    return best


def computed_before(theta: Tensor) -> Tensor:
    penalty = (theta**2).sum()
    return penalty if coin(theta[0]) > 0 else num(0.2)


def in_a_thread(theta: Tensor) -> Tensor:
    t, chosen = num(2.0), list[Tensor]()

    def work() -> None:
        chosen.append(t if coin(theta[0]) > 0 else t * 3)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    return chosen[0]


PROGRAMS: list[Program] = [
    constant,
    made_before_the_draw,
    parameter,
    global_constant,
    of_a_module,
    of_a_list,
    of_an_object,
    of_a_loop,
    computed_before,
    in_a_thread,
]


def leaf() -> Tensor:
    return torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)


def within_the_block(program: Program, parameters: Parameters) -> Tensor:
    leaves = fresh(parameters)
    with an.record():
        an.backward(program(*leaves))
    return gradients(leaves)


def of_a_recorded_function(program: Program, parameters: Parameters) -> Tensor:
    leaves = fresh(parameters)
    an.backward(an.record()(program)(*leaves))
    return gradients(leaves)


def in_a_dictionary(program: Program, parameters: Parameters) -> Tensor:
    leaves = fresh(parameters)
    with an.record():
        loss, beside = program(*leaves), num(0.4)
    an.backward({"a": loss, "b": [beside]})
    return gradients(leaves)


def declared(program: Program, parameters: Parameters) -> Tensor:
    leaves = fresh(parameters)
    with an.record() as trace:
        an.cost("loss", program(*leaves))
    trace.backward()
    return gradients(leaves)


def in_another_thread(program: Program, parameters: Parameters) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(by(), program, parameters).result()


WAYS = [
    by(),
    within_the_block,
    of_a_recorded_function,
    higher_derivatives(1),
    in_a_dictionary,
    declared,
    in_another_thread,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_loss_that_python_chose_among_finished_tensors_is_unbiased(
    program: Program, way: Callable[[Program, Parameters], Tensor]
) -> None:
    theta = leaf()
    exact = exact_gradient(program, [theta])
    torch.testing.assert_close(moments(program, [theta], way).mean, exact)
    assert exact.abs().max() > 1e-3


def test_a_loss_that_python_did_not_choose_gets_a_score_of_mean_zero() -> None:
    def estimate(program: Program, parameters: Parameters) -> Tensor:
        leaves = fresh(parameters)
        with an.record():
            program(*leaves)
        an.backward((leaves[0] ** 2).sum())
        return gradients(leaves)

    theta = leaf()
    torch.testing.assert_close(moments(constant, [theta], estimate).mean, 2 * theta.detach())


def test_a_loss_of_no_recording_in_which_a_value_escaped_is_refused(nothing_recorded: None) -> None:
    theta = leaf()
    with an.record() as trace:
        coin(theta[0])
    with pytest.raises(LossError, match=r"carries no provenance.*loss \* 1"):
        an.backward(theta.sum())
    del trace


def test_a_loss_that_two_recordings_may_have_chosen_is_refused_with_both_lines() -> None:
    theta, t = leaf(), num(2.0)
    with an.record() as first:
        bool(coin(theta[0]) > 0)
    with an.record() as second:
        bool(coin(theta[0]) > 0)
    with pytest.raises(LossError, match=r"test_chosen_losses\.py:\d+, .*test_chosen_losses\.py:\d"):
        an.backward(t)
    del first, second


def test_a_number_that_python_chose_is_to_be_made_a_tensor_after_the_choice() -> None:
    theta = leaf()
    with an.record():
        loss = 2.0 if coin(theta[0]) > -1 else theta[1]
    with pytest.raises(LossError, match=r"is a float; .*after the choice: torch.tensor\(2.0\)"):
        an.backward(loss)  # type: ignore[arg-type]


def test_a_recording_without_a_learned_draw_chooses_nothing(nothing_recorded: None) -> None:
    t = num(2.0)
    with an.record():
        bool(coin(num(0.3)) > 0)
    with pytest.raises(LossError, match="carries no provenance"):
        an.backward(t)

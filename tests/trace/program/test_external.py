"""External calls: one op of code that torch cannot see, element by element."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import copy
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from programs.estimates import by, fresh
from programs.walks import THETA, Walks
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from oracles import exact_gradient, moments


def coins(count: int = 3) -> Tensor:
    return Bernoulli(torch.full((count,), 0.4, requires_grad=True)).sample()


Z, W = "bernoulli", "bernoulli_1"


def names(tensor: Tensor) -> set[str]:
    return set(an.provenance_of(tensor))


def is_apart(tensor: Tensor, dim: int = 0) -> bool:
    """Return whether elements along a dimension depend on those of the site, one on one."""
    found = tensor._provenance  # type: ignore[attr-defined]
    return any(claim.dims[dim] == 0 for claim, _ in found.entries)


def test_results_of_all_kinds_come_back_in_their_containers_as_tracked_tensors() -> None:
    def function(a: Tensor, more: dict[str, Tensor]) -> Any:
        numbers = a.numpy()
        return {"a": numbers, "b": (torch.ones(3, 2), [numbers > 0]), "none": None, "m": more["m"]}

    with an.record() as trace:
        z, w = coins(), coins()
        result = an.external(function)(z, {"m": w})
    assert type(result["b"]) is tuple
    assert result["none"] is None
    for each in (result["a"], result["b"][0], result["b"][1][0], result["m"]):
        assert names(each) == {Z, W}
        assert is_apart(each)
    assert trace.escapes == ()


def test_it_depends_on_what_went_into_earlier_calls_if_it_has_a_state() -> None:
    with an.record():
        z, w = coins(), coins()
        for is_stateful in (True, False):
            step = an.external(lambda a: a.numpy(), stateful=is_stateful)
            step(z)
            assert names(step(w)) == ({Z, W} if is_stateful else {W})
            plain = step(torch.zeros(3))
            assert names(plain) == ({Z, W} if is_stateful else set())
    with an.record():  # another recording is another program
        step(coins())
        assert type(step(torch.zeros(3))) is Tensor


def test_dimensions_that_are_no_batch_count_for_all() -> None:
    with an.record():
        z, shared = coins(3), coins(5)
        assert is_apart(an.external(lambda a, b: a)(z, shared))
        result = an.external(lambda a, b: a * b.sum())(z, shared)
        claims = {
            source.name: claim.dims
            for claim, members in result._provenance.entries
            for source in members
        }
        assert claims == {Z: (0,), W: (-1,)}
        assert is_apart(an.external(lambda a: a.numpy(), dim=-1)(z.expand(2, 3)), 1)
        assert not is_apart(an.external(lambda a: a.numpy())(z.expand(2, 3)), 1)
        whole = an.external(lambda a: float(a.sum()), dim=None)(z)
        assert whole.shape == ()
        assert names(whole) == {Z}


def test_what_it_is_given_and_what_it_returns_are_copies() -> None:
    buffer = np.zeros(3)

    def function(a: Tensor) -> np.ndarray:
        assert type(a) is Tensor
        a.add_(1)
        buffer[:] = a.numpy()
        return buffer

    with an.record():
        z = coins()
        before = an.untrack(z).clone()
        result = an.external(function)(z)
        buffer[:] = 7
    torch.testing.assert_close(an.untrack(z), before)
    torch.testing.assert_close(an.untrack(result), (before + 1).double())


def test_a_pathwise_draw_gets_its_score_function() -> None:
    """By quadrature over the nodes of the oracle, the score alone: the simulator has no slope."""

    def program(theta: Tensor) -> Tensor:
        x = Normal(theta, 1.0).rsample()
        return an.external(lambda a: np.sign(a.numpy()))(x).sum()

    (theta,) = fresh([THETA])
    with an.record() as trace:
        loss = program(theta)
    an.backward(loss, baseline=None)
    x = trace["x"].value.detach()
    torch.testing.assert_close(theta.grad, (x - theta.detach()) * x.sign())


def test_a_gradient_that_would_be_lost_is_refused() -> None:
    (theta,) = fresh([THETA])
    with an.record():
        z = Bernoulli(logits=theta).sample()
        with pytest.raises(an.errors.ExternalError, match=r"requires a gradient.*\.detach\(\)"):
            an.external(lambda a: a.numpy())(z * theta)
        an.external(lambda a: a.numpy())((z * theta).detach())
        with torch.no_grad():
            an.external(lambda a: a.numpy())(z * theta)


def test_what_is_drawn_in_it_depends_on_what_goes_in() -> None:
    def function(a: Tensor) -> Tensor:
        return Bernoulli(0.2 + 0.5 * a).sample()

    with an.record() as trace:
        z = coins()
        an.external(function)(z)
    assert trace[W].parents == {Z}


class Held:
    """Something that holds a tensor, and is no container of torch's."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


LEVELS = torch.tensor([1.0, 3.0], dtype=torch.float64)


def of_an_object(theta: Tensor) -> Tensor:
    z, w = (Bernoulli(logits=theta).sample() for _ in range(2))
    return an.external(lambda a, held: a.numpy() + 2 * held.value.numpy())(z, Held(w))


def of_a_closure(theta: Tensor) -> Tensor:
    z, w = (Bernoulli(logits=theta).sample() for _ in range(2))
    return an.external(lambda a: a.numpy() + np.asarray(w)[::-1])(z)


def of_a_closure_before(theta: Tensor) -> Tensor:
    z, w = (Bernoulli(logits=theta).sample() for _ in range(2))
    sums = torch.zeros(2, dtype=torch.float64)
    step = an.external(lambda a: sums.add_(a + w.flip(0)).clone())
    step(z)
    return step(z)


def of_a_draw_within(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta).sample()
    return an.external(lambda a: Bernoulli(logits=theta[0] + a).sample())(z) + z


def of_methods_of_one_object(theta: Tensor) -> Tensor:
    walks, z = Walks(), Bernoulli(logits=theta).sample()
    push, look = an.external(walks.push), an.external(walks.look)
    push(z)
    return look(torch.ones(2)) * Bernoulli(logits=theta).sample()


def of_what_it_leaves_elsewhere(theta: Tensor) -> Tensor:
    sums, z = [0.0], Bernoulli(logits=theta).sample()
    an.external(lambda a: sums.append(float(a.sum())))(z)
    return sums[-1] * Bernoulli(logits=theta).sample()


@pytest.mark.parametrize("control", ["strict", "after"])
@pytest.mark.parametrize(
    "made",
    [
        of_an_object,
        of_a_closure,
        of_a_closure_before,
        of_a_draw_within,
        of_methods_of_one_object,
        of_what_it_leaves_elsewhere,
    ],
)
def test_what_goes_in_beside_the_arguments_is_followed(
    made: Callable[[Tensor], Tensor], control: str
) -> None:
    def program(theta: Tensor) -> Tensor:
        return ((made(theta) - 0.4) ** 2 * LEVELS).sum() * theta.exp().sum()

    found = moments(program, [THETA], by(control=control))
    torch.testing.assert_close(found.mean, exact_gradient(program, [THETA]))


def test_a_gradient_that_would_be_lost_beside_the_arguments_is_refused() -> None:
    with an.record():
        z, x = coins(2), Normal(THETA, 1.0).rsample()
        with pytest.raises(an.errors.ExternalError, match=r"none of its arguments.*pass it as an"):
            an.external(lambda a: a * x)(z)
        an.external(lambda a, x: a * x)(z, x)


@pytest.mark.parametrize(
    "function",
    [
        lambda a: {"more" if a.sum() > 1 else "less": a},
        lambda a: [a] * int(1 + a.sum()),
        lambda a: (a, a if a.sum() > 1 else None),
        lambda a: (a, {"final": np.array(["text"])} if a.sum() > 1 else {}),
        lambda a: {} if a.sum() > 1 else {"a": a},
        lambda a: a[0].expand(int(1 + a.sum()), 2),
        lambda a: a.numpy().astype(np.int64 if a.sum() > 1 else np.int32),
    ],
)
def test_results_by_whose_kind_python_could_tell_the_values_are_refused(
    function: Callable[[Tensor], Any],
) -> None:
    step = an.external(function, dim=-1)
    with an.record():
        z = Bernoulli(torch.full((2,), 0.5, requires_grad=True)).sample()
        step(z * 0)
        step(z * 0)
        step((z * 0).expand(3, 2))  # other arguments
        with pytest.raises(an.errors.ExternalError, match=r"earlier call.*return the same"):
            step(z * 0 + 1)


def test_texts_that_come_back_are_an_escape() -> None:
    with an.record() as trace:
        an.external(lambda a: (a.numpy(), str(a.sum())))(coins())
    assert len(trace.escapes) == 1


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda a: a.numpy()[:2], r"expected results with 3 elements along dimension 0.*\[2\]"),
        (lambda a: a.sum(), r"found .*; return one for each element, or say dim=None"),
        (lambda a: 0.3, r"found a float"),
        (lambda a: (a.numpy(), {"info": np.ones((1, 3))}), r"a result of shape \[1, 3\]"),
    ],
)
def test_results_of_another_size_than_promised_are_refused_with_the_line(
    function: Callable[[Tensor], Any], text: str
) -> None:
    with an.record():
        z = coins()
        with pytest.raises(an.errors.ExternalError, match=text) as raised:
            an.external(function)(z)
    assert f"{__file__}:" in str(raised.value).replace("test_external.py:", f"{__file__}:")


@pytest.mark.parametrize(("function", "dim"), [(3, 0), (len, "0"), (len, True), (None, None)])
def test_what_is_no_function_or_no_dimension_is_refused(function: Any, dim: Any) -> None:
    with pytest.raises(TypeError):
        an.external(function, dim)


def test_no_argument_with_the_dimension_is_refused() -> None:
    with an.record():
        z = coins().sum()
        with pytest.raises(an.errors.ExternalError, match="no argument has a dimension 0"):
            an.external(lambda a: a.numpy())(z)


class Mixing(Walks):
    """Walkers who see each other."""

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places, rewards = super().step(actions)
        return places, rewards - rewards.mean()


class Sharing(Walks):
    """Walkers whose steps are of one generator, and as long as the one before says."""

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for n, action in enumerate(actions):
            steps = 1 + int(action)
            self.places[n] += np.random.rand(steps).sum()
        return self.places, self.places


@pytest.mark.parametrize("kind", [Mixing, Sharing])
@pytest.mark.parametrize("is_method", [False, True])
def test_a_check_finds_what_mixes_elements(kind: type[Walks], is_method: bool) -> None:
    walks = kind(3)
    step = an.external((lambda a: walks.step(np.asarray(a))), check=True)
    if is_method:
        step = an.external(walks.step, check=True)

    def run() -> None:
        for _ in range(4):
            step(coins())

    with an.record(), pytest.raises(an.errors.ExternalError, match=r"element \d of result \d"):
        run()


@pytest.mark.parametrize(
    "value", [torch.tensor(each) for each in (True, 1, 3, -2, 0.5)] + [torch.tensor([0, 3])]
)
def test_a_check_tries_elements_that_are_all_equal(value: Tensor) -> None:
    mixing = an.external(lambda a: a.double() + a.double().sum(), check=True)
    with pytest.raises(an.errors.ExternalError, match="changes with element"):
        mixing(value.expand(2, *value.shape))
    an.external(lambda a: a * 2.0, check=True)(value.expand(2, *value.shape))


def test_a_check_leaves_state_and_random_numbers_as_they_are() -> None:
    results = []
    for check in (True, False):
        torch.manual_seed(0)
        np.random.seed(0)
        walks = Walks(3)
        step = an.external(lambda a, walks=walks: walks.step(a.numpy()), check=check)
        with an.record():
            last = [step(coins())[1] for _ in range(4)][-1]
        results.append((an.untrack(last), torch.rand(1), np.random.rand()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][2] == results[1][2]


def test_a_function_that_cannot_be_copied_cannot_be_checked() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError):
        copy.deepcopy(lock)
    with (
        an.record(),
        pytest.raises(an.errors.ExternalError, match=r"cannot be copied.*leave the check out"),
    ):
        an.external(lambda a: (lock, a)[1], check=True)(coins())


def test_an_error_of_the_function_that_is_caught_refuses_the_gradient() -> None:
    def function(a: Tensor) -> None:
        raise KeyError("no such action")

    with an.record():
        z = coins()
        with suppress(KeyError):
            an.external(function)(z)
    with pytest.raises(an.errors.CaughtError, match="no such action"):
        an.backward((z * 2).sum())


def test_outside_a_recording_it_is_the_function_on_tensors() -> None:
    result = an.external(lambda a: a.numpy() * 2)(torch.ones(3))
    assert type(result) is Tensor
    assert result.tolist() == [2, 2, 2]

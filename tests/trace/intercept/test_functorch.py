"""Transforms of functions, and derivatives of draws: what loses a source or a score is refused."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from programs.estimates import library
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.errors import TransformError
from oracles import Program, exact_gradient, moments


@pytest.fixture
def z() -> Iterator[Tensor]:
    """A draw of an open recording."""
    with an.record():
        z = Bernoulli(torch.full((3,), 0.4, requires_grad=True)).sample()
        yield z


def weights(z: Tensor) -> object:
    layer = nn.Linear(3, 1)
    loss = lambda p: torch.func.functional_call(layer, p, (z,)).sum()  # noqa: E731
    return torch.func.grad(loss)(dict(layer.named_parameters()))


def holding(z: Tensor) -> Any:
    """Return a scripted module with a draw in its buffer."""
    module = torch.jit.script(nn.BatchNorm1d(3)).eval()
    module.running_mean.copy_(z)
    return module


ONES = torch.ones(3)
TRANSFORMS: dict[str, Callable[[Tensor], object]] = {
    "grad": lambda z: torch.func.grad(lambda x: (x**2).sum())(z),
    "grad around a draw": lambda z: torch.func.grad(lambda x: (x * z).sum())(ONES),
    "grad of a module": weights,
    "grad_and_value": lambda z: torch.func.grad_and_value(lambda x: (x * z).sum())(ONES),
    "jacrev": lambda z: torch.func.jacrev(lambda x: x * 2)(z),
    "jacrev around a draw": lambda z: torch.func.jacrev(lambda x: x * z)(ONES),
    "jacfwd": lambda z: torch.func.jacfwd(lambda x: x * 2)(z),
    "jacfwd around a draw": lambda z: torch.func.jacfwd(lambda x: x * z)(ONES),
    "hessian": lambda z: torch.func.hessian(lambda x: (x**3).sum())(z),
    "hessian around a draw": lambda z: torch.func.hessian(lambda x: (x**3 * z).sum())(ONES),
    "vjp": lambda z: torch.func.vjp(torch.sin, z),
    "vjp around a draw": lambda z: torch.func.vjp(lambda x: x * z, ONES),
    "jvp": lambda z: torch.func.jvp(torch.sin, (z,), (ONES,)),
    "jvp along a draw": lambda z: torch.func.jvp(torch.sin, (ONES,), (z,)),
    "linearize": lambda z: torch.func.linearize(torch.sin, z),
    "linearize around a draw": lambda z: torch.func.linearize(lambda x: x * z, ONES),
    "functionalize": lambda z: torch.func.functionalize(torch.sin)(z),
    "functionalize around a draw": lambda z: torch.func.functionalize(lambda x: x * z)(ONES),
    "torch.jit.freeze of a module": lambda z: torch.jit.freeze(holding(z)),
    "torch.jit.trace around a draw": lambda z: torch.jit.trace(lambda x: x * z, ONES),
}


@pytest.mark.filterwarnings("ignore")  # of torch: tracing is deprecated
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_refuses_a_draw_and_names_the_line(name: str, z: Tensor) -> None:
    shown = re.escape(name.split()[0])
    with pytest.raises(TransformError, match=rf"^{shown} at .*test_functorch.py:\d+ .*'z'"):
        TRANSFORMS[name](z)


@pytest.mark.filterwarnings("ignore")  # of torch: linearize folds constants
def test_a_transform_of_plain_tensors_runs(z: Tensor) -> None:
    assert torch.func.functionalize(lambda x: x.add_(1))(torch.ones(2)).tolist() == [2.0, 2.0]
    assert torch.func.hessian(lambda x: x**3)(torch.tensor(2.0)).item() == 12.0
    assert torch.func.linearize(torch.exp, torch.zeros(1))[1](torch.ones(1)).item() == 1.0
    chosen = torch.cond(torch.tensor(True), lambda x: x * 2, lambda x: x, (torch.ones(1),))
    assert (type(chosen), chosen.item()) == (Tensor, 2.0)
    doubled = torch.func.vmap(lambda x: x * 2)(torch.ones(4))
    assert doubled.tolist() == [2.0] * 4
    assert type(doubled) is Tensor
    assert torch.func.grad(lambda x: x**2)(torch.tensor(3.0)).item() == 6.0
    assert z.shape == (3,)


def patched() -> list[object]:
    vmap = vars(torch._functorch.apis)["vmap_impl"]
    return [torch.tensor, torch.jit.ScriptFunction.__call__, vmap]


def test_outside_a_recording_every_door_is_torchs_own() -> None:
    before = patched()
    with an.record():
        assert all(a is not b for a, b in zip(before, patched(), strict=True))
    assert all(a is b for a, b in zip(before, patched(), strict=True))
    assert Tensor.new_tensor is torch._C.TensorBase.new_tensor


def test_a_transform_after_an_escape_depends_on_it() -> None:
    with an.record():
        an.track(torch.ones(()), "z").item()
        results = [
            torch.func.vmap(lambda x: x * torch.ones(3).sum())(torch.ones(4)),
            torch.func.grad(lambda x: (x * torch.ones(2)).sum())(torch.ones(2)),
            torch.func.jacrev(lambda x: x.sin() * torch.ones(2))(torch.ones(2)),
            torch.func.hessian(lambda x: (x**3 * torch.ones(2)).sum())(torch.ones(2)),
        ]
        assert [an.provenance_of(result) for result in results] == [{"z"}] * 4


def drawn(logits: Tensor) -> Tensor:
    z = Bernoulli(logits=logits, validate_args=False).sample()
    return ((z - 0.3) ** 2 * logits).sum()


def named(logits: Tensor) -> Tensor:
    z: Tensor = an.sample("z", Bernoulli(logits=logits, validate_args=False))
    return ((z - 0.3) ** 2 * logits).sum()


def by_an_op(logits: Tensor) -> Tensor:
    return ((torch.bernoulli(logits.sigmoid()) - 0.3) ** 2 * logits).sum()


def reparameterized(logits: Tensor) -> Tensor:
    return (Normal(logits, 1.0).rsample() ** 2).sum()


def of_its_own(logits: Tensor) -> Tensor:
    with an.record():
        z = Bernoulli(logits=logits, validate_args=False).sample()
    return ((z - 0.3) ** 2 * logits).sum()


def dual(function: Callable[[Tensor], Tensor], x: Tensor) -> object:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, ONES)))


functional = torch.autograd.functional
Derivative = Callable[[Callable[[Tensor], Tensor], Tensor], object]
DERIVATIVES: dict[str, Derivative] = {
    "grad": lambda f, x: torch.func.grad(f)(x),
    "vjp": lambda f, x: torch.func.vjp(f, x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (ONES,)),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "jacfwd of noise that differs": lambda f, x: torch.func.jacfwd(f, randomness="different")(x),
    "hessian": lambda f, x: torch.func.hessian(f)(x),
    "forward_ad": dual,
    "torch.autograd.functional.jvp": lambda f, x: functional.jvp(f, x, ONES),
    "torch.autograd.functional.vjp": functional.vjp,
    "torch.autograd.functional.jacobian": functional.jacobian,
    "torch.autograd.functional.jacobian of vmap": lambda f, x: functional.jacobian(
        f, x, vectorize=True
    ),
    "torch.autograd.functional.jacobian forward": lambda f, x: functional.jacobian(
        f, x, vectorize=True, strategy="forward-mode"
    ),
    "torch.autograd.functional.hessian": functional.hessian,
    "torch.autograd.functional.hvp": lambda f, x: functional.hvp(f, x, ONES),
    "torch.autograd.functional.vhp": lambda f, x: functional.vhp(f, x, ONES),
}
PROGRAMS = [drawn, named, by_an_op, reparameterized, of_its_own]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own jvp
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("is_leaf", [True, False])
def test_a_derivative_of_a_program_that_draws_is_refused_by_its_name_and_line(
    derivative: str, program: Callable[[Tensor], Tensor], is_leaf: bool
) -> None:
    x = torch.full((3,), 0.4, requires_grad=is_leaf)
    name = re.escape(derivative.split(" ")[0])
    with (
        an.record() if program is not of_its_own else nullcontext(),
        pytest.raises(
            TransformError,
            match=rf" at .*test_functorch\.py:\d+ draws within {name}, .*score",
        ),
    ):
        DERIVATIVES[derivative](program, x)


def test_noise_and_draws_without_a_tangent_go_through_forward_mode() -> None:
    x = torch.full((3,), 0.4)
    with an.record() as trace:
        dual(lambda y: nn.functional.dropout(y, 0.5), x)
        dual(lambda y: Bernoulli(torch.full((3,), 0.4, requires_grad=True)).sample() * y, x)
    assert len(trace) == 1


def tangent(theta: Tensor) -> Tensor:
    """Return a derivative in forward mode of a function that holds a draw, as a cost."""
    z = Bernoulli(logits=theta).sample()
    with forward_ad.dual_level():
        x = forward_ad.make_dual(theta * 2, torch.tensor([1.0, -0.5], dtype=torch.float64))
        slope = forward_ad.unpack_dual((z - 0.3) ** 2 * x.sin()).tangent
    return (slope**2).sum()


def jacobian(theta: Tensor) -> Tensor:
    z, x = Bernoulli(logits=theta).sample(), torch.tensor([0.4, 1.0], dtype=torch.float64)
    return (functional.jacobian(lambda y: z.cumsum(0) * y.sin(), x) ** 2).sum() * theta[0]


@pytest.mark.parametrize("program", [tangent, jacobian])
def test_a_derivative_that_holds_a_draw_is_a_value_of_the_program(program: Program) -> None:
    theta = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    exact = exact_gradient(program, [theta])
    torch.testing.assert_close(moments(program, [theta], library()).mean, exact)

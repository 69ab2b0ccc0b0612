"""What torch runs out of sight is followed as one op, refused, or run eagerly; never lost."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.trace.transforms import TransformError


@pytest.fixture
def z() -> Iterator[Tensor]:
    """A draw of an open recording."""
    with an.record():
        z = Bernoulli(torch.full((3,), 0.4, requires_grad=True)).sample()
        yield z


def traced() -> Callable[[Tensor], Tensor]:
    function: Callable[[Tensor], Tensor] = torch.jit.trace(lambda x: x * 2, torch.ones(3))
    return function


OPAQUE: dict[str, Callable[[Any], Tensor]] = {
    "tensor": lambda z: torch.tensor(z),
    "tensor of a list": lambda z: torch.tensor([z[0], z[1]]),
    "full": lambda z: torch.full((2,), z[0]),
    "arange": lambda z: torch.arange(z.sum() + 1),
    "new_tensor": lambda z: torch.ones(2).new_tensor(z),
    "new_full": lambda z: torch.ones(2).new_full((2,), z[0]),
    "sparse": lambda z: torch.sparse_coo_tensor(torch.tensor([[0, 1, 2]]), z, (4,)).to_dense(),
    "a traced function": lambda z: traced()(z),
    "a traced module": lambda z: torch.jit.trace(nn.Linear(3, 3), torch.ones(3))(z),
}


@pytest.mark.filterwarnings("ignore")  # torch warns of copies, and that scripting is deprecated
@pytest.mark.parametrize("name", OPAQUE)
def test_a_function_out_of_sight_keeps_the_source_and_lets_nothing_out(
    name: str, z: Tensor
) -> None:
    result = OPAQUE[name](z)
    assert an.provenance_of(result * 1) == {"z"}


@pytest.mark.filterwarnings("ignore")
def test_the_value_is_that_of_torch(z: Tensor) -> None:
    plain = an.untrack(z)
    assert an.untrack(torch.tensor(z)).tolist() == plain.tolist()
    assert an.untrack(traced()(z)).tolist() == (plain * 2).tolist()


def test_a_factory_of_plain_numbers_stays_plain(z: Tensor) -> None:
    assert type(torch.tensor([1.0, 2.0])) is Tensor
    assert type(torch.full((2,), 1.0)) is Tensor
    assert an.provenance_of(z) == {"z"}


TRANSFORMS: dict[str, Callable[[Tensor], object]] = {
    "vmap": lambda z: torch.func.vmap(lambda x: x * 2)(z),
    "vmap around a draw": lambda z: torch.func.vmap(lambda x: x * z)(torch.ones(4, 3)),
    "grad": lambda z: torch.func.grad(lambda x: (x**2).sum())(z),
    "grad around a draw": lambda z: torch.func.grad(lambda x: (x * z).sum())(torch.ones(3)),
    "jacrev": lambda z: torch.func.jacrev(lambda x: x * 2)(z),
    "jvp": lambda z: torch.func.jvp(lambda x: x.sin(), (z,), (torch.ones(3),)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_refuses_a_draw_and_names_the_line(name: str, z: Tensor) -> None:
    with pytest.raises(
        TransformError, match=r"(vmap|grad|vjp|jvp) at .*test_transforms.py:\d+ .*'z'"
    ):
        TRANSFORMS[name](z)
    assert torch._C._len_torch_function_stack() == 0


def test_a_transform_of_plain_tensors_runs(z: Tensor) -> None:
    doubled = torch.func.vmap(lambda x: x * 2)(torch.ones(4))
    assert doubled.tolist() == [2.0] * 4
    assert type(doubled) is Tensor
    assert torch.func.grad(lambda x: x**2)(torch.tensor(3.0)).item() == 6.0
    assert z.shape == (3,)


def test_a_compiled_function_runs_eagerly_while_recording() -> None:
    double = torch.compile(lambda x: x * 2, backend="eager")
    with an.record():
        z = Bernoulli(torch.full((3,), 0.4, requires_grad=True)).sample()
        assert an.provenance_of(double(z)) == {"z"}
    assert type(double(torch.ones(3))) is Tensor


def doors() -> list[object]:
    vmap = vars(torch._functorch.apis)["vmap_impl"]
    return [torch.tensor, torch.jit.ScriptFunction.__call__, vmap]


def test_outside_a_recording_every_door_is_torchs_own() -> None:
    before = doors()
    with an.record():
        assert all(a is not b for a, b in zip(before, doors(), strict=True))
    assert all(a is b for a, b in zip(before, doors(), strict=True))
    assert "new_tensor" not in vars(Tensor)

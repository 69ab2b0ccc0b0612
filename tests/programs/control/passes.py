"""Values that go through what torch runs by itself: passes of autograd, threads, attributes."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return, attr-defined, index"

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from programs.control.register import TABLE, coin, control, rows

followed = control(escapes=False)


def leaf() -> Tensor:
    return TABLE[:2].clone().requires_grad_()


@followed
def a_gradient_that_accumulates(theta: Tensor) -> Tensor:
    x = leaf()
    torch.autograd.backward((x**2 * coin(theta)).sum())
    assert x.grad is not None
    return x.grad @ theta


@followed
def a_gradient_that_is_kept(theta: Tensor) -> Tensor:
    y = leaf() ** 2
    y.retain_grad()
    torch.autograd.backward((y * coin(theta)).sum())
    assert y.grad is not None
    return y.grad @ theta


@followed
def a_hook_on_the_way(theta: Tensor) -> Tensor:
    y, met = leaf() ** 2, list[Tensor]()
    y.register_hook(met.append)
    torch.autograd.backward((y * coin(theta)).sum())
    return met[0] @ theta


@followed
def a_hook_of_a_leaf(theta: Tensor) -> Tensor:
    x, met = leaf(), list[Tensor]()
    x.register_hook(met.append)
    torch.autograd.grad((x**2 * coin(theta)).sum(), x)
    return met[0] @ theta


@followed
def a_hook_after_accumulation(theta: Tensor) -> Tensor:
    x, met = leaf(), list[Tensor]()

    def meet(tensor: Tensor) -> None:
        assert tensor.grad is not None
        met.append(tensor.grad.clone())

    x.register_post_accumulate_grad_hook(meet)
    torch.autograd.backward((x**2 * coin(theta)).sum())
    return met[0] @ theta


@followed
def a_backward_hook_of_a_module(theta: Tensor) -> Tensor:
    module, met = nn.Tanh(), list[Tensor]()
    module.register_full_backward_hook(lambda _, __, outer: met.append(outer[0]))
    torch.autograd.backward((module(leaf()) * coin(theta)).sum())
    return met[0] @ theta


@followed
def a_hook_before_the_backward_of_a_module(theta: Tensor) -> Tensor:
    module, met = nn.Tanh(), list[Tensor]()
    module.register_full_backward_pre_hook(lambda _, outer: met.append(outer[0]))
    torch.autograd.backward((module(leaf()) * coin(theta)).sum())
    return met[0] @ theta


@followed
def what_is_saved_for_backward(theta: Tensor) -> Tensor:
    x, z, met = leaf(), coin(theta), list[Tensor]()

    def pack(saved: Tensor) -> Tensor:
        met.append(saved.detach())
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved):
        (x * z).exp()
    return met[-1] @ theta


@followed
def a_draw_in_a_thread(theta: Tensor) -> Tensor:
    met: list[Tensor] = []
    thread = threading.Thread(target=lambda: met.append(coin(theta)))
    thread.start()
    thread.join()
    return met[0] @ theta


_POOL = ThreadPoolExecutor(1)
_POOL.submit(int).result()  # its thread runs from now on


@followed
def a_draw_in_a_pool_of_threads(theta: Tensor) -> Tensor:
    return _POOL.submit(coin, theta).result() @ theta


def complex_zeros() -> tuple[Tensor, Tensor]:
    """Return a buffer, and a view of it."""
    buffer = torch.zeros(2, dtype=torch.complex128)
    return buffer, buffer.view(2)


@followed
def a_real_part_that_is_set(theta: Tensor) -> Tensor:
    buffer, alias = complex_zeros()
    buffer.real = coin(theta)
    return alias.real @ theta + buffer.real[0]


@followed
def an_imaginary_part_that_is_set(theta: Tensor) -> Tensor:
    buffer, alias = complex_zeros()
    buffer.imag = coin(theta)
    return alias.imag @ theta + buffer.imag[0]


@control(escapes=None, decides=False)
def a_tensor_made_like_another(theta: Tensor) -> Tensor:
    return TABLE.new([coin(theta[0]), 0.5]) @ theta


rows(
    control(),
    {
        "a_capsule": lambda theta: (
            torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(coin(theta))) @ theta
        ),
        "a_capsule_of_torch": lambda theta: (
            torch.utils.dlpack.from_dlpack(torch.to_dlpack(coin(theta))) @ theta
        ),
    },
)


class _Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(2, dtype=torch.float64))
        self.kept: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept


@control(escapes=None, decides=False)
def a_buffer_of_a_script(theta: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of its age
        script = torch.jit.script(_Kept())
    script.kept.copy_(coin(theta))
    return script(TABLE[:2]) @ theta

"""Where following ends: what an error refuses, with its line, and what is not seen."""

import ctypes
import gc
import multiprocessing
import queue
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, bernoulli, nn
from torch.autograd import forward_ad
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Independent,
    Normal,
    TransformedDistribution,
    Uniform,
)
from torch.utils.checkpoint import checkpoint
from two_coins import LOGITS, drawn, leaves

import ancestral as an
from ancestral.errors import (
    ModifiedParameterError,
    NoScoreError,
    ScoredLossError,
    TransformError,
    UnsupportedTensorError,
)
from ancestral.provenance.dispatch.inplace import WriteIntoParameterError


def test_transforms() -> None:
    """A tracked tensor within `grad`, `jacrev` or another transform of `torch.func` than `vmap`."""
    (theta,) = leaves()
    with an.record():
        z = drawn(theta)
        for transform in (torch.func.grad, torch.func.jacrev, torch.func.hessian):
            name = transform.__name__
            with pytest.raises(TransformError, match=rf"{name} at .*test_limits.py:\d+ .*'z'"):
                transform(lambda x: (x**2).sum())(z)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
def test_derivatives_of_draws() -> None:
    """A draw whose parameters `torch.func`, `torch.autograd.functional` or forward mode
    differentiate, since the derivative would leave out its score.
    """
    (theta,), v = leaves(), torch.ones(2, dtype=torch.float64)
    with an.record(), forward_ad.dual_level():
        dual = forward_ad.make_dual(theta.detach(), v)
        for derive in (
            lambda: torch.func.grad(lambda x: drawn(x).sum())(theta),
            lambda: torch.autograd.functional.jvp(drawn, theta, v),
            lambda: drawn(dual),
        ):
            with pytest.raises(TransformError, match=r"two_coins.py:\d+ draws within"):
                derive()


def test_surrogates_in_losses() -> None:
    """A loss that is computed from a surrogate of its own recording, or from its gradient with
    `create_graph=True`: the scores would count twice.
    """
    (theta,) = leaves()
    with an.record():
        scalar = an.surrogate(drawn(theta).sum())
        (g,) = torch.autograd.grad(scalar, theta, create_graph=True)
    for loss in (scalar, g.sum()):
        with pytest.raises(ScoredLossError, match=r"test_limits.py:\d+"):
            an.backward(loss)


def test_parameters_that_were_written_into() -> None:
    """A score whose parameters were written into after the draw, by an optimizer or a swap of
    weights, in place or by `.data`.
    """
    for is_within in (True, False):
        for write in (lambda p: p.data.add_(1.0), lambda p: setattr(p, "data", p.data * 0.9)):
            (theta,) = leaves()
            with an.record():
                loss = drawn(theta).sum()
                if is_within:
                    write(theta)
            if not is_within:
                write(theta)
            with pytest.raises(ModifiedParameterError, match=r"'z'"):
                an.backward(loss)


def test_supports_that_move() -> None:
    """A score that is not all of the gradient, since what is learned moves the ends of the support,
    or the values: of a `Uniform` whose ends are learned, or of a coin that is shifted.
    """
    (theta,) = leaves()
    shift = AffineTransform(theta, 1.0)
    for fn in (Uniform(theta - 3, theta), TransformedDistribution(Bernoulli(0.5), [shift])):
        with an.record():
            loss = (fn.sample() ** 2).sum()
        with pytest.raises(NoScoreError, match=r"test_limits.py:\d+\).* moves the ends"):
            an.backward(loss)


def test_parameters() -> None:
    """A tracked value that is written into an `nn.Parameter`."""
    with an.record(), pytest.raises(WriteIntoParameterError, match=r"'z'"), torch.no_grad():
        nn.Parameter(torch.zeros(2)).copy_(an.track(torch.ones(2), "z"))


def test_other_classes() -> None:
    """A tracked tensor that becomes, or meets, a nested tensor, a masked tensor or a subclass whose
    own `__torch_function__` or `__torch_dispatch__` loses a source.
    """

    class Mine(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kw: Any = None) -> Any:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kw or {}))

    with an.record():
        z = an.track(torch.ones(2), "z")
        with pytest.raises(UnsupportedTensorError, match=r"test_limits.py:\d+ .*'z'"):
            torch.nested.nested_tensor([z, z], layout=torch.jagged)
        with pytest.raises(UnsupportedTensorError, match=r"Mine at .*test_limits.py:\d+ .*'z'"):
            z.as_subclass(Mine)
        with pytest.raises(UnsupportedTensorError, match=r"Mine at .*test_limits.py:\d+ .*'z'"):
            z * Mine(torch.ones(2))


class Drawing(torch.autograd.Function):
    """Draws where no graph is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.bernoulli(x.sigmoid())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def test_what_mixes_enumerated_values() -> None:
    """What mixes the values, or the repetitions, of a site of `an.handlers.enumerate`, and a finite
    site there whose values cannot be listed.
    """
    with an.record(), an.handlers.enumerate(first_dim=-2), an.plate("data", 2):
        z = an.sample("z", Bernoulli(0.5))
        an.sample("x", Normal(z, 1.0))
        for name, mixed in [("a", z.flip(0)), ("b", z.flip(-1)), ("c", z.mean(0, keepdim=True))]:
            with pytest.raises(
                an.errors.EnumerationError, match=rf"site '{name}' \(.*:\d+\).*mixe?s"
            ):
                an.sample(name, Normal(mixed, 1.0))
        coins = Independent(Bernoulli(torch.full((2, 20), 0.5)), 1)
        with pytest.raises(an.errors.EnumerationError, match=r"site 'coins' \(.*1048576 values"):
            an.sample("coins", coins)


def test_a_plate_that_is_none_raises() -> None:
    """A site, an observation or a declared cost that ties the repetitions of a plate together."""

    def drawn_within(step: Any) -> None:
        with an.record(), an.plate("data", 2):
            z = drawn(LOGITS.clone().requires_grad_())
            step(z - z.mean())

    for step in (
        lambda x: Bernoulli(logits=x).sample(),
        lambda x: Normal(x, 1.0).log_prob(torch.zeros(2)),
        lambda x: an.cost("c", x),
    ):
        with pytest.raises(an.errors.PlateError, match=r"mixed by mean at .*test_limits\.py"):
            drawn_within(step)


def test_draws_without_a_graph() -> None:
    """A draw within a reentrant checkpoint or the `forward` of an `autograd.Function`, where its
    score would be lost.
    """
    (theta,) = leaves()
    with an.record():
        with pytest.raises(TransformError, match=r"test_limits.py:\d+"):
            Drawing.apply(theta)  # type: ignore[no-untyped-call]
        with pytest.raises(TransformError, match=r"two_coins.py:\d+"):
            checkpoint(drawn, theta, use_reentrant=True)


def test_caught_errors() -> None:
    """The gradient of a run that caught an error which drawn values raised, since only the runs
    that raise it show what depends on them.
    """
    (theta,) = leaves()
    with an.record():
        z = drawn(theta)
        with pytest.raises(IndexError):
            torch.ones(2)[z.long() + 2]
        with pytest.raises(an.errors.CaughtError, match=r"test_limits.py:\d+ raised"):
            an.backward(z.sum())


def test_forgotten_recordings() -> None:
    """The gradient of a recording whose trace nobody holds, once eight others of the thread have
    ended that nobody asked either: so an evaluation that asks for no gradient lets go of its
    memory, within `torch.no_grad` or not.
    """
    (theta,) = leaves()
    with an.record() as held:
        mine = (drawn(theta) * theta).sum()
    losses = []
    for _ in range(9):
        with an.record():
            losses.append((drawn(theta) * theta).sum())
    gc.collect()
    with pytest.raises(an.errors.ForgottenRecordingError, match="hold the trace"):
        an.backward(losses[0])
    an.backward(mine)
    assert list(held) == ["z"]


def test_noise_by_hand() -> None:
    """Noise that is reparameterized by hand, `mu + torch.randn_like(mu) * std`, is no site: a
    step without a derivative after it is not noticed.
    """
    mu = torch.zeros(2, requires_grad=True)
    with an.record() as trace:
        value = mu + torch.randn_like(mu) * 0.5
        assert an.provenance_of((value > 0).float()) == frozenset()
    assert list(trace) == []


def test_writes_that_torch_does_not_count() -> None:
    """What is written into a parameter by `.data` after the recording, or by an array of numpy, is
    seen if it is there when the recording has ended, near the draw, and in the first 4,096 bytes.
    """
    for place, is_seen in ((0, True), (600, False)):
        theta = torch.zeros(700, dtype=torch.float64, requires_grad=True)
        with an.record():
            loss = drawn(theta).sum()
        theta.detach().numpy()[place] = 1.0
        with pytest.raises(ModifiedParameterError) if is_seen else nullcontext():
            an.backward(loss)


def test_older_views_after_the_block() -> None:
    """After the block, a plain tensor that sees what was written in it (a view that was there
    before the write, a buffer that was written through `.data`) is data: read it within the block.
    """
    (theta,) = leaves()
    memory = torch.zeros(2, 2, dtype=torch.float64)
    view = memory[0]
    with an.record():
        memory[0] = drawn(theta)
        within = view * 2
    assert an.provenance_of(within) == an.provenance_of(memory[0]) == {"z"}
    assert an.provenance_of(view * 2) == frozenset()


def _answers(draw: Any, *given: Any) -> Any:
    """Return what a thread that is older than the recording draws, and the recording."""
    tasks: queue.Queue[Any] = queue.Queue()
    results: queue.Queue[Any] = queue.Queue()
    worker = threading.Thread(target=lambda: results.put(draw(*tasks.get())))
    worker.start()
    with an.record() as trace:
        tasks.put(given)
        result = results.get(timeout=20)
        worker.join()
        return trace, (result * drawn(leaves()[0])).sum()


# Later Pythons warn of a fork beside other threads, of which torch has some.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_draws_without_a_part_in_the_recording() -> None:
    """The gradient of a recording that the draw of a thread or task without a part in it has
    reached, and, where it happens, a draw with something to learn in a process that a recording
    started or gave work.
    """
    _, loss = _answers(drawn, leaves()[0])
    with pytest.raises(an.errors.UnrecordedDrawError, match=r"'z' was drawn at .*\.py:\d+"):
        an.backward(loss)
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool,
        an.record(),
        pytest.raises(an.errors.UnrecordedDrawError, match="return the parameters"),
    ):
        pool.submit(drawn, nn.Parameter(leaves()[0].detach())).result()


def test_numbers_of_other_threads_and_processes() -> None:
    """What an older thread hands over as a number of Python, or draws by a function that is
    scripted or imported from torch by name, is data, and so is what older processes return through
    queues of your own, and what other processes draw in recordings of theirs.
    """
    trace, loss = _answers(lambda theta: float(drawn(theta).sum()), leaves()[0])
    an.backward(loss)
    assert list(trace) == ["z"]
    trace, loss = _answers(lambda theta: bernoulli(theta.sigmoid()), leaves()[0])
    an.backward(loss)
    assert list(trace) == ["z"]


def test_memory_untracked() -> None:
    """Memory that ctypes reads at an address that was taken before the draw, or that a subprocess
    of your own reads, is untracked, and so is what Python reads from an array of numpy between
    two writes by hand.
    """
    with an.record() as trace:
        z = an.track(torch.ones(2), "z")
        buffer = torch.zeros(2)
        address = buffer.data_ptr()
        buffer.copy_(z)
        assert (ctypes.c_float * 2).from_address(address)[0] == 1.0
        assert trace.escapes == ()
        z.data_ptr()
    assert len(trace.escapes) == 1

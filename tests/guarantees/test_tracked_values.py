"""What is followed, whatever the setting: values, densities and gradients."""

import asyncio
import copy
import pickle
import threading
import warnings
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal
from two_coins import assert_exact, drawn, leaves, reading

import ancestral as an


def test_torch_between_recordings() -> None:
    """Outside of a recording everything answers as before: what `torch.distributions` draws and
    scores, which stays replaced, takes a few hundredths longer, all else in torch is its own to
    whoever asks for it, and `an.restore_torch()` puts back that, and what waits for the next
    recording in the dictionaries of classes.
    """

    def answers() -> list[Tensor]:
        torch.manual_seed(0)
        z = Normal(torch.zeros(2), 1.0).sample()
        return [z, Normal(torch.zeros(2), 1.0).log_prob(z), torch.bernoulli(torch.full((9,), 0.5))]

    def attributes() -> dict[tuple[Any, str], object]:
        owners: list[Any] = [Tensor, torch, Bernoulli, Normal, Independent]
        for owner in owners:
            for name in list(vars(owner)):
                getattr(owner, name, None)  # who asks gets torch's own, which is put back
        return {(owner, name): vars(owner)[name] for owner in owners for name in vars(owner)}

    with an.record():
        pass  # the first of a process imports torch's compiler
    an.restore_torch()
    before, own = answers(), attributes()
    with an.record() as trace:
        answers()
    assert list(trace) == ["z", "bernoulli"]
    found = attributes()
    is_own = [found[place] is value for place, value in own.items()]
    assert found.keys() == own.keys()
    assert is_own.count(False) == 8  # sample, rsample and log_prob, of torch.distributions
    for one, other in zip(answers(), before, strict=True):
        assert type(one) is Tensor
        assert torch.equal(one, other)
    an.restore_torch()
    assert all(attributes()[place] is value for place, value in own.items())


def test_draws_without_gradient() -> None:
    """A draw with parameters is a site where no gradient reaches them too, under `torch.no_grad` or
    of constants: the trace and the graph of a text that is generated are whole. It has no score,
    and a gradient that cannot be taken for that reason names it.
    """
    (theta,) = leaves()
    with an.record() as trace, torch.no_grad():
        words = torch.zeros(3, 1, dtype=torch.long)
        for _ in range(3):
            chances = torch.softmax(theta.expand(3, 2) + words.sum(1, keepdim=True), 1)
            word = torch.multinomial(chances, 1)
            words = torch.cat([words, word], 1)
        loss = words.double().mean()
    assert {n: trace.graph.parents(n) for n in trace} == {
        "word": set(),
        "word_1": {"word"},
        "word_2": {"word", "word_1"},
    }
    with pytest.raises(an.errors.LossError, match=r"'word' \(.*test_tracked_values.py:\d+"):
        an.backward(loss)


def test_writes() -> None:
    """A write in place, through a view, `.data`, `out=`, `set_` or a foreach op, reaches every
    tensor that sees the elements, older or newer, as long as the memory lives.
    """
    with an.record():
        z = an.track(torch.ones(2), "z")

        def foreach(b: Tensor) -> None:
            torch._foreach_add_([b], [z])

        writes: list[Any] = [
            lambda b: b.add_(z),
            lambda b: b.__setitem__(0, z[0]),
            lambda b: b[:1].copy_(z[:1]),
            lambda b: b.data.mul_(z),
            lambda b: torch.add(z, 1, out=b),
            lambda b: b.set_(z),
            foreach,
        ]
        for write in writes:
            base = torch.zeros(2)
            older = base.view(2, 1) if write is not writes[5] else base
            write(base)
            assert an.provenance_of(base * 1) == {"z"}
            assert an.provenance_of(older * 1) == {"z"}
            assert an.provenance_of(base.detach()[:1] + 1) == {"z"}
        assert an.provenance_of(torch.zeros(2) + 1) == frozenset()


def test_buffers() -> None:
    """Buffers that a layer writes, such as the running statistics of a BatchNorm, carry what was
    written.
    """
    layer = nn.BatchNorm1d(3)
    with an.record():
        layer(an.track(torch.randn(4, 3), "z"))
        assert an.provenance_of(layer.eval()(torch.ones(2, 3))) == {"z"}


def test_gradients() -> None:
    """Gradients of a plain `backward`, and what its hooks are handed, depend on all that the loss
    does.
    """
    w = torch.ones(2, requires_grad=True)
    seen: list[Tensor] = []
    with an.record():
        w.register_hook(seen.append)
        (w * an.track(torch.ones(2), "z")).sum().backward()
        assert an.provenance_of(seen[0] * 1) == {"z"}
        assert an.provenance_of(w.grad * 1) == {"z"}  # type: ignore[operator]


def test_gradients_of_estimates() -> None:
    """The gradient of a surrogate, and the `.grad` of a gradient that keeps its graph, are such
    values within the recording: a program may draw by them, or decide on them. After it, they are
    constants.
    """
    (theta,) = leaves()
    with an.record():
        loss = drawn(theta).sum()
        (g,) = torch.autograd.grad(an.surrogate(loss), theta, retain_graph=True)
        an.backward(loss, retain_graph=True)
        assert an.provenance_of(g) == an.provenance_of(theta.grad) == {"z"}
    (g,) = torch.autograd.grad(an.surrogate(loss), theta)
    assert an.provenance_of(g) == an.provenance_of(theta.grad) == frozenset()


def doubled(x: Tensor) -> Tensor:
    return x * 2


def test_opaque_functions() -> None:
    """A scripted function, a custom op and a factory such as `torch.tensor(z)` are one op that
    keeps every source, and a compiled function runs eagerly while a recording is open, which
    it may open itself.
    """
    custom = torch.library.custom_op("ancestral_guarantees::doubled", doubled, mutates_args=())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is old
        scripted = torch.jit.script(doubled)
    compiled = torch.compile(doubled, backend="eager")
    with an.record():
        z = an.track(torch.ones(2), "z")
        for result in (scripted(z), custom(z), torch.tensor([z[0], z[1]]), compiled(z)):
            assert an.provenance_of(result * 1) >= {"z"}


def test_threads_and_tasks() -> None:
    """Threads and tasks that are started within a recording take part in it, and so does work that
    is handed to an older pool of threads or event loop there; tasks that take turns do not mix.
    """
    (theta,) = leaves()
    found: list[Tensor] = []
    with an.record() as trace:
        thread = threading.Thread(target=lambda: found.append(drawn(theta)))
        thread.start()
        thread.join()
    assert list(trace) == ["z"]
    assert an.provenance_of(found[0]) == {"z"}
    with ThreadPool(1) as pool:
        with an.record() as trace:
            pool.apply(drawn, (theta,))
        assert list(trace) == ["z"]

    async def model(mine: asyncio.Event, other: asyncio.Event) -> an.Trace:
        with an.record() as own:
            drawn(theta)
            mine.set()
            await other.wait()
            drawn(theta)
        return own

    async def both() -> tuple[an.Trace, an.Trace]:
        a, b = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(model(a, b), model(b, a))

    assert [list(t) for t in asyncio.run(both())] == [["z", "z_1"], ["z", "z_1"]]


def test_passive_classes() -> None:
    """A tensor of a subclass that leaves functions of torch alone may meet a tracked one, or be
    made of one: the results are tracked tensors, without that class.
    """

    class Mine(Tensor):
        pass

    def program(theta: Tensor) -> Tensor:
        z = drawn(theta)
        weights: Tensor = Mine([0.3, 1.2]).double()
        return ((Mine(z) * weights - 0.3) ** 2 + z * weights).sum() + theta.sum()

    assert_exact(program, "strict")
    with an.record():
        made = Mine(torch.ones(2)) * drawn(*leaves())
    assert type(made) is an.ProvenanceTensor


@reading
def test_copies() -> None:
    """A copy, a pickle and a saved tensor keep their sources: those of their own recording while
    that is there, by name elsewhere, without alignment.
    """
    (theta,) = leaves()
    with an.record():
        z = drawn(theta)
        for twin in (copy.copy(z), copy.deepcopy(z), pickle.loads(pickle.dumps(z))):
            loss = (twin * 2).sum() + z.sum()
            assert an.provenance_of(loss) == {"z"}
        an.backward(loss, credit=an.estimators.total_cost, retain_graph=True)
        text = pickle.dumps(z)
    del z, twin, loss
    assert an.provenance_of(pickle.loads(text)) == {"z"}


def test_masks() -> None:
    """Data that a mask hides counts in no density, gradient or check of a support, whatever it
    holds.
    """
    loc = torch.tensor(0.3, requires_grad=True)
    for hidden in (torch.nan, torch.inf, 1e30):
        data = torch.tensor([1.0, hidden])
        with an.record() as trace, an.handlers.mask(torch.tensor([True, False])):
            an.sample("x", Normal(loc, 1.0), obs=data)
        density = trace.log_prob_sum()
        torch.testing.assert_close(density, Normal(loc, 1.0).log_prob(data[0]))
        (gradient,) = torch.autograd.grad(density, loc)
        torch.testing.assert_close(gradient, torch.tensor(0.7))


def test_after_the_recording() -> None:
    """A tracked tensor works as data after its recording, and `an.backward` on it works until the
    gradient was taken or the recording was forgotten (below), and says so then.
    """
    (theta,) = leaves()
    with an.record():
        loss = drawn(theta).sum() * 2
    assert (loss + 1).item() in (1.0, 3.0, 5.0)
    an.backward(loss)
    assert theta.grad is not None
    with pytest.raises(an.errors.SettledError, match="already taken"):
        an.backward(loss)
    assert (loss + 1).item() in (1.0, 3.0, 5.0)

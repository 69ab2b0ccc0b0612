"""What the README guarantees: every sentence there is the docstring of a test here."""

import asyncio
import copy
import ctypes
import functools
import gc
import inspect
import multiprocessing
import pickle
import queue
import re
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from programs.estimates import by, fresh, gradients, library
from torch import Tensor, bernoulli, nn
from torch.autograd import forward_ad
from torch.distributions import Bernoulli, Independent, Normal
from torch.utils.checkpoint import checkpoint

import ancestral as an
from ancestral.errors import (
    DependentBaselineError,
    HeldScoreWarning,
    ModifiedParameterError,
    ScoredLossError,
    StraightThroughWarning,
    TransformError,
    UnsupportedTensorError,
)
from ancestral.provenance.dispatch import bytecode
from ancestral.provenance.dispatch.inplace import WriteIntoParameterError
from oracles import (
    Estimate,
    Parameters,
    Program,
    autograd,
    estimates,
    exact_gradient,
    mean_and_truth,
    moments,
    moments_of,
)

LOGITS = torch.tensor([0.3, -0.8], dtype=torch.float64)
# They read what is drawn, on purpose, for what comes of it.
reading = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")
README = (Path(__file__).parent.parent / "README.md").read_text()


def sentences() -> list[str]:
    """Return the items of the section, each on one line."""
    section = README.split("## What is guaranteed")[1].split("\n## ")[0]
    items = re.findall(r"^- (.*?)(?=\n\n|\n- |\Z)", section, re.DOTALL | re.MULTILINE)
    return [" ".join(item.split()) for item in items]


def test_every_sentence_has_a_test_of_its_own() -> None:
    module = sys.modules[__name__]
    tests = [f for name, f in vars(module).items() if name.startswith("test_")]
    claims = {" ".join((inspect.getdoc(f) or "").split()) for f in tests}
    assert len(sentences()) >= 20
    assert [s for s in sentences() if s not in claims] == []


def drawn(theta: Tensor) -> Tensor:
    z: Tensor = Bernoulli(logits=theta).sample()
    return z


def leaves() -> list[Tensor]:
    return [LOGITS.clone().requires_grad_()]


def assert_exact(program: Any, control: str) -> None:
    """Check the mean against the exact gradient, all outcomes enumerated."""
    torch.testing.assert_close(
        *mean_and_truth(program, leaves(), by(control=control)), rtol=1e-6, atol=1e-9
    )


@reading
def test_held_scores() -> None:
    """A loss that multiplies the log-density of a draw by what is detached, or what Python read,
    holds its score function: `an.backward` warns once with the site, and `loss.backward()`, right
    there, does not.
    """
    rewards: list[Callable[[Tensor], Any]] = [
        lambda z: (2 * z).sum().detach(),
        lambda z: 2 * z.sum().item(),
    ]
    for reward in rewards:

        def loss(theta: Tensor, *, reward: Callable[[Tensor], Any] = reward) -> Tensor:
            z = drawn(theta)
            found: Tensor = (Bernoulli(logits=theta).log_prob(z) * reward(z)).sum()
            return found

        with an.record():
            value = loss(*leaves())
        with pytest.warns(HeldScoreWarning, match=r"'z' \(.*test_guarantees.py:\d+") as caught:
            an.backward(value)
        assert len([each for each in caught if each.category is HeldScoreWarning]) == 1
        exact = exact_gradient(lambda theta: 2 * drawn(theta).sum(), leaves())
        torch.testing.assert_close(moments(loss, leaves(), by(Tensor.backward)).mean, exact)


def test_torch_between_recordings() -> None:
    """Outside of a recording everything answers as before: what `torch.distributions` draws and
    scores, which stays replaced, takes longer by at most 3 %, all else in torch is its own again,
    and `an.restore_torch()` puts back that.
    """

    def answers() -> list[Tensor]:
        torch.manual_seed(0)
        z = Normal(torch.zeros(2), 1.0).sample()
        return [z, Normal(torch.zeros(2), 1.0).log_prob(z), torch.bernoulli(torch.full((9,), 0.5))]

    def attributes() -> list[object]:
        owners: list[Any] = [Tensor, torch, Bernoulli, Normal, Independent]
        return [value for owner in owners for value in vars(owner).values()]

    an.restore_torch()
    before, own = answers(), attributes()
    with an.record() as trace:
        answers()
    assert list(trace) == ["z", "bernoulli"]
    is_own = [a is b for a, b in zip(attributes(), own, strict=True)]
    assert is_own.count(False) == 8  # sample, rsample and log_prob, of torch.distributions
    for one, other in zip(answers(), before, strict=True):
        assert type(one) is Tensor
        assert torch.equal(one, other)
    an.restore_torch()
    assert all(a is b for a, b in zip(attributes(), own, strict=True))


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
    with pytest.raises(an.errors.LossError, match=r"'word' \(.*test_guarantees.py:\d+"):
        an.backward(loss)


def test_straight_through() -> None:
    """A value that is that of a draw, with a gradient to its parameters by a path that adds zero,
    is a straight-through estimator: `an.backward` warns once with the line, and `loss.backward()`
    does not.
    """
    for call in (an.backward, Tensor.backward):
        (theta,) = leaves()
        with an.record():
            p = theta.sigmoid()
            z = Bernoulli(probs=p).sample()
            loss = ((z + p - p.detach()) ** 2).sum()
        if call is Tensor.backward:
            loss.backward()
            continue
        with pytest.warns(StraightThroughWarning, match=r"test_guarantees.py:\d+ has") as caught:
            call(loss)
        assert len(caught) == 1


def test_baselines() -> None:
    """A baseline that the draw reaches, by tensors or by what Python read, is refused with the site
    and the line; one that it does not reach leaves the mean as it is, and gets no gradient.
    """
    learned = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def program(theta: Tensor) -> Tensor:
        return ((drawn(theta) - 0.3) ** 2).sum()

    def ask(loss: Tensor) -> None:
        an.backward(loss, baseline=lambda credit: credit.of_others(0) + learned)

    torch.testing.assert_close(*mean_and_truth(program, leaves(), by(ask)), rtol=1e-9, atol=1e-9)
    assert learned.grad is None
    for illegal in (lambda credit: credit.total, lambda credit: credit.total.sum().item()):
        with an.record():
            loss = program(*leaves())
        with pytest.raises(DependentBaselineError, match=r"'z' .*test_guarantees.py:\d+"):
            an.backward(loss, baseline=illegal)


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


def branching(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    first, second = (w - 0.4) ** 2, w * theta[0]  # both finished before the branch
    constant = torch.tensor(0.7, dtype=torch.float64)
    chosen = first if z > 0 else second
    return chosen + constant * (2 if z.item() else 1)


def test_strict() -> None:
    """Under `control="strict"`, the default, the gradient is unbiased whatever Python does with
    an escaped value: all that is drawn or computed afterwards depends on it, and every term of
    the loss that was not declared with `an.cost` before.
    """
    assert_exact(branching, "strict")
    torch.testing.assert_close(*mean_and_truth(branching, leaves(), library()))
    (theta,) = leaves()
    with an.record() as trace:
        z = drawn(theta)
        an.cost("declared", (z - 0.1) ** 2)
        other = drawn(theta)
        other.tolist()
        after = torch.ones(2) * 2
        drawn(theta)
    assert trace["declared"].parents == {"z"}
    assert an.provenance_of(after) == {"z_1"}
    assert trace["z_2"].parents == {"z_1"}


def choosing(theta: Tensor) -> Tensor:
    low = torch.tensor(0.7, dtype=torch.float64)
    return low if drawn(theta)[0] > 0 else low * 3


def test_chosen_losses(nothing_recorded: None) -> None:
    """A tensor that was there before the read may be the loss that Python chose: a loss without
    provenance is one of the recording in which a value escaped, and is refused where several may
    have chosen it, or none.
    """
    with pytest.raises(an.errors.LossError, match="carries no provenance: it depends on no draw"):
        an.backward(torch.ones(()))
    assert_exact(choosing, "strict")
    held = []
    for _ in range(2):
        with an.record() as trace:
            choosing(*leaves())
        held.append(trace)
    with pytest.raises(an.errors.LossError, match="several recordings may have chosen it"):
        an.backward(torch.ones(()))


def rollout(theta: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for t in range(3):
        step = drawn(theta[0] - 0.2 * t)
        total = total + (step - 0.45) ** 2 + 0.3 * t
        if drawn(theta[1]).item() > 0:
            break
    return total


def rollout_by_hand(theta: Tensor) -> Tensor:
    """Weigh every score with the rewards from then on; that of an end, with those after it."""
    scores: list[Tensor] = []
    rewards: list[tuple[int, Tensor]] = []
    for t in range(3):
        fn, end = Bernoulli(logits=theta[0] - 0.2 * t), Bernoulli(logits=theta[1])
        step = fn.sample()
        scores.append(fn.log_prob(step))
        rewards.append((2 * t, (step - 0.45) ** 2))
        rewards.append((2 * t - 1, torch.tensor(0.3 * t, dtype=torch.float64)))
        stop = end.sample()
        scores.append(end.log_prob(stop))
        if stop > 0:
            break
    total = torch.zeros((), dtype=torch.float64)
    for index, score in enumerate(scores):
        is_step = index % 2 == 0
        credit = sum(r for at, r in rewards if (at == index if is_step else at >= index))
        total = total + score * credit
    return total


def test_after() -> None:
    """Under `control="after"`, finished terms keep their own sources, which is unbiased if they
    count regardless of the value, each with its weight: a rollout whose end is drawn gets
    reward-to-go.
    """
    assert_exact(rollout, "after")
    ours = moments(rollout, leaves(), by(control="after"))
    theirs = moments_of(*estimates(rollout_by_hand, leaves(), autograd))
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)
    strict = moments(rollout, leaves(), by(control="strict"))
    assert ours.variance[1] < strict.variance[1] / 6
    with pytest.raises(AssertionError):  # it chooses among finished terms
        assert_exact(branching, "after")


def test_error() -> None:
    """Under `control="error"`, an escape raises `an.errors.EscapeError`, which names the site, the
    line and the ways to mend it.
    """
    (theta,) = leaves()
    with an.record(control="error"):
        z = drawn(theta)
        with pytest.raises(
            an.errors.EscapeError, match=r"test_guarantees.py:\d+: .*'z'.*torch.where.*an.untrack"
        ):
            z.tolist()


def logged(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    losses = (z - 0.3) ** 2 + (w - 0.4) ** 2
    float(losses)
    return losses


def test_ignore() -> None:
    """Under `control="ignore"`, an escape is only listed, which is unbiased if no decision
    follows.
    """
    assert_exact(logged, "ignore")
    with pytest.raises(AssertionError):
        assert_exact(branching, "ignore")
    (theta,) = leaves()
    with an.record(control="ignore") as trace:
        an.backward(logged(theta))
    assert [e.terms_blurred for e in trace.escapes] == [0]


def around_the_block(after: Callable[[Tensor, Tensor], Tensor], control: str) -> Estimate:
    """Return the estimate of what is drawn in a block, or by a wrapped model, and goes on after."""

    def estimate(_: Program, parameters: Parameters) -> Tensor:
        leaves = fresh(parameters)
        with an.record(control=control):
            z, losses = terms(leaves[0])
        an.backward(after(z, losses))
        return gradients(leaves)

    return estimate


class Terms(nn.Module):
    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.detach().clone())

    def forward(self) -> tuple[Tensor, Tensor]:
        return terms(self.theta)


def by_call(after: Callable[[Tensor, Tensor], Tensor], control: str) -> Estimate:
    def estimate(_: Program, parameters: Parameters) -> Tensor:
        model = an.wrap(Terms(parameters[0]), control=control)
        an.backward(after(*model()))
        return gradients([model.theta])

    return estimate


def terms(theta: Tensor) -> tuple[Tensor, Tensor]:
    z = drawn(theta)
    return z, (z - 0.3) ** 2 * theta.exp()


def printed_and_scaled(z: Tensor, losses: Tensor) -> Tensor:
    repr(losses)
    assert z.mean().item() < 2
    return losses.mean() * 0.5 / 4


def rewarded(z: Tensor, losses: Tensor) -> Tensor:
    reward = torch.as_tensor(1.3 - z.numpy()[0] * 2.1)
    return losses.sum() + reward


@reading
def test_reads_after_the_block() -> None:
    """The block is the program, and so is the call of a wrapped model: a read after it
    (`loss.item()`, a print, a metric) acts as under `"after"`, whatever the setting. Finished terms
    keep their sources, also divided or scaled; what is computed after the read depends on it, such
    as the reward that a simulator returns for an action.
    """
    for control in ("strict", "after", "error", "ignore"):
        for way in (around_the_block, by_call):
            found = moments(lambda t: rewarded(*terms(t)), leaves(), way(rewarded, control))
            torch.testing.assert_close(
                found.mean, exact_gradient(lambda t: rewarded(*terms(t)), leaves())
            )
            looked = moments(
                lambda t: printed_and_scaled(*terms(t)), leaves(), way(printed_and_scaled, control)
            )
            silent = moments(lambda t: terms(t)[1].mean() * 0.5 / 4, leaves(), library())
            torch.testing.assert_close(looked.mean, silent.mean)
            torch.testing.assert_close(looked.variance, silent.variance)


def one_of_two(z: Tensor, losses: Tensor) -> Tensor:
    return losses[0] if z[1] > 0 else losses[1]


def weighed(z: Tensor, losses: Tensor) -> Tensor:
    return losses[0] * (1 + z[1].item())


def test_choices_belong_in_the_block() -> None:
    """To choose between finished losses by a value, or to weigh one by it, belongs in the block:
    after it, they count regardless.
    """
    for choice in (one_of_two, weighed):
        whole = functools.partial(lambda choice, t: choice(*terms(t)), choice)
        assert_exact(whole, "strict")
        found = moments(whole, leaves(), around_the_block(choice, "strict")).mean
        assert not torch.allclose(found, exact_gradient(whole, leaves()))


def scoped(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    with an.control_scope():
        branch = z.exp() * (3 if z > 0 else 1)
    return branch + (w - 0.4) ** 2


def unscoped(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    return z.exp() * (3 if z > 0 else 1) + (w - 0.4) ** 2


def test_blurred_credit() -> None:
    """Where an escape blurs terms that were apart, `an.backward` warns once a line
    (`an.errors.BlurredCreditWarning`): which line read what, how many terms, what it costs, and the
    ways out.
    """
    (theta,) = leaves()
    for is_read in (False, True):
        with an.record():
            losses = (drawn(theta) - 0.3) ** 2
            for _ in range(3 * is_read):
                losses.sum().item()
        if is_read:
            with pytest.warns(
                an.errors.BlurredCreditWarning,
                match=r"guarantees.py:\d+ .*1 of 1 terms.* what it was.*untrack.*trust=.*cost",
            ) as caught:
                an.backward(losses.mean())
            assert len(caught) == 1
        else:
            an.backward(losses.mean())


def walks(theta: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
    place, total = torch.zeros(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(2):
        place = step(drawn(theta + place))
        total = total + (place - 0.3).pow(2).sum()
    return total


class Line:
    """Two walkers that torch cannot see."""

    def __init__(self) -> None:
        self.places = np.zeros(2)

    def step(self, action: Tensor) -> np.ndarray:
        self.places += 2 * action.numpy() - 1
        return self.places


def test_external_calls() -> None:
    """`f = an.external(function, dim=0)` is one op of code that torch cannot see: what comes back
    depends on all that went into this call and, with `stateful=True`, into earlier ones, along
    `dim` element n on elements n only, and nothing escapes, unless no tensor comes back, or
    something else too. With `check=True` every call tries that by changing one element.
    """
    bare = by(lambda loss: an.backward(loss, baseline=None))
    found = moments(
        lambda theta: walks(theta, an.external(Line().step, check=True)), leaves(), bare
    )

    def seen(theta: Tensor) -> Tensor:
        line = Line()
        return walks(theta, lambda action: torch.tensor(line.step(action)))

    looked = moments(seen, leaves(), bare)
    torch.testing.assert_close(found.mean, looked.mean)
    assert found.variance.sum() < looked.variance.sum()
    for function, count in ((lambda a: a, 0), (lambda a: None, 1), (lambda a: (a, "text"), 1)):
        with an.record() as trace:
            an.external(function)(drawn(leaves()[0]))
        assert len(trace.escapes) == count


def test_scope() -> None:
    """`with an.control_scope():` ends, with the block, the taint of what escaped within it."""
    assert_exact(scoped, "strict")
    variances = [moments(p, leaves(), by(control="strict")).variance for p in (scoped, unscoped)]
    assert variances[0][0] < variances[1][0]


@reading
def test_escapes_are_listed() -> None:
    """`trace.escapes` lists every escape with its line, and how many terms of the loss it
    blurred.
    """
    (theta,) = leaves()
    with an.record() as trace:
        z, w = drawn(theta[0]), drawn(theta[1])
        bool(z > 0)
        loss = (z - 0.3) ** 2 + (w - 0.4) ** 2
    an.backward(loss)
    (found,) = trace.escapes
    assert found.sources == {"z"}
    assert found.filename == __file__
    assert "bool(z > 0)" in Path(__file__).read_text().splitlines()[found.line - 1]
    assert found.terms_blurred == 1


def checked(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    if z.item() > 1:
        raise ValueError
    return (z - 0.3) ** 2 + (w - 0.4) ** 2


def caught(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    try:
        if z.item() > 0:
            raise ValueError
    except ValueError:
        return (w - 0.3) ** 2
    return 2 * w


def test_checks() -> None:
    """Checks of your own and of libraries are none either: reads whose only other outcome is an
    exception (`assert ok`, `if bad: raise`), found in the bytecode of Python 3.11 and 3.12. Where
    an `except` of the program would catch the error, or it cannot be told, the read stays an
    escape, and so does every read on another version of Python. An error that a `with` keeps
    (`suppress`) refuses the gradient.
    """
    for program, escapes in ((checked, 0), (caught, 1)):
        assert_exact(program, "strict")
        with an.record() as trace:
            program(*leaves())
        assert len(trace.escapes) == escapes
    with mock.patch.object(bytecode, "LAST", (3, 10)), an.record() as trace:
        checked(*leaves())
    assert trace.escapes
    with an.record():
        z = Bernoulli(logits=leaves()[0]).sample()
        with suppress(ValueError):
            if z.sum() >= 0:
                raise ValueError
    with pytest.raises(an.errors.CaughtError):
        an.backward(z.sum())


def test_trust() -> None:
    """`an.record(trust=("package",))` and `an.wrap(model, trust=...)`: reads that code of these
    modules makes are checks or logging, on your word.
    """
    for trust in ("test_guarantees", (__name__,), ["torch", __name__]):
        with an.record(control="error", trust=trust if __name__ in trust else __name__) as trace:
            z = drawn(leaves()[0])
            z.tolist()
        assert trace.escapes == ()
    model: Any = an.wrap(Terms(leaves()[0]), trust=("pytest", __name__))
    model.register_forward_hook(lambda *_: model.theta.grad is None and print(_[-1]))
    model()
    assert model.trace.escapes == ()
    with pytest.raises(ValueError, match="did you mean 'pytest'"):
        an.wrap(Terms(leaves()[0]), trust=("pytst",))


def test_no_escapes() -> None:
    """`an.untrack(z).item()` is no escape, and neither are the checks that torch.distributions
    makes of its arguments, as long as they pass.
    """
    (theta,) = leaves()
    with an.record(control="error") as trace:
        z = drawn(theta[0])
        an.untrack(z).item()
        Bernoulli(probs=0.2 + 0.5 * z, validate_args=True).sample()
    assert trace.escapes == ()


@reading
def test_kinks() -> None:
    """A site drawn by `rsample` gets its score function, on the same draw, for the terms that its
    value reaches through a comparison, a rounding, an argmax, a cast to integers or an escape, and
    for these alone; `estimator="pathwise"` warns there once, with the line of the step.
    """
    steps: list[Any] = [
        lambda z: (z > 0).double(),
        torch.round,
        lambda z: torch.stack([z, -z]).argmax().double(),
        lambda z: z.long().double(),
        lambda z: torch.ones(()).double() * (1 if z.item() > 0 else 2),
    ]
    for step in steps:
        theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        with an.record(control="after"):
            z = Normal(theta, 1.0).rsample()
            smooth = 3 * z
            cost = step(z)
        with pytest.warns(an.errors.KinkWarning, match=r"test_guarantees.py:\d+") as caught:
            an.backward(cost + smooth, estimator="pathwise", retain_graph=True)
        assert len(caught) == 1
        assert theta.grad == 3
        theta.grad = None
        an.backward(cost + smooth)
        expected = 3 + an.untrack(cost) * (an.untrack(z) - theta).detach()  # the score of a normal
        torch.testing.assert_close(theta.grad, expected)


def test_detached() -> None:
    """`detach` and `torch.no_grad` are taken at their word: no gradient goes through them, and
    they are no such step.
    """
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with an.record():
        z = Normal(theta, 1.0).rsample()
        with torch.no_grad():
            square = z**2
        loss = z.detach() * 3 + square + z
    an.backward(loss)
    assert theta.grad == 1.0


def test_transforms() -> None:
    """A tracked tensor within `grad`, `jacrev` or another transform of `torch.func` than `vmap`."""
    (theta,) = leaves()
    with an.record():
        z = drawn(theta)
        for transform in (torch.func.grad, torch.func.jacrev, torch.func.hessian):
            name = transform.__name__
            with pytest.raises(TransformError, match=rf"{name} at .*test_guarantees.py:\d+ .*'z'"):
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
            with pytest.raises(TransformError, match=r"test_guarantees.py:\d+ draws within"):
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
        with pytest.raises(ScoredLossError, match=r"test_guarantees.py:\d+"):
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
        with pytest.raises(UnsupportedTensorError, match=r"test_guarantees.py:\d+ .*'z'"):
            torch.nested.nested_tensor([z, z], layout=torch.jagged)
        with pytest.raises(UnsupportedTensorError, match=r"Mine at .*test_guarantees.py:\d+ .*'z'"):
            z.as_subclass(Mine)
        with pytest.raises(UnsupportedTensorError, match=r"Mine at .*test_guarantees.py:\d+ .*'z'"):
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
        with pytest.raises(an.errors.PlateError, match=r"mixed by mean at .*test_guarantees\.py"):
            drawn_within(step)


def test_draws_without_a_graph() -> None:
    """A draw within a reentrant checkpoint or the `forward` of an `autograd.Function`, where its
    score would be lost.
    """
    (theta,) = leaves()
    with an.record():
        with pytest.raises(TransformError, match=r"test_guarantees.py:\d+"):
            Drawing.apply(theta)  # type: ignore[no-untyped-call]
        with pytest.raises(TransformError, match=r"test_guarantees.py:\d+"):
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
        with pytest.raises(an.errors.CaughtError, match=r"test_guarantees.py:\d+ raised"):
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

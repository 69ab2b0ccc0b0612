"""The monitor in a training loop: it changes nothing, waits for nothing, and can be resumed."""

import copy
import io
import pickle
import re
import threading
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import ancestral as an
from ancestral.estimators.diagnostics.contrast import UNNAMED
from ancestral.estimators.diagnostics.running import Running
from ancestral.tools.demo.belief_net import BeliefNet

IMAGES = torch.bernoulli(torch.full((8, 6), 0.4), generator=torch.Generator().manual_seed(0))


def net() -> BeliefNet:
    torch.manual_seed(0)
    return BeliefNet(pixels=6, units=4, causes=3)


def train(
    model: BeliefNet, monitor: an.Monitor | None, steps: Iterable[int], **options: Any
) -> list[Tensor]:
    """Take steps of plain descent, each from its own seed; return the parameters."""
    for step in steps:
        torch.manual_seed(step)
        with an.record():
            loss = model(IMAGES)
        model.zero_grad()
        an.backward(loss, monitor=monitor, **options)
        with torch.no_grad():
            for param in model.parameters():
                assert param.grad is not None
                param.sub_(param.grad, alpha=0.1)
    return [param.detach().clone() for param in model.parameters()]


@pytest.mark.parametrize("every", [1, 3])
def test_parameters_and_draws_are_the_same_with_a_monitor_bit_for_bit(every: int) -> None:
    plain, watched = net(), net()
    found = [*train(plain, None, range(7)), torch.get_rng_state()]
    again = [*train(watched, an.Monitor(every=every), range(7)), torch.get_rng_state()]
    assert all(map(torch.equal, found, again))


def test_within_an_open_recording_nothing_is_drawn_and_nothing_depends_on_it() -> None:
    model, monitor = net(), an.Monitor(every=1)
    with an.record(noise=True) as trace:
        loss = model(IMAGES)
        before = list(trace), len(trace.noise or ())
        an.backward(loss, monitor=monitor, retain_graph=True)
        assert (list(trace), len(trace.noise or ())) == before
        assert not trace.escapes
    assert monitor.log()["total/steps"] == 1


def test_a_surrogate_is_measured_as_its_gradient_is() -> None:
    model, twin = net(), net()
    one = an.Monitor(twin, every=1)
    other, declared = an.Monitor(model, every=1), an.Monitor(model, every=1)
    train(twin, one, [4])
    torch.manual_seed(4)
    with an.record():
        loss = model(IMAGES)
    an.surrogate(loss, monitor=other).backward()
    assert one.log(pairs=True) == pytest.approx(other.log(pairs=True), rel=1e-5)
    torch.manual_seed(4)
    with an.record() as trace:
        an.cost("loss", model.per_image(IMAGES)[0] / len(IMAGES))
    trace.backward(monitor=declared)
    assert one.log(pairs=True) == pytest.approx(declared.log(pairs=True), rel=1e-5)


@pytest.mark.parametrize("every", [1, 3])
def test_it_goes_on_from_a_saved_state_bit_for_bit(every: int) -> None:
    whole, model = an.Monitor(every=every), net()
    train(model, whole, range(11))
    first, model = an.Monitor(every=every), net()
    train(model, first, range(5))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    for resumed in (
        an.Monitor(every=every),
        pickle.loads(pickle.dumps(first)),
        copy.deepcopy(first),
    ):
        state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        resumed.load_state_dict(state)
        train(copy.deepcopy(model), resumed, range(5, 11))
        assert resumed.log(pairs=True) == whole.log(pairs=True)
    assert str(whole).startswith("site")


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        {**an.Monitor().state_dict(), "moments": {"z": torch.zeros(5)}},
        {**an.Monitor().state_dict(), "running": {"steps": 1}},
        {**an.Monitor().state_dict(), "running": {**Running[str](1.0).state_dict(), "keys": ["z"]}},
    ],
)
def test_another_state_is_refused_and_changes_nothing(state: Any) -> None:
    monitor = an.Monitor(every=1)
    train(net(), monitor, range(2))
    before = monitor.log()
    with pytest.raises(an.errors.StateError, match=re.escape("an.Monitor")):
        monitor.load_state_dict(state)
    assert monitor.log() == before


class Waits(TorchDispatchMode):
    """Notes the ops for which a program waits for the device."""

    OPS = (
        *("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select"),
        *("lift_fresh", "eye"),  # what is made of numbers, on the CPU, and would be copied
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.OPS:
            self.met.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device_until_the_log() -> None:
    model, monitor = net(), an.Monitor(every=1)
    met: dict[bool, list[str]] = {}
    train(model, monitor, range(2))
    for is_watched in (False, True):
        with an.record():
            loss = model(IMAGES)
        with Waits() as waits:
            an.backward(loss, monitor=monitor if is_watched else None)
        met[is_watched] = waits.met
    assert met[True] == met[False]
    with Waits() as waits:
        assert monitor.log()
    assert len(waits.met) <= 200  # tolist() of the CPU takes them one by one


def test_sites_that_come_and_go_count_as_zero_where_they_are_not() -> None:
    logits = torch.zeros(2, requires_grad=True)

    def measure(monitor: an.Monitor, *, is_there: bool, seed: int) -> None:
        torch.manual_seed(seed)
        with an.record():
            a = Bernoulli(logits=logits[0].expand(8)).sample()
            loss = (a - 0.3).pow(2).sum()
            if is_there:
                b = Bernoulli(logits=logits[1].expand(8)).sample()
                loss = loss + (b - 0.4).pow(2).sum()
        an.backward(loss, monitor=monitor, baseline=None)

    monitor = an.Monitor(every=1, decay=1)
    alone = an.Monitor(every=1, decay=1)
    for step in range(4):
        measure(monitor, is_there=step == 2, seed=step)
    twin = alone.state_dict()
    twin["calls"] = 2  # the signs of that step
    alone.load_state_dict(twin)
    measure(alone, is_there=True, seed=2)
    log, single = monitor.log(), alone.log()
    assert log["site/b/variance"] == pytest.approx(single["site/b/variance"] / 4)
    assert log["site/a/variance_share"] + log["site/b/variance_share"] == pytest.approx(1)
    assert set(monitor.shares()) == {"a", "b"}


def test_a_last_batch_of_one_example_is_left_out_and_nothing_is_nan() -> None:
    model, monitor = net(), an.Monitor(every=1)
    train(model, monitor, range(2))
    before = {k: v for k, v in monitor.log().items() if "total" not in k}
    with an.record():
        loss = model(IMAGES[:1])
    an.backward(loss, monitor=monitor)
    log = monitor.log()  # and nothing is said: it is known of other steps
    assert {k: v for k, v in log.items() if "total" not in k} == before
    assert (log["total/steps"], log["total/skipped"]) == (2, 1)


def test_one_example_has_no_variance_and_it_says_so_once() -> None:
    model, monitor = net(), an.Monitor(every=1)
    with an.record():
        loss = model(IMAGES[:1]) + Bernoulli(logits=model.prior_h2[0]).sample()
    an.backward(loss, monitor=monitor)
    with pytest.warns(an.errors.MonitorWarning) as told:
        assert monitor.log() == {}
    starts = [str(each.message).partition(" (")[0] for each in told]
    assert starts == [
        "site 'h1' has no variance, and is in no share or total: its shape is [1, 4]",
        "site 'h2' has no variance, and is in no share or total: its shape is [1, 3]",
        "site 'bernoulli' has no variance, and is in no share or total: its shape is []",
    ]
    assert "one example along dimension 0" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.log() == {}
    assert "site 'h2' has no variance" in str(monitor)


def test_units_of_one_example_are_no_examples_unless_one_says_so() -> None:
    logits = torch.zeros(4, requires_grad=True)
    for dim, names in ((None, set()), (1, {"z"}), (-1, {"z"}), (2, set()), (0, set())):
        monitor = an.Monitor(every=1, dim=dim)
        with an.record():
            z = Bernoulli(logits=logits[None]).sample()
            loss = (z - 0.4 * torch.arange(4)).pow(2).sum()
        an.backward(loss, monitor=monitor)
        assert monitor.shares().keys() == names


def test_a_dimension_that_one_says_holds_for_all_sites() -> None:
    logits = torch.zeros(3, requires_grad=True)
    monitor = an.Monitor(every=1, dim=1)
    with an.record() as trace:
        for name, sizes in (("y", (5, 4)), ("z", (6, 4))):
            z = an.sample(name, Bernoulli(logits=logits[0].expand(sizes)))
            an.cost(f"cost of {name}", (z - 0.3 * torch.rand(sizes)).pow(2))
        w = an.sample("w", Bernoulli(logits=logits[1].expand(7)))
        an.cost("cost of w", (w - 0.3).pow(2))
    trace.backward(monitor=monitor)
    with pytest.warns(an.errors.MonitorWarning, match="'w'"):
        assert "site/z/variance" in monitor.log()
    assert monitor.shares().keys() == {"y", "z"}


def test_what_mixes_the_examples_leaves_no_variance_and_is_said() -> None:
    logits = torch.zeros(3, requires_grad=True)
    monitor = an.Monitor(every=1)
    with an.record():
        z = Bernoulli(logits=logits.expand(8, 3)).sample()
        loss = (z.mean() - 0.3).pow(2)
    an.backward(loss, monitor=monitor)
    with pytest.warns(an.errors.MonitorWarning, match="trace.explain"):
        assert monitor.log() == {}


def test_a_reentrant_checkpoint_leaves_no_variance_and_training_goes_on() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2), torch.ones(4, 3, requires_grad=True)
    for is_reentrant in (True, False):
        monitor = an.Monitor(layer, every=1)
        with an.record():
            logits = checkpoint(layer, x, use_reentrant=is_reentrant)
            z = Bernoulli(logits=logits).sample()
            loss = (z - 0.3 * torch.arange(4)[:, None]).pow(2).sum()
        an.backward(loss, monitor=monitor)
        assert layer.weight.grad is not None
        if is_reentrant:
            with pytest.warns(an.errors.MonitorWarning, match="use_reentrant=False"):
                assert monitor.log() == {}
        else:
            assert monitor.shares() == {"z": 1.0}


def test_without_gradients_or_scores_it_says_so() -> None:
    monitor = an.Monitor(every=1)
    with pytest.warns(an.errors.MonitorWarning, match=r"an.backward\(loss, monitor=monitor\)"):
        assert monitor.log() == {}
    loc = torch.zeros(4, requires_grad=True)
    with an.record():
        loss = Normal(loc, 1.0).rsample().pow(2).sum()
    an.backward(loss, monitor=monitor)
    with pytest.warns(an.errors.MonitorWarning, match="pathwise"):
        assert monitor.log() == {}
    assert monitor.shares() == {}
    assert monitor.rows() == ()


def test_a_gradient_that_is_not_finite_is_left_out() -> None:
    scale = torch.ones((), requires_grad=True)
    monitor = an.Monitor({"scale": scale}, every=1)
    for factor in (1.0, float("inf"), 1.0):
        with an.record():
            logits = scale.expand(8) * 0.5
            logits.register_hook(lambda g, factor=factor: g * factor)
            loss = (Bernoulli(logits=logits).sample() - 0.3).pow(2).sum()
        an.backward(loss, monitor=monitor)
    log = monitor.log()
    assert (log["total/steps"], log["total/skipped"]) == (2, 1)
    assert all(torch.isfinite(torch.tensor(value)) for value in log.values())


def test_parameters_that_change_have_the_names_that_they_have_then() -> None:
    model, monitor = net(), None
    monitor = an.Monitor(model, every=1)
    train(model, monitor, [0])
    model.infer_h1 = nn.Linear(6, 4)
    model.infer_h2.weight.requires_grad_(False)
    with an.record():
        loss = model(IMAGES)
    an.backward(loss, monitor=monitor)
    found = monitor.rows()
    assert {param for row in found for param in row.params} == {
        *("infer_h1.weight", "infer_h1.bias", "infer_h2.weight", "infer_h2.bias")
    }
    anonymous = an.Monitor(every=1)
    train(net(), anonymous, [0])
    assert {param for row in anonymous.rows() for param in row.params} == {UNNAMED}
    assert "param/_unnamed_/variance" in anonymous.log()


def test_parameters_of_the_program_have_their_names() -> None:
    monitor = an.Monitor(every=1)
    unit = torch.distributions.constraints.unit_interval
    with an.ParamStore(), an.record() as trace:
        p = an.param("p", torch.tensor(0.4), constraint=unit)
        z = an.sample("z", Bernoulli(p.expand(8)))
        an.cost("c", (z - 0.3 * torch.arange(8)).pow(2))
    trace.backward(monitor=monitor)
    assert monitor.log()["param/p/variance_share"] == 1


def test_two_threads_may_share_it() -> None:
    monitor, errors = an.Monitor(every=2, decay=1), list[BaseException]()

    def work() -> None:
        try:
            model = copy.deepcopy(shared)
            for _ in range(20):
                with an.record():
                    loss = model(IMAGES)
                an.backward(loss, monitor=monitor)
        except BaseException as error:
            errors.append(error)

    shared = net()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        monitor.shares()
    for thread in threads:
        thread.join()
    assert not errors
    assert monitor.log()["total/steps"] == 20


def test_of_very_many_sites_the_repeats_of_a_loop_are_measured_together() -> None:
    logits = torch.zeros(3, requires_grad=True)
    monitor = an.Monitor({"w": logits}, every=1)

    def measure(length: int) -> None:
        with an.record():
            z1 = Bernoulli(logits=logits[0].expand(8)).sample()
            loss = (z1 - 0.3).pow(2).sum()
            for _ in range(length):
                z = Bernoulli(logits=logits[1].expand(8)).sample()
                loss = loss + (z - z1).pow(2).sum()
        an.backward(loss, monitor=monitor)

    measure(3)
    assert monitor.shares().keys() == {"z1", "z", "z_1", "z_2"}
    measure(40)
    measure(2)  # from then on a site has one name
    running = monitor.log()
    assert {"site/z/variance", "site/z1/variance"} <= running.keys()
    assert not any("z_30" in name for name in running)
    assert running["site/z/variance"] > 2 * running["site/z_2/variance"]
    assert len(running) < 40


def test_its_memory_is_bounded_whatever_the_names() -> None:
    running = Running[str](0.9)
    for step in range(3 * Running.MOST // 1000):
        running.add({f"z_{step}_{n}": torch.ones(()) for n in range(1000)})
    kept = list(running.kept())
    assert len(kept) <= Running.MOST + 1000
    assert kept[-1].endswith("_999")
    means, skipped = running.read()
    assert skipped == 0
    assert {f"z_{step}_{n}" for n in range(1000)} <= set(means)


def test_names_without_end_are_not_kept() -> None:
    monitor, w = an.Monitor(every=1), torch.zeros(1, requires_grad=True)
    for step in range(300):
        with an.record() as trace:
            z = an.sample(f"z_{step}", Bernoulli(logits=w))
            an.cost("c", z)
        trace.backward(monitor=monitor)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        monitor.log()
    assert len(told) == 256
    assert len(monitor.state_dict()["undefined"]) == 256


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"every": 0}, ValueError, "at least 1"),
        ({"every": 2.5}, ValueError, "every"),
        ({"every": True}, ValueError, "every"),
        ({"decay": 0}, ValueError, "decay"),
        ({"decay": 1.5}, ValueError, r"\(0, 1\]"),
        ({"decay": "slow"}, ValueError, "decay"),
        ({"dim": 1.0}, TypeError, "dim"),
        ({"model": [torch.zeros(2)]}, TypeError, "torch.nn.Module"),
    ],
)
def test_wrong_arguments_are_refused(
    wrong: Mapping[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        an.Monitor(**wrong)


@pytest.mark.parametrize("wrong", [an.Monitor, 3, print])
def test_what_is_no_monitor_is_refused_before_anything_is_done(wrong: Any) -> None:
    model = net()
    with an.record() as trace:
        loss = model(IMAGES)
        an.cost("loss", loss)
    with pytest.raises(TypeError, match="monitor"):
        an.backward(loss, monitor=wrong)
    with pytest.raises(TypeError, match="monitor"):
        an.surrogate(loss, monitor=wrong)
    with pytest.raises(TypeError, match="monitor"):
        trace.backward(monitor=wrong)
    assert all(param.grad is None for param in model.parameters())
    trace.backward()  # it can still be taken


def test_a_draw_that_is_scored_for_some_terms_only_is_measured_for_these() -> None:
    """Beside the terms behind a step, the draw has smooth ones, and a coin drawn by its value."""
    loc, weight = (torch.tensor(x, requires_grad=True) for x in (0.3, 0.2))
    grads: list[list[Tensor]] = []
    monitor = an.Monitor({"loc": loc, "weight": weight}, every=1)
    for each in (None, monitor):
        loc.grad = weight.grad = None
        torch.manual_seed(1)
        with an.record() as trace:
            y = Normal(loc.expand(2), 1.0).rsample()
            z = Bernoulli(logits=weight * y).sample()
            loss = ((y > 0).float() * 2 + y.pow(2) + (z - 0.4).pow(2)).sum()
        an.backward(loss, monitor=each, baseline=None)
        assert loc.grad is not None
        assert weight.grad is not None
        grads.append([loc.grad.clone(), weight.grad.clone()])
    assert all(map(torch.equal, *grads))
    y, z = trace["y"].value.detach(), trace["z"].value
    costs = (z - 0.4).pow(2)
    # Of two examples the spread is the squared difference. The coin's score reaches the mean
    # through the value of the draw, which is pathwise for it.
    of_coin = (z - torch.sigmoid(weight * y)) * costs
    log = monitor.log(pairs=True)
    by_weight = (of_coin * y).detach().diff().square()
    assert log["site/z/param/weight/variance"] == pytest.approx(float(by_weight), rel=1e-5)
    by_loc = (of_coin * weight).detach().diff().square()
    assert log["site/z/param/loc/variance"] == pytest.approx(float(by_loc), rel=1e-5)
    of_step = ((y - loc) * (y > 0) * 2).detach().diff().square()
    assert log["site/y/param/loc/variance"] == pytest.approx(float(of_step), rel=1e-5)

"""Recording: what is caught, what a node knows, and that torch is left as it was."""

import gc
import linecache
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch import distributions as d

import ancestral as an
from ancestral.errors import SiteError
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.node import NoDensityError


@pytest.fixture
def p() -> Tensor:
    """Probabilities with a gradient to learn."""
    return torch.full((4, 3), 0.4, requires_grad=True)


NO_SHAPE = torch.Size()
Shape = torch.Size | list[int] | tuple[int, ...]  # as torch annotates it


class Coin(d.Distribution):
    """A user's distribution with a parameter in its own attribute."""

    arg_constraints = {"heads": d.constraints.unit_interval}  # noqa: RUF012 (as torch writes it)

    def __init__(self, heads: Tensor) -> None:
        self.heads = heads
        super().__init__(heads.shape, validate_args=False)

    def sample(self, sample_shape: Shape = NO_SHAPE) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return (torch.rand(shape) < self.heads).float()

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(value > 0, self.heads, 1 - self.heads).log()


def test_a_node_knows_everything(p: Tensor) -> None:
    with an.record() as trace:
        z = d.Bernoulli(p).sample()
    node = trace["z"]
    assert (node.name, node.type, type(node.fn)) == ("z", "sample", d.Bernoulli)
    assert node.value.tolist() == an.untrack(z).tolist()
    torch.testing.assert_close(node.log_prob, d.Bernoulli(p).log_prob(an.untrack(z)))
    assert (node.is_observed, node.is_reparameterized, node.is_learned) == (False, False, True)
    assert (node.scale, node.mask, node.cond_indep_stack, dict(node.infer)) == (1.0, None, (), {})
    assert node.source_location.filename == __file__
    assert "z = d.Bernoulli(p).sample()" in linecache.getline(__file__, node.location.line)


def test_a_class_of_a_user_that_declares_its_parameters_keeps_the_batch() -> None:
    with an.record() as trace:
        z = d.Normal(torch.zeros(4, 3), 1.0).sample()
        x = Coin(z.sigmoid()).sample()
    param_provenance = trace["x"].param_provenance
    assert param_provenance is not None
    assert [alignment.dims for alignment, _ in param_provenance.entries] == [(0, 1)]
    assert trace["x"].parents == {"z"}
    assert an.provenance_of(x) == {"x"}


def test_sample_shapes_come_before_the_batch() -> None:
    with an.record() as trace:
        z = d.Normal(torch.zeros(4), 1.0).sample()
        x = d.Normal(z, 1.0).sample(torch.Size((5,)))
        y = d.MixtureSameFamily(
            d.Categorical(logits=z[:, None].expand(4, 4)), d.Normal(torch.zeros(4, 4), 1.0)
        ).sample(torch.Size((4,)))
    assert [trace[name].shape for name in "xy"] == [(5, 4), (4, 4)]
    for name in "xy":
        param_provenance = trace[name].param_provenance
        assert param_provenance is not None
        assert param_provenance.entries[0][0].dims == (-1, 0)
    assert x.shape == (5, 4)
    assert y.shape == (4, 4)


def test_only_the_outermost_draw_counts(p: Tensor) -> None:
    class Twice(d.Distribution):
        arg_constraints = {}  # noqa: RUF012 (as torch writes it)

        def sample(self, sample_shape: Shape = NO_SHAPE) -> Tensor:
            both: Tensor = d.Bernoulli(p).sample() + torch.bernoulli(p)
            return both

    with an.record() as trace:
        Twice(torch.Size((4, 3)), validate_args=False).sample()
    assert list(trace) == ["twice"]


def test_a_class_defined_while_recording_is_caught(p: Tensor) -> None:
    with an.record() as trace:

        class Late(d.Bernoulli):
            def sample(self, sample_shape: Shape = NO_SHAPE) -> Tensor:
                return torch.ones(4, 3)

        Late(p).sample()
    assert list(trace) == ["late"]
    assert not hasattr(Late.sample, "__wrapped__")


def test_a_parameter_hidden_in_a_users_distribution_is_found(p: Tensor) -> None:
    class Hidden(d.Distribution):
        arg_constraints = {}  # noqa: RUF012 (as torch writes it)

        def __init__(self, value: Tensor) -> None:
            self.box = {"inner": [lambda: value]}
            super().__init__(value.shape, validate_args=False)

        def sample(self, sample_shape: Shape = NO_SHAPE) -> Tensor:
            return torch.zeros(self.batch_shape)

    with an.record() as trace:
        z = d.Bernoulli(p).sample()
        h = Hidden(z * p).sample()
    assert trace["h"].parents == {"z"}
    assert trace["h"].is_learned
    with pytest.raises(NoDensityError, match="'h'"):
        an.backward(h.sum() + z.sum())


def test_the_value_of_a_class_without_density_is_fine_where_no_cost_needs_it(p: Tensor) -> None:
    class Mute(Coin):
        def log_prob(self, value: Tensor) -> Tensor:
            raise NotImplementedError

    with an.record():
        Mute(p).sample()
        z = d.Bernoulli(p).sample()
        loss = z.sum()
    an.backward(loss)
    assert p.grad is not None


def test_a_draw_that_is_no_tensor_is_refused(p: Tensor) -> None:
    class Pair(Coin):
        def sample(self, sample_shape: Shape = NO_SHAPE) -> Tensor:
            return (torch.ones(1), torch.ones(1))  # type: ignore[return-value]

    with an.record(), pytest.raises(TypeError, match="Pair drew a tuple"):
        Pair(p).sample()


def test_an_observation_is_found_and_named_after_its_value(p: Tensor) -> None:
    pixels = torch.ones(4, 3)
    with an.record() as trace:
        z = d.Bernoulli(p).sample()
        d.Normal(z, 1.0).log_prob(pixels)
        d.Bernoulli(p).log_prob(z)
    assert list(trace) == ["z", "pixels"]
    assert trace["pixels"].is_observed
    assert trace["pixels"].parents == {"z"}
    assert trace["pixels"].fn.__class__ is d.Normal


def test_the_sum_of_the_log_probabilities_is_that_of_the_sites(p: Tensor) -> None:
    with an.record() as trace:
        z = d.Bernoulli(p).sample()
        d.Normal(z, 1.0).log_prob(torch.zeros(4, 3))
    expected = sum(node.log_prob.sum() for node in trace.values())
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    only = trace.log_prob_sum(lambda node: node.is_observed)
    torch.testing.assert_close(
        only, d.Normal(trace["z"].value, 1.0).log_prob(torch.zeros(4, 3)).sum()
    )


def test_a_trace_prints_as_a_table(p: Tensor) -> None:
    with an.record() as trace:
        z = d.Bernoulli(p).sample()
        long_name = d.Normal(z, 1.0).rsample()
    lines = str(trace).splitlines()
    assert len({line.index("Bernoulli") for line in lines[1:2]} | {lines[2].index("Normal")}) == 1
    assert lines[0].split() == ["name", "distribution", "shape", "parents", "where"]
    assert "long_name" in lines[2]
    assert lines[2].split()[4] == "z"
    assert long_name.shape == (4, 3)


def test_a_recorded_function_is_the_function_and_has_the_trace_of_its_last_call() -> None:
    @an.record(control="after")
    def program(size: int, *, loc: float = 0.0) -> Tensor:
        """Draw."""
        return an.sample("z", d.Normal(torch.full((size,), loc), 1.0))

    assert repr(program).startswith("Recorded(<function ")
    assert program.__doc__ == "Draw."
    with pytest.raises(RuntimeError, match="this program has not been called yet"):
        _ = program.trace
    value = program(3, loc=2.0)
    first = program.trace
    assert torch.equal(first["z"].value, value)
    second = program.get_trace(4)
    assert second is program.trace
    assert second is not first
    assert (second["z"].shape, first["z"].shape) == ((4,), (3,))


def test_a_recorded_function_that_raises_leaves_the_trace_of_what_it_did(p: Tensor) -> None:
    def program() -> None:
        d.Bernoulli(p).sample()
        raise KeyError("later")

    recorded = an.handlers.record()(program)
    with pytest.raises(KeyError, match="later"):
        recorded()
    assert list(recorded.trace) == ["bernoulli"]


def test_what_is_no_function_or_runs_later_is_not_recorded() -> None:
    def later() -> Iterator[None]:
        yield

    with pytest.raises(TypeError, match=r"record\(...\) stands around a function, not an int"):
        an.record()(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="its body runs after the call"):
        an.record()(later)


def test_handlers_go_around_a_recorded_function_and_within_it() -> None:
    def program() -> Tensor:
        return an.sample("z", d.Normal(0.0, 1.0))

    given = an.handlers.condition({"z": torch.tensor(0.5)})
    within, around = an.record()(given(program)), an.record()(program)
    within()
    with given:
        around()
    assert within.trace["z"].is_observed
    assert around.trace["z"].is_observed


def test_a_node_prints_what_it_is_and_not_its_values(p: Tensor) -> None:
    with an.record() as trace:
        z = d.Bernoulli(p).sample()
        an.sample("x", d.Normal(z, 1.0), obs=torch.zeros(4, 3))
        an.cost("c", z * 2)
    places = [node.location for node in trace.values()]
    assert [repr(node) for node in trace.values()] == [
        f"Node('z': sample of Bernoulli [4, 3], at {places[0]})",
        f"Node('x': sample of Normal [4, 3], observed, parents z, at {places[1]})",
        f"Node('c': cost [4, 3], parents z, at {places[2]})",
    ]


def test_a_copy_is_not_recorded_into(p: Tensor) -> None:
    with an.record() as trace:
        d.Bernoulli(p).sample()
        twin = trace.copy()
        d.Bernoulli(p).sample()
    assert (len(twin), len(trace)) == (1, 2)


def test_outside_a_recording_all_but_the_distributions_of_torch_is_untouched(p: Tensor) -> None:
    def functions() -> list[object]:
        methods = [vars(Coin).get(n) for n in ("sample", "rsample", "log_prob")]
        return [*methods, torch.bernoulli, Tensor.bernoulli_, torch.normal, Tensor.__add__]

    before = functions()
    with an.record():
        during = functions()
        assert isinstance(d.Bernoulli(p).sample(), an.ProvenanceTensor)
    assert all(a is b for a, b in zip(before, functions(), strict=True))
    assert any(a is not b for a, b in zip(before, during, strict=True))
    assert type(d.Bernoulli(p).sample()) is Tensor
    assert type(torch.bernoulli(p)) is Tensor
    assert Tensor.__init_subclass__ is not None  # who asks gives it back
    assert "__init_subclass__" not in vars(Tensor)


def test_a_model_that_raises_leaves_torch_untouched_and_the_trace_readable(p: Tensor) -> None:
    an.restore_torch()
    before = vars(d.Bernoulli)["sample"]
    with pytest.raises(ZeroDivisionError), an.record() as trace:
        _draw_and_fail(p)
    an.restore_torch()
    assert vars(d.Bernoulli)["sample"] is before
    assert list(trace) == ["z"]
    assert trace["z"].value.shape == (4, 3)
    assert local.traces == ()


def _draw_and_fail(p: Tensor) -> float:
    z = d.Bernoulli(p).sample()
    return float(z.sum()) / 0


def test_a_distribution_that_raises_does_not_stop_the_recording(p: Tensor) -> None:
    with an.record() as trace:
        with pytest.raises(NotImplementedError):
            d.Bernoulli(p).rsample()
        d.Bernoulli(p).sample()
    assert len(trace) == 1


def test_an_inner_recording_shares_its_sites_with_the_outer(p: Tensor) -> None:
    with an.record() as outer:
        a = d.Bernoulli(p).sample()
        with an.record() as inner:
            b = d.Bernoulli(a * 0.5 + 0.1).sample()
        c = (a + b).sum()
    assert (list(outer), list(inner)) == (["a", "b"], ["b"])
    assert inner["b"] is outer["b"]
    an.backward(c)
    assert p.grad is not None


def test_a_recording_is_used_once() -> None:
    recording = an.record()
    with recording:
        pass
    with pytest.raises(RuntimeError, match="make a new one"):
        recording.__enter__()


def test_every_thread_has_its_own_recording(p: Tensor) -> None:
    started, finish = threading.Barrier(3), threading.Barrier(3)
    found: dict[int, list[str]] = {}

    def run(number: int, draws: int) -> None:
        with an.record() as trace:
            started.wait()
            for _ in range(draws):
                d.Bernoulli(p).sample()
                torch.bernoulli(p)
            finish.wait()
        found[number] = list(trace)

    threads = [threading.Thread(target=run, args=(i, i + 1)) for i in range(2)]
    for thread in threads:
        thread.start()
    started.wait()
    assert type(d.Bernoulli(p.detach()).sample()) is Tensor  # this thread records nothing
    assert type(torch.bernoulli(p.detach())) is Tensor
    d.Bernoulli(p).sample()
    finish.wait()
    for thread in threads:
        thread.join()
    assert [len(found[i]) for i in range(2)] == [2, 4]
    an.restore_torch()
    assert not hasattr(vars(d.Bernoulli)["sample"], "__wrapped__")


def test_a_settled_recording_is_freed_without_the_collector(p: Tensor) -> None:
    gc.collect()
    gc.disable()
    try:
        with an.record() as trace:
            loss = d.Bernoulli(p).sample().sum()
        node = weakref.ref(trace["bernoulli"])
        an.backward(loss)
        del trace, loss
        assert node() is None
    finally:
        gc.enable()


def test_costs_are_declared_once() -> None:
    with an.record() as trace:
        an.cost("energy", torch.ones(2))
        with pytest.raises(SiteError, match="'energy' is declared twice"):
            an.cost("energy", torch.ones(2))
    assert trace["energy"].type == "cost"
    with pytest.raises(TypeError, match="cost 'x' is a float"):
        an.cost("x", 1.0)  # type: ignore[arg-type]


def test_a_recording_ends_though_its_end_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("ancestral.trace.recording.record.leaves_of_scores", failing)
        with pytest.raises(ZeroDivisionError), an.record() as trace:
            pass
    assert not trace.is_open
    assert type(d.Bernoulli(torch.tensor(0.5)).sample()) is Tensor

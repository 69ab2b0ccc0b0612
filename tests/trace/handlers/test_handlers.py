"""Handlers: the laws that hold of each, and of any composition, for random programs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from programs.statements import Statements, statements
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral import handlers
from ancestral.provenance.algebra.source_alignments import claimed
from ancestral.trace.recording.message import handlers as open_handlers


def ran(program: Callable[[], object], *around: handlers.Handler) -> an.Trace:
    """Return the trace of a program with these handlers around it, the first outermost."""
    for handler in reversed(around):
        program = handler(program)
    with an.record() as trace:
        handlers.seed(0)(program)()
    return trace


def sites(trace: an.Trace) -> dict[str, an.Node]:
    return {name: node for name, node in trace.items() if node.type == "sample"}


def assert_same(a: an.Trace, b: an.Trace) -> None:
    """Assert that two traces have the same sites: values, densities, parents, flags, weights."""
    assert list(sites(a)) == list(sites(b))
    for x, y in zip(sites(a).values(), sites(b).values(), strict=True):
        assert torch.equal(x.value, y.value)
        torch.testing.assert_close(x.log_prob, y.log_prob, rtol=0, atol=0)
        assert (x.is_observed, x.parents) == (y.is_observed, y.parents)
        assert x.param_provenance is None or y.param_provenance is None or edges(x) == edges(y)


def edges(node: an.Node) -> set[tuple[str, object]]:
    assert node.param_provenance is not None
    claims = claimed(node.param_provenance)
    return {(source.name, kept) for source in claims for kept in claims[source]}


@given(statements())
def test_replay_of_a_trace_reproduces_it(program: Statements) -> None:
    first = ran(program)
    with an.record() as second, handlers.replay(first):
        program()
    assert_same(first, second)
    assert not any(node.is_drawn for node in sites(second).values())


@given(statements())
def test_replay_of_a_part_draws_the_rest(program: Statements) -> None:
    first = ran(program)
    chosen = set(program.latent[::2])
    part = first.copy()
    with (
        an.record() as second,
        handlers.block(where=lambda r: r.name in chosen),
        handlers.replay(part),
    ):
        program()
    # Hidden from the recording, but answered by the handler within.
    assert set(sites(second)) == set(program.names) - chosen


@given(statements(), st.data())
def test_condition_and_then_uncondition_is_the_identity(
    program: Statements, data: st.DataObject
) -> None:
    program = Statements(tuple(s for s in program.sites if not s.is_observed and not s.parents))
    chosen = (
        data.draw(st.lists(st.sampled_from(program.names), unique=True)) if program.sites else []
    )
    values = program.data(chosen)
    assert_same(ran(program), ran(program, handlers.uncondition(), handlers.condition(values)))
    conditioned = ran(program, handlers.condition(values), handlers.uncondition())
    assert {n for n, node in sites(conditioned).items() if node.is_observed} == set(chosen)


@given(statements(), st.data())
def test_condition_observes_what_it_names_and_nothing_else(
    program: Statements, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(program.names), unique=True))
    values = program.data(chosen)
    trace = ran(program, handlers.condition(values))
    for name, node in sites(trace).items():
        assert node.is_observed is (name in chosen or name not in program.latent)
        assert name not in chosen or torch.equal(node.value, values[name])
    assert graph(trace) == graph(ran(program))  # data explains what it explained as a draw


def graph(trace: an.Trace) -> set[tuple[str, str]]:
    return {(edge.parent, edge.child) for edge in trace.graph.edges}


@given(statements(), st.data())
def test_block_hides_exactly_what_it_names(program: Statements, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(program.names), unique=True, min_size=1))
    everything = ran(program)
    hidden = ran(program, handlers.block(*chosen))
    assert set(sites(hidden)) == set(program.names) - set(chosen)
    exposed = ran(program, handlers.expose(*chosen))
    assert set(sites(exposed)) == set(chosen)
    for trace in (hidden, exposed):  # the same draws, seen or not
        for name, node in sites(trace).items():
            assert torch.equal(node.value, everything[name].value)


@given(statements(), st.floats(0.1, 4), st.floats(0.1, 4), st.booleans(), st.booleans(), st.data())
def test_scales_and_masks_multiply(
    program: Statements, a: float, b: float, m: bool, n: bool, data: st.DataObject
) -> None:
    plain = ran(program)
    weights = [
        handlers.scale(a),
        handlers.scale(b),
        handlers.mask(m),
        handlers.mask(torch.tensor(n)),
    ]
    for name, node in sites(ran(program, *data.draw(st.permutations(weights)))).items():
        expected = plain[name].log_prob * (a * b if m and n else 0)
        torch.testing.assert_close(node.log_prob, expected)
        torch.testing.assert_close(node.unscaled_log_prob, plain[name].log_prob)
        assert torch.equal(node.value, plain[name].value)


@given(statements(), st.data())
def test_handlers_of_different_sites_compose_in_any_order(
    program: Statements, data: st.DataObject
) -> None:
    names = data.draw(st.permutations(program.names))
    thirds = [list(names[i::3]) for i in range(3)]
    made = [
        handlers.condition(program.data(thirds[0])),
        handlers.substitute(program.data([n for n in thirds[1] if n in program.latent])),
        handlers.scale(0.5),
        handlers.infer_config(lambda message: {"seen": message.name}),
    ]
    trace = ran(program, *data.draw(st.permutations(made)))
    assert_same(ran(program, *made), trace)
    assert all(node.infer["seen"] == name for name, node in sites(trace).items())


@given(statements(), st.data())
def test_do_cuts_a_site_off_from_its_parents_and_keeps_its_children(
    program: Statements, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(program.names), unique=True, min_size=1))
    values = program.data(chosen)
    before, after = ran(program), ran(program, handlers.do(values))
    assert set(sites(after)) == set(program.names) - set(chosen)
    for name in chosen:
        assert after[name].type == "deterministic"
        assert torch.equal(after[name].value, values[name])
    expected = {(p, c) for p, c in graph(before) if c not in chosen}
    assert graph(after) == expected


@given(statements())
def test_substitute_is_replay_with_values_of_ones_own(program: Statements) -> None:
    first = ran(program)
    values = {name: node.value for name, node in sites(first).items() if not node.is_observed}
    assert_same(first, ran(program, handlers.substitute(values)))


def pair() -> Tensor:
    z = an.sample("z", Normal(0.0, 1.0))
    return an.sample("x", Normal(z, 1.0))


def test_a_block_of_everything_leaves_an_inner_recording_as_it_is() -> None:
    with an.record() as outer, handlers.block(), an.record() as inner:
        pair()
    assert list(inner) == ["z", "x"]
    assert not outer
    assert [node.name for node in outer.everything] == ["z", "x"]


def test_a_hidden_draw_connects_what_it_connects() -> None:
    with an.record() as trace:
        a = an.sample("a", Normal(0.0, 1.0))
        with handlers.block():
            h = an.sample("h", Normal(a, 1.0))
        an.sample("x", Normal(h, 1.0))
        an.sample("y", Normal(h, 1.0))
    assert list(trace) == ["a", "x", "y"]
    assert not trace.graph.d_separated("a", "x")
    assert not trace.graph.d_separated("x", "y", given="a")
    assert [v.name for v in trace.graph.vertices] == ["a", "h (hidden)", "x", "y"]


def test_the_score_of_a_hidden_draw_counts() -> None:
    logits = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def program() -> Tensor:
        z = an.sample("z", Bernoulli(logits=logits))
        return (z - 0.45) ** 2

    gradients = []
    for hidden in (False, True):
        torch.manual_seed(4)
        with an.record() as trace:
            loss = handlers.block("z")(program)() if hidden else program()
        an.backward(loss)
        assert ("z" in trace) is not hidden
        assert logits.grad is not None
        gradients.append(logits.grad.clone())
        logits.grad = None
    assert gradients[0] == gradients[1] != 0


def test_seed_has_a_stream_of_its_own_that_goes_on() -> None:
    torch.manual_seed(0)
    alone = torch.rand(2)
    torch.manual_seed(0)
    first = torch.rand(1)
    stream = handlers.seed(3)
    with stream:
        a = pair()
        noise = torch.randn(2)
    second = torch.rand(1)
    with stream:
        b = pair()
    assert torch.equal(torch.cat([first, second]), alone)
    assert a != b
    with handlers.seed(torch.Generator().manual_seed(3)):
        assert torch.equal(pair(), a)
        assert torch.equal(torch.randn(2), noise)


def test_an_error_of_the_program_is_not_covered_up_by_an_unknown_site() -> None:
    with pytest.raises(ZeroDivisionError), handlers.condition({"y": torch.tensor(0.0)}):
        raise ZeroDivisionError


def test_replay_of_another_shape_names_both_places() -> None:
    with an.record() as first:
        an.sample("z", Normal(torch.zeros(3), 1.0))
    with pytest.raises(an.errors.HandlerError) as error, handlers.replay(first):
        an.sample("z", Normal(torch.zeros(2), 1.0))
    assert "whose value has shape [3]; expected [2]" in str(error.value)
    assert str(error.value).count(f"{__file__}:") == 2


def test_replayed_indices_of_a_subsampled_plate_are_those_of_the_trace() -> None:
    data = torch.arange(50.0)

    def program() -> None:
        with an.plate("data", 50, subsample_size=5):
            an.sample("x", Normal(0.0, 1.0), obs=an.subsample(data))

    with an.record() as first:
        program()
    with an.record() as second, handlers.replay(first):
        program()
    with an.record() as third:
        program()
    assert torch.equal(first["data"].value, second["data"].value)
    assert torch.equal(first["x"].value, data[first["data"].value])
    assert not torch.equal(first["data"].value, third["data"].value)


def test_a_site_that_is_set_within_cannot_be_observed_around() -> None:
    one, two = ({"z": torch.tensor(v)} for v in (1.0, 2.0))

    def program() -> None:
        an.sample("z", Normal(0.0, 1.0))

    with pytest.raises(
        an.errors.SiteError, match=r"'z' \(.*is set by do, within a block that is to cond"
    ):
        handlers.condition(one)(handlers.do(two)(program))()
    with an.record() as trace:
        handlers.do(two)(handlers.condition(one)(program))()
    assert (trace["z"].type, trace["z"].value.item()) == ("deterministic", 2.0)


def test_a_factor_is_no_data_that_is_forgotten() -> None:
    def program() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        an.sample("x", Normal(z, 1.0), obs=torch.tensor(0.3))
        an.factor("f", -(z**2))

    with an.record() as trace:
        handlers.uncondition()(program)()
    assert [node.name for node in trace.stochastic_nodes] == ["z", "x"]
    assert torch.equal(trace["f"].log_prob, -(trace["z"].value ** 2))


def test_a_part_of_a_plate_is_not_replayed_from_a_plate_of_another_size() -> None:
    def program(size: int, part: int | None = None) -> an.Trace:
        with an.record() as trace, an.plate("data", size, part) as index:
            an.sample("z", Normal(torch.zeros(len(index)), 1.0))
        return trace

    message = r"plate 'data' \(.*with size 10 and subsample_size 3; expected size 5 and subsample"
    with pytest.raises(an.errors.SiteError, match=message), handlers.replay(program(10, 3)):
        program(5, 3)  # whose rows 0 to 4 are not rows 0 to 9
    with pytest.raises(an.errors.SiteError, match="expected size 10 and subsample_size 4"):
        handlers.replay(program(10, 3))(program)(10, 4)
    hidden = handlers.block(where=lambda message: message.kind == "sample")
    with pytest.warns(an.errors.NoEffectWarning), handlers.replay(program(10)), hidden:
        assert program(20)["data"].value.tolist() == list(range(20))  # other data, all of it


def test_what_is_computed_in_a_trace_is_not_drawn_anew_in_its_replay() -> None:
    def program() -> torch.Tensor:
        return an.sample("z", Normal(3.0, 0.5))

    halves = handlers.reparam({"z": handlers.LocScale()})
    with an.record() as computed:
        halves(program)()
    with pytest.raises(
        an.errors.SiteError, match=r"'z' \(.*is a computed value.*expected the same hand"
    ):
        handlers.replay(computed)(program)()
    for handled in (
        handlers.replay(computed)(halves(program)),
        halves(handlers.replay(computed)(program)),
    ):
        assert torch.equal(handled(), computed["z"].value)
    with handlers.substitute({"z": computed["z"].value}):
        assert torch.equal(program(), computed["z"].value)


@pytest.mark.parametrize("verb", [handlers.mask, handlers.scale])
def test_weights_that_do_not_fit_each_other_name_the_site(verb: Any) -> None:
    three, four = (
        torch.ones(n, dtype=torch.bool if verb is handlers.mask else None) for n in (3, 4)
    )

    def program() -> None:
        an.sample("z", Normal(torch.zeros(3), 1.0))

    for handled in (verb(three)(verb(four)(program)), verb(four)(verb(three)(program))):
        with pytest.raises(
            an.errors.SiteError, match=r"'z' \(.*has shape \[4\]; expected .*batch \[3\]"
        ):
            handled()


def test_a_scale_is_looked_at_as_data() -> None:
    with an.record() as trace:
        z = an.sample("z", Bernoulli(torch.tensor(0.5)))
        with handlers.scale(1 + z):
            an.sample("x", Normal(0.0, 1.0))
    assert trace.escapes == ()
    assert trace["x"].parents == frozenset()


def test_a_seed_that_is_open_already_goes_on() -> None:
    with handlers.seed(1):
        expected = torch.randn(4)
    again = handlers.seed(1)
    before = torch.get_rng_state()
    with again:
        first = torch.randn(1)
        with handlers.seed(7):
            torch.randn(5)
            with again:
                second = torch.randn(1)
        with again:
            third = torch.randn(1)
        fourth = torch.randn(1)
    assert torch.equal(torch.cat([first, second, third, fourth]), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_within_any_handler_leaves_nothing_open() -> None:
    values = {"z": torch.tensor(1.0)}
    opened: tuple[handlers.Handler, ...] = (
        *(handlers.condition(values), handlers.do(values), handlers.substitute(values)),
        *(handlers.uncondition(), handlers.block("z"), handlers.expose("z"), handlers.mask(True)),
        *(handlers.scale(2.0), handlers.seed(0), handlers.infer_config(lambda message: {})),
        *(handlers.reparam({"z": handlers.LocScale()}), handlers.lift(Normal(0.0, 1.0))),
        handlers.enumerate(-3),
    )

    def program() -> None:
        raise LookupError("of the program")

    before = torch.get_rng_state()
    handled: Callable[[], None] = program
    for handler in opened:
        handled = handler(handled)
    for _ in range(2):
        with pytest.raises(LookupError, match="of the program"):
            handled()
    assert open_handlers() == ()
    assert torch.equal(torch.get_rng_state(), before)
    with an.record() as trace:
        an.sample("z", Normal(0.0, 1.0))
    assert trace["z"].is_drawn

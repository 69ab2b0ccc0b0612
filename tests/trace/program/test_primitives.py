"""Primitives: what each leaves in a trace, what it returns, and every wrong use."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs.estimates import library
from torch import Tensor
from torch import distributions as d

import ancestral as an
from ancestral.errors import SiteError
from ancestral.trace.program.checks import SupportError
from oracles import exact_gradient, mean_and_truth, moments


def test_outside_a_recording_a_sample_is_a_plain_draw() -> None:
    torch.manual_seed(0)
    z = an.sample("z", d.Normal(torch.zeros(3), 1.0))
    torch.manual_seed(0)
    assert torch.equal(z, d.Normal(torch.zeros(3), 1.0).sample())
    assert type(z) is Tensor
    x = torch.ones(3)
    assert an.sample("x", d.Normal(z, 1.0), obs=x) is x
    assert an.deterministic("y", x) is x
    an.factor("f", x)


def test_a_sample_is_a_site_with_the_name_and_the_line_of_the_program() -> None:
    with an.record() as trace:
        z = an.sample("first", d.Normal(torch.zeros(3), 1.0), infer={"a": 1})
        an.sample("second", d.Bernoulli(logits=z * 2))
    first, second = trace.values()
    assert (first.name, first.type, first.is_reparameterized) == ("first", "sample", True)
    assert not second.is_reparameterized
    assert second.parents == {"first"}
    assert first.infer == {"a": 1}
    assert first.source_location.filename == __file__
    assert second.source_location.line == first.source_location.line + 1
    assert [n.name for n in trace.stochastic_nodes] == ["first", "second"]
    assert [n.name for n in trace.reparameterized_nodes] == ["first"]


def test_plain_torch_and_primitives_give_the_same_trace() -> None:
    def by_torch() -> None:
        z = d.Normal(torch.zeros(3), 1.0).rsample()
        d.Bernoulli(logits=z.sum()).sample()

    def by_name() -> None:
        z = an.sample("z", d.Normal(torch.zeros(3), 1.0))
        an.sample("bernoulli", d.Bernoulli(logits=z.sum()))

    traces = []
    for program in (by_torch, by_name):
        torch.manual_seed(0)
        with an.record() as trace:
            program()
        traces.append(trace)
    a, b = traces
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name].value, b[name].value)
        assert a[name].parents == b[name].parents
        assert a[name].shape == b[name].shape
    assert str(a.graph) == str(b.graph)


def test_the_densities_of_a_site_are_of_cases_of_elements_and_of_all() -> None:
    fn = d.Independent(d.Normal(torch.zeros(4, 3), torch.ones(3)), 1)
    scale, mask = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, False, True, True])
    with an.record() as trace, an.handlers.scale(scale), an.handlers.mask(mask):
        z = an.sample("z", fn)
    node, value = trace["z"], an.untrack(z)
    torch.testing.assert_close(node.unscaled_log_prob, fn.log_prob(value))
    torch.testing.assert_close(node.log_prob, fn.log_prob(value) * scale * mask)
    torch.testing.assert_close(node.elementwise_log_prob, fn.base_dist.log_prob(value))
    torch.testing.assert_close(node.log_prob_sum, node.log_prob.sum())
    torch.testing.assert_close(trace.log_prob_sum(), node.log_prob.sum())
    tracked = node.tracked_log_prob
    torch.testing.assert_close(an.untrack(tracked).sum(-1), node.log_prob)
    assert an.provenance_of(tracked) == {"z"}


@pytest.mark.parametrize("is_mixture", [True, False])
def test_to_ask_for_a_density_leaves_no_parameter_without_its_sources(is_mixture: bool) -> None:
    """What a distribution computes at first use, and keeps, is asked for by others later."""
    with an.record() as trace:
        z = an.sample("z", d.Normal(torch.zeros(3), 1.0))
        q: Any = d.Categorical(probs=torch.softmax(z, -1))
        fn = d.MixtureSameFamily(q, d.Normal(torch.zeros(3), 1.0)) if is_mixture else q
        an.sample("y", fn, infer={})
        assert torch.isfinite(trace["y"].log_prob)
        assert an.provenance_of(q.logits) == {"z"}


def test_an_infinite_density_that_is_masked_counts_for_nothing() -> None:
    with an.record() as trace, an.handlers.mask(torch.tensor([True, False])):
        an.sample("x", d.Poisson(torch.tensor([2.0, 0.0])), obs=torch.tensor([1.0, 3.0]))
    assert torch.isfinite(trace.log_prob_sum())
    assert torch.isfinite(trace["x"].tracked_log_prob.sum())


def test_data_is_a_source_that_nothing_is_upstream_of() -> None:
    """A cost that is computed from data is no credit of what the data was drawn from."""
    logits = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    data = torch.tensor(1.0, dtype=torch.float64)

    def program(logits: Tensor) -> Tensor:
        z = an.sample("z", d.Bernoulli(logits=logits))
        x = an.sample("x", d.Normal(z, torch.ones((), dtype=torch.float64)), obs=data)
        return 100 * x + z

    with an.record() as trace:
        loss = program(logits)
    assert an.provenance_of(loss) == {"x", "z"}
    assert {(e.parent, e.child) for e in trace.graph.edges} == {("z", "x")}
    exact = exact_gradient(program, [logits])
    found = moments(program, [logits], library())
    torch.testing.assert_close(found.mean, exact)
    z_alone = moments(lambda t: an.sample("z", d.Bernoulli(logits=t)), [logits], library())
    torch.testing.assert_close(found.variance, z_alone.variance)


def test_python_may_branch_on_data() -> None:
    with an.record(control="error") as trace:
        x = an.sample("x", d.Normal(0.0, 1.0), obs=torch.tensor(0.3))
        if x > 0:
            an.sample("z", d.Normal(x, 1.0))
        with pytest.raises(an.errors.EscapeError):
            bool(an.sample("w", d.Normal(x, 1.0)) + x > 0)
    assert not trace.escapes
    assert trace["z"].parents == {"x"}


@pytest.mark.parametrize("is_factor", [True, False])
def test_trace_backward_sums_observed_sites_factors_and_costs(is_factor: bool) -> None:
    logits = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    one = torch.ones((), dtype=torch.float64)

    def program(logits: Tensor) -> Tensor:
        with an.plate("data", 2):
            z = an.sample("z", d.Bernoulli(logits=logits))
            x = an.sample("x", d.Normal(z, one), obs=torch.full((2,), 0.7, dtype=torch.float64))
            if is_factor:
                an.factor("f", -(z * logits))
            an.cost("c", z**2)
        other = z * logits if is_factor else 0 * z
        density = d.Normal(an.untrack(z), one).log_prob(an.untrack(x))
        return (z**2 + other).sum() - density.sum()  # type: ignore[no-any-return]

    def estimate(program: Any, parameters: Any) -> Tensor:
        for parameter in parameters:
            parameter.grad = None
        with an.record() as trace:
            program(*parameters)
        trace.backward()
        return torch.cat([p.grad.reshape(-1) for p in parameters])

    torch.testing.assert_close(*mean_and_truth(program, [logits], estimate))


def test_plates_expand_the_batch() -> None:
    with an.record() as trace, an.plate("a", 3, dim=-1):
        a = an.sample("a_site", d.Normal(0.0, 1.0))
        with an.plate("b", 2, dim=-2):
            b = an.sample("b_site", d.Independent(d.Normal(torch.zeros(3, 5), 1.0), 1))
            c = an.sample("c_site", d.Normal(a, 1.0))
    assert (tuple(a.shape), tuple(b.shape), tuple(c.shape)) == ((3,), (2, 3, 5), (2, 3))
    assert [p.name for p in trace["b_site"].cond_indep_stack] == ["a", "b"]


def test_observations_broadcast_and_never_multiply() -> None:
    with an.record() as trace:
        an.sample("a", d.Normal(torch.zeros(2, 3), 1.0), obs=torch.ones(3))
        an.sample("b", d.Normal(0.0, 1.0), obs=torch.ones(4))
        an.sample("c", d.Categorical(logits=torch.zeros(2, 3)), obs=torch.tensor([0, 2]))
    assert [tuple(n.log_prob.shape) for n in trace.values()] == [(2, 3), (4,), (2,)]
    with pytest.raises(SiteError) as error, an.record():
        an.sample("d", d.Normal(torch.zeros(4), 1.0), obs=torch.ones(4, 1))
    text = str(error.value)
    assert f"site 'd' ({__file__}:" in text
    assert "the observed value has shape [4, 1]; expected [4]" in text


BAD: list[tuple[d.Distribution, Any, type[Exception], str]] = [
    (d.Normal(0.0, 1.0), 0.5, SiteError, "must be a torch.Tensor, not a float"),
    (d.Normal(0.0, 1.0), torch.tensor(1), SiteError, "floating dtype"),
    (d.Normal(0.0, 1.0), torch.tensor(True), SiteError, "not torch.bool"),
    (d.MultivariateNormal(torch.zeros(3), torch.eye(3)), torch.ones(2), SiteError, "[3]"),
    (d.Normal(torch.zeros(2, 3), 1.0), torch.ones(2), SiteError, "expected [2, 3]"),
    (d.LogNormal(0.0, 1.0), torch.tensor(-1.0), SupportError, "GreaterThan"),
    (d.Bernoulli(0.5), torch.tensor([0.0, 0.5, 2.0]), SupportError, "2 of 3 elements"),
    (d.Bernoulli(0.5), torch.tensor(0.5), SupportError, "with validate_args=False"),
    (d.Categorical(logits=torch.zeros(3)), torch.tensor(3), SupportError, "first of them 3"),
    (d.Normal(0.0, 1.0), torch.tensor(float("nan")), SupportError, "Normal: 1 of 1 elements"),
    (d.Dirichlet(torch.ones(2)), torch.tensor([0.5, 0.6]), SupportError, "Simplex"),
]


@pytest.mark.parametrize(("fn", "obs", "kind", "part"), BAD)
def test_a_bad_observation_names_the_site_the_line_and_both_sides(
    fn: d.Distribution, obs: Any, kind: type[Exception], part: str
) -> None:
    with an.record() as trace:
        with pytest.raises(kind) as error:
            an.sample("x", fn, obs=obs)
        assert not trace
        an.sample("x", d.Normal(0.0, 1.0))  # the name is still free
    assert isinstance(error.value, an.errors.SiteError)
    assert f"site 'x' ({__file__}:" in str(error.value)
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("act", "kind", "part"),
    [
        (lambda: an.sample("", d.Normal(0.0, 1.0)), SiteError, "named ''"),
        (lambda: an.sample(3, d.Normal(0.0, 1.0)), SiteError, "named 3"),  # type: ignore[arg-type]
        (lambda: an.sample("x", 0.5), SiteError, "drawn from a float"),  # type: ignore[arg-type]
        (lambda: an.sample("z", d.Normal(0.0, 1.0)), SiteError, "'z' is declared twice"),
        (lambda: an.deterministic("z", torch.ones(1)), SiteError, "declared twice"),
        (lambda: an.factor("f", 0.3), an.errors.SiteError, "a float"),  # type: ignore[arg-type]
        (lambda: an.factor("f", torch.tensor(3)), an.errors.SiteError, "int64"),
    ],
)
def test_a_bad_statement_raises_and_leaves_the_trace(
    act: Callable[[], Any], kind: type[Exception], part: str
) -> None:
    with an.record() as trace:
        an.sample("z", d.Normal(0.0, 1.0))
        with pytest.raises(kind) as error:
            act()
        assert list(trace) == ["z"]
    assert isinstance(error.value, an.errors.SiteError)
    assert part in str(error.value)
    assert f"{__file__}:" in str(error.value)


def test_a_partly_observed_site_is_two_sites_and_a_value() -> None:
    seen = torch.tensor([True, False, True])
    data = torch.tensor([0.5, float("nan"), -1.0])
    with an.record() as trace:
        x = an.sample("x", d.Normal(torch.zeros(3), 1.0), obs=data, obs_mask=seen)
        an.sample("y", d.Normal(x, 1.0))
    assert list(trace) == ["x_unobserved", "x_observed", "x", "y"]
    free = trace["x_unobserved"].value
    assert torch.equal(an.untrack(x), torch.where(seen, data, free))
    expected = d.Normal(0.0, 1.0).log_prob(torch.where(seen, data, free))
    observed, drawn = trace["x_observed"].log_prob, trace["x_unobserved"].log_prob
    torch.testing.assert_close(observed, torch.where(seen, expected, 0))
    torch.testing.assert_close(drawn, torch.where(seen, 0, expected))
    assert trace["y"].parents == {"x"}
    assert trace["x"].parents == {"x_unobserved", "x_observed"}


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_site_may_be_observed_wholly_or_not_at_all(is_seen: bool) -> None:
    data = torch.tensor([0.5, -1.0])
    with an.record() as trace:
        x = an.sample("x", d.Normal(torch.zeros(2), 1.0), obs=data, obs_mask=is_seen)
    assert torch.equal(an.untrack(x), data) is is_seen
    counted = trace["x_observed" if is_seen else "x_unobserved"].value
    torch.testing.assert_close(trace.log_prob_sum(), d.Normal(0.0, 1.0).log_prob(counted).sum())


@pytest.mark.parametrize(
    ("obs", "obs_mask", "part"),
    [
        (torch.zeros(2), [True, False], "obs_mask must be bools in a tensor, not a list"),
        (torch.zeros(2), torch.ones(2), "obs_mask has dtype torch.float32; expected torch.bool"),
        (torch.zeros(2), torch.ones(2).int(), "obs_mask has dtype torch.int32; expected torch"),
        ([0.0, 0.0], torch.tensor([True, False]), "the observed value must be a torch.Tensor"),
    ],
)
def test_a_mask_of_what_is_observed_that_is_none_names_the_site_and_the_line(
    obs: Any, obs_mask: Any, part: str
) -> None:
    with pytest.raises(an.errors.SiteError) as error:
        an.sample("x", d.Normal(torch.zeros(2), 1.0), obs=obs, obs_mask=obs_mask)
    assert f"site 'x' ({__file__}:" in str(error.value)
    assert part in str(error.value)


def test_values_named_in_two_inner_recordings_are_numbered_in_the_outer_one() -> None:
    with an.record() as outer:
        for _ in range(2):
            with an.record() as inner:
                an.deterministic("y", torch.ones(()))
                an.sample("x", d.Normal(0.0, 1.0), obs=torch.zeros(()))
            assert list(inner) == ["y", "x"]
    assert list(outer) == ["y", "x", "y_1", "x_1"]


def test_subsample_takes_the_rows_of_each_plate() -> None:
    data = torch.arange(24.0).reshape(4, 6)
    with an.plate("rows", 4, subsample_size=2, dim=-2) as rows:
        with an.plate("columns", 6, subsample_size=3) as columns:
            part = an.subsample(data)
        whole_rows = an.subsample(data[:, 0], event_dim=0)
    assert torch.equal(part, data[rows][:, columns])
    assert tuple(whole_rows.shape) == (4,)  # has no dimension -2
    with an.plate("rows", 4, subsample_size=2):
        with pytest.raises(
            an.errors.PlateError, match=r"size 4, or that of its subsample 2, not 5"
        ):
            an.subsample(torch.zeros(5))
        assert an.subsample(torch.zeros(4, 7), event_dim=1).shape == (2, 7)
        assert an.subsample(torch.zeros(2)).shape == (2,)

"""Views: tables of shapes, the order of a trace, copies and detached traces."""

import torch
from torch.distributions import Bernoulli, Independent, Normal

import ancestral as an


def traced() -> an.Trace:
    with an.record() as trace:
        w = an.sample("w", Independent(Normal(torch.zeros(3), 1.0), 1))
        with an.plate("rows", 100, 20):
            m = an.deterministic("m", w.sum().expand(20))
            an.sample("<x>", Normal(m, 1.0), obs=torch.zeros(20))
    return trace


def test_shapes_stand_below_each_other() -> None:
    assert traced().format_shapes().splitlines() == [
        "site  what      shape     plates",
        "w     dist          |  3",
        "      value         |  3",
        "      log_prob      |",
        "rows  plate     20  |     dim -1, 20 of 100",
        "m     value     20  |     rows",
        "<x>   dist      20  |     rows",
        "      observed  20  |",
        "      log_prob  20  |",
    ]


def test_a_name_of_two_lines_is_one_line_of_a_table() -> None:
    with an.record() as trace:
        an.sample("x\ny", Normal(0.0, 1.0))
    for table in (str(trace), trace.format_shapes(), str(trace.compare(an.Trace()))):
        assert [line[:4] for line in table.splitlines() if line[0] == "x"] == [r"x\ny"]


def test_an_empty_trace_has_a_table() -> None:
    with an.record() as trace:
        pass
    assert trace.format_shapes() == "site  what  shape  plates"


def test_each_site_is_after_its_parents() -> None:
    trace = traced()
    order = trace.topological_order()
    assert sorted(order) == sorted(vertex.name for vertex in trace.graph.vertices)
    for edge in trace.graph.edges:
        assert order.index(edge.parent) < order.index(edge.child)


def test_detaching_cuts_values_and_keeps_parameters() -> None:
    loc = torch.zeros(2, requires_grad=True)
    with an.record() as trace:
        z = an.sample("z", Normal(loc, 1.0))
        an.cost("c", z.sum())
    twin = trace.copy()
    assert trace.detach_() is trace
    assert not trace["z"].value.requires_grad
    assert twin["z"].value.requires_grad
    assert trace["c"].value.requires_grad
    (gradient,) = torch.autograd.grad(trace["z"].log_prob_sum, loc)
    torch.testing.assert_close(gradient, trace["z"].value - loc)
    assert trace["z"].tracked_value is not None
    assert an.provenance_of(trace["z"].tracked_value) == {"z"}


def test_a_copy_is_left_as_it_is() -> None:
    with an.record() as trace:
        an.sample("a", Bernoulli(0.5))
        twin = trace.copy()
        an.sample("b", Bernoulli(0.5))
    assert (list(trace), list(twin)) == (["a", "b"], ["a"])


def test_a_factor_has_no_event() -> None:
    def model() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        with an.plate("rows", 4):
            an.factor("f", -(z**2) * torch.ones(4))

    with an.record() as trace:
        model()
    lines = [line.split() for line in trace.format_shapes().split("\n")]
    assert lines[-2:] == [["f", "factor", "4", "|", "rows"], ["log_prob", "4", "|"]]
    assert "Factor (observed)  [4] " in str(trace)
    assert "f ~ Factor[4] <- z" in str(trace.graph)
    report = str(an.infer.check_guide(model, lambda: an.sample("z", Normal(0.0, 1.0))))
    assert "f     Factor [4] in rows (" in report

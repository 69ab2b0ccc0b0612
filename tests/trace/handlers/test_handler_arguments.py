"""Arguments of handlers: wrong ones are told where the handler is made, right ones are shown."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.distributions import Normal

import ancestral as an
from ancestral import handlers as h
from ancestral.errors import SiteError

ONE, SEVEN, MIXED = torch.tensor(1.0), torch.zeros(7, 1), torch.tensor([1.0, -2.0])
PRIOR = Normal(0.0, 1.0)


def model() -> None:
    z = an.sample("z", Normal(0.0, 1.0))
    an.sample("x", Normal(z, 1.0), obs=torch.tensor(0.3))


def steps() -> Iterator[int]:
    yield 1


async def later() -> None:
    model()


VALUES = ("condition", "do", "substitute")
WRONG: list[tuple[str, type[Exception], str]] = [
    ("block(where=3)", TypeError, "block: where must be a function of a message.*not an int"),
    ("infer_config(3)", TypeError, "infer_config takes a function of a message.*not an int"),
    ("scale('x')", TypeError, "scale must be a number, or a tensor of them, not a str"),
    ("scale(True)", TypeError, "scale must be a number, or a tensor of them, not a bool"),
    ("scale(float('inf'))", ValueError, "scale must be greater than 0, and finite, not inf"),
    ("mask(3)", TypeError, "mask must be a bool, or a tensor of them, not an int"),
    ("mask(torch.ones(2))", TypeError, "mask must be a bool, or a.*not one of torch.float32"),
    ("seed('x')", TypeError, "seed takes an int, or a torch.Generator, not a str"),
    ("seed(2**64)", ValueError, "seed takes an int of 64 bits, not 18446744073709551616"),
    ("reparam(config=3)", TypeError, "reparam takes a mapping of names to strat.*, not an int"),
    ("reparam({'z': 3})", TypeError, r"by the names of sites, such as LocScale\(\), not 'z': 3"),
    ("reparam(h.LocScale())", TypeError, r"{'z': LocScale\(centered=0.0\)}.* not a strategy"),
    ("reparam(h.LocScale)", TypeError, r"{'z': LocScale\(\)}.* not a strategy itself"),
    ("LocScale('x')", TypeError, "LocScale: centered must be a number between 0 and 1.*not a str"),
    ("enumerate('x')", ValueError, "enumerate: first_dim must be a negative int.*not 'x'"),
    ("enumerate(2)", ValueError, "enumerate: first_dim must be a negative int.*not 2"),
    (
        "enumerate(first_available_dim=-2)",
        TypeError,
        r"enumerate\(first_dim=-5, \*, sites=None\): it has no argument first_available_dim=",
    ),
    ("markov(3)", TypeError, r"markov takes the steps .* range\(10\), not an int"),
    ("replay(3)", TypeError, r"replay takes a Trace, not an int; .*replay\(trace\)\(model\)"),
    ("replay(model, trace=3)", TypeError, r"replay\(trace\): .*replay\(\.\.\.\)\(model\)"),
    ("condition(3)", TypeError, "condition takes a mapping of names to values, not an int"),
    ("condition({3: ONE})", TypeError, "values by the names of sites, not by an int"),
    ("condition(data={})", TypeError, r"condition\(values\): it has no argument data=; .*\(model"),
    ("condition(model, {})", TypeError, r"condition\(values\): too many positional arguments"),
    ("uncondition(model)", TypeError, r"uncondition\(\): too many.*uncondition\(\.\.\.\)\(model"),
    ("do(data={})", TypeError, r"do\(values\): it has no argument data="),
    ("condition(model)", TypeError, r"condition\(values\)\(model\)"),
    ("do(model)", TypeError, r"do\(values\)\(model\)"),
    ("substitute(model)", TypeError, r"substitute\(values\)\(model\)"),
    ("replay(model)", TypeError, r"replay takes a Trace, not a function.*\(trace\)\(model"),
    ("block(['z'])", TypeError, "block takes names one by one.*not a list.*a star"),
    ("expose(['z'])", TypeError, "expose takes names one by one.*not a list.*a star"),
    ("block('z', where=callable)", ValueError, "either names or where="),
    *((f"LocScale({n})", ValueError, "must be between 0 and 1") for n in (-0.1, 1.5, "MIXED")),
    *(
        (f"seed({bad})", TypeError, r"seed takes an int, or a torch\.Generator")
        for bad in (1.5, True, None)
    ),
    *(
        (f"scale({bad})", ValueError, "scale must be greater than 0")
        for bad in (0.0, -1.0, "MIXED")
    ),
    *(
        (f"enumerate({bad})", ValueError, "first_dim must be a negative int")
        for bad in (0, -1.0, True, None)
    ),
    *(
        (f"markov(range(3), history={bad})", ValueError, "history must be an int, 0 or greater")
        for bad in (-1, 1.0, True, None)
    ),
    ("lift('w')", TypeError, "not a str; the program comes afterwards"),
    ("lift(None)", TypeError, "not None"),
    ("lift(3.0)", TypeError, "not a float"),
    ("lift([PRIOR])", TypeError, "not a list"),
    ("lift(Normal)", TypeError, "not the class Normal"),
    ("lift({'w': Normal})", TypeError, "'w' is the class Normal; expected a distribution"),
    ("lift({'w': 3.0})", TypeError, "'w' is a float; expected a distribution"),
    ("lift({3: PRIOR})", TypeError, "3 is no text"),
    (
        "infer_config(lambda message: None)(model)()",
        SiteError,
        r"'z' \(.*returned None; expected a mapping",
    ),
    (
        "reparam(lambda message: 3)(model)()",
        h.ReparamError,
        r"'z' \(.*an int cannot.*such as LocScale\(\)",
    ),
    (
        "reparam({'z': h.LocScale})(model)()",
        h.ReparamError,
        "the class LocScale.*expected one of it, Loc",
    ),
    *(
        (f"{verb}({{'z': 1.0}})(model)()", SiteError, r"'z'.* must be a torch.Tensor, not a flo")
        for verb in VALUES
    ),
    *(
        (f"{verb}({{'z': SEVEN}})(model)()", SiteError, r"'z' .* has shape \[7, 1\]; expected \[\]")
        for verb in ("do", "substitute")
    ),
    (
        "condition({'y': ONE})(model)()",
        h.UnknownSiteError,
        "no site 'y'; the others that it has are 'z', 'x'",
    ),
    ("seed(0)(3)", TypeError, r"seed\(...\) stands around a function, not an int"),
    (
        "seed(0)(steps)",
        TypeError,
        r"cannot stand around steps, .*open `with seed\(...\):` within it",
    ),
    ("seed(0)(later)", TypeError, "cannot stand around later, "),
    ("block(hide=['z'])", TypeError, r"block\(\*names, where=None\): it has no argument hide="),
]


@pytest.mark.parametrize(("source", "kind", "message"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_argument_is_told_where_the_handler_is_made(
    source: str, kind: type[Exception], message: str
) -> None:
    with an.record(), pytest.raises(kind, match=message):
        eval(f"h.{source}", globals())


@pytest.mark.parametrize(
    ("handler", "shown"),
    [
        (h.condition({"z": torch.zeros(2, 3)}), "condition({'z': tensor[2, 3]})"),
        (h.do({"z": ONE}), "do({'z': tensor[]})"),
        (h.substitute({"z": ONE}), "substitute({'z': tensor[]})"),
        (h.uncondition(), "uncondition()"),
        (h.block(), "block()"),
        (h.block("z", "x"), "block('z', 'x')"),
        (h.block(where=callable), "block(where=callable)"),
        (h.expose("z"), "expose('z')"),
        (h.mask(torch.tensor([True])), "mask(tensor[1])"),
        (h.scale(0.1), "scale(0.1)"),
        (h.seed(3), "seed(3)"),
        (h.lift(Normal(0.0, 1.0)), "lift(Normal(loc: 0.0, scale: 1.0))"),
        (h.infer_config(callable), "infer_config(callable)"),  # type: ignore[arg-type]
        (h.enumerate(-2), "enumerate(-2)"),
        (h.reparam({"z": h.LocScale()}), "reparam({'z': LocScale(centered=0.0)})"),
    ],
)
def test_a_handler_shows_what_it_is_given(handler: h.Handler, shown: str) -> None:
    assert repr(handler) == shown


def test_a_replay_shows_the_sites_of_its_trace() -> None:
    with an.record() as trace:
        model()
    assert repr(h.replay(trace)) == "replay(Trace(z, x))"


@pytest.mark.parametrize(
    "handler",
    [
        *(h.substitute({"zz": ONE}), h.block("zz"), h.expose("zz"), h.condition({"zz": ONE})),
        *(h.do({"zz": ONE}), h.reparam({"zz": h.LocScale()})),
    ],
)
def test_a_name_that_no_site_has_is_told(handler: h.Handler) -> None:
    message = rf"{type(handler).__name__} at .*test_handler_arguments.py:\d+: .* no site 'zz'; the "
    with pytest.raises(h.UnknownSiteError, match=message + r".*'z', 'x'; did you mean 'z'"):
        handler(model)()


def test_a_site_that_a_handler_leaves_as_it_is_is_none_that_is_missed() -> None:
    values = {"z": ONE, "x": ONE}  # x is data, which substitute leaves
    with an.record() as trace, h.substitute(values):
        model()
    assert trace["x"].value == torch.tensor(0.3)


def test_a_handler_is_open_in_many_threads_at_once() -> None:
    handled = h.condition({"z": ONE})
    inside = threading.Barrier(2)
    errors: list[BaseException] = []

    def first() -> None:
        an.sample("z", Normal(0.0, 1.0))
        inside.wait()  # the other block is open now, and closes after this one
        inside.wait()

    def second() -> None:
        inside.wait()
        inside.wait()
        an.sample("z", Normal(0.0, 1.0))

    def run(program: Callable[[], None]) -> None:
        try:
            handled(program)()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(program,)) for program in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_missing_site_of_a_trace_names_those_that_there_are() -> None:
    with an.record() as trace:
        an.sample("sigma", Normal(0.0, 1.0))
        model()
    with pytest.raises(
        an.errors.SiteError, match=r"no site 'sigm'; it has 'sigma', 'z', 'x'; did you me"
    ):
        trace["sigm"]
    with pytest.raises(KeyError):
        trace["sigm"]
    assert "sigm" not in trace
    assert trace.get("sigm") is None
    assert trace.get("sigm", 3) == 3
    assert trace.get("x") is trace["x"]


TRACES: list[Callable[[Any], Any]] = [
    an.infer.suggest_guide_order,
    an.infer.prior_dependencies,
    an.infer.posterior_dependencies,
    an.infer.log_marginal,
    an.infer.marginals,
    lambda given: an.infer.negative_elbo(given, given),
]


@pytest.mark.parametrize("ask", TRACES)
def test_a_program_in_the_place_of_a_trace_is_told_how_to_be_one(ask: Callable[[Any], Any]) -> None:
    with pytest.raises(
        TypeError, match=r"takes a Trace, not a function; record .*an.record\(\) as"
    ):
        ask(model)
    with pytest.raises(TypeError, match=r"takes a Trace, not None; it is what `with an.record"):
        ask(None)
    with an.record() as trace:
        model()
    with pytest.raises(TypeError, match=r"takes a Trace, not a Graph"):
        ask(trace.graph)


PROGRAMS: list[Callable[[Any], Any]] = [
    lambda given: an.infer.check_guide(given, model),
    lambda given: an.infer.check_guide(model, given),
    lambda given: an.infer.elbo(model, given),
    lambda given: an.infer.importance(given),
    lambda given: an.infer.importance(model, given),
    lambda given: an.infer.Predictive(given, samples=2),
    lambda given: an.infer.Predictive(model, guide=given, samples=2),
    lambda given: an.infer.to_inference_data(given, posterior={}),
]


@pytest.mark.parametrize("ask", PROGRAMS)
def test_a_trace_in_the_place_of_a_program_is_told(ask: Callable[[Any], Any]) -> None:
    with an.record() as trace:
        model()
    with pytest.raises(
        TypeError, match=r"takes the (model|guide).* as a function, not a Trace; gi"
    ):
        ask(trace)
    with pytest.raises(TypeError, match=r"as a function, not an int; give .*without calling it"):
        ask(3)


def test_the_graph_of_a_trace_is_an_attribute_of_it() -> None:
    with an.record() as trace:
        model()
    ask: Any = an.graph
    with pytest.raises(TypeError, match=r"the graph of a trace is trace\.graph"):
        ask(trace)

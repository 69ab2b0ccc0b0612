"""What would have no effect: a handler around nothing that it could change, a key nobody reads."""

import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal

import ancestral as an
from ancestral.trace import handlers as h
from ancestral.trace.handlers import enumerate as enumeration

P = torch.tensor([0.2, 0.3, 0.5]).double()
DATA = torch.tensor([0.3, -1.0])


def coin() -> Tensor:
    return an.sample("z", Bernoulli(torch.tensor(0.3)))


def drawn(program: Callable[[], object]) -> an.Trace:
    with an.record() as trace:
        program()
    return trace


def own_likelihood() -> Tensor:
    loss: Tensor = -Normal(torch.zeros(2), 1.0).log_prob(DATA).sum()
    return loss


IDLE: dict[str, tuple[Callable[[], h.Handler], Callable[[], object]]] = {
    "scale": (lambda: h.scale(0.1), own_likelihood),
    "mask": (lambda: h.mask(DATA > 0), own_likelihood),
    "mask of a parameter": (lambda: h.mask(DATA > 0), lambda: an.param("w", DATA)),
    "infer_config": (lambda: h.infer_config(lambda _: {"enumerate": False}), own_likelihood),
    "lift": (lambda: h.lift(Normal(0.0, 1.0)), coin),
    "lift by a function": (lambda: h.lift(lambda _: Normal(0.0, 1.0)), coin),
    "replay": (lambda: h.replay(drawn(coin)), lambda: an.sample("other", Normal(0.0, 1.0))),
    "replay of nothing": (lambda: h.replay(drawn(coin)), own_likelihood),
    "a site that is hidden": (lambda: h.scale(0.1), h.block()(coin)),
}


def within(handler: h.Handler, program: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with handler:
            program()

    return run


@pytest.mark.parametrize("is_function", [False, True])
@pytest.mark.parametrize("name", IDLE)
def test_a_handler_that_changes_nothing_is_told_once_a_line(name: str, is_function: bool) -> None:
    make, program = IDLE[name]
    with warnings.catch_warnings(record=True) as told, an.ParamStore():
        warnings.simplefilter("default")
        for _ in range(3):
            handler = make()
            (handler(program) if is_function else within(handler, program))()
    verb = type(handler).__name__
    assert [w.category for w in told] == [an.errors.NoEffectWarning]
    assert re.match(
        rf"{verb} at .*test_no_effect.py:\d+ had no effect: its block", str(told[0].message)
    )
    assert told[0].filename == __file__


def a_model() -> None:
    w = an.param("w", DATA)
    an.observe("x", Normal(w + coin(), 1.0), DATA)


@pytest.mark.parametrize(
    "make",
    [
        lambda: h.scale(0.1),
        lambda: h.mask(True),
        lambda: h.infer_config(lambda _: {}),
        lambda: h.lift(Normal(0.0, 1.0)),
        lambda: h.lift(lambda _: None),
        lambda: h.replay(drawn(coin)),
        lambda: h.replay(drawn(lambda: None)),
        lambda: h.replay(drawn(lambda: an.observe("y", Normal(0.0, 1.0), DATA))),
        h.uncondition,
        enumeration,
    ],
)
def test_a_handler_that_has_something_to_change_is_not_told_of(
    make: Callable[[], h.Handler],
) -> None:
    with an.ParamStore(), make():
        a_model()


def test_priors_within_priors_are_not_told_of() -> None:
    with h.lift(Normal(0.0, 1.0)), h.lift({"w": Normal(100.0, 1.0)}):
        an.param("w", DATA)


def test_a_block_that_raises_is_not_told_of() -> None:
    with pytest.raises(ZeroDivisionError), h.scale(0.5):
        1 / 0  # noqa: B018


# Keys of infer.


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("enumerat", "did you mean 'enumerate'"),
        ("enumerated", "did you mean 'enumerate'"),
        ("is_auxilary", "did you mean 'is_auxiliary'"),
        ("num_samples", "an.handlers.enumerate"),
        ("expand", "first_dim"),
    ],
)
@pytest.mark.parametrize("is_configured", [False, True])
def test_a_key_of_infer_that_nothing_reads_is_refused(
    key: str, advice: str, is_configured: bool
) -> None:
    infer = {} if is_configured else {key: True}
    config = h.infer_config(lambda _: {key: True} if is_configured else {})
    pattern = rf"site 'z' \(.*\): nothing reads '{key}' in its infer: .*{advice}"
    with pytest.raises(an.errors.SiteError, match=pattern), config:
        an.sample("z", Categorical(P), infer=infer)


def test_a_key_of_the_users_own_stays_in_infer() -> None:
    trace = drawn(lambda: an.sample("z", Categorical(P), infer={"rank": 1, "note": "ours"}))
    assert trace["z"].infer == {"rank": 1, "note": "ours"}


# Draws of plain torch within `enumerate`.


PLAIN = [
    lambda p: Categorical(p).sample(),
    lambda p: Bernoulli(p).sample((2,)),
    lambda p: Independent(Bernoulli(p), 1).sample(),
    torch.bernoulli,
    lambda p: torch.multinomial(p, 2, replacement=True),
]


@pytest.mark.parametrize("draw", PLAIN)
def test_draws_of_plain_torch_are_drawn_and_their_line_is_told_once(
    draw: Callable[[Tensor], Tensor],
) -> None:
    p = P.clone().requires_grad_()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            with an.record() as trace, enumeration(first_dim=-3):
                z = draw(p)
            (node,) = trace.values()
            assert node.is_drawn
            assert torch.equal(node.value, an.untrack(z).reshape(node.value.shape))
    assert [(w.category, w.filename, w.lineno) for w in told] == [
        (an.errors.NotEnumeratedWarning, node.location.filename, node.location.line)
    ]


def test_draws_of_plain_torch_are_drawn_without_a_word_where_that_is_asked_for() -> None:
    config = h.infer_config(lambda message: {"enumerate": False} if message.is_found else {})
    p = P.clone().requires_grad_()
    with an.record() as trace, enumeration(), config:
        z = Categorical(p).sample()
        an.sample("w", Categorical(P))
        x = Normal(p, 1.0).sample()
    assert (z.shape, x.shape) == ((), (3,))
    assert trace["w"].is_enumerated


def test_a_draw_of_plain_torch_that_is_to_be_enumerated_raises() -> None:
    config = h.infer_config(lambda _: {"enumerate": True})
    pattern = "cannot be enumerated: it is a draw of plain"
    refused = pytest.raises(an.errors.EnumerationError, match=pattern)
    with an.record(), enumeration(), config, refused:
        Categorical(P).sample()


@pytest.mark.parametrize(
    "question",
    [an.infer.log_marginal, an.infer.marginals, lambda t: an.infer.sample_posterior(t, 2)],
)
@pytest.mark.parametrize("choice", [True, "parallel"])
def test_a_site_that_is_to_be_enumerated_and_was_drawn_is_told_of(
    question: Callable[[an.Trace], object], choice: object
) -> None:
    def model() -> None:
        z = an.sample("z", Bernoulli(torch.tensor(0.3)), infer={"enumerate": choice})
        an.observe("x", Normal(z, 1.0), torch.tensor(0.3))

    with pytest.raises(an.errors.EnumerationError, match=r"site 'z' .*within one"):
        question(drawn(model))
    question(drawn(enumeration()(model)))
    question(drawn(h.condition({"z": torch.tensor(1.0)})(model)))

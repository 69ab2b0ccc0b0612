"""Own densities: of a draw under the distribution that drew it, the same as by `log_prob`."""

# torch.distributions has no annotations.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent
from torch.overrides import TorchFunctionMode

import ancestral as an
from ancestral.trace.intercept import distributions
from ancestral.trace.nodes.known_families import own_density

THETA = torch.tensor([[0.3, -0.2, 0.7], [0.1, 0.0, -1.4]], dtype=torch.float64)
FAMILIES: dict[str, Callable[[Tensor], Distribution]] = {
    "Bernoulli of logits": lambda x: Bernoulli(logits=x),
    "Bernoulli of logits in single": lambda x: Bernoulli(logits=x.float()),
    "Bernoulli of probabilities": lambda x: Bernoulli(x.sigmoid()),
    "Bernoulli, expanded": lambda x: Bernoulli(logits=x[0]).expand((4, 3)),
    "Categorical of logits": lambda x: Categorical(logits=x),
    "Categorical of probabilities": lambda x: Categorical(x.softmax(-1)),
    "events": lambda x: Independent(Bernoulli(logits=x), 1),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("samples", [(), (2,)])
def test_density_and_derivative_are_those_of_log_prob(family: str, samples: Any) -> None:
    x = THETA.clone().requires_grad_()
    with an.record() as trace:
        z = FAMILIES[family](x).sample(samples)
    node = trace["z"]
    fn: Any = FAMILIES[family](x)
    expected = getattr(fn, "base_dist", fn).log_prob(an.untrack(z))
    assert torch.equal(node.elementwise_log_prob, expected)
    found, known = (torch.autograd.grad(y.sum(), x)[0] for y in (node.score, expected))
    assert torch.equal(found, known)


def test_what_is_not_the_distributions_own_way_is_asked_for_its_density() -> None:
    class Shifted(Bernoulli):
        def log_prob(self, value: Tensor) -> Any:
            return value

    z = torch.ones(2, 3, dtype=torch.float64)
    assert own_density(Bernoulli(logits=THETA), z) is not None
    assert own_density(Shifted(logits=THETA), z) is None
    assert own_density(Bernoulli(logits=THETA), z[0]) is None
    fn: Any = Bernoulli(logits=THETA)
    fn.log_prob = lambda value: value
    assert own_density(fn, z) is None
    given = Bernoulli(THETA.sigmoid())
    assert own_density(given, z) is None
    assert "logits" not in vars(given)  # nothing is kept that was computed untracked


def test_a_density_that_somebody_has_replaced_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    theta = THETA.clone().requires_grad_()
    original: Any = Bernoulli.log_prob
    monkeypatch.setattr(Bernoulli, "log_prob", lambda self, value: 3 * original(self, value))
    with an.record() as trace:
        Bernoulli(logits=theta).sample()
    node = next(iter(trace.values()))
    assert torch.equal(node.elementwise_log_prob, 3 * original(node.fn, node.value))


def test_a_mode_sees_the_ops_of_torch() -> None:
    class Seen(TorchFunctionMode):
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Seen():
        assert own_density(Bernoulli(logits=THETA), torch.ones_like(THETA)) is None


W = torch.tensor([[0.4, -1.0, 0.2], [0.7, 0.1, -0.5], [-0.3, 0.6, 0.9]], dtype=torch.float64)


def _own(x: Tensor) -> Tensor:
    fn = Bernoulli(logits=x)
    z = fn.sample()
    return fn.log_prob(z) * 2 + (z @ W)


def _of_tracked_logits(x: Tensor) -> Tensor:
    z = Bernoulli(logits=x).sample()
    return Bernoulli(logits=z @ W).log_prob(torch.ones_like(z)) - 0.5 * z


def _of_both(x: Tensor) -> Tensor:
    z = Bernoulli(logits=x).sample()
    h = Bernoulli(logits=z * 0.3).sample()
    return Bernoulli(logits=z @ W + x).log_prob(h).sum(-1)


def _of_a_written_value(x: Tensor) -> Tensor:
    fn = Bernoulli(logits=x)
    z = fn.sample()
    z.mul_(0.0)
    return fn.log_prob(z)


def _categorical_own(x: Tensor) -> Tensor:
    fn = Categorical(logits=x)
    z = fn.sample()
    return fn.log_prob(z) + z * x.sum()


def _categorical_of_tracked_logits(x: Tensor) -> Tensor:
    z = Bernoulli(logits=x).sample()
    fn = Categorical(logits=z @ W)
    return fn.log_prob(fn.sample())


def _categorical_at_another_draw(x: Tensor) -> Tensor:
    z = Categorical(logits=x).sample()
    return Categorical(logits=x.detach() * 2).log_prob(z) * 3


def _categorical_of_a_learned_prior(x: Tensor) -> Tensor:
    z = Categorical(logits=x.detach()).sample()
    return Categorical(logits=x).log_prob(z) + Categorical(logits=x[0]).log_prob(z)


def _of_fewer_dimensions(x: Tensor) -> Tensor:
    z = Bernoulli(logits=x).sample()
    return Bernoulli(logits=x[0]).log_prob(z) - Bernoulli(logits=x[0, 0]).log_prob(z).cos()


LOSSES = [
    _own,
    _of_fewer_dimensions,
    _of_tracked_logits,
    _of_both,
    _of_a_written_value,
    _categorical_own,
    _categorical_of_tracked_logits,
    _categorical_at_another_draw,
    _categorical_of_a_learned_prior,
]


@pytest.mark.parametrize("loss_of", LOSSES, ids=lambda each: each.__name__)
def test_a_density_that_is_not_followed_is_what_its_ops_make_of_it(
    loss_of: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> tuple[Any, ...]:
        x = THETA.clone().requires_grad_()
        torch.manual_seed(1)
        with an.record() as trace:
            parts = loss_of(x)
            shown = repr(parts._provenance)  # type: ignore[attr-defined]
            loss = parts.sum()
        an.backward(loss, baseline=None)
        return shown, str(trace.graph), float(an.untrack(loss).detach()), x.grad

    *known, gradient = found()
    monkeypatch.setattr(distributions, "tracked_density", lambda *_, **__: None)
    *followed, expected = found()
    assert known == followed
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_a_value_outside_of_the_support_is_refused_where_it_is_tracked() -> None:
    with an.record():
        z = Bernoulli(logits=THETA).sample()
        with pytest.raises(ValueError, match="within the support"):
            Bernoulli(logits=THETA).log_prob(z + 0.5)
        k = Categorical(logits=THETA).sample()
        with pytest.raises(ValueError, match="within the support"):
            Categorical(logits=THETA).log_prob(k + 3)

"""The bound where sites take all their values at once, against the sum over their joint values."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from programs.finite.pairs import grown_pair
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

import ancestral as an
from ancestral.estimators.elimination import guide_probs
from ancestral.estimators.elimination.eliminate import summed_each
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import markov, scale
from oracles import Program, derivatives, exact_gradient, moments, paths

EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def mean_is_exact(build: Callable[..., Any], loss: Program, values: Sequence[Tensor]) -> None:
    def estimate(_: Any, leaves: Any) -> Tensor:
        found = an.infer.elbo(*build(*leaves))
        torch.testing.assert_close(found.value, -found.surrogate.detach())
        return torch.cat([derivatives(found.surrogate, leaves), found.value[None]])

    found = moments(loss, values, estimate).mean
    expected = sum(path.log_prob.exp() * path.loss for path in paths(loss, values))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(found[-1], -expected.detach(), **EXACT)
    torch.testing.assert_close(found[:-1], exact_gradient(loss, values), **EXACT)


INTRACTABLE = {19, 30}


@pytest.mark.parametrize("seed", range(40))
def test_the_mean_of_the_bound_and_of_its_gradient_is_exact(seed: int) -> None:
    pair = grown_pair(seed)
    if seed in INTRACTABLE:
        with pytest.raises(an.errors.EnumerationError, match="exponential"):
            an.infer.elbo(*pair.build(*pair.tables))
    else:
        mean_is_exact(pair.build, pair.loss, pair.tables)


# By hand: what the random pairs do not have.

X = torch.tensor([0.3, -1.2], dtype=torch.float64)


def leaves() -> list[Tensor]:
    values = ([0.4, -0.7], [0.3, -0.5], [0.6, 0.2])
    return [torch.tensor(value, dtype=torch.float64).requires_grad_() for value in values]


def coin(logits: Tensor) -> Bernoulli:
    return Bernoulli(logits=logits)


def both(model: Callable[[], Any], guide: Callable[[], Any]) -> tuple[Any, Any]:
    """Return programs that enumerate, with room for the particles."""
    return enumeration(first_dim=-3)(model), enumeration(first_dim=-3)(guide)


def drawn_after(q: Tensor, p: Tensor, s: Tensor) -> tuple[Any, Any]:
    """Return a pair that draws a site for each value of one that is enumerated."""

    def guide() -> None:
        z = an.sample("z", coin(q[0]))
        y = an.sample("y", coin(s[0] + q[1] * z), infer={"enumerate": False})
        an.sample("w", coin(s[1] * y - q[0] * z))

    def model() -> None:
        z = an.sample("z", coin(p[0]))
        y = an.sample("y", coin(p[1] - z), infer={"enumerate": False})
        w = an.sample("w", coin(p[1] + y))
        an.observe("x", Normal(z + y * s[0] - w, 0.9), X[0])

    return both(model, guide)


def drawn_after_loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    z = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1)
    qy = coin(s[0] + q[1] * z)
    y = qy.sample()
    w = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    qz, qw = coin(q[0]).log_prob(z), coin(s[1] * y - q[0] * z).log_prob(w)
    log_q = qz + qy.log_prob(y) + qw
    log_p = coin(p[0]).log_prob(z) + coin(p[1] - z).log_prob(y) + coin(p[1] + y).log_prob(w)
    log_p = log_p + Normal(z + y * s[0] - w, 0.9).log_prob(X[0])
    return ((qz + qw).exp() * (log_q - log_p)).sum()


def mixed(q: Tensor, p: Tensor, s: Tensor) -> tuple[Any, Any]:
    """Return a pair with a site that is drawn, one that is enumerated, one that is summed out."""

    def guide() -> None:
        with an.plate("data", 2):
            g = an.sample("g", coin(s), infer={"enumerate": False})
            an.sample("z", coin(q + g))

    def model() -> None:
        with an.plate("data", 2):
            g = an.sample("g", coin(p[0]), infer={"enumerate": False})
            w = an.sample("w", coin(p[1] * g))
            z = an.sample("z", coin(p - w))
            an.observe("x", Normal(z + g * s - w, 0.9), X)

    return both(model, guide)


def mixed_loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    qg = coin(s)
    g = qg.sample()
    coins = torch.tensor([0.0, 1.0], dtype=torch.float64)
    z, w = coins.reshape(2, 1), coins.reshape(2, 1, 1)
    qz = coin(q + g).log_prob(z)
    log_p = coin(p[1] * g).log_prob(w) + coin(p - w).log_prob(z)
    log_p = log_p + Normal(z + g * s - w, 0.9).log_prob(X)
    kl = (qz.exp() * (qz - log_p.logsumexp(0))).sum()
    return kl + (qg.log_prob(g) - coin(p[0]).log_prob(g)).sum()


PAIRS = {"drawn after": (drawn_after, drawn_after_loss), "mixed": (mixed, mixed_loss)}


@pytest.mark.parametrize("name", PAIRS)
def test_the_mean_is_exact_beside_draws(name: str) -> None:
    build, loss = PAIRS[name]
    mean_is_exact(build, loss, leaves())


def test_particles_at_once_are_enumerated_each() -> None:
    def reference(*values: Tensor) -> Tensor:
        return torch.stack([mixed_loss(*values) for _ in range(2)]).mean()

    def estimate(_: Any, values: Any) -> Tensor:
        found = an.infer.elbo(*mixed(*values), particles=2)
        return torch.cat([derivatives(found.surrogate, values), found.value[None]])

    def together(_: Any, values: Any) -> Tensor:
        options: dict[str, Any] = {"particles": 2, "vectorized": True, "max_plate_nesting": 1}
        found = an.infer.elbo(*mixed(*values), baseline=an.estimators.LeaveOneOut(), **options)
        return torch.cat([derivatives(found.surrogate, values), found.value[None]])

    in_turn = moments(reference, leaves(), estimate).mean
    torch.testing.assert_close(in_turn[:-1], exact_gradient(mixed_loss, leaves()), **EXACT)
    at_once = moments(at_once_loss, leaves(), together).mean
    torch.testing.assert_close(at_once, in_turn, **EXACT)


def at_once_loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    """Draw as two particles do at once."""
    return coin(s.expand(2, 2)).sample().sum()


def test_the_room_for_particles_is_found_to_the_right_of_the_values() -> None:
    found = an.infer.elbo(*mixed(*leaves()), particles=3, vectorized=True)
    assert found.value.isfinite()


def test_a_pair_without_draws_has_its_bound_at_once() -> None:
    q, p, _ = leaves()

    def guide() -> None:
        an.sample("z", coin(q[0]))

    def model() -> None:
        z = an.sample("z", coin(p[0]))
        an.observe("x", Normal(z, 1.0), X[0])

    found = an.infer.elbo(*both(model, guide))
    z = torch.tensor([0.0, 1.0], dtype=torch.float64)
    log_q, log_p = coin(q[0]).log_prob(z), coin(p[0]).log_prob(z) + Normal(z, 1.0).log_prob(X[0])
    expected = (log_q.exp() * (log_q - log_p)).sum()
    torch.testing.assert_close(found.surrogate, expected, **EXACT)
    ours, theirs = (torch.autograd.grad(total, (q, p)) for total in (found.surrogate, expected))
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_the_bound_of_a_guide_that_draws_nothing_is_the_log_marginal() -> None:
    p = leaves()[1]

    def model() -> None:
        z = an.sample("z", coin(p[0]))
        an.observe("x", Normal(z, 1.0), X[0])

    with an.record() as trace, enumeration():
        model()
    torch.testing.assert_close(
        an.infer.elbo(enumeration()(model), lambda: None).value,
        an.infer.log_marginal(trace).detach(),
        **EXACT,
    )


def test_a_value_that_the_guide_rules_out_may_be_impossible() -> None:
    free = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)

    def program(is_model: bool) -> None:
        logits = torch.cat([free, torch.full((1,), -torch.inf)])
        z = an.sample("z", Categorical(logits=logits if is_model else logits.detach()))
        if is_model:
            an.factor("f", torch.tensor([0.5, 1.0, -torch.inf])[z])

    found = an.infer.elbo(*both(lambda: program(True), lambda: program(False)))
    weights = free.detach().softmax(0)
    expected = -(weights * torch.tensor([0.5, 1.0])).sum()
    torch.testing.assert_close(found.surrogate, expected, rtol=1e-6, atol=1e-6)
    gradient = torch.autograd.grad(found.surrogate, free)[0]
    torch.testing.assert_close(gradient, torch.zeros(2).double(), **EXACT)


def test_what_the_model_rules_out_and_the_guide_does_not_raises() -> None:
    def model() -> None:
        z = an.sample("z", coin(leaves()[0][0]))
        an.factor("f", torch.tensor([0.5, -torch.inf], dtype=torch.float64)[z.long()])

    def guide() -> None:
        an.sample("z", coin(leaves()[0][0]))

    with pytest.raises(
        an.errors.SiteError, match=r"site 'f' .* of the model: 1 of 2 elements .* -inf"
    ):
        an.infer.elbo(*both(model, guide))


def test_a_model_that_enumerates_nothing_cannot_have_all_values_of_the_guide() -> None:
    build, _ = PAIRS["mixed"]
    model, guide = build(*leaves())
    plain = model.__wrapped__ if hasattr(model, "__wrapped__") else None
    assert plain is not None
    with pytest.raises(an.errors.EnumerationError, match=r"site 'z' .*which was enumerated"):
        an.infer.elbo(plain, guide)


def test_the_report_of_a_pair_takes_values_apart_from_repetitions() -> None:
    report = an.infer.check_guide(*mixed(*leaves()))
    assert report.is_consistent, report


def test_a_global_site_that_is_summed_out_for_joint_values_of_a_plate_is_intractable() -> None:
    p = leaves()[1]

    def guide() -> None:
        with an.plate("data", 2):
            an.sample("z", coin(p))

    def model() -> None:
        w = an.sample("w", coin(p[0]))
        with an.plate("data", 2):
            an.sample("z", coin(p - w))

    with pytest.raises(an.errors.EnumerationError, match="exponential in the size of a plate"):
        an.infer.elbo(*both(model, guide))


def test_chains_that_reuse_dimensions_have_the_bound_of_those_that_do_not() -> None:
    q, p, s = leaves()

    def program(is_model: bool, *, is_chain: bool) -> None:
        z = torch.zeros((), dtype=torch.float64)
        for t in markov(range(5)) if is_chain else range(5):
            logits = p[0] + p[1] * z if is_model else q[0] - q[1] * z * t
            z = an.sample(f"z{t}", coin(logits))
            if is_model:
                an.observe(f"x{t}", Normal(s[0] * z + s[1], 0.9), X[t % 2])

    def bound(*, is_chain: bool) -> Tensor:
        def model() -> None:
            program(True, is_chain=is_chain)

        def guide() -> None:
            program(False, is_chain=is_chain)

        return an.infer.elbo(*both(model, guide)).surrogate

    found, expected = bound(is_chain=True), bound(is_chain=False)
    torch.testing.assert_close(found, expected, **EXACT)
    ours, theirs = (torch.autograd.grad(total, (q, p, s)) for total in (found, expected))
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_the_probabilities_of_a_chain_take_as_many_tables_as_it_has_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, p, _ = leaves()
    met: list[int] = []

    def counting(factors: Any, *rest: Any) -> Any:
        met.append(len(factors))
        return summed_each(factors, *rest)

    def program(is_model: bool, steps: int) -> None:
        z = torch.zeros((), dtype=torch.float64)
        for t in markov(range(steps)):
            z = an.sample(f"z{t}", coin(p[0] + p[1] * z if is_model else q[0] - q[1] * z))

    def tables(steps: int) -> int:
        met.clear()
        an.infer.elbo(*both(lambda: program(True, steps), lambda: program(False, steps)))
        return sum(met)

    monkeypatch.setattr(guide_probs, "summed_each", counting)
    assert tables(12) - tables(8) == tables(8) - tables(4)


def test_what_a_model_sums_out_within_a_scale_is_scaled_afterwards() -> None:
    q, p, s = leaves()

    def guide() -> None:
        an.sample("z", coin(q[0]))

    def model() -> None:
        z = an.sample("z", coin(p[0]))
        with scale(2.5):
            w = an.sample("w", coin(p[1] - z))
            an.observe("x", Normal(z + w * s[0], 0.9), X[0])

    coins = torch.tensor([0.0, 1.0], dtype=torch.float64)
    z, w = coins, coins[:, None]
    fit = coin(p[1] - z).log_prob(w) + Normal(z + w * s[0], 0.9).log_prob(X[0])
    log_p = coin(p[0]).log_prob(z) + 2.5 * fit.logsumexp(0)
    log_q = coin(q[0]).log_prob(z)
    expected = (log_q.exp() * (log_q - log_p)).sum()
    torch.testing.assert_close(an.infer.elbo(*both(model, guide)).surrogate, expected, **EXACT)

"""The evidence lower bound: closed forms, the peer, particles, and every wrong use."""

import copy
import gc
import io
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceGraph_ELBO
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.errors import GuideError, PlateError
from ancestral.provenance.tensor.tensor import provenance
from ancestral.trace.context.errors import SiteError
from ancestral.trace.recording.plate_checks import direct
from oracles import derivatives, exact_gradient, moments

X = torch.tensor([0.3, -1.2, 0.8, 1.7], dtype=torch.float64)
Program = Callable[[], Any]


def linear_gaussian(loc: Tensor, log_scale: Tensor) -> tuple[Program, Program]:
    """Return z ~ N(0, 1), x_n ~ N(z, 1), and a normal guide."""

    def model() -> None:
        z = an.sample("z", Normal(torch.zeros((), dtype=torch.float64), 1.0))
        with an.plate("data", 4):
            an.sample("x", Normal(z, 1.0), obs=X)

    def guide() -> None:
        an.sample("z", Normal(loc, log_scale.exp()))

    return model, guide


def posterior() -> tuple[Tensor, Tensor]:
    loc = X.sum() / 5
    log_scale = -0.5 * torch.tensor(5.0, dtype=torch.float64).log()
    return loc.requires_grad_(), log_scale.requires_grad_()


def log_evidence() -> Tensor:
    covariance = torch.eye(4, dtype=torch.float64) + 1
    return torch.distributions.MultivariateNormal(torch.zeros_like(X), covariance).log_prob(X)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "options", [{}, {"particles": 3}, {"particles": 3, "vectorized": True}, {"estimator": "score"}]
)
def test_at_the_posterior_every_draw_gives_the_log_evidence(options: dict[str, Any]) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        result = an.infer.elbo(*linear_gaussian(*posterior()), **options)
        torch.testing.assert_close(result.value, log_evidence())
        torch.testing.assert_close(result.surrogate.detach(), -log_evidence())


def test_the_value_of_a_bound_says_what_to_differentiate_and_is_a_plain_tensor_else() -> None:
    for particles in (1, 2):
        value = an.infer.elbo(*linear_gaussian(*posterior()), particles=particles).value
        with pytest.raises(an.errors.LossError, match=r"call \.surrogate\.backward\(\)"):
            value.backward()
        plain = torch.tensor(float(value), dtype=value.dtype)
        assert (repr(value), f"{value:.4f}", str(value)) == (
            repr(plain),
            f"{plain:.4f}",
            str(plain),
        )
        for twin in (value * 1, torch.stack([value])[0], copy.deepcopy(value)):
            assert type(twin) is Tensor
            torch.testing.assert_close(twin, plain)
        with io.BytesIO() as file:
            torch.save(value, file)
            file.seek(0)
            assert type(torch.load(file, weights_only=True)) is Tensor


def test_at_the_posterior_the_gradient_is_that_of_the_guides_own_density() -> None:
    """The path part cancels draw by draw: what is left is the score, of mean zero."""
    loc, log_scale = posterior()
    torch.manual_seed(1)
    model, guide = linear_gaussian(loc, log_scale)
    found = derivatives(an.infer.elbo(model, guide).surrogate, [loc, log_scale])
    torch.manual_seed(1)
    z = Normal(loc, log_scale.exp()).rsample().detach()
    score = derivatives(Normal(loc, log_scale.exp()).log_prob(z), [loc, log_scale])
    torch.testing.assert_close(found, score)


def peer_programs(q: Tensor, s: Tensor) -> tuple[Program, Program, Program, Program]:
    def model() -> None:
        g = an.sample("g", Bernoulli(logits=s))
        with an.plate("data", 2):
            z = an.sample("z", Bernoulli(logits=0.3 + g))
            an.sample("x", Normal(z * s + g, 0.9), obs=X[:2])

    def guide() -> None:
        g = an.sample("g", Bernoulli(logits=0.2 * s))
        with an.plate("data", 2):
            an.sample("z", Bernoulli(logits=q + 0.5 * g))

    def pyro_model() -> None:
        g = pyro.sample("g", dist.Bernoulli(logits=s))
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Bernoulli(logits=0.3 + g))
            pyro.sample("x", dist.Normal(z * s + g, 0.9), obs=X[:2])

    def pyro_guide() -> None:
        g = pyro.sample("g", dist.Bernoulli(logits=0.2 * s))
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Bernoulli(logits=q + 0.5 * g))

    return model, guide, pyro_model, pyro_guide


def peer_loss(q: Tensor, s: Tensor) -> Tensor:
    qg = Bernoulli(logits=0.2 * s)
    g = qg.sample()
    qz = Bernoulli(logits=q + 0.5 * g)
    z = qz.sample()
    joint = Bernoulli(logits=s).log_prob(g) + Bernoulli(logits=0.3 + g).log_prob(z).sum()
    joint = joint + Normal(z * s + g, 0.9).log_prob(X[:2]).sum()
    return qg.log_prob(g) + qz.log_prob(z).sum() - joint  # type: ignore[no-any-return]


def test_the_peer_has_the_same_mean_and_no_less_variance() -> None:
    values = [
        torch.tensor([0.4, -0.7], dtype=torch.float64, requires_grad=True),
        torch.tensor(0.6, dtype=torch.float64, requires_grad=True),
    ]

    def ours(_: Any, given: Any) -> Tensor:
        model, guide, _, _ = peer_programs(*given)
        return derivatives(an.infer.elbo(model, guide, baseline=None).surrogate, given)

    def theirs(_: Any, given: Any) -> Tensor:
        _, _, model, guide = peer_programs(*given)
        for value in given:
            value.grad = None
        pyro.clear_param_store()
        TraceGraph_ELBO().loss_and_grads(model, guide)
        return torch.cat([value.grad.reshape(-1) for value in given])

    found = moments(peer_loss, values, ours)
    peer = moments(peer_loss, values, theirs)
    torch.testing.assert_close(found.mean, exact_gradient(peer_loss, values))
    torch.testing.assert_close(peer.mean, found.mean)
    assert (found.variance <= peer.variance * (1 + 1e-9)).all(), found.variance / peer.variance


def test_a_density_that_is_not_finite_names_the_site_and_counts_the_elements() -> None:
    scale = torch.tensor([1.0, 1e-200, 1.0], dtype=torch.float64)

    def model() -> None:
        with an.plate("data", 3):
            an.sample("x", Normal(torch.zeros(3, dtype=torch.float64), scale), obs=X[:3])

    with pytest.raises(an.errors.NonFiniteDensityError) as error:
        an.infer.elbo(model, lambda: None)
    text = str(error.value)
    assert f"site 'x' ({__file__}:" in text
    assert "of the model: 1 of 3 elements" in text
    assert "-inf, the first at the value -1.2;" in text.replace("of them ", "")
    assert isinstance(error.value, an.errors.SiteError)


def test_a_density_that_is_masked_may_be_infinite() -> None:
    def model() -> None:
        with an.handlers.mask(torch.tensor([True, False])):
            an.factor("f", torch.tensor([1.5, -torch.inf]))

    result = an.infer.elbo(model, lambda: None)
    assert result.value.item() == 1.5
    assert not result.surrogate.requires_grad


@pytest.mark.parametrize(
    ("keyword", "text", "values"),
    [
        ("particles", "must be an int greater than 0", [0, -1, 1.5, True]),
        ("max_plate_nesting", "must be an int, not negative", [-1, 1.0, float("inf"), True]),
    ],
)
def test_a_wrong_number_is_refused(keyword: str, text: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{keyword} {text}"):
            an.infer.elbo(latent("z"), latent("z"), **{keyword: value})


def latent(name: str, size: int = 3) -> Program:
    return lambda: an.sample(name, Normal(torch.zeros(size), 1.0))


def test_batches_without_a_plate_are_not_taken_for_particles() -> None:
    torch.manual_seed(0)
    result = an.infer.elbo(latent("z"), latent("z"), particles=3, vectorized=True)
    torch.testing.assert_close(result.value, torch.tensor(0.0))


def test_a_nesting_that_is_too_small_is_refused() -> None:
    def plated() -> None:
        with an.plate("data", 3, dim=-2):
            an.sample("z", Normal(0.0, 1.0))

    with pytest.raises(GuideError, match="max_plate_nesting=2"):
        an.infer.elbo(plated, plated, particles=3, vectorized=True, max_plate_nesting=0)


def test_a_program_that_mixes_particles_says_how_to_run_them() -> None:
    def model() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        an.sample("x", Normal(z.mean(), 1.0), obs=torch.tensor(0.0))

    def guide() -> None:
        an.sample("z", Normal(0.0, 1.0))

    an.infer.elbo(model, guide, particles=2)
    with pytest.raises(PlateError) as error:
        an.infer.elbo(model, guide, particles=2, vectorized=True)
    assert "vectorized=False" in error.value.__notes__[0]


def test_a_draw_of_torch_that_has_no_particles_says_how_to_run_them() -> None:
    def model() -> None:
        noise = torch.bernoulli(torch.tensor(0.5, requires_grad=True))
        an.sample("x", Normal(noise, 1.0), obs=torch.tensor(0.0))

    with pytest.raises(PlateError, match="plate 'particles'") as error:
        an.infer.elbo(model, lambda: None, particles=2, vectorized=True)
    assert "vectorized=False" in error.value.__notes__[0]


def test_without_gradients_there_is_a_value() -> None:
    with torch.no_grad():
        result = an.infer.elbo(*linear_gaussian(*posterior()))
    torch.testing.assert_close(result.value, log_evidence())
    assert not result.surrogate.requires_grad


def test_no_recording_outlives_its_step() -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(each) is an.Trace for each in gc.get_objects())

    values = [torch.tensor([0.4, -0.7]), torch.tensor(0.6)]
    model, guide, _, _ = peer_programs(*(value.requires_grad_() for value in values))
    before = alive()
    for _ in range(3):
        an.infer.elbo(model, guide).surrogate.backward()
    assert alive() <= before


def test_a_factor_keeps_the_repetitions_of_a_plate_apart() -> None:
    with an.record() as trace, an.plate("data", 3):
        z = an.sample("z", Bernoulli(torch.full((3,), 0.4, requires_grad=True)))
        an.factor("f", (z - 0.5).square())
    density = trace["f"].tracked_log_prob
    kept = {source.name: dims for source, dims in direct(provenance(density))}
    assert kept["z"] == (0,)


def test_both_programs_are_called_with_the_arguments() -> None:
    seen: list[tuple[Any, ...]] = []

    def program(a: int, *, b: int) -> None:
        seen.append((a, b))

    assert an.infer.elbo(program, program, 1, b=2).value.item() == 0
    assert seen == [(1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [
        ("num_particles", "particles="),
        ("num_samples", "particles="),
        ("vectorize_particles", "vectorized="),
    ],
)
def test_names_of_pyro_say_what_is_meant(keyword: str, meant: str) -> None:
    def anything(**keywords: Any) -> None:
        raise AssertionError("nothing is to be run")

    with pytest.raises(TypeError, match=f"elbo takes no {keyword}=.*: say {meant}"):
        an.infer.elbo(anything, anything, **{keyword: 3})  # type: ignore[arg-type] # not ours


def test_a_name_of_pyro_that_a_program_has_goes_on_to_it() -> None:
    class Model(torch.nn.Module):
        def forward(self, num_particles: int) -> None:
            an.sample("z", Normal(torch.zeros(num_particles), 1.0))

    assert an.infer.elbo(Model(), Model(), num_particles=3).value == 0


def test_python_may_not_decide_for_all_particles() -> None:
    def model() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        if z.mean() > 100:  # nothing follows where it is false
            an.factor("f", z)

    an.infer.elbo(model, lambda: an.sample("z", Normal(0.0, 1.0)), particles=2)
    with pytest.raises(SiteError, match=r"test_elbo.py:\d+ Python reads") as error:
        an.infer.elbo(model, lambda: an.sample("z", Normal(0.0, 1.0)), particles=2, vectorized=True)
    assert "vectorized=False" in error.value.__notes__[0]


def test_what_was_read_before_or_is_only_shown_is_no_decision_for_particles() -> None:
    def model(shift: torch.Tensor) -> None:
        z = an.sample("z", Normal(shift, 1.0))
        an.untrack(z).mean().item()

    def guide(shift: torch.Tensor) -> None:
        an.sample("z", Normal(shift, 1.0))

    with an.record():
        shift = an.sample("shift", Normal(0.0, 1.0))
        bool(shift > 0)
        an.infer.elbo(model, guide, shift, particles=2, vectorized=True, max_plate_nesting=0)

"""Models in plain torch, nothing annotated, against estimators written by hand for each."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from models import REFERENCES
from models.reference import Setting, seeded
from models.variance import BY_HAND, LEAVE_ONE_OUT, variances
from torch import Tensor

from ancestral.estimators.credit.credit import Estimator, by_element, by_site, total_cost
from ancestral.estimators.gradient.surrogate import surrogate
from ancestral.trace.recording.record import record
from oracles import autograd, exact_gradient, flat, moments

every_model = pytest.mark.parametrize("name", REFERENCES)
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)


def tiny(name: str) -> Setting:
    return seeded(REFERENCES[name].tiny).in_double()


def gradient(setting: Setting, scalar: Callable[[], Tensor], seed: int) -> Tensor:
    """Return the gradient of a scalar by all parameters, from draws that the seed decides."""
    torch.manual_seed(seed)
    inputs = tuple(setting.model.parameters())
    return flat(torch.autograd.grad(scalar(), inputs, materialize_grads=True))


def library(setting: Setting, estimator: Estimator = by_element) -> Tensor:
    """Return the surrogate that the library finds for the loss of a model."""
    with record():
        loss = setting.model(*setting.batch)
    return surrogate(loss, credit=estimator, baseline=None)


def hand_written(name: str, setting: Setting) -> Tensor:
    return REFERENCES[name].by_hand(setting.model, *setting.batch)


@every_model
def test_hand_written_estimator_has_the_exact_gradient_as_mean(name: str) -> None:
    setting = tiny(name)
    parameters = tuple(setting.model.parameters())
    truth = exact_gradient(lambda *_: setting.model(*setting.batch), parameters)
    mean = moments(lambda *_: hand_written(name, setting), parameters, autograd).mean
    close(mean, truth)
    assert truth.abs().max() > 1e-3


@every_model
@pytest.mark.parametrize("seed", range(5))
def test_gradient_is_that_of_the_hand_written_estimator_draw_by_draw(name: str, seed: int) -> None:
    setting = seeded(REFERENCES[name].usual).in_double()
    ours = gradient(setting, lambda: library(setting), seed)
    close(ours, gradient(setting, lambda: hand_written(name, setting), seed))


@every_model
def test_variance_is_that_of_the_hand_written_estimator(name: str) -> None:
    found = variances(REFERENCES[name], repeats=5)
    assert found["bare"] == pytest.approx(found[BY_HAND])
    assert 0 < found[BY_HAND] < found["by_site"] / 10
    assert found["default"] < 1.01 * found[LEAVE_ONE_OUT]


@every_model
@pytest.mark.parametrize("estimator", [by_site, total_cost])
def test_gradient_of_coarser_credit_is_another(name: str, estimator: Estimator) -> None:
    setting = seeded(REFERENCES[name].usual).in_double()
    coarse = gradient(setting, lambda: library(setting, estimator), 0)
    fine = gradient(setting, lambda: hand_written(name, setting), 0)
    assert (coarse - fine).norm() > fine.norm()

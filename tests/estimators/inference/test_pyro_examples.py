"""The programs of Pyro's documentation have Pyro's values, its gradients, and no more variance.

`python -m programs.pyro_examples.compare` prints how much less, and the times.
"""

from typing import Any

import pytest
import torch
from programs.pyro_examples import EXAMPLES
from programs.pyro_examples.compare import prepared, step, variances
from torch.testing import assert_close

from ancestral.infer import TraceGraph_ELBO

pytestmark = [
    pytest.mark.usefixtures("in_double_precision"),
    pytest.mark.filterwarnings("ignore:Found vars in model but not guide"),
    pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide"),
    # Python reads where the box is.
    pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning"),
]
SCORED = ["semi_supervised_vae", "air", "hmm_drawn", "mixture_drawn"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_value_is_that_of_pyro_and_the_gradient_where_that_is_right(name: str) -> None:
    example = prepared(name)
    ours, theirs = (step(example, loss, 3) for loss in example.losses(baseline=None))
    assert_close(ours[0], theirs[0])
    if example.is_right_there:
        assert_close(ours[1], theirs[1])


@pytest.mark.parametrize("name", SCORED)
def test_the_variance_is_a_fraction_of_that_of_pyro_without_plates(name: str) -> None:
    ours, theirs = variances(name, draws=8)
    assert ours < theirs / 2


def test_what_slides_until_python_sees_it_arrive_has_a_score() -> None:
    """The time is a number, so that the derivative through it is zero in Pyro."""
    example = prepared("inclined_plane")
    losses: tuple[Any, Any] = TraceGraph_ELBO(estimator="pathwise"), example.losses()[1]
    with pytest.warns(UserWarning, match="friction"):
        forced = step(example, losses[0], 3)[1]
    assert_close(forced, step(example, losses[1], 3)[1])
    scored = torch.stack([step(example, example.losses()[0], n)[1] for n in range(3)])
    assert not torch.isclose(scored, forced).any()

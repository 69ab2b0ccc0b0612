"""The interval of a bias: how often it misses, for normal draws of known mean and covariance."""

import pytest
import torch
from torch import Tensor

from ancestral.tools.study.bias import Sample, bias_of

DRAWS, BLOCKS, REPEATS, LEVEL = 100, 20, 200, 0.05


def sample(values: Tensor) -> Sample:
    """Return what is known of draws, [draws, n]."""
    mean = values.mean(0)
    blocks = torch.tensor_split(values, BLOCKS)
    scatter = torch.stack([(block.mean(0) - mean) * len(block) ** 0.5 for block in blocks])
    return Sample(mean, scatter, float(values.var(0).sum()), len(values))


@pytest.mark.parametrize("size", [0.0, 0.3, 3.0])
@pytest.mark.parametrize(  # a single number has no others to vary more than
    ("count", "scale"),
    [(1, 1.0), (3, 1.0), (3, 20.0), (200, 1.0), (200, 20.0)],
    ids=["1", "3 alike", "3, one of which varies most", "200 alike", "200, one varies most"],
)
@pytest.mark.parametrize("is_exact", [True, False], ids=["exact", "drawn"])
def test_it_misses_as_seldom_as_it_says(
    is_exact: bool, count: int, scale: float, size: float
) -> None:
    """Of 200 intervals that miss once in 20, more than 20 do in 1 of 1,000 tests."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.ones(count, dtype=torch.float64)
    scales[0] = scale
    bias = torch.zeros(count, dtype=torch.float64)
    bias[0] = size * scale
    misses = found = 0
    for _ in range(REPEATS):
        drawn, other = (
            torch.randn(DRAWS, count, dtype=torch.float64, generator=generator) * scales
            for _ in range(2)
        )
        zero = torch.zeros(count, dtype=torch.float64)
        reference = Sample.exact(zero) if is_exact else sample(other)
        interval = bias_of(sample(drawn + bias), reference, LEVEL)
        assert interval.low <= interval.norm + 1e-9
        assert interval.norm <= interval.high
        misses += not interval.low <= float(bias.norm()) <= interval.high
        found += interval.low > 0
    assert misses <= 0.1 * REPEATS
    if size == 3.0:
        assert found == REPEATS


def test_of_exact_numbers_no_interval_is_left() -> None:
    zero, off = torch.zeros(2, dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)
    same = bias_of(Sample.exact(off), Sample.exact(off))
    assert same.low == same.norm == 0.0
    assert same.high < 1e-5
    other = bias_of(Sample.exact(off), Sample.exact(zero))
    assert other.low == pytest.approx(5.0)
    assert other.high == pytest.approx(5.0)

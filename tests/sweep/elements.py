"""Elements: how a tensor is perturbed, and which elements of a result changed."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SEEDS = (0, 1)  # the second for changes of the whole alone
_UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})


def perturbations(
    tensor: Tensor, seeds: Sequence[int] = SEEDS, *, is_finite: bool = False
) -> Iterator[Tensor]:
    """Yield copies of a tensor that differ from it everywhere.

    Numbers move a little and a lot, change sign, become zero, infinite and undefined; integers also
    stay in the range that they had, since many of them are indices.
    """
    if tensor.layout != torch.strided or tensor.is_quantized:
        yield from _unusual(tensor)
        return
    for moved in _moved(tensor, seeds):
        if not (is_finite and not moved.isfinite().all()):
            yield moved.to(tensor.dtype)


def within(region: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    """Return the new elements within a region, where a tensor has regions, and the old around."""
    if region is None or old.layout != torch.strided or old.is_quantized:
        return new
    kind = torch.int64 if old.dtype == torch.uint64 else old.dtype  # some versions choose no uint64
    return torch.where(region, new.view(kind), old.view(kind)).view(old.dtype)


def _moved(x: Tensor, seeds: Sequence[int]) -> Iterator[Tensor]:
    if x.dtype == torch.bool:
        yield ~x
        yield torch.ones_like(x)
        yield torch.zeros_like(x)
        return
    if x.dtype in _UNSIGNED:
        x = x.to(torch.int64)  # torch computes little with these
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        if x.dtype.is_floating_point or x.dtype.is_complex:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            yield x + 1e-3 * noise
            yield x + noise
            yield x * (2 + noise.abs()) + 10 * noise
        elif x.numel():
            low, high = int(x.min()), int(x.max())
            yield torch.randint(low, high + 1, x.shape, generator=generator)
            yield x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)
    if x.dtype.is_floating_point or x.dtype.is_complex:
        yield -x
        yield torch.zeros_like(x)
        yield torch.full_like(x, math.inf)
        yield torch.full_like(x, math.nan)
    else:
        yield (x + 1).clamp(max=int(x.max()) if x.numel() else 0)
        yield (x - 1).clamp(min=int(x.min()) if x.numel() else 0)
        yield x + 1
        yield x - 1


def _unusual(x: Tensor) -> Iterator[Tensor]:
    """Yield other values with the same places: tensors that are sparse, or of another kind."""
    for factor in (2, 0.5, -3):
        yield _requantized(x, factor) if x.is_quantized else x * factor


def _requantized(x: Tensor, factor: float) -> Tensor:
    values = x.dequantize() * factor
    if x.qscheme() == torch.per_tensor_affine:
        return torch.quantize_per_tensor(values, x.q_scale(), x.q_zero_point(), x.dtype)
    scales, zeros = x.q_per_channel_scales(), x.q_per_channel_zero_points()
    return torch.quantize_per_channel(values, scales, zeros, x.q_per_channel_axis(), x.dtype)


def changed(before: Tensor, after: Tensor, tolerance: float = 0.0) -> Tensor:
    """Return which elements differ, by more than rounding where there is a tolerance."""
    if before.dtype.is_floating_point or before.dtype.is_complex:
        same = before == after
        if same.all():
            return ~same
        same |= before.isnan() & after.isnan()
        if tolerance:
            same |= torch.isclose(before, after, rtol=tolerance, atol=tolerance, equal_nan=True)
        return ~same
    return before != after


def is_changed(before: Tensor, after: Tensor) -> bool:
    """Return whether a shape or any element differs."""
    return before.shape != after.shape or bool(changed(before, after).any())


def regions(shape: tuple[int, ...], dim: int) -> Iterator[tuple[int, Tensor]]:
    """Yield some indices along a dimension, and the elements of a tensor that have them."""
    size = shape[dim]
    for index in sorted({0, size // 2}) if size else ():
        region = torch.zeros(shape, dtype=torch.bool)
        region.select(dim, index).fill_(True)
        yield index, region


def single_elements(shape: tuple[int, ...], most: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield some places, evenly spread, each with the region that is this one element."""
    total = math.prod(shape)
    for place in sorted({total * k // most for k in range(most)} if total > most else range(total)):
        region = torch.zeros(total, dtype=torch.bool)
        region[place] = True
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), shape))
        yield index, region.reshape(shape)

"""Running moments: weighted means of a stream, without the stream.

Welford (1962), "Note on a method for calculating corrected sums of squares and products"; of
groups, Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing
sample variances"; with weights, West (1979), "Updating mean and variance estimates: an improved
method".
Here every new step multiplies the weight of all before it with a decay. Nothing is read from the
device; a step with a number that is not finite changes nothing but the count of such steps.
"""

import math
from collections.abc import KeysView, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ancestral.estimators.baselines.leave_one_out import exact

K = TypeVar("K")


class Mean(NamedTuple):
    """A weighted mean, and its standard error: None of a single step."""

    value: float
    error: float | None


class Running(Generic[K]):
    """The means of numbers over the steps, by key; one that a step has not counts as zero in it.

        W ← d W + 1,   m ← m + (x - m)/W,   S ← d S + (x - m_before)(x - m)
        V ← d² V + 1,  error² = V/W² · S / (W - V/W)

    Kept are the keys of the last step and, of others, the `MOST` that were seen last.
    """

    MOST = 4096

    def __init__(self, decay: float) -> None:
        """Take the decay d of the weight of a step, in (0, 1]; 1 for plain means."""
        self._decay = decay
        self.steps = 0  # those that were left out too
        self._seen: dict[K, int] = {}  # in the order of the rows, with the step
        self._weights = torch.zeros(3, dtype=torch.float64)  # W, V, steps left out
        self._moments = torch.zeros(2, 0, dtype=torch.float64)  # m, S

    def add(self, values: Mapping[K, Tensor]) -> None:
        """Take in a step: numbers, [], on any device."""
        self.steps += 1
        device = next(iter(values.values())).device
        weights, moments = self._weights.to(device), self._moments.to(device)
        self._weights, self._moments = exact(weights), exact(moments)
        self._make_room(values)
        zero = self._weights.new_zeros(())
        x = torch.stack([values[k].to(zero) if k in values else zero for k in self._seen])
        (mass, squares, left_out), (mean, deviations) = self._weights, self._moments
        is_finite, d = torch.isfinite(x).all(), self._decay
        mass = d * mass + 1
        step = x - mean
        after = mean + step / mass
        moments = torch.stack([after, d * deviations + step * (x - after)])
        weights = torch.stack([mass, d * d * squares + 1, left_out])
        skipped = torch.stack([*self._weights[:2], left_out + 1])
        self._moments = moments.where(is_finite, self._moments)
        self._weights = weights.where(is_finite, skipped)

    def _make_room(self, values: Mapping[K, Tensor]) -> None:
        """Add rows for new keys, which were zero, and drop those that were not seen for longest."""
        for key in values:
            self._seen.setdefault(key, 0)
            self._seen[key] = self.steps
        fresh = len(self._seen) - self._moments.shape[1]
        self._moments = torch.cat([self._moments, self._moments.new_zeros(2, fresh)], 1)
        others = [key for key in self._seen if key not in values]
        if len(others) > self.MOST:
            dropped = set(sorted(others, key=self._seen.__getitem__)[: len(others) - self.MOST])
            kept = [row for row, key in enumerate(self._seen) if key not in dropped]
            self._moments = self._moments[:, torch.tensor(kept, device=self._moments.device)]
            self._seen = {k: step for k, step in self._seen.items() if k not in dropped}

    def kept(self) -> KeysView[K]:
        """Return the keys that are kept."""
        return self._seen.keys()

    def read(self) -> tuple[dict[K, Mean], int]:
        """Return the means, and how many steps were left out; waits for the device once."""
        count = len(self._seen)
        flat = torch.cat([self._weights, self._moments.reshape(-1)]).tolist()
        mass, squares, left_out = flat[:3]
        means, deviations = flat[3 : 3 + count], flat[3 + count :]
        if not mass:
            return {}, int(left_out)
        free = mass - squares / mass
        errors = [
            math.sqrt(squares / mass**2 * max(s, 0.0) / free) if free > 1e-9 else None
            for s in deviations
        ]
        return dict(zip(self._seen, map(Mean, means, errors), strict=True)), int(left_out)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is known, as plain containers and tensors."""
        return {
            "steps": self.steps,
            "keys": list(self._seen),
            "seen": list(self._seen.values()),
            "weights": self._weights.clone(),
            "moments": self._moments.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what another knew, in place of what is known."""
        self.steps = int(state["steps"])
        self._seen = dict(zip(state["keys"], state["seen"], strict=True))
        weights, moments = state["weights"], state["moments"]
        if tuple(weights.shape) != (3,) or tuple(moments.shape) != (2, len(self._seen)):
            raise ValueError("its moments do not fit its keys")
        self._weights, self._moments = weights.clone(), moments.clone()


def merged(before: Tensor | None, now: Tensor, decay: float) -> Tensor:
    """Return the moments of two variables over the elements of all steps, [6].

    Args:
        before: those of the steps before: their weight, the two means, the sums of squares and of
            products of the deviations (bb, cc, bc).
        now: those of the elements of this step.
        decay: of the weight of what was before.
    """
    if before is None:
        return now
    before = before.to(now)
    old, fresh = decay * before[0], now[0]
    mass = old + fresh
    step = now[1:3] - before[1:3]
    mean = before[1:3] + step * (fresh / mass)
    products = torch.stack([step[0] * step[0], step[1] * step[1], step[0] * step[1]])
    squares = decay * before[3:] + now[3:] + products * (old * fresh / mass)
    found = torch.cat([mass[None], mean, squares])
    return found.where(torch.isfinite(found).all(), before)


def gain(moments: list[float]) -> float | None:
    """Return 1 - Σ (c - b)² / Σ c² of two variables by their moments, None if c is zero."""
    count, mean_b, mean_c, bb, cc, bc = moments
    whole = cc + count * mean_c**2
    left = bb + cc - 2 * bc + count * (mean_c - mean_b) ** 2
    return 1 - max(left, 0.0) / whole if whole else None


def correlation(moments: list[float]) -> float | None:
    """Return the correlation of two variables by their moments, None if one does not vary."""
    count, *means, bb, cc, bc = moments
    for mean, squares in zip(means, (bb, cc), strict=True):
        if not squares > count * (1e-12 * mean) ** 2:  # what rounding leaves of a constant
            return None
    return max(-1.0, min(1.0, bc / math.sqrt(bb * cc)))

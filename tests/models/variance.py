"""The gradient variance of the reference models: of the library's estimators, and by hand.

    python -m models.variance --repeats 200

Every estimate is at the same parameters, fresh ones, and the estimates of one number see the same
draws, so that a difference of variance is the estimators' own.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import by_site, total_cost
from ancestral.estimators.gradient.surrogate import backward
from ancestral.tools.demo.variance import Estimate, measure
from ancestral.trace.recording.record import record
from models import REFERENCES
from models.reference import Reference, Setting, seeded

METHODS: dict[str, Callable[[Tensor], None]] = {
    "whole batch": partial(backward, credit=total_cost, baseline=None),
    "by_site": partial(backward, credit=by_site, baseline=None),
    "by_element": partial(backward, baseline=None),
    "default": backward,
}
BY_HAND = "by hand"


def variances(reference: Reference, repeats: int = 200) -> dict[str, float]:
    """Return the variance of every estimator, in total over the parameters of the draws."""
    setting = seeded(reference.usual)
    estimates: dict[str, Estimate] = {
        name: partial(_recorded, setting, method) for name, method in METHODS.items()
    }
    estimates[BY_HAND] = lambda: reference.by_hand(setting.model, *setting.batch).backward()
    totals = dict.fromkeys(estimates, 0.0)
    for row in measure(setting.model, estimates, repeats):
        if row.layer.partition(".")[0] in reference.learned:
            totals[row.estimator] += row.variance
    return totals


def _recorded(setting: Setting, method: Callable[[Tensor], None]) -> None:
    with record():
        loss = setting.model(*setting.batch)
    method(loss)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Gradient variance of the reference models.")
    parser.add_argument("--repeats", type=int, default=200)
    repeats: int = parser.parse_args().repeats
    torch.set_num_threads(1)
    columns = [*METHODS, BY_HAND]
    width = max(len(reference.words) for reference in REFERENCES.values())
    print(" " * width, *(column.rjust(14) for column in columns))
    for reference in REFERENCES.values():
        found = variances(reference, repeats)
        cells = (f"{found[column]:.4g}".rjust(14) for column in columns)
        print(reference.words.ljust(width), *cells, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The gradient variance of the reference models: of the library's estimators, and by hand.

    python -m models.variance --repeats 200

Every estimate is at the same parameters, fresh ones, and the estimates of one number see the same
draws, so that a difference of variance is the estimators' own. Baselines that learn do so in some
estimates before, and go on.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ancestral.estimators.baselines.neural import Neural
from ancestral.estimators.baselines.optimal import Optimal
from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.credit.credit import by_site, total_cost
from ancestral.estimators.gradient.surrogate import backward
from ancestral.tools.demo.variance import Estimate, measure
from ancestral.trace.recording.record import record
from models import REFERENCES
from models.reference import Reference, Setting, reinforce, seeded, with_leave_one_out

WARM_UP = 500

METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    "default": dict,
    "Optimal": lambda: {"baseline": Optimal()},
    "Neural": lambda: {"baseline": Neural()},
    "RunningMean": lambda: {"baseline": RunningMean()},
    "bare": lambda: {"baseline": None},
    "by_site": lambda: {"baseline": None, "credit": by_site},
    "whole batch": lambda: {"baseline": None, "credit": total_cost},
}
"""What is said to `an.backward`, anew for each model."""
PER_EXAMPLE, LEAVE_ONE_OUT, BY_HAND = "per example", "leave-one-out", "downstream"


def variances(reference: Reference, repeats: int = 200, warm_up: int = 0) -> dict[str, float]:
    """Return the variance of every estimator, in total over all parameters."""
    setting = seeded(reference.usual)
    given = setting.model, *setting.batch
    estimates: dict[str, Estimate] = {
        PER_EXAMPLE: lambda: reinforce(reference.per_example(*given)).backward(),
        LEAVE_ONE_OUT: lambda: with_leave_one_out(reference.per_example(*given)).backward(),
        BY_HAND: lambda: reference.by_hand(*given).backward(),
        **{name: partial(_recorded, setting, options()) for name, options in METHODS.items()},
    }
    rows = measure(setting.model, estimates, repeats, warm_up)
    return {row.estimator: row.variance for row in rows if row.layer == "total"}


def _recorded(setting: Setting, options: dict[str, Any]) -> None:
    with record():
        loss = setting.model(*setting.batch)
    backward(loss, **options)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Gradient variance of the reference models.")
    parser.add_argument("--repeats", type=int, default=200)
    repeats: int = parser.parse_args().repeats
    torch.set_num_threads(1)
    columns = [PER_EXAMPLE, LEAVE_ONE_OUT, BY_HAND, *METHODS]
    width = max(len(reference.words) for reference in REFERENCES.values())
    print(" " * width, *(column.rjust(14) for column in columns))
    for reference in REFERENCES.values():
        found = variances(reference, repeats, WARM_UP)
        cells = (f"{found[column]:.4g}".rjust(14) for column in columns)
        print(reference.words.ljust(width), *cells, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

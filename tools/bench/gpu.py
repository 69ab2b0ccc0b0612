"""Benchmarks on a GPU: ops and steps beside the estimator by hand, eager and compiled.

    make bench-gpu

The rows are those of ``make bench`` that have a device, with what a step waits for: Python should
run ahead of the GPU, so that its own time is hidden behind the kernels.
"""

import sys
import warnings

import torch

from ancestral.tools.bench.__main__ import mlp_rows, op_rows
from ancestral.tools.bench.compiled import compiled_rows
from ancestral.tools.bench.rows import Row, Step, show
from ancestral.tools.bench.steps import MODELS, step_rows


def wait_rows() -> list[Row]:
    """Count how often Python waits for the GPU in a step of each model, and in that by hand."""
    rows: list[Row] = []
    for words, (make, _, _) in MODELS.items():
        model = make()
        more = _waits(model.ours) - _waits(model.theirs)
        rows.append(Row(f"waits in a step of {words}, less those by hand", more, 1))  # its check
    return rows


def _waits(step: Step) -> int:
    step()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchroniz" in str(each.message) for each in told)


def main() -> int:
    """Print the table, or that it was not run."""
    if not torch.cuda.is_available():
        print("Not run: torch sees no CUDA device here.")
        return 0
    torch.manual_seed(0)
    torch.set_default_device("cuda")
    print(f"Each figure is a ratio on {torch.cuda.get_device_name()}, unless it says otherwise.")
    show([*op_rows(), *mlp_rows(), *step_rows(), *wait_rows()])
    show([*compiled_rows(), *compiled_rows("reduce-overhead")])
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Training on several processes: gradients as in one, ranks that die, what is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
CHECKS = (
    *("leave-one-out", "leave-one-out along 0", "running mean", "optimal", "neural"),
    *("uneven batches", "groups of ranks", "accumulation without synchronization"),
    *("orders of wrapping", "refusals", "parameters that torch looks for", "sharded parameters"),
)


def torchrun(ranks: int, *arguments: object, restarts: int = 0) -> str:
    """Return what some ranks of a script print."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--nproc-per-node", str(ranks), "--max-restarts", str(restarts)]
    done = subprocess.run(
        [*command, *options, *map(str, arguments)],
        env={**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},  # as docs/ranks.md says
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_gradient_of_all_ranks_is_that_of_one_process() -> None:
    found = re.findall(r"^ok (.*)$", torchrun(4, HERE / "worker.py"), re.MULTILINE)
    assert sorted(found) == sorted(4 * CHECKS)  # every rank came through every check


def test_a_rank_that_is_killed_loses_the_steps_since_the_checkpoint_and_no_more(
    tmp_path: Path,
) -> None:
    torchrun(2, HERE / "dying.py", tmp_path, 6, restarts=1)
    steps = [int(line) for line in (tmp_path / "steps.txt").read_text().split()]
    assert sorted(steps) == sorted([*range(12), 4, 5])  # the checkpoint was of step 4
    whole = tmp_path / "whole.pt"
    out = torchrun(2, ROOT / "examples/ranks/ddp.py", "--out", whole, "--steps", 12)
    assert re.search(r"step 12: \d\.\d\d, after 0 restarts", out)
    expected = torch.load(whole, weights_only=True)["model"]
    found = torch.load(tmp_path / "final.pt", weights_only=True)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name  # bit for bit


@pytest.mark.parametrize("package", ["lightning", "accelerate"])
def test_an_example_of_a_trainer_runs(package: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    script = ROOT / "examples" / "ranks" / f"with_{package}.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, last = map(float, re.findall(r"(\d+\.\d) -> (\d+\.\d)", done.stdout)[0])
    assert last < first / 2

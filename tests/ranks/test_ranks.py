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
    *("uneven batches", "accumulation without synchronization", "orders of wrapping"),
    *("refusals", "sharded parameters"),
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


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_gradient_of_all_ranks_is_that_of_one_process(ranks: int) -> None:
    found = re.findall(r"^ok (.*)$", torchrun(ranks, HERE / "worker.py"), re.MULTILINE)
    assert sorted(found) == sorted(ranks * CHECKS)  # every rank came through every check


def test_a_rank_that_is_killed_loses_the_steps_since_the_checkpoint_and_no_more(
    tmp_path: Path,
) -> None:
    finals = []
    for dies_at in (6, 99):
        folder = tmp_path / str(dies_at)
        folder.mkdir()
        torchrun(2, HERE / "dying.py", folder, dies_at, restarts=1)
        finals.append(torch.load(folder / "final.pt", weights_only=True))
        steps = [int(line) for line in (folder / "steps.txt").read_text().split()]
        again = [4, 5] if dies_at == 6 else []  # the checkpoint was of step 4
        assert sorted(steps) == sorted([*range(12), *again])
    for name, found in finals[0].items():
        assert torch.equal(found, finals[1][name]), name  # bit for bit


def test_examples_run(tmp_path: Path) -> None:
    out = torchrun(2, ROOT / "examples/ranks/ddp.py", "--out", tmp_path / "s.pt", "--steps", 30)
    assert re.search(r"step 30: \d\.\d\d, after 0 restarts", out)


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

"""Train as `examples/ranks/ddp.py` does, on ranks of which the last is killed once."""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

EXAMPLE = Path(__file__).parents[2] / "examples" / "ranks" / "ddp.py"


def train(folder: Path, dies_at: int) -> None:
    spec = importlib.util.spec_from_file_location("ddp", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    ddp = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ddp)
    training = ddp.Training(folder / "state.pt")
    with (folder / "steps.txt").open("a") as log:
        while training.step < 12:
            is_last = dist.get_rank() == dist.get_world_size() - 1
            is_first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
            if training.step == dies_at and is_last and is_first_life:
                os.kill(os.getpid(), signal.SIGKILL)
            if is_last:
                log.write(f"{training.step}\n")
                log.flush()
            training.advance()
            if training.step % 4 == 0:
                training.save()
    if dist.get_rank() == 0:
        torch.save(training.model.state_dict(), folder / "final.pt")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train(Path(sys.argv[1]), int(sys.argv[2]))
    dist.barrier()
    dist.destroy_process_group()

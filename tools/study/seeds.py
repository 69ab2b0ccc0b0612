"""Seeds: one for each draw, whoever makes it, so that results do not depend on the workers.

All come from one `numpy.random.SeedSequence` by the keys that its `spawn` would give: first the
purpose, then the block. The methods of a study share the seeds of their draws, so that they
differ by what they are; the reference run and the trainings have others.

>>> draws(0, DRAWS, block=1, count=2) == draws(0, DRAWS, block=1, count=3)[:2]
True
"""

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch

TRIAL, WARM_UP, DRAWS, REFERENCE, TRAINING = range(5)


def draws(seed: int, purpose: int, block: int, count: int) -> list[int]:
    """Return the seeds of the draws of a block."""
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, block))
    found: list[int] = sequence.generate_state(count, np.uint64).tolist()
    return found


def plant(seed: int) -> None:
    """Let torch, numpy and Python draw by a seed."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a millisecond
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def apart() -> Generator[None]:
    """Let a block draw and compute by one thread, and leave generators and threads as they were."""
    of_torch, of_numpy, of_python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several threads differ by rounding
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(of_torch)
        torch.cuda.set_rng_state_all(of_gpus)
        np.random.set_state(of_numpy)
        random.setstate(of_python)

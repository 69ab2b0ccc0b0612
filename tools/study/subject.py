"""Subject of a study: a program with its arguments and parameters, here and in other processes.

It is sent as cloudpickle makes it, with the module that the program is written in by value, so that
what a process computes is what was there when the study began. Each process shows that it does: its
gradient of a trial draw is compared with that of the process that asks.
"""

import hashlib
import inspect
import pickle
import sys
import sysconfig
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ancestral.estimators.gradient.loss_pytree import Loss
from ancestral.estimators.rerun.estimate import Estimate, Plan, estimate
from ancestral.estimators.rerun.replay import is_close
from ancestral.tools.study.errors import StudyError, WorkerError
from ancestral.tools.study.seeds import TRIAL, apart, draws, plant


@dataclass(frozen=True, eq=False)
class Subject:
    """A program, what it is called with, and the leaves that it is differentiated by."""

    program: Callable[..., Loss]
    args: tuple[Any, ...]
    leaves: tuple[Tensor, ...]

    def estimate(self, plan: Plan, *, check: bool = False) -> Estimate:
        """Return one estimate."""
        return estimate(
            self.program,
            *self.args,
            estimators=plan.estimators,
            baseline=plan.baseline,
            credit=plan.credit,
            check=check,
        )

    def gradient(self, surrogate: Tensor) -> list[Tensor]:
        """Return the derivatives by the leaves."""
        if not surrogate.requires_grad:
            return [torch.zeros_like(leaf) for leaf in self.leaves]
        return list(torch.autograd.grad(surrogate, self.leaves, materialize_grads=True))

    def trial(self) -> Tensor:
        """Return the gradient of one draw, the same in every process: [n], float64."""
        with apart(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plant(draws(0, TRIAL, 0, 1)[0])
            return flat(self.gradient(self.estimate(Plan()).surrogate))

    @property
    def digest(self) -> str:
        """What tells this subject from one of other parameters or arguments."""
        found = hashlib.sha256()
        for leaf in (*self.leaves, *_tensors(self.args)):
            data = leaf.detach().cpu().contiguous()
            found.update(f"{data.dtype}{list(data.shape)}".encode())
            found.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


def flat(gradients: list[Tensor]) -> Tensor:
    """Return derivatives as one vector, [n], float64."""
    return torch.cat([each.detach().reshape(-1).to("cpu", torch.float64) for each in gradients])


def _tensors(item: Any) -> list[Tensor]:
    """Return the tensors of arguments, in order."""
    match item:
        case Tensor():
            return [item]
        case nn.Module():
            return [*item.parameters(), *item.buffers()]
        case dict():
            return [each for value in item.values() for each in _tensors(value)]
        case list() | tuple():
            return [each for value in item for each in _tensors(value)]
        case _:
            return []


@dataclass(frozen=True, eq=False)
class Setup:
    """What tasks have in common.

    Attributes:
        subject: what is studied.
        plans: the methods by name; that of the reference run by "".
        seed: of the study.
        warm_up: how many estimates a method that learns has learned from before each block.
        rate: the step size of trainings.
        learned: the plans that have learned, as far as this process needed them.
    """

    subject: Subject
    plans: dict[str, Plan]
    seed: int
    warm_up: int
    rate: float
    learned: dict[str, Plan] = field(default_factory=dict[str, Plan])


@dataclass(frozen=True)
class Packed:
    """A setup in a file, for other processes.

    Attributes:
        path: of the file.
        digest: of its content.
        paths: where modules are looked for.
    """

    path: str
    digest: str
    paths: tuple[str, ...]

    @classmethod
    def into(cls, path: Path, setup: Setup) -> "Packed":
        """Write a setup with the gradient of a trial.

        Raises:
            StudyError: if it cannot be sent to another process.
        """
        import cloudpickle

        try:
            with _by_value(setup.subject.program, cloudpickle):
                body: bytes = cloudpickle.dumps((setup, setup.subject.trial()))
        except Exception as error:
            raise StudyError(
                "the program cannot be sent to another process, as a study does with it: "
                f"{type(error).__name__}: {error}; keep out of it what is open or runs (files, "
                "threads, generators), or make it within the program"
            ) from error
        path.write_bytes(body)
        return cls(str(path), hashlib.sha256(body).hexdigest(), tuple(sys.path))

    def load(self) -> Setup:
        """Return the setup, the same for every task of a process."""
        return _load(self)


@lru_cache(maxsize=1)
def _load(packed: Packed) -> Setup:
    sys.path.extend(path for path in packed.paths if path not in sys.path)
    body = Path(packed.path).read_bytes()
    if hashlib.sha256(body).hexdigest() != packed.digest:
        raise WorkerError(f"{packed.path} was changed while the study was at work")
    try:
        setup, trial = pickle.loads(body)
    except Exception as error:
        raise WorkerError(
            f"the program cannot be made again in another process: {type(error).__name__}: {error}"
        ) from error
    found = setup.subject.trial()
    if not is_close(found, trial):
        off = int((found - trial).abs().argmax())
        raise WorkerError(
            "the program gives another gradient in another process, with the same seed: "
            f"{float(found[off])}, where it was {float(trial[off])}; it depends on what is not "
            "sent along, such as a parameter or a setting in a module that it imports: pass that "
            "as an argument, or keep it in the module of the program"
        )
    is_ours: Setup = setup
    return is_ours


@contextmanager
def _by_value(program: Any, cloudpickle: Any) -> Generator[None]:
    """Let the module of a program be sent along, if it is the user's."""
    module = inspect.getmodule(program if inspect.isroutine(program) else type(program))
    if module is None or not _is_of_user(module):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _is_of_user(module: Any) -> bool:
    """Return whether a module is neither installed nor run as the main program."""
    file = getattr(module, "__file__", None)
    top = module.__name__.partition(".")[0]
    if file is None or top in ("__main__", "ancestral", *sys.stdlib_module_names):
        return False
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return not any(Path(file).resolve().is_relative_to(Path(each).resolve()) for each in installed)

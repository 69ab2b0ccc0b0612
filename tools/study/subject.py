"""Subject of a study: a program with its arguments and parameters, here and in other processes.

It is sent as cloudpickle makes it, with the module that the program is written in by value, so that
what a process computes is what was there when the study began. Each process shows that it does: its
loss and gradient of two trial draws are compared with those of the process that asks.
"""

import hashlib
import inspect
import pickle
import sys
import sysconfig
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ancestral.estimators.gradient.loss_pytree import Loss
from ancestral.estimators.rerun.estimate import Estimate, Plan, estimate
from ancestral.tools.study.errors import StudyError, WorkerError, writing
from ancestral.tools.study.seeds import TRIAL, apart, draws, plant
from ancestral.trace.serialize.file import replacing


@dataclass(frozen=True, eq=False)
class Subject:
    """A program, what it is called with, and the leaves that it is differentiated by."""

    program: Callable[..., Loss | None]
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
            sampling=plan.sampling,
            check=check,
        )

    def gradient(self, surrogate: Tensor) -> list[Tensor]:
        """Return the derivatives by the leaves."""
        if not surrogate.requires_grad:
            return [torch.zeros_like(leaf) for leaf in self.leaves]
        return list(torch.autograd.grad(surrogate, self.leaves, materialize_grads=True))

    def trial(self) -> Tensor:
        """Return loss and gradient of two draws, the same in every process, float64."""
        found: list[Tensor] = []
        with apart(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in draws(0, TRIAL, 0, 2):
                plant(seed)
                one = self.estimate(Plan())
                found += [one.value, *self.gradient(one.surrogate)]
        return flat(found)

    @property
    def digest(self) -> str:
        """What tells this subject from one of other parameters or arguments."""
        found = hashlib.sha256()
        for part in _parts((self.leaves, self.program, self.args)):
            if isinstance(part, str):
                found.update(part.encode())
                continue
            data = part.detach().to_dense().cpu().contiguous()
            found.update(f"{data.dtype}{list(data.shape)}".encode())
            found.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


def flat(gradients: list[Tensor]) -> Tensor:
    """Return derivatives as one vector, [n], float64."""
    return torch.cat([each.detach().reshape(-1).cpu() for each in gradients]).double()


def is_same(gradient: Tensor, other: Tensor) -> bool:
    """Return whether a gradient is another one but for the rounding of other machines."""
    if gradient.shape != other.shape:
        return False
    scale = float(other.abs().max()) if len(other) else 0.0
    return torch.allclose(gradient, other, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)


def _parts(item: Any) -> Iterator[Tensor | str]:
    """Yield the tensors of a thing, and texts of its numbers and the like, in order."""
    match item:
        case Tensor():
            yield item
        case np.ndarray() if item.dtype.kind in "biufc":
            yield torch.as_tensor(item)
        case nn.Module():
            yield from item.state_dict().values()
        case dict():
            yield from (part for pair in item.items() for each in pair for part in _parts(each))
        case list() | tuple():
            yield from (part for each in item for part in _parts(each))
        case bool() | int() | float() | complex() | str() | bytes() | None:
            yield repr(item)
        case _:
            yield type(item).__qualname__


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
            with _by_value(setup, cloudpickle):
                body: bytes = cloudpickle.dumps((setup, setup.subject.trial()))
        except Exception as error:
            raise StudyError(
                "the program cannot be sent to another process, as a study does with it: "
                f"{type(error).__name__}: {error}; keep out of it what is open or runs (files, "
                "threads, generators), or make it within the program"
            ) from error
        with writing(), replacing(path) as file:
            file.write(body)
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
    if not is_same(found, trial):
        off = int((found - trial).abs().argmax())
        raise WorkerError(
            "the program gives another loss or gradient in another process, with the same seed: "
            f"{float(found[off])}, where it was {float(trial[off])}; it depends on what is not "
            "sent along, such as a parameter or a setting in a module that it imports: pass that "
            "as an argument, or keep it in the module of the program"
        )
    is_ours: Setup = setup
    return is_ours


@contextmanager
def _by_value(setup: Setup, cloudpickle: Any) -> Generator[None]:
    """Let the modules of a program, its arguments and estimators be sent along, if the user's."""
    chosen = [each for plan in setup.plans.values() for each in _each(plan.estimators)]
    items = (setup.subject.program, *setup.subject.args, *chosen)
    modules = {id(module): module for module in map(_module_of, items) if _is_of_user(module)}
    for module in modules.values():
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules.values():
            cloudpickle.unregister_pickle_by_value(module)


def _each(choices: Any) -> Iterable[Any]:
    return choices.values() if isinstance(choices, Mapping) else (choices,)


def _module_of(item: Any) -> ModuleType | None:
    while isinstance(item, partial):
        item = item.func
    return inspect.getmodule(item if inspect.isroutine(item) else type(item))


def _is_of_user(module: ModuleType | None) -> bool:
    """Return whether a module is neither installed nor run as the main program."""
    file = None if module is None else getattr(module, "__file__", None)
    if module is None or file is None:
        return False
    top = module.__name__.partition(".")[0]
    if top in ("__main__", "ancestral", *sys.stdlib_module_names):
        return False
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return not any(Path(file).resolve().is_relative_to(Path(each).resolve()) for each in installed)

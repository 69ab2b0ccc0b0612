"""Studies: what each estimator is worth on one's own program.

>>> import torch
>>> from torch.distributions import Bernoulli
>>> logits = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
>>> def program(logits):
...     return (Bernoulli(logits=logits).sample() - 0.45).pow(2).sum()
>>> found = study(program, logits, estimators="score, straight-through", draws=200, steps=0)
>>> found.reference
'exact, over 4 outcomes'
>>> [row.estimator for row in found.total if row.is_biased]
['straight-through']
"""

import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ancestral
from ancestral.estimators.gradient.loss_pytree import Loss
from ancestral.estimators.rerun.estimate import Plan
from ancestral.estimators.rerun.program_leaves import Parameters
from ancestral.tools.study.bias import Sample
from ancestral.tools.study.errors import StudyError
from ancestral.tools.study.methods import Methods, described, methods_of
from ancestral.tools.study.report import toml_of, write, written
from ancestral.tools.study.schedule import Backend, begun, check_backend, finished
from ancestral.tools.study.seeds import apart
from ancestral.tools.study.store import Store
from ancestral.tools.study.subject import Packed, Setup, is_same
from ancestral.tools.study.table import (
    Groups,
    Study,
    StudyRow,
    Summary,
    rows_of,
)
from ancestral.tools.study.trial import Trial, fitting, trial_of
from ancestral.tools.study.work import (
    Failure,
    Numbers,
    Result,
    Task,
    Variances,
    blocks,
)
from ancestral.trace.context.argument_checks import check_count, check_function, short
from ancestral.trace.recording.record import current

FEWEST = 4
"""The least draws that a method may have."""
_SUBJECT = ".program.pickle"


def study(
    program: Callable[..., Loss | None],
    *args: Any,
    estimators: Methods = None,
    draws: int = 500,
    workers: int = 1,
    out: str | Path | None = None,
    seed: int = 0,
    steps: int = 100,
    rate: float = 0.01,
    warm_up: int = 100,
    parameters: Parameters = None,
    backend: Backend = "processes",
    source: Mapping[str, Any] | None = None,
) -> Study:
    """Measure estimators on a program: bias, variance, evaluations, and the time of a step.

    Each method makes `draws` estimates at the parameters as they are, and a reference run as many
    with the default of `an.backward`; where all draws of the program have few outcomes together,
    the reference is the exact gradient. Then each trains from these parameters. Methods have the
    same seeds. But for what is measured in seconds, the table is the same bit by bit whoever does
    the work, in whichever order, and after whatever interruptions, on the same kind of machine.

    Args:
        program: runs once and returns the loss, a scalar or scalars in any nesting.
        args: what it is called with.
        estimators: names such as ``"auto, disarm, arms(8)"``, or a dict of what `an.estimate` takes
            as `estimators`, or of `an.estimators.Plan`, by names of your choice; by default the
            common ones that fit the program. One that fits some sites only is used at those.
        draws: how many estimates each method makes, at least 4.
        workers: how many processes are at work.
        out: the folder for results. A study that is begun there goes on. None keeps nothing.
        seed: decides all draws.
        steps: how many steps each method trains; 0 for none.
        rate: the step size of Adam there.
        warm_up: how many estimates a method that learns has learned from before it is measured.
        parameters: by which the derivatives are taken, by name or not; by default, all leaves that
            the loss is computed from.
        backend: "processes" of this machine, or a cluster of "dask" or "ray" on it, by joblib.
        source: what is written into study.toml besides, to find the program again.

    Raises:
        RuntimeError: within an open recording.
        TypeError: if the program is no function, or returns no loss.
        ValueError: if a number of what is to be done is none, or too small.
        StudyError: if an estimator is unknown or does not fit, the folder holds another study, the
            disk is full, or something is not installed. No result is lost.
        NotAFunctionError: if the program differs from run to run.
        WorkerError: if processes die again and again, or compute something else than this one.
    """
    begin = time.perf_counter()
    check_function("study", program)
    check_count("draws", draws, least=FEWEST)
    check_count("workers", workers)
    for name, count in (("seed", seed), ("steps", steps), ("warm_up", warm_up)):
        check_count(name, count, least=0)
    if not (isinstance(rate, (int, float)) and rate > 0):
        raise ValueError(f"rate must be a number greater than 0, not {short(rate)}")
    if current() is not None:
        raise RuntimeError(
            "an.study runs a program many times, each in its own recording, and was called within "
            "an open an.record(); call it outside"
        )
    check_backend(backend)
    methods = methods_of(estimators)
    ready = begun(workers, backend)
    trial = trial_of(program, args, parameters)
    plans, evaluations, left_out = fitting(trial, methods, is_chosen=estimators is not None)
    setup = Setup(trial.subject, {"": Plan(), **plans}, seed, warm_up, rate)
    settings: dict[str, Any] = {"seed": seed, "draws": draws, "steps": steps, "rate": float(rate)}
    settings["warm_up"] = warm_up
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if out is None else out)
        store = stack.enter_context(closing(Store(folder, _identity(trial, settings))))
        store.claim({name: described(plan) for name, plan in plans.items()})
        _keep_reference(store, trial)
        toml = toml_of(_sections(program, plans, settings, workers, backend, source or {}))
        if out is not None:
            write(folder / "study.toml", toml)
        ready.join()
        slow_first = sorted(plans, key=evaluations.__getitem__, reverse=True)
        wanted = _tasks(slow_first, draws, steps, has_reference=trial.exact is None)
        done = store.kept()
        if store.sites() is not None:
            done.add(_sites_of(draws))
        tasks = [task for task in wanted if task not in done]
        failed, spent = _work(store, setup, folder, tasks, workers, backend)
        with apart():
            found = _found(store, trial, [name for name in plans if name not in failed])
        made = Study(
            *found,
            sites=store.sites() or {},
            reference=_reference(trial, draws),
            left_out=left_out,
            failed=failed,
            seconds=time.perf_counter() - begin,
            step_seconds=spent,
        )
        if out is None:
            return made
        return written(made, folder, _facts(program, trial, made, settings, source or {}), toml)


def _tasks(
    methods: Sequence[str], draws: int, steps: int, *, has_reference: bool
) -> Iterator[Task]:
    """Yield all tasks: first those that take long, then the blocks of all methods by turns.

    So that no worker is left with a long one at the end, the methods come slow ones first.
    """
    if steps:
        yield from (Task("training", name, 0, steps) for name in methods)
    yield _sites_of(draws)
    for block, count in blocks(draws):
        yield from (Task("draws", name, block, count) for name in methods)
        if has_reference:
            yield Task("reference", "", block, count)


def _sites_of(draws: int) -> Task:
    return Task("sites", "", 0, draws)


def _work(
    store: Store,
    setup: Setup,
    folder: Path,
    tasks: Sequence[Task],
    workers: int,
    backend: Backend,
) -> tuple[dict[str, str], float]:
    """Do tasks, and return why methods have failed, and the seconds of all estimates."""
    failed: dict[str, str] = {}
    spent = 0.0
    if not tasks:
        return failed, spent
    path = folder / _SUBJECT
    packed = Packed.into(path, setup)
    try:
        with _progress(len(tasks)) as bar:
            ready = finished(
                tasks, packed, workers, backend, lambda task: task.method not in failed
            )
            with closing(ready):
                for task, result in ready:
                    if isinstance(result, Failure):
                        _fail(failed, task, result)
                    elif isinstance(result, Variances):
                        store.keep_sites(result.by_site)
                    else:
                        store.keep(task, result)
                        spent += float(result.seconds.sum())
                    bar.update()
    finally:
        path.unlink(missing_ok=True)
    return failed, spent


def _fail(failed: dict[str, str], task: Task, result: Failure) -> None:
    if task.kind == "reference":
        raise StudyError(f"the reference run failed: {result.text}")
    if task.kind == "sites":
        raise StudyError(f"the variances of the sites failed: {result.text}")
    failed.setdefault(task.method, result.text)


def _progress(total: int) -> Any:
    """Return a bar on the terminal, if there is one."""
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]  # has no annotations
    except ModuleNotFoundError:
        from contextlib import nullcontext
        from types import SimpleNamespace

        return nullcontext(SimpleNamespace(update=lambda: None))
    return tqdm(total=total, desc="study", unit="task", disable=None, smoothing=0)


def _identity(trial: Trial, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the results depend on, besides what a method is."""
    leaves = zip(trial.names, trial.subject.leaves, strict=True)
    return {
        **settings,
        "shapes": {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves},
        "parameters and arguments": trial.subject.digest,
        "torch": torch.__version__,
        "ancestral": ancestral.__version__,
    }


def _keep_reference(store: Store, trial: Trial) -> None:
    """Keep the exact gradient, and the gradient of a trial that shows the program to be the same.

    Raises:
        StudyError: if it is another.
    """
    none, first = np.zeros(0), Task("trial", "", 0, 0)
    gradient = trial.subject.trial()
    if first in store.kept():
        ((_, kept),) = store.results("trial", "")
        if not is_same(gradient, torch.from_numpy(kept.mean)):
            raise StudyError(
                f"{store.path} holds another study: its program gave another loss or gradient "
                "by the same seed; choose another folder (--out), or study the program that it was"
            )
        return
    store.keep(first, Result(0, none, none, gradient.numpy(), none))
    if trial.exact is not None:
        store.keep(Task("reference", "", 0, 0), Result(0, none, none, trial.exact.numpy(), none))


def _found(
    store: Store, trial: Trial, names: Sequence[str]
) -> tuple[tuple[StudyRow, ...], dict[str, tuple[Numbers, Numbers]]]:
    """Return the rows and curves of what is kept."""
    sizes = tuple(leaf.numel() for leaf in trial.subject.leaves)
    kept = store.results("reference", "")
    if trial.exact is not None:
        reference = Sample.exact(torch.from_numpy(kept[0][1].mean))
        by_leaf = torch.zeros(len(sizes), dtype=torch.float64)
    else:
        summary = Summary.of(kept, sizes)
        reference = summary.sample
        by_leaf = summary.squares.sum(0) / (reference.draws - 1)
    summaries = {name: Summary.of(store.results("draws", name), sizes) for name in names}
    rows = rows_of(summaries, reference, Groups(trial.names, sizes), by_leaf)
    trained = {name: store.results("training", name) for name in names}
    curves = {name: (r[0][1].seconds, r[0][1].losses) for name, r in trained.items() if r}
    return tuple(rows), curves


def _reference(trial: Trial, draws: int) -> str:
    if trial.exact is not None:
        return f"exact, over {trial.outcomes} outcomes"
    return f"{draws} other draws of the default of an.backward"


def _name(program: Any) -> str:
    return str(getattr(program, "__qualname__", type(program).__name__))


def _sections(
    program: Any,
    plans: Mapping[str, Plan],
    settings: Mapping[str, Any],
    workers: int,
    backend: str,
    source: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Return what study.toml holds."""
    return {
        "study": {
            "program": _name(program),
            **source,
            "estimators": list(plans),
            **settings,
            "workers": workers,
            "backend": backend,
        },
        "methods": {name: described(plan) for name, plan in plans.items()},
        "versions": {
            "ancestral": ancestral.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.platform(),
        },
    }


def _facts(
    program: Any,
    trial: Trial,
    study: Study,
    settings: Mapping[str, Any],
    source: Mapping[str, Any],
) -> dict[str, str]:
    """Return what the report says besides the table."""
    count = sum(leaf.numel() for leaf in trial.subject.leaves)
    by_site = ", ".join(f"{name} {share:.0%}" for name, share in study.shares().items())
    return {
        "program": str(source.get("model", _name(program))),
        "parameters": f"{len(trial.names)} of {count:,} elements",
        "draws": f"{settings['draws']} of each estimator, seed {settings['seed']}",
        "reference": study.reference,
        **({"variance by site, of the default": by_site} if by_site else {}),
        **{f"failed: {name}": reason for name, reason in study.failed.items()},
        **{f"left out: {name}": reason for name, reason in study.left_out.items()},
        "trained": f"{settings['steps']} steps of Adam, step size {settings['rate']:g}",
    }

"""Schedule: who does which task, in this process or in others, until each is done once.

Other processes are joblib's, whatever its backend: processes of this machine, or those of a cluster
of dask or ray on it, which is started for the study. One that dies takes the tasks with it that it
was at; they are done again. Results come as they are ready, in any order.
"""

import contextlib
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

from ancestral.estimators.rerun.replay import NotAFunctionError
from ancestral.tools.study.errors import StudyError, WorkerError
from ancestral.tools.study.subject import Packed
from ancestral.tools.study.work import Failure, Result, Task, Variances, done
from ancestral.trace.context.argument_checks import short

Backend = Literal["processes", "dask", "ray"]
DEATHS = 3
"""How often workers may die in a row before a task is done."""

Finished = tuple[Task, Result | Variances | Failure]


def check_backend(backend: object) -> None:
    """Raise unless a backend is known and installed.

    Raises:
        StudyError: if it is not.
    """
    if backend not in get_args(Backend):
        raise StudyError(f"backend must be 'processes', 'dask' or 'ray', not {short(backend)}")
    needed = {"dask": "distributed", "ray": "ray"}.get(str(backend), "joblib")
    try:
        __import__(needed)
    except ModuleNotFoundError as error:
        if error.name != needed:
            raise
        name = "dask distributed" if needed == "distributed" else needed
        what = "'ancestral[study]'" if needed == "joblib" else name
        raise StudyError(
            f"a study with backend={backend!r} needs {needed}, which is not installed: "
            f"pip install {what}"
        ) from error


def begun(workers: int, backend: Backend) -> threading.Thread:
    """Let processes begin and import what they need, while this one tries the program."""

    def begin() -> None:
        with contextlib.suppress(Exception):  # which those who need them meet again
            _parallel(workers, "loky", return_as="list")(_call(os.getpid) for _ in range(workers))

    thread = threading.Thread(target=begin, daemon=True)
    if workers == 1 or backend != "processes":
        thread = threading.Thread(target=lambda: None)
    thread.start()
    return thread


def finished(
    tasks: Sequence[Task],
    packed: Packed,
    workers: int,
    backend: Backend,
    is_wanted: Callable[[Task], bool],
) -> Generator[Finished]:
    """Do tasks, and yield each with its result when it is done.

    Args:
        tasks: what is to be done, in the order in which it is begun.
        packed: what they have in common.
        workers: how many processes do it; one is this process.
        backend: whose processes.
        is_wanted: says of a task that is about to begin whether it is still to be done.

    Raises:
        WorkerError: if workers die again and again, and no task gets done.
    """
    if workers == 1 and backend == "processes":
        for task in filter(is_wanted, tasks):
            yield task, tried(task, packed)
        return
    missing, deaths = dict.fromkeys(tasks), 0
    with _cluster(workers, backend) as call:
        while wanted := [task for task in missing if is_wanted(task)]:
            before = len(missing)
            try:
                for task, result in call(filter(is_wanted, wanted), packed):
                    del missing[task]
                    yield task, result
            except Exception as error:
                if not _is_death(error):
                    raise
                deaths = 1 if len(missing) < before else deaths + 1
                if deaths == DEATHS:
                    raise WorkerError(_of_deaths(list(missing), workers, error)) from error


def tried(task: Task, packed: Packed) -> Result | Variances | Failure:
    """Do a task, and return why it cannot be done if that is the method's fault."""
    try:
        return done(task, packed)
    except (NotAFunctionError, WorkerError, MemoryError):
        raise  # the program's, or the machine's
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}")


def _paired(task: Task, packed: Packed) -> Finished:
    return task, tried(task, packed)


def _end_with(parent: int) -> None:
    """End this process as soon as the one that has begun it is there no more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)  # whatever the main thread does

    threading.Thread(target=watch, daemon=True).start()


Call = Callable[[Iterable[Task], Packed], Iterator[Finished]]


@contextmanager
def _cluster(workers: int, backend: Backend) -> Generator[Call]:
    """Start what does tasks, and end it with the block."""
    match backend:
        case "processes":
            yield lambda tasks, packed: _by_joblib(tasks, packed, workers, "loky")
        case "dask":
            from distributed import Client, LocalCluster

            with (
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address=None,
                    silence_logs=logging.ERROR,
                ) as cluster,
                Client(cluster),
            ):
                yield lambda tasks, packed: _by_joblib(tasks, packed, workers, "dask")
        case "ray":
            import ray
            from ray.util.joblib import register_ray

            is_ours = not ray.is_initialized()
            if is_ours:
                ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
            register_ray()
            try:
                yield lambda tasks, packed: _in_rounds(tasks, packed, workers)
            finally:
                if is_ours:
                    ray.shutdown()


def _by_joblib(
    tasks: Iterable[Task], packed: Packed, workers: int, backend: str
) -> Iterator[Finished]:
    """Yield results as they come."""
    parallel = _parallel(workers, backend, return_as="generator_unordered")
    found: Generator[Finished] = parallel(_call(_paired, task, packed) for task in tasks)
    try:
        yield from found
    finally:
        found.close()


def _parallel(workers: int, backend: str, **options: Any) -> Any:
    """Return joblib's way to call functions in processes, which end with this one."""
    from joblib import Parallel, parallel_config

    ours: dict[str, Any] = {"initializer": _end_with, "initargs": (os.getpid(),)}
    with parallel_config(backend, n_jobs=workers, **(ours if backend == "loky" else {})):
        return Parallel(batch_size=1, pre_dispatch="2*n_jobs", **options)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    from joblib import delayed

    return delayed(function)(*args)


def _in_rounds(tasks: Iterable[Task], packed: Packed, workers: int) -> Iterator[Finished]:
    """Yield the results of a backend that returns them all at once: a few at a time."""
    coming = iter(tasks)
    with _parallel(workers, "ray") as parallel:
        while part := list(itertools.islice(coming, 4 * workers)):
            yield from parallel(_call(_paired, task, packed) for task in part)


def _is_death(error: Exception) -> bool:
    """Return whether a backend says that a worker has died."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(
        names & {"BrokenProcessPool", "KilledWorker", "RayActorError", "WorkerCrashedError"}
    )


def _of_deaths(missing: Sequence[Task], workers: int, error: Any) -> str:
    methods = dict.fromkeys(task.method or "the reference run" for task in missing[: 2 * workers])
    reason = " ".join(str(error).split())
    return (
        f"workers died {DEATHS} times before any task was done, at most at tasks of "
        f"{', '.join(methods)} ({reason}); take fewer workers if the memory does not hold them all,"
        " or leave these estimators out; what was done until then is kept"
    )

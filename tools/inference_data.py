"""Inference data: what was drawn of a model, in the form that ArviZ plots and compares.

ArviZ is an extra: ``pip install ancestral[arviz]``.
"""

import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from ancestral.estimators.predictive import Given, StackedValuesError, number_of, plain
from ancestral.estimators.runs import Key, Stacked, many
from ancestral.estimators.vectorized import Layout, Run
from ancestral.provenance.tensor import untrack
from ancestral.trace.factor import Factor
from ancestral.trace.node import Node
from ancestral.trace.record import Trace, record
from ancestral.trace.recorded import check_program

Groups = dict[str, dict[str, np.ndarray]]


class MissingArvizError(ImportError):
    """ArviZ is not installed."""

    def __init__(self) -> None:
        """Say what to install."""
        super().__init__(
            "to_inference_data needs ArviZ, which is not installed: pip install ancestral[arviz]"
        )


def to_inference_data(
    model: Callable[..., Any],
    *args: Any,
    posterior: Mapping[str, Tensor],
    prior: Mapping[str, Tensor] | None = None,
    posterior_predictive: Mapping[str, Tensor] | None = None,
    chains: int = 1,
    vectorized: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Return draws from the posterior of a model as an `arviz.InferenceData`.

    Its groups are the posterior, with what the model computes under a name; the observed data; the
    log-likelihood of each case of it, unscaled, zero where it is masked; and what else is given. A
    dimension that is a plate has its name, and the indices of its repetitions.

    Args:
        model: the program, which observes the data.
        *args: what it is called with.
        posterior: the draws, each [samples, *shape], as `Importance.resample` returns them.
        prior: draws from the prior, as ``Predictive(model, samples=n)(*args)`` returns them; of
            observed sites they are the prior predictive.
        posterior_predictive: what ``Predictive(model, posterior)(*args)`` returns.
        chains: how many chains the samples are, one after the other.
        vectorized: as in `ancestral.estimators.importance.importance`.
        **kwargs: what the model is called with.

    Raises:
        TypeError: if `model` is no function.
        MissingArvizError: if ArviZ is not installed.
        StackedValuesError: if the draws do not fit each other, the chains, or the model.
        OpenRecordingError: within a recording.
    """
    check_program("to_inference_data", "model", model)
    arviz = _arviz()
    given = {name: plain(name, value) for name, value in posterior.items()}
    samples = number_of(given, None)
    if chains < 1 or samples % chains:
        problem = f"there are {samples} of them, which are not {chains} chains of one length"
        raise StackedValuesError(next(iter(given)), problem)
    single: list[Trace] = []

    def program(layout: Layout) -> tuple[Trace]:
        handler = Given(given, layout)
        with record() as trace, handler:
            model(*args, **kwargs)
        handler.refuse_unmet()
        return (trace,)

    def read(run: Run) -> dict[Key, Tensor]:
        single[:] = run.single
        return _read(run, given)

    found = many("to_inference_data", program, read, samples, vectorized)
    groups = _groups(found, given, chains)
    observed = {n.name: n for n in single[0].observation_nodes if _is_data(n)}
    groups["observed_data"] = {name: _array(node.value) for name, node in observed.items()}
    _add(groups, "prior", prior or {}, 1)
    number_of(posterior_predictive or {}, samples)
    _add(groups, "posterior", posterior_predictive or {}, chains)
    filled = {group: values for group, values in groups.items() if values}
    return arviz.from_dict(**filled, **_axes(single[0]))


def _arviz() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it announces its next version
            import arviz
    except ImportError as error:
        raise MissingArvizError from error
    found: ModuleType = arviz
    return found


def _is_data(node: Node) -> bool:
    return node.is_declared and not isinstance(node.fn, Factor)


def _is_of_posterior(node: Node) -> bool:
    return node.type == "deterministic" or (node.is_drawn and node.is_declared)


def _read(run: Run, given: Mapping[str, Tensor]) -> dict[Key, Tensor]:
    """Return the log-likelihoods, and what the posterior has besides what was given."""
    found: dict[Key, Tensor] = {}
    for node in run.traces[0].values():
        if node.type == "sample" and node.is_observed and _is_data(node):
            found["log_likelihood", node.name] = run.pointwise(node)
        elif node.name not in given and _is_of_posterior(node):
            found["posterior", node.name] = run.value(node)
    return found


def _groups(found: Stacked, given: Mapping[str, Tensor], chains: int) -> Groups:
    for word, name in found.ragged:
        raise StackedValuesError(name, f"the {word} has one shape in some runs, and in others not")
    groups: Groups = {"posterior": {}, "log_likelihood": {}}
    everything = {("posterior", name): value for name, value in given.items()} | dict(found.values)
    for (group, name), value in everything.items():
        groups[group][name] = _array(value.reshape(chains, -1, *value.shape[1:]))
    return groups


def _add(groups: Groups, word: str, draws: Mapping[str, Tensor], chains: int) -> None:
    """Add draws to the group of their word, or to its predictive group if they are of data."""
    for name, value in draws.items():
        group = f"{word}_predictive" if name in groups["observed_data"] else word
        array = _array(plain(name, value).reshape(chains, -1, *value.shape[1:]))
        groups.setdefault(group, {}).setdefault(name, array)


def _axes(trace: Trace) -> dict[str, Any]:
    """Return the names of the dimensions of each site, and the indices along those of plates."""
    dims: dict[str, list[str]] = {
        node.name: [f"{node.name}_dim_{i}" for i in range(node.value.dim())]
        for node in trace.values()
        if node.type in ("sample", "deterministic")
    }
    coords: dict[str, np.ndarray] = {}
    for extent in trace.plates:
        for name, dim in extent.dims:
            if extent.is_declared and dim is not None and name in dims:
                dims[name][dim] = extent.name
                plate = trace.get(extent.name)
                size = extent.subsample_size
                coords[extent.name] = np.arange(size) if plate is None else _array(plate.value)
    return {"dims": dims, "coords": coords}


def _array(value: Tensor) -> np.ndarray:
    return np.asarray(untrack(value).detach().cpu().numpy())

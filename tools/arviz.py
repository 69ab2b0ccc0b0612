"""ArviZ: samples of a model as inference data, for plots and diagnostics.

ArviZ is an extra: ``pip install ancestral[arviz]``.
"""

import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from ancestral.estimators.batched.run import Run, plain
from ancestral.estimators.batched.run_many import Key, Stacked, many
from ancestral.estimators.inference.pyro_hints import CHAINS, refuse
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.errors import SiteError
from ancestral.trace.graph.argument_types import check_program
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace

Groups = dict[str, dict[str, np.ndarray]]


def to_inference_data(
    model: Callable[..., Any],
    *args: Any,
    posterior: Mapping[str, Tensor],
    prior: Mapping[str, Tensor] | None = None,
    posterior_predictive: Mapping[str, Tensor] | None = None,
    constant_data: Mapping[str, Tensor] | None = None,
    chains: int = 1,
    vectorized: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Return draws from the posterior of a model as an `arviz.InferenceData`.

    Its groups are the posterior, with what the model computes under a name; the observed data, NaN
    where it is masked; the log-likelihood of each case of it, unscaled, zero where it is masked
    (leave these cases out of ``arviz.loo``, which counts them); and what else is given. A dimension
    that is a plate has its name, and the indices of its repetitions.

    Args:
        model: the program, which observes the data.
        *args: what it is called with.
        posterior: the draws, each [samples, *shape], as `Importance.resample` returns them.
        prior: draws from the prior, as ``Predictive(model, samples=n)(*args)`` returns them; of
            observed sites they are the prior predictive.
        posterior_predictive: what ``Predictive(model, posterior)(*args)`` returns.
        constant_data: what the model is given and does not observe, such as covariates.
        chains: how many chains the samples are, one after the other.
        vectorized: as in `ancestral.estimators.inference.importance.importance`.
        **kwargs: what the model is called with.

    Raises:
        TypeError: if `model` is no function; for a keyword that is Pyro's name of one of these, and
            no parameter of the model.
        ImportError: if ArviZ is not installed.
        ValueError: if the posterior is empty.
        SiteError: if the draws do not fit each other, the chains, or the model; if a plate is
            subsampled.
        RuntimeError: within a recording.
    """
    check_program("to_inference_data", "model", model)
    refuse("to_inference_data", (model,), kwargs, CHAINS)
    arviz = _arviz()
    given, samples = plain(posterior)
    if samples is None:
        raise ValueError(
            "the posterior of to_inference_data is empty; expected the draws of one site at least, "
            "such as those that Importance.resample returns"
        )
    if not isinstance(chains, int) or chains < 1 or samples % chains:
        problem = f"there are {samples} of them, which are not {short(chains)} chains of one length"
        raise SiteError(f"the values of site {next(iter(given))!r}: {problem}")
    before, _ = plain(prior)
    predicted, _ = plain(posterior_predictive, samples)
    single: list[Trace] = []

    def program() -> tuple[Trace]:
        with record() as trace:
            model(*args, **kwargs)
        return (trace,)

    def read(run: Run) -> dict[Key, Tensor]:
        single[:] = run.single
        return _read(run, given)

    found = many("to_inference_data", program, read, samples, vectorized, given)
    groups = _groups(found, given, chains)
    observed = {n.name: n for n in single[0].observation_nodes if _is_data(n)}
    groups["observed_data"] = {name: _observed(node) for name, node in observed.items()}
    groups["constant_data"] = {n: _array(value) for n, value in (constant_data or {}).items()}
    _add(groups, "prior", before, 1, single[0])
    _add(groups, "posterior", predicted, chains, single[0])
    filled = {group: values for group, values in groups.items() if values}
    return arviz.from_dict(**filled, **_axes(single[0]))


def _arviz() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it announces its next version
            import arviz
    except ImportError as error:
        raise ImportError(
            "to_inference_data needs ArviZ, which is not installed: pip install ancestral[arviz]"
        ) from error
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
        if node.type == "plate" and node.infer["subsample_size"] < node.infer["size"]:
            raise SiteError(
                f"plate {node.name!r} ({node.location}) is subsampled: each draw would have the "
                "log-likelihood of other cases; give the plate no subsample_size here"
            )
        if node.type == "sample" and node.is_observed and _is_data(node):
            found["log_likelihood", node.name] = run.rows(node, "masked_log_prob")
        elif node.name not in given and _is_of_posterior(node):
            found["posterior", node.name] = run.rows(node)
    return found


def _groups(found: Stacked, given: Mapping[str, Tensor], chains: int) -> Groups:
    for word, name in found.ragged:
        raise SiteError(
            f"the values of site {name!r}: the {word} has one shape in some runs, and in others not"
        )
    groups: Groups = {"posterior": {}, "log_likelihood": {}}
    everything = {("posterior", name): value for name, value in given.items()} | dict(found.values)
    for (group, name), value in everything.items():
        groups[group][name] = _array(value.reshape(chains, -1, *value.shape[1:]))
    return groups


def _add(groups: Groups, word: str, draws: Mapping[str, Tensor], chains: int, trace: Trace) -> None:
    """Add draws to the group of their word, or to its predictive group if they are of data."""
    for name, value in draws.items():
        shape = list(value.shape[1:])
        if name in trace and shape != list(trace[name].value.shape):
            raise SiteError(
                f"the values of site {name!r}: each of the {word} draws has shape {shape}; "
                f"expected {list(trace[name].value.shape)}, as the model has it with the arguments "
                "given"
            )
        group = f"{word}_predictive" if name in groups["observed_data"] else word
        array = _array(value.reshape(chains, -1, *value.shape[1:]))
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
                dims[name][dim] = label = _label(extent.name)
                coords[label] = np.arange(extent.subsample_size)
    return {"dims": dims, "coords": coords}


def _label(plate: str) -> str:
    """Return the name of a plate as that of a dimension, which ArviZ has not taken for its own."""
    return f"{plate}_plate" if plate in ("chain", "draw") else plate


def _observed(node: Node) -> np.ndarray:
    """Return the data of a site, without what does not count."""
    data = _array(node.value)
    if node.mask is None or bool(untrack(node.mask).all()):
        return data
    event = (1,) * (node.value.dim() - node.masked_log_prob.dim())
    counts = _array(node.mask.expand(node.masked_log_prob.shape))
    return np.where(counts.reshape(*counts.shape, *event), data, np.nan)


def _array(value: Tensor) -> np.ndarray:
    return np.asarray(untrack(value).detach().cpu().numpy())

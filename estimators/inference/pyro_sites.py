"""Sites of Pyro's traces: their log-probabilities, and what is wrong with them, with the line."""

import inspect
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from pyro import poutine
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import InferDict
from pyro.util import check_site_shape
from torch import Tensor

from ancestral.estimators.inference.model_guide import GuideError, Pair, misread, missing, sites_of
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.errors import SiteError, guessed, listed
from ancestral.trace.context.place import Location, line_of, place
from ancestral.trace.graph.argument_types import check_program
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.node import Node
from ancestral.trace.pyro.bridge import node_of
from ancestral.trace.recording.trace import Trace

_Site = Any


def density_of(site: _Site) -> Tensor:
    """Return the log-probability of a site, masked and scaled, with its provenance.

    Raises:
        SiteError: if it cannot be computed, as of a value outside the support.
    """
    node = node_of(site)
    try:
        if node is not None:
            return node.tracked_log_prob
        # A handler hid the statement, or it has another density than that of the draw.
        density = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        weighed: Tensor = scale_and_mask(density, site["scale"], site["mask"])
        return weighed
    except SiteError:
        raise
    except (ValueError, RuntimeError) as error:
        raise SiteError(f"{named(site)} has no log-probability: {error}") from error


def check_shape(site: _Site, term: Tensor, max_plate_nesting: Any) -> None:
    """Raise unless the dimensions of a batch are those of the plates around.

    Raises:
        SiteError: if they are not.
    """
    node = node_of(site)
    site["log_prob"] = term if node is None else _by_case(node, term)
    try:
        check_site_shape(site, max_plate_nesting)
    except ValueError as error:
        raise SiteError(f"{named(site)}: {error}") from error


def _by_case(node: Node, term: Tensor) -> Tensor:
    """Return a log-probability over the batch that the user knows."""
    if not node.event_dims or tuple(term.shape) != node.shape:
        return term
    return term.sum(tuple(range(-node.event_dims, 0)))


@contextmanager
def with_lines() -> Generator[None]:
    """Note at an error of Pyro, or of torch, the user's line that it came out of."""
    try:
        yield
    except Exception as error:
        where = line_of(error)
        if where is not None and str(where) not in str(error):
            error.add_note(f"It came out of {where}.")
        raise


def check_runs(verb: str, role: str, program: Any) -> None:
    """Raise unless a program, within handlers of Pyro, runs when it is called.

    Raises:
        TypeError: if it is no function, or a generator or a coroutine.
    """
    inner: Any = poutine.unwrap(program)
    check_program(verb, role, inner)
    body = getattr(inner, "forward", inner)
    kinds = inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction
    if any(is_of(body) for is_of in kinds):
        raise _unrun(verb, role, body)


def refuse_observed(guide: Trace) -> None:
    """Raise a GuideError if a guide observes a site; a factor may be a part of its density."""
    for node in sites_of(guide):
        if node.is_observed and not isinstance(node.fn, Factor):
            raise GuideError(
                f"site {node.name!r} ({node.location}) of the guide is observed; expected a guide "
                "to draw the latent sites of the model and nothing else: observe it in the model "
                "alone; if the model observes nothing, the two seem to be swapped"
            )


def refuse_mismatch(pair: Pair) -> None:
    """Raise a GuideError where the sum of log-probabilities of a pair would be no bound."""
    for error in (*missing(pair), *misread(pair)):
        raise error


def refuse_unspecified(site: _Site) -> None:
    """Raise unless a factor of the guide is one of the densities whose gradient is the whole."""
    factor, node = site["fn"], node_of(site)
    if not isinstance(factor, Unit):
        return
    where = "" if node is None else f" ({node.location})"
    if "has_rsample" not in vars(factor):
        raise GuideError(
            f"factor {site['name']!r}{where} is missing specification of has_rsample; expected "
            "pyro.factor(name, value, has_rsample=True) in a guide: the density of what is drawn "
            "by a differentiable transformation"
        )
    if not factor.has_rsample and factor.log_factor.requires_grad:
        raise GuideError(
            f"factor {site['name']!r}{where} says has_rsample=False, so that it is the density of "
            "a draw that nobody sees, whose score it would need; draw it by pyro.sample, or say "
            "has_rsample=True if it is the density of a differentiable transformation"
        )


_KNOWN = frozenset({*InferDict.__annotations__, "tmc", "baseline", "estimator", "credit"})
_VALUES: Mapping[str, tuple[Any, ...]] = {
    "enumerate": (None, "parallel", "sequential"),
    "estimator": (None, "auto", "pathwise", "score"),
}
"""The options that are texts, and which of these are read."""


def check_infer(site: _Site) -> None:
    """Raise for what nothing reads in the ``infer`` of a site."""
    infer = site["infer"]
    if _KNOWN.issuperset(infer) and _VALUES.keys().isdisjoint(infer) and "num_samples" not in infer:
        return
    unknown = [k for k in infer if k not in _KNOWN and not str(k).startswith("_")]
    if unknown:
        options = sorted(key for key in _KNOWN if not key.startswith("_"))
        raise SiteError(
            f"{named(site)}: nothing reads {unknown[0]!r} in its infer; expected of "
            f"{listed(options)}{guessed(unknown, options)}"
        )
    for key, values in _VALUES.items():
        if isinstance(infer.get(key), str) and infer[key] not in values:
            raise SiteError(
                f"{named(site)}: {key!r} in its infer is {infer[key]!r}; expected "
                f"{listed([value for value in values if value is not None])}"
            )
    count = infer.get("num_samples")
    is_count = isinstance(count, int) and not isinstance(count, bool) and count > 0
    if count is not None and not is_count:
        raise SiteError(
            f"{named(site)}: num_samples in its infer is {short(count)}; expected how often it is "
            "drawn, a positive int"
        )
    if count is not None and infer.get("enumerate") != "parallel":
        raise SiteError(
            f"{named(site)}: nothing reads num_samples in its infer, as it is not marked; expected "
            'infer={"enumerate": "parallel", "num_samples": ...} beside TraceEnum_ELBO'
        )


class Replay(ReplayMessenger):
    """Gives a model the values of its guide, whose ``infer`` then hides what the model says."""

    def _pyro_sample(self, msg: _Site) -> None:
        check_infer(msg)
        super()._pyro_sample(msg)


class Lines(Messenger):
    """Notes the lines of sites, for the errors of whoever looks at Pyro's traces alone."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[str, Location] = {}

    def _pyro_sample(self, msg: _Site) -> None:
        self.at[msg["name"]] = place().location

    @contextmanager
    def noted(self) -> Generator[None]:
        """Note at an error that names a site which line it is at."""
        try:
            yield
        except ValueError as error:
            name = next((name for name in self.at if f'at site "{name}"' in str(error)), None)
            if name is None:
                raise
            raise SiteError(f"site {name!r} ({self.at[name]}): {error}") from error


def refuse_unrun(role: str, program: Any, trace: _Site) -> None:
    """Raise if what a program returned has its statements still to run.

    Raises:
        TypeError: if it did.
    """
    found = trace.nodes["_RETURN"]["value"]
    kinds = inspect.isgenerator, inspect.iscoroutine, inspect.isasyncgen
    if any(is_of(found) for is_of in kinds):
        if inspect.iscoroutine(found):
            found.close()  # else Python complains of it too
        raise _unrun("the loss", role, poutine.unwrap(program))


def _unrun(verb: str, role: str, body: object) -> TypeError:
    return TypeError(
        f"{verb} takes the {role} as a function, not as a generator or a coroutine, such as "
        f"{short(body)}: its statements would run after the call, or never; loop over its "
        "steps within a function"
    )


def named(site: _Site) -> str:
    """Return what a message calls a site: its name and its line."""
    node = node_of(site)
    # Without a node, its statement is just being made, or a handler hid it.
    where = node.location if node is not None else None if site["done"] else place().location
    return f"site {site['name']!r}" + ("" if where is None else f" ({where})")

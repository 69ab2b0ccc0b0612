"""Baselines as Pyro's users ask for them: ``infer={"baseline": {...}}`` at a site of the guide.

        b = decaying average of the downstream costs of earlier steps + what a network predicts

Pyro's costs are those of the bound, which is maximized, and of a whole case; a credit here is of
the loss, and of an element of an event.
"""

import glob
from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import torch
from pyro.distributions.util import detach
from torch import Tensor

from ancestral.estimators.credit.credit import Credit
from ancestral.estimators.gradient.subtraction import BaselineError
from ancestral.estimators.inference.pyro_sites import named
from ancestral.provenance.tensor.tensor import untrack

_KEYS = (
    "nn_baseline nn_baseline_input use_decaying_avg_baseline baseline_beta baseline_value".split()
)
_AVERAGE = "__baseline_avg_downstream_cost_"  # Pyro's own name, under which a store may have it


class PyroBaseline:
    """What Pyro's options of a site say to subtract, and the loss by which a network learns it.

    Attributes:
        loss: the sum of (cost - baseline)², for the networks to learn by, [].
    """

    def __init__(
        self, name: str, described: str, options: Mapping[str, Any], particles: int
    ) -> None:
        """Take the options of a site, and what a message calls it.

        Raises:
            BaselineError: if there is one that Pyro does not know, or two that exclude each other.
        """
        unknown = [repr(key) for key in options if key not in _KEYS]
        if unknown:
            raise BaselineError(
                f"{described}: nothing reads {', '.join(unknown)} in its baseline; expected of "
                f"{', '.join(_KEYS)}"
            )
        if options.get("nn_baseline") is not None and options.get("baseline_value") is not None:
            raise BaselineError(
                f"{described}: its baseline has both nn_baseline and baseline_value, of which "
                "one may predict the cost"
            )
        self._name, self._options, self._particles = name, options, particles
        self._described = described
        self.loss = torch.zeros(())

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return what is subtracted from the credit of each element: [*batch], with ones."""
        events = 0 if credit.site is None else credit.site.event_dims
        total = untrack(credit.total).detach().expand(credit.shape)
        dims = tuple(range(len(credit.shape) - events, len(credit.shape)))
        cost = -self._particles * (total.mean(dims) if dims else total)
        found = self._average(cost) if self._options.get("use_decaying_avg_baseline") else None
        learned = self._predicted()
        if learned is not None:
            found = learned if found is None else found + learned
            self.loss = self.loss + (cost - untrack(found)).square().sum()
        if found is None:
            return cost.new_zeros(())
        if found.shape != cost.shape:
            raise BaselineError(
                f"{self._described}: its baseline has shape {list(found.shape)}; expected that "
                f"of its batch, {list(cost.shape)}, one for each case"
            )
        return -found[(..., *(None,) * len(dims))] / self._particles

    def _average(self, cost: Tensor) -> Tensor:
        """Return the average of earlier steps, and take this one in."""
        beta, name = self._options.get("baseline_beta", 0.9), _AVERAGE + self._name
        with torch.no_grad():
            old = pyro.param(name, torch.zeros_like(cost))
            pyro.get_param_store()[name] = (1 - beta) * cost + beta * old
        return old.detach()

    def _predicted(self) -> Tensor | None:
        """Return what a network, or the user's own value, predicts."""
        network = self._options.get("nn_baseline")
        if network is not None:
            found: Tensor = network(detach(self._options.get("nn_baseline_input")))
            return found
        return self._options.get("baseline_value")


def baselines_of(
    sites: Iterable[Any], given: Any, particles: int
) -> tuple[Any, list[PyroBaseline]]:
    """Return the baseline of each site, and those of them that Pyro's options ask for.

    Args:
        sites: the sites of the guide.
        given: the baseline of the loss, for the other sites.
        particles: how many runs the loss is a mean of.
    """
    asked = {s["name"]: options_of(s) for s in sites if options_of(s)}
    if not asked:
        return given, []
    lines = {site["name"]: named(site) for site in sites if site["name"] in asked}
    found = {n: PyroBaseline(n, lines[n], options, particles) for n, options in asked.items()}
    by_name: dict[str, Any] = {glob.escape(name): each for name, each in found.items()}
    rest = given if isinstance(given, Mapping) else _others(sites, found, given)
    return {**by_name, **rest}, list(found.values())


def options_of(site: Any) -> Mapping[str, Any]:
    """Return Pyro's options for the baseline of a site, none where it has none."""
    options = site["infer"].get("baseline")
    return options if isinstance(options, Mapping) else {}


def _others(sites: Iterable[Any], asked: Mapping[str, Any], given: Any) -> dict[str, Any]:
    rest = [site for site in sites if site["name"] not in asked and not site["is_observed"]]
    return {glob.escape(s["name"]): s["infer"].get("baseline", given) for s in rest} | {"*": given}

"""Monitor: the variance of the gradient by site and parameter, while a model is trained.

>>> import torch
>>> import ancestral as an
>>> monitor = an.Monitor()
>>> logits = torch.zeros(8, requires_grad=True)
>>> with an.record() as trace:
...     z = torch.distributions.Bernoulli(logits=logits.expand(64, 8)).sample()
...     loss = (z - 0.45).pow(2).mean()
>>> an.backward(loss, monitor=monitor)
>>> sorted(monitor.log())[-3:]
['total/skipped', 'total/steps', 'total/variance']
"""

import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ancestral.estimators.baselines.learned import StateError
from ancestral.estimators.diagnostics.contrast import Measured, measured
from ancestral.estimators.diagnostics.observer import Scores
from ancestral.estimators.diagnostics.running import Mean, Running, correlation, gain, merged
from ancestral.provenance.tensor.tensor import raw
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.context.place import stacklevel
from ancestral.trace.display.text_table import Table, Tabular
from ancestral.trace.graph.loop_names import stem
from ancestral.trace.nodes.autograd_graph import edge_of
from ancestral.trace.nodes.node import Node

Key = tuple[str, str]
"""A site and a parameter; "" for all of them."""

TOTAL: Key = ("", "")
MOST_SITES = 32
"""Sites that are measured one by one; of more, the repeats of a loop are measured together."""

MOST_KEPT = 256
"""Sites without a variance that are remembered, and warnings that are given."""


class MonitorWarning(UserWarning):
    """A monitor has nothing to tell of a site, or nothing at all."""


@dataclass(frozen=True)
class SiteRow:
    """What a monitor knows of one site, or of the repeats of a loop, ``z[t]``.

    Attributes:
        variance: of its part of the gradient, summed over the coordinates of all parameters.
        share: of the sum of the variances of all sites; None if that is zero.
        correlation: of its baseline and its credit, None where one of them does not vary.
        gain: the part of the squared credit that the baseline takes away, None without a baseline.
        params: the variance of its part of the gradient of each parameter.
    """

    site: str
    variance: Mean
    share: float | None
    correlation: float | None
    gain: float | None
    params: Mapping[str, Mean]


class Monitor(Tabular):
    """Estimates which sites and parameters the variance of the gradient comes from.

    Of the score function's part of the gradient, which is a sum over the sites i and the examples n
    of a batch,

        G_i = Σ_n g_i[n],   g_i[n] = Σ_(s in n) ∇ log q(z_i[s]) · (C_i[s] - b_i[s])

    with the credit C and the baseline b that `an.backward` uses, it estimates for each parameter θ

        V_i[θ] = N/(N-1) Σ_n |g_i[n] - ḡ_i|²          summed over the coordinates of θ

    by one pass of autograd for each site and measured step: see `contrast`. Its mean is exactly

        E V_i[θ] = Σ_n Var g_i[n] + N/(N-1) Σ_n |μ[n] - μ̄|² - 1/(N-1) Σ_(n≠m) Cov(g_i[n], g_i[m])

    where μ[n] is the mean of g_i[n]. Thus it is the variance of G_i, where examples are independent
    and alike. In general it differs from it so:

    - μ differs between the examples: what that adds is the part of the variance that comes from
      which examples are in the batch, as of a batch drawn at random. Where the first dimension that
      stays apart in all costs is one of units that have each its own parameters, not of examples,
      it is the square of the mean gradient.
    - The covariance between examples is ignored, times N/(N-1): what comes from draws upstream that
      all examples share; and that of a leave-one-out baseline, Σ_(n≠m) μ[n]·μ[m] / (N-1)² of means
      over the others.

    Of several sites, "variance_share" is V_i / Σ_k V_k: covariances between sites are in no share.
    They are in "param/θ/variance" and "total/variance", where they lie within one example: sites
    of as many examples, which are taken to be the same. Pathwise parts of the gradient, and the
    loss's own derivative, are in none of them. All are in squared units of the loss's gradient.

    Over the steps these are weighted means, of constant memory, on the device of the parameters: no
    step waits for it, until `log` is called. A measured step draws nothing, and leaves the
    gradient and the draws as they are without; hooks of the user's on tensors run once more.
    A monitor may be given to gradients of several threads.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, Tensor] | None = None,
        *,
        every: int = 10,
        decay: float = 0.95,
        dim: int | None = None,
    ) -> None:
        """Begin with nothing known.

        Args:
            model: gives the parameters their names, as of now whenever a step is measured; those of
                `an.param` have theirs. All others count together as "(unnamed)".
            every: measure the first gradient, and then each one of so many.
            decay: what the weight of a measured step is multiplied with at each later one, in
                (0, 1]; 1 for all steps alike.
            dim: the dimension of the sites along which their elements are examples, counted from
                the end if negative; by default of each the first that stays apart in all costs.

        Raises:
            TypeError: if `model` has no named parameters, or `dim` is no integer.
            ValueError: if `every` or `decay` is out of range.
        """
        if not (model is None or isinstance(model, nn.Module | Mapping)):
            raise TypeError(
                f"model must be a torch.nn.Module or a dictionary of tensors, not {kind_of(model)}"
            )
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a number of steps, at least 1, not {every!r}")
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay <= 1:
            raise ValueError(f"decay must be in (0, 1], not {decay!r}: 1 counts all steps alike")
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int)):
            raise TypeError(f"dim must be a dimension of the sites or None, not {dim!r}")
        self._model, self._every, self._decay, self._dim = model, every, float(decay), dim
        self._calls = self._left_out = 0
        self._is_folded = False
        self._running = Running[Key](self._decay)
        self._moments: dict[str, Tensor] = {}
        self._undefined: dict[str, str] = {}
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def measure(self, scores: Callable[[], Scores], /) -> None:
        """Take in the scores of a gradient, if its turn has come; `an.backward` calls this."""
        with self._lock:
            number = self._calls
            self._calls += 1
        if number % self._every == 0:
            raw(self._measure, scores(), number // self._every)

    def _measure(self, scores: Scores, number: int) -> None:
        nodes = {score.node.name: score.node for score in scores.found}
        if len(nodes) > MOST_SITES:
            self._is_folded = True  # from now on: a site has one name in all steps
        labels = folded(nodes.values()) if self._is_folded else {name: name for name in nodes}
        found = measured(scores, number, self._named(scores), labels, self._dim)
        with self._lock:
            self._take(found)

    def _named(self, scores: Scores) -> dict[Any, str]:
        named = dict(scores.leaf_names())
        model = self._model
        pairs = model.named_parameters() if isinstance(model, nn.Module) else (model or {}).items()
        return named | {edge_of(tensor): name for name, tensor in pairs if tensor.requires_grad}

    def _take(self, found: Measured) -> None:
        self._undefined.update(found.undefined)
        while len(self._undefined) > MOST_KEPT:  # names without end, as of a count of steps
            del self._undefined[next(iter(self._undefined))]
        if any(site in found.undefined for site, _ in self._running.kept()) or not found.sites:
            self._left_out += 1  # a batch of one example, say: without a site sums would be wrong
            return
        values: dict[Key, Tensor] = dict(found.sites)
        for (site, _), value in found.sites.items():
            values[site, ""] = values[site, ""] + value if (site, "") in values else value
        for param, value in found.params.items():
            values["", param] = value
            values[TOTAL] = values[TOTAL] + value if TOTAL in values else value
        self._running.add(values)
        for site, moments in found.moments.items():
            self._moments[site] = merged(self._moments.get(site), moments, self._decay)
        kept = {site for site, _ in self._running.kept()}  # it forgets the oldest of very many
        self._moments = {site: m for site, m in self._moments.items() if site in kept}

    def rows(self) -> tuple[SiteRow, ...]:
        """Return what is known of each site, the largest variance first; waits for the device."""
        return self._read()[0]

    def shares(self) -> dict[str, float]:
        """Return the share of each site in the sum of the variances, as for ``graph.render``."""
        return {row.site: row.share for row in self.rows() if row.share is not None}

    def log(self, *, pairs: bool = False) -> dict[str, float]:
        """Return what is known as plain numbers by name, as loggers take them.

        "site/z/variance", "site/z/variance_error" (its standard error over the measured steps),
        "site/z/variance_share", "site/z/baseline_correlation", "site/z/baseline_gain" (the part of
        the squared credit that the baseline takes away), "param/w/variance",
        "param/w/variance_share", "total/variance", "total/steps" (that were measured), and
        "total/skipped" (of which something was not finite, or of one example only). What is not
        defined is left out, and a MonitorWarning says so once of each site. In names, what some
        loggers refuse is replaced by "_".

        Args:
            pairs: also give "site/z/param/w/variance".
        """
        rows, means, skipped, steps = self._read()
        self._warn({row.site for row in rows})
        if not means:
            return {}
        found: dict[tuple[str, ...], float | None] = {}
        for row in rows:
            at = ("site", row.site)
            found[*at, "variance"] = row.variance.value
            found[*at, "variance_error"] = row.variance.error
            found[*at, "variance_share"] = row.share
            found[*at, "baseline_correlation"] = row.correlation
            found[*at, "baseline_gain"] = row.gain
            for param, mean in row.params.items() if pairs else ():
                found[*at, "param", param, "variance"] = mean.value
        total = means[TOTAL].value
        for (site, param), mean in means.items():
            if param and not site:
                found["param", param, "variance"] = mean.value
                found["param", param, "variance_share"] = mean.value / total if total else None
        found["total", "variance"] = total
        found["total", "steps"], found["total", "skipped"] = float(steps), float(skipped)
        return _named_safely({key: x for key, x in found.items() if x is not None})

    def table(self) -> Table:
        """Return the sites as a table, and why others have no variance."""
        rows = self.rows()
        head = ("site", "share", "variance", "error", "baseline takes", "most of it in")
        cells = [
            (
                row.site,
                "" if row.share is None else f"{row.share:.1%}",
                f"{row.variance.value:.3g}",
                "" if row.variance.error is None else f"{row.variance.error:.2g}",
                "" if row.gain is None else f"{row.gain:.0%}",
                max(row.params, key=lambda param: row.params[param].value, default=""),
            )
            for row in rows
        ]
        left = self._without({row.site for row in rows})
        return Table(head, cells, right={1, 2, 3, 4}, below=left)

    def _read(self) -> tuple[tuple[SiteRow, ...], dict[Key, Mean], int, int]:
        """Return the rows, all means, and how many steps were left out and measured."""
        with self._lock:
            means, not_finite = self._running.read()
            moments, left_out, steps = self._moments, self._left_out, self._running.steps
        found = [each.to(next(iter(moments.values()))) for each in moments.values()]
        flat = torch.stack(found).tolist() if found else []
        correlations = dict(zip(moments, map(correlation, flat), strict=True))
        gains = dict(zip(moments, map(gain, flat), strict=True))
        of_sites = {site: mean for (site, param), mean in means.items() if site and not param}
        whole = sum(mean.value for mean in of_sites.values())
        rows = [
            SiteRow(
                site,
                mean,
                mean.value / whole if whole else None,
                correlations.get(site),
                gains.get(site),
                {param: m for (s, param), m in means.items() if s == site and param},
            )
            for site, mean in of_sites.items()
        ]
        rows.sort(key=lambda row: -row.variance.value)
        return tuple(rows), means, left_out + not_finite, steps - not_finite

    def _without(self, known: Container[str]) -> list[str]:
        """Say of each site that has no variance why."""
        left = [(site, why) for site, why in self._undefined.items() if site not in known]
        return [
            f"site {s!r} has no variance, and is in no share or total: {why}" for s, why in left
        ]

    def _warn(self, known: Container[str]) -> None:
        """Warn once of each site that has no variance, or if no gradient was seen at all."""
        texts = self._without(known)
        if not self._calls:
            texts = ["no gradient was measured: pass an.backward(loss, monitor=monitor)"]
        elif not texts and not self._running.steps:
            texts = ["no gradient had a score: all draws are pathwise, or reach no parameter"]
        for text in texts:
            if text not in self._said and len(self._said) < MOST_KEPT:
                self._said.add(text)
                warnings.warn(MonitorWarning(text), stacklevel=stacklevel())

    def state_dict(self) -> dict[str, Any]:
        """Return what is known, as plain containers and tensors: what goes on from it is the same.

        `torch.load` reads it with ``weights_only=True``. What the arguments said is not in it.
        """
        with self._lock:
            return {
                "calls": self._calls,
                "left_out": self._left_out,
                "is_folded": self._is_folded,
                "running": self._running.state_dict(),
                "moments": {site: moments.clone() for site, moments in self._moments.items()},
                "undefined": dict(self._undefined),
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what another monitor knew, in place of what is known.

        Raises:
            StateError: if it is no such state.
        """
        running = Running[Key](self._decay)
        try:
            calls, left_out = int(state["calls"]), int(state["left_out"])
            moments = {str(site): _six(found) for site, found in state["moments"].items()}
            undefined = {str(site): str(why) for site, why in state["undefined"].items()}
            is_folded = bool(state["is_folded"])
            running.load_state_dict(state["running"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(
                f"the state of the monitor is {kind_of(state)} without what is needed ({error}); "
                "expected what state_dict() of an an.Monitor returned"
            ) from None
        with self._lock:
            self._calls, self._left_out, self._is_folded = calls, left_out, is_folded
            self._running, self._moments, self._undefined = running, moments, undefined

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock, which no other process could have."""
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the state of another, with a new lock."""
        vars(self).update(state, _lock=threading.Lock())


def folded(nodes: Iterable[Node]) -> dict[str, str]:
    """Return by site what it is measured with: the draws of one line whose names differ by a count.

    These are called as they are without it, any other site by its name.
    """
    kinds = {node.name: (stem(node.name), node.location) for node in nodes}
    counts = Counter(kinds.values())
    return {name: kind[0] if counts[kind] > 1 else name for name, kind in kinds.items()}


def _named_safely(found: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    """Return numbers by names of letters, digits and "_.-", with slashes between the parts."""
    named: dict[str, float] = {}
    for parts, value in found.items():
        # A part of dots alone would be a folder.
        name = "/".join(re.sub(r"[^\w.\-]|^\.*$", "_", part) for part in parts)
        count = 1
        while name in named:  # two that differ in what was replaced
            name = f"{name.removesuffix(f'_{count - 1}')}_{count}"
            count += 1
        named[name] = value
    return named


def _six(moments: Any) -> Tensor:
    if not isinstance(moments, Tensor) or tuple(moments.shape) != (6,):
        raise TypeError("the moments of a site are no tensor of six")
    return moments.clone()

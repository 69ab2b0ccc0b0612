"""Memories of learned baselines, as buffers of a compiled graph that each step writes into."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from torch import Tensor

from ancestral.estimators.baselines.across_ranks import AcrossRanks
from ancestral.estimators.baselines.learned import Learned
from ancestral.estimators.baselines.leave_one_out import LeaveOneOut
from ancestral.estimators.baselines.neural import Neural
from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.capture.refusal import Refusal
from ancestral.estimators.credit.credit import Credit
from ancestral.estimators.credit.site_choices import Choices
from ancestral.estimators.gradient.subtraction import Baselines
from ancestral.trace.nodes.node import Node


class Unlearned(Refusal):
    """A baseline is asked for a site that it knows nothing of: a recording teaches it that."""


class Memories:
    """What the learned ones among some baselines know, tensor by tensor.

    Attributes:
        tensors: what they know.
        are_asked: whether any baseline is no part of a graph, and is to run at each step.
        look_at_sites: whether any of the library's looks at the draws themselves.
        run_code_of_user: whether any runs a function of the user, which may read anything.
    """

    def __init__(self, baseline: Baselines) -> None:
        """Take the baselines."""
        self._baseline: Any = baseline
        self._chosen: list[Any] = [*Choices("baseline", baseline, None).values()]
        self.are_asked = not all(map(_is_known, self._chosen))
        self.look_at_sites = any(_is_proven(e) and not _is_known(e) for e in self._chosen)
        self.run_code_of_user = any(map(_runs_code_of_user, self._chosen))
        learned = (each for each in self._chosen if isinstance(each, Learned))
        self._learned = [] if self.are_asked else [*dict.fromkeys(learned)]
        self._places = [
            (each, name, key)
            for each in self._learned
            for name, memory in each.memories.items()
            for key in memory
        ]
        self.tensors = [each.memories[name][key] for each, name, key in self._places]

    def keep(self) -> None:
        """Let the baselines hold these very tensors, with the values that they hold by now."""
        for (learned, name, key), tensor in zip(self._places, self.tensors, strict=True):
            memory = learned.memories.get(name, {})
            now = memory.get(key)
            if now is not tensor and now is not None:
                tensor.copy_(now)
                memory[key] = tensor

    def renewed(self) -> "Memories":
        """Return them with what was learned of more sites, and the others in these very tensors."""
        self.keep()
        return Memories(self._baseline)

    def given(self, values: Sequence[Tensor]) -> tuple[Baselines, list[Learned]]:
        """Return the baselines with these values in their memories, and those that learn."""
        copies = {each: copy.copy(each) for each in self._learned}
        for new in copies.values():
            new.memories = {}
        for (learned, name, key), value in zip(self._places, values, strict=True):
            copies[learned].memories.setdefault(name, {})[key] = value

        found = self._each(lambda one: copies[one] if isinstance(one, Learned) else one)
        return found, [*copies.values()]

    def after(self, learned: Sequence[Learned]) -> list[Tensor]:
        """Return what is known after a step, in the order of the tensors.

        Raises:
            Unlearned: if that is of more sites than before.
        """
        new = dict(zip(self._learned, learned, strict=True))
        known = {(each, name) for each, name, _ in self._places}
        for before, after in new.items():
            for name in after.memories:
                if (before, name) not in known:
                    raise Unlearned(f"a baseline never learns of the site {name!r}")
        return [new[each].memories[name][key] for each, name, key in self._places]

    def for_a_step(self, nodes: Mapping[str, Node]) -> Baselines:
        """Return the baselines as they are asked in one step, of whose draws none is kept.

        Args:
            nodes: the sites that they look at, by name.
        """
        step = _Step()
        found: Baselines = self._each(lambda each: _of_step(each, step, nodes))
        return found

    def for_a_plan(self, nodes: Mapping[str, Node] | None = None) -> Baselines:
        """Return what stands for the baselines while a plan is made, of which they learn nothing.

        A function of the user may keep what it is given, which has draws of the step to come, and
        other ranks may have no plan to make.
        """
        step = _Step()
        found: Baselines = self._each(lambda each: _of_plan(each, step, nodes))
        return found

    def _each(self, instead: Callable[[Any], Any]) -> Any:
        if isinstance(self._baseline, Mapping):
            copies = {id(each): instead(each) for each in self._baseline.values()}
            return {key: copies[id(each)] for key, each in self._baseline.items()}
        return instead(self._baseline)

    def refuse_other(self, nodes: Collection[Node]) -> None:
        """Raise if a baseline is a site's own, which no step asks.

        Raises:
            Refusal: if one is.
        """
        for node in nodes:
            each = node.infer.get("baseline")
            if not _is_known(each) or isinstance(each, Learned):
                raise Refusal(
                    f"the baseline {_name(each)} stands in the infer of site {node.name!r}: pass "
                    "it as baseline= by the name of the site"
                )


class _Step:
    """Tells a step from others, as a recording does."""


class _NoSite:
    """Stands for the node of a site: that of a plan has the draw of another step."""

    def __getattr__(self, name: str) -> NoReturn:
        raise Refusal(f"a baseline reads {name!r} of the site of its credit")


class _Proven:
    """A baseline of the library as it is asked in one step."""

    is_proven = True

    def __init__(self, baseline: Any, step: _Step, nodes: Mapping[str, Node]) -> None:
        self._baseline, self._step, self._nodes = baseline, step, nodes
        if hasattr(baseline, "inputs_of"):
            self.inputs_of = baseline.inputs_of

    def __call__(self, credit: Credit, /) -> Tensor:
        site = self._nodes.get(credit.name)
        found: Tensor = self._baseline(replace(credit, site=site, recording=self._step))
        return found


def _of_step(baseline: Any, step: _Step, nodes: Mapping[str, Node]) -> Any:
    if _is_proven(baseline):
        return _Proven(baseline, step, nodes)
    if _is_known(baseline):
        return baseline

    def ask(credit: Credit) -> Any:
        site: Any = _NoSite()
        return baseline(replace(credit, site=site, recording=step))

    return ask


def _of_plan(baseline: Any, step: _Step, nodes: Mapping[str, Node] | None) -> Any:
    if isinstance(baseline, AcrossRanks):
        return _of_plan(baseline.baseline, step, nodes)
    if not _is_known(baseline) and not _is_proven(baseline):
        return _constant
    own = copy.deepcopy(baseline)
    return own if nodes is None else _of_step(own, step, nodes)


def _constant(_: Credit) -> float:
    return 0.5


def _is_known(baseline: object) -> bool:
    """Return whether a baseline is a function of credits alone, that a graph can hold."""
    return baseline is None or baseline == "auto" or type(baseline) in (LeaveOneOut, RunningMean)


def _is_proven(baseline: object) -> bool:
    return bool(vars(type(baseline)).get("is_proven"))


def _runs_code_of_user(baseline: Any) -> bool:
    if isinstance(baseline, AcrossRanks):
        return _runs_code_of_user(baseline.baseline)
    if isinstance(baseline, Neural):
        return baseline.asks_user
    return not _is_known(baseline) and not _is_proven(baseline)


def _name(baseline: object) -> str:
    return str(getattr(baseline, "__name__", type(baseline).__name__))

"""Memories of learned baselines, as buffers of a compiled graph that each step writes into."""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from ancestral.estimators.baselines.learned import Learned
from ancestral.estimators.baselines.leave_one_out import LeaveOneOut
from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.capture.refusal import Refusal
from ancestral.estimators.credit.site_choices import Choices
from ancestral.estimators.gradient.subtraction import Baselines
from ancestral.trace.nodes.node import Node


class Unlearned(Refusal):
    """A baseline is asked for a site that it knows nothing of: a recording teaches it that."""


class Memories:
    """What the learned ones among some baselines know, tensor by tensor."""

    def __init__(self, baseline: Baselines) -> None:
        """Take the baselines."""
        self._baseline: Any = baseline
        chosen = Choices("baseline", baseline, None).values()
        self._learned = [*dict.fromkeys(each for each in chosen if isinstance(each, Learned))]
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

        def instead(one: Any) -> Any:
            return copies[one] if isinstance(one, Learned) else one

        if isinstance(self._baseline, Mapping):
            return {k: instead(v) for k, v in self._baseline.items()}, [*copies.values()]
        return instead(self._baseline), [*copies.values()]

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


def refuse_other(baseline: Baselines, nodes: Collection[Node]) -> None:
    """Raise unless every baseline is a function of tensors alone, whatever step it is asked in.

    Raises:
        Refusal: if one is not known to be.
    """
    chosen: list[Any] = [*Choices("baseline", baseline, None).values()]
    chosen += [node.infer.get("baseline") for node in nodes]
    for each in chosen:
        if each is not None and each != "auto" and type(each) not in (LeaveOneOut, RunningMean):
            name = getattr(each, "__name__", type(each).__name__)
            raise Refusal(f"the baseline {name} is Python that is to run at each step")
    if any(isinstance(node.infer.get("baseline"), Learned) for node in nodes):
        raise Refusal("a baseline in the infer of a site learns: pass it as baseline=")

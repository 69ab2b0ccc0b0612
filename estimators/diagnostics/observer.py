"""Observer: what is shown the scores of a gradient, with what each is multiplied with.

The gradient is the same with an observer and without: it gets what was found for it anyway.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ancestral.estimators.credit.credit import Credit
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.nodes.autograd_graph import edge_of, visited
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.trace import Trace


@dataclass(frozen=True, eq=False)
class Score:
    """The score of one site in one pass: `density` is differentiated, times credit minus `less`.

    `held` and `passed` are the draws whose gates are to be shut and open, none where they are set.
    """

    node: Node
    density: Tensor
    credit: Credit
    less: Tensor | None
    held: frozenset[Node] = frozenset()
    passed: frozenset[Node] = frozenset()


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one gradient, and the recording that they are of."""

    trace: Trace
    found: Sequence[Score]

    def leaf_names(self) -> Iterator[tuple[Any, str]]:
        """Yield the leaves that the program declared as parameters, as autograd's, with names."""
        for node in self.trace.param_nodes:
            for step in visited([edge_of(node.value)], None):
                if hasattr(step, "variable"):
                    yield step, node.name


@runtime_checkable
class Observer(Protocol):
    """What is shown the scores of a gradient before it is taken; see `ancestral.Monitor`."""

    def measure(self, scores: Callable[[], Scores], /) -> None:
        """Look at the scores, which are found when they are asked for; change nothing."""
        ...


def check_observer(monitor: object) -> None:
    """Raise unless a monitor can be shown the scores of a gradient.

    Raises:
        TypeError: if it cannot.
    """
    if isinstance(monitor, type):
        name = monitor.__name__
        raise TypeError(f"monitor is the class {name}; expected an object of it: {name}()")
    if monitor is not None and not isinstance(monitor, Observer):
        raise TypeError(f"monitor must be an an.Monitor() or None, not {kind_of(monitor)}")

"""Runs of a program, one or many at once: how values are given to them, and read of them.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> with record() as trace, Given({"z": torch.tensor([0.0, 1.0, 2.0])}, turn=2):
...     z = sample("z", Normal(0.0, 1.0))
>>> run = Run((trace,), (trace,))
>>> run.rows(trace["z"]), run.total(trace["z"]).shape
(tensor([2.]), torch.Size([1]))
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ancestral.estimators.batched.outer_plate import OUTER, Traces, apart
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.message import Handler, Message


class NotVectorizableError(SiteError):
    """A program cannot be run many times at once along the dimension of an outer plate."""

    problem = ""


def not_vectorizable(problem: str) -> NotVectorizableError:
    """Return the error that a program cannot be run many times at once, and why."""
    error = NotVectorizableError(
        f"the program cannot be run many times at once: {problem}; write it so that it "
        "broadcasts over dimensions to the left (negative dims, no positions counted from the "
        "left), or run it one time after the other with vectorized=False"
    )
    error.problem = problem
    return error


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a program, or many at once.

    Attributes:
        traces: the recordings of the programs, parts of one.
        single: those of one run, which tell the shapes.
        samples: how many runs they are.
    """

    traces: Traces
    single: Traces
    samples: int = 1

    @property
    def nodes(self) -> list[Node]:
        """The steps of all programs."""
        return [node for trace in self.traces for node in trace.values()]

    def of_one(self, node: Node) -> Node:
        """Return the node of that name of one run."""
        pairs = zip(self.traces, self.single, strict=True)
        return next(one[node.name] for many, one in pairs if many.get(node.name) is node)

    def varies(self, node: Node) -> bool:
        """Return whether a node depends on anything that differs from run to run."""
        return node.type == "sample" or apart(node.param_provenance, OUTER) is not None

    def rows(self, node: Node, form: str = "value") -> Tensor:
        """Return a tensor of a node, by the name of the property, as [samples, *shape].

        Raises:
            NotVectorizableError: if it has no such shape.
        """
        one = self.of_one(node)
        found, shape = untrack(getattr(node, form)).detach(), getattr(one, form).shape
        if node is one or (found.shape == shape and not self.varies(node)):
            return found.expand(self.samples, *shape)
        if found.shape[:1] != (self.samples,) or found.numel() != self.samples * shape.numel():
            raise not_vectorizable(
                f"the {form} of site {node.name!r} ({node.location}) has shape "
                f"{list(found.shape)} for all runs; expected {[self.samples, *shape]}"
            )
        return found.reshape(self.samples, *shape)

    def total(self, node: Node) -> Tensor:
        """Return the sum of the log-probability as it counts, [samples]."""
        return self.rows(node, "log_prob").reshape(self.samples, -1).sum(1)


class Given(Handler):
    """Gives the sites of a run, or of many at once, the values that are stacked for them.

    Args:
        stacked: the values, each [samples, *batch, *event].
        turn: the number of the run; None for all of them.
    """

    def __init__(self, stacked: Mapping[str, Tensor], turn: int | None) -> None:
        self._stacked, self._turn = stacked, turn

    def process(self, message: Message) -> Message:
        """Give a sample its values, observed or not."""
        stacked = self._stacked.get(message.name)
        if message.kind != "sample" or message.is_intervened or stacked is None:
            return message
        assert message.fn is not None
        expected, shape = message.fn.batch_shape + message.fn.event_shape, stacked.shape[1:]
        if self._turn is None:  # a wrong shape the site itself refuses
            ones = (1,) * (len(expected) - stacked.dim())
            value = stacked.reshape(len(stacked), *ones, *shape)
        elif shape == expected:
            value = stacked[self._turn]
        else:
            raise SiteError(
                f"the values of site {message.name!r}: each of them has shape {list(shape)}; "
                f"expected {list(expected)}, as at {message.where.location}, after the first "
                "dimension, of the samples"
            )
        return replace(message, value=value, is_observed=False, origin=None)

    def refuse_unmet(self, traces: Traces) -> None:
        """Raise if a value was given to a site that the program has not."""
        met = [node.name for trace in traces for node in trace.values() if node.type == "sample"]
        for name in self._stacked:
            if name not in met:
                has = ", ".join(map(repr, dict.fromkeys(met))) or "none"
                raise SiteError(
                    f"the values of site {name!r}: the program has no such site; it has {has}"
                )


def plain(
    values: Mapping[str, Tensor] | None, samples: int | None = None
) -> tuple[dict[str, Tensor], int | None]:
    """Return stacked values as plain data, and their number, None if nobody says.

    Raises:
        SiteError: if they are no tensors with a first dimension, or differ in it, or from
            `samples`.
    """
    found: dict[str, Tensor] = {}
    for name, value in (values or {}).items():
        of_site = f"the values of site {name!r}:"
        if not isinstance(value, Tensor) or value.dim() == 0:
            shown = "a number" if isinstance(value, Tensor) else kind_of(value)
            raise SiteError(f"{of_site} expected a tensor [samples, *shape], not {shown}")
        samples = len(value) if samples is None else samples
        if len(value) == 0:
            raise SiteError(f"{of_site} there are none; expected one at least")
        if len(value) != samples:
            raise SiteError(
                f"{of_site} there are {len(value)} of them; expected {samples}, as of the others"
            )
        found[name] = untrack(value).detach()
    return found, samples

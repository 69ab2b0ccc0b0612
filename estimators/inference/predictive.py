"""Predictive: samples of a program from its prior, a guide, or posterior samples.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> def model():
...     mu = sample("mu", Normal(0.0, 1.0))
...     sample("x", Normal(mu, 1.0), obs=torch.tensor(0.3))
>>> {name: value.shape for name, value in Predictive(model, samples=5)().items()}
{'mu': torch.Size([5]), 'x': torch.Size([5])}
>>> sorted(Predictive(model, {"mu": torch.zeros(4)})())
['x']
"""

from collections.abc import Callable, Mapping
from typing import Any, Never

from torch import Tensor

from ancestral.estimators.batched.run import Run, plain
from ancestral.estimators.batched.run_many import Key, many
from ancestral.estimators.inference.pyro_hints import PREDICTIVE, refuse
from ancestral.trace.context.errors import SiteError
from ancestral.trace.graph.argument_types import check_program
from ancestral.trace.handlers.condition import uncondition
from ancestral.trace.handlers.replay import replay
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.unused_handlers import unchecked


class Predictive:
    """Draws the sites of a program many times, those too that it observes.

    A call returns the values by the name of the site, each [samples, *shape]: of the random
    choices that were not given, and of what is deterministic. A factor does not weigh: the draws
    are those of the program without it. No gradient is taken.

    Args:
        model: the program.
        posterior: values of some of its sites, each [samples, *shape], that each run starts from,
            such as `Importance.resample` returns. The others are drawn.
        guide: a program that draws sites of the model, called with the same arguments.
        samples: how many runs; by default as many as the values given.
        vectorized: as in `ancestral.estimators.inference.importance.importance`.

    Attributes:
        in_turn: why the runs of the last call were made one after the other; empty if they were
            made at once.

    Raises:
        TypeError: if a program is no function.
        ValueError: if both a posterior and a guide are given, or neither and no `samples`.
        SiteError: if the values differ in their number, or it is not `samples`; in a call,
            if the program has no such site, or one of another shape.
        NotVectorizableError: in a call, if the runs must be made at once and cannot.
        RuntimeError: in a call, within a recording.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        posterior: Mapping[str, Tensor] | None = None,
        *,
        guide: Callable[..., Any] | None = None,
        samples: int | None = None,
        vectorized: bool | None = None,
        **others: Never,
    ) -> None:
        check_program("Predictive", "model", model)
        if guide is not None:
            check_program("Predictive", "guide", guide)
        refuse("Predictive", (), others, PREDICTIVE)
        for name in others:
            raise TypeError(f"Predictive takes no {name}=; what the program takes is for the call")
        if posterior is not None and guide is not None:
            raise ValueError("Predictive takes a posterior or a guide, not both")
        self.model, self.guide, self.vectorized = model, guide, vectorized
        self.posterior, found = plain(posterior, samples)
        if found is None:
            begin = "the posterior names no site" if posterior is not None else "nothing is given"
            raise ValueError(
                f"Predictive needs samples=, the number of runs, or a posterior; {begin}"
            )
        self.samples = found
        self.in_turn = ""

    def __repr__(self) -> str:
        """Show the program, what it starts from, and why its last runs were made in turn."""
        start = f", guide={_shown(self.guide)}" if self.guide is not None else ""
        start += f", given {', '.join(map(repr, self.posterior))}" if self.posterior else ""
        turns = f", run in turn: {self.in_turn}" if self.in_turn else ""
        return f"Predictive({_shown(self.model)}{start}, samples={self.samples}{turns})"

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the values of the sites that were not given, each [samples, *shape]."""
        refuse("a call of Predictive", (self.model, self.guide), kwargs, PREDICTIVE)

        def program() -> tuple[Trace, Trace]:
            with record() as guided:
                if self.guide is not None:
                    self.guide(*args, **kwargs)
            with record() as modelled, uncondition(), unchecked(replay(guided)):
                self.model(*args, **kwargs)
            return guided, modelled

        found = many(
            "Predictive", program, self._read, self.samples, self.vectorized, self.posterior
        )
        self.in_turn = found.in_turn
        for word, name in found.ragged:
            raise SiteError(
                f"the values of site {name!r}: this {word} is in some of the runs only, or in "
                "different shapes"
            )
        return {name: value for (_, name), value in found.values.items()}

    def _read(self, run: Run) -> dict[Key, Tensor]:
        return {
            (node.type, node.name): run.rows(node)
            for node in run.traces[-1].values()
            if node.is_declared
            and node.type in ("sample", "deterministic")
            and node.name not in self.posterior
            and not isinstance(node.fn, Factor)
        }


def _shown(program: Callable[..., Any]) -> str:
    return getattr(program, "__qualname__", type(program).__name__)

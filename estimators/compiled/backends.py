"""Backends: what turns a graph with scores into code, and the check that it draws once only."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from ancestral.estimators.capture.refusal import Refusal
from ancestral.provenance.tensor.torch_internals import compiler, inductor

BACKENDS = ("inductor", "aot_eager", "eager")


class Drawn:
    """The ops of a backward pass that draw: of one that is compiled late, they are refused then."""

    def __init__(self) -> None:
        """Begin with none."""
        self.ops: list[str] = []
        self.is_late = False

    def refuse(self) -> None:
        """Raise if there are any, and from now on as soon as one is noted."""
        self.is_late = True
        if self.ops:
            raise Refusal(f"the backward pass would draw anew, by {self.ops[0]}")


def finished(
    module: fx.GraphModule, inputs: Sequence[Any], backend: str, mode: str | None
) -> Callable[..., Any]:
    """Return the code of a graph.

    Raises:
        Refusal: if its backward pass would draw anew.
    """
    if backend == "eager":
        return torch.enable_grad()(module.forward)  # which a draw that raises leaves switched off
    drawn = Drawn()
    if backend == "aot_eager":
        code = compiler().aot_autograd(
            fw_compiler=_unchanged,
            bw_compiler=partial(_checked, _unchanged, drawn),
            partition_fn=compiler().partition,
            keep_inference_input_mutations=True,
        )(module, inputs)
    else:
        inner = inductor().compile_inner

        options = None if mode is None else inductor().mode_options(mode)

        def compile_inner(graph: fx.GraphModule, given: Any, **settings: Any) -> Any:
            if settings.get("is_backward"):
                _note_draws(graph, drawn)
            return inner(graph, given, **settings)

        code = inductor().compile_fx(
            module, inputs, inner_compile=compile_inner, config_patches=options
        )
    drawn.refuse()
    made: Callable[..., Any] = code
    return made


def _unchanged(module: fx.GraphModule, _: Any) -> Any:
    return compiler().boxed(module.forward)


def _checked(compile_: Callable[..., Any], drawn: Drawn, module: Any, inputs: Any) -> Any:
    _note_draws(module, drawn)
    return compile_(module, inputs)


def _note_draws(module: fx.GraphModule, drawn: Drawn) -> None:
    """Note the ops of a backward pass that draw."""
    for node in module.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if node.op == "call_function" and torch.Tag.nondeterministic_seeded in tags:
            drawn.ops.append(str(node.target))
    if drawn.is_late:
        drawn.refuse()

"""Random programs: hypothesis draws a list of steps and a loss.

A step applies an op to tensors that are there already: parameters, constants, draws, and results of
earlier steps. A failure prints the steps as one would write them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter
from torch import Tensor

from programs.choose import Choose, by_hypothesis
from programs.draws import DRAWS, outcomes
from programs.losses import JOINS, REDUCTIONS
from programs.ops import OPS, WEIGHTS, Op

MOST_OUTCOMES = 32
MOST_ELEMENTS = 8

PARAMETERS = (
    torch.tensor(0.4, dtype=torch.float64),
    torch.tensor([0.3, -0.8], dtype=torch.float64),
    torch.tensor([[0.5, -0.2], [-0.9, 0.7]], dtype=torch.float64),
)
CONSTANTS = (WEIGHTS, torch.tensor([[0.2, 1.1], [-0.7, 0.4]], dtype=torch.float64))
INPUTS = len(PARAMETERS) + len(CONSTANTS)


@dataclass(frozen=True)
class Step:
    """One line of a program: its result is the next tensor."""

    name: str
    operands: tuple[int, ...]
    option: object = None

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        op = OPS.get(self.name) or DRAWS[self.name]
        return op.run(*(tensors[i] for i in self.operands), self.option)

    def __str__(self) -> str:
        shown = [f"t{i}" for i in self.operands]
        return (
            f"{self.name}({', '.join(shown + ([] if self.option is None else [str(self.option)]))})"
        )


@dataclass(frozen=True)
class Term:
    """One line of the loss."""

    join: str
    reduction: str
    operand: int


@dataclass(frozen=True)
class RandomProgram:
    """A program: its steps, and how its loss is made of their results."""

    steps: tuple[Step, ...]
    terms: tuple[Term, ...]

    @property
    def source(self) -> str:
        """The steps as one would write them."""
        lines = [f"t{INPUTS + i} = {step}" for i, step in enumerate(self.steps)]
        lines += [f"loss {t.join} {t.reduction}(t{t.operand})" for t in self.terms]
        head = ["# t0, t1, t2 are parameters, t3 and t4 constants", "loss = 0.1 * (t1**2).sum()"]
        return "\n".join([*head, *lines])

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Fresh parameters."""
        return tuple(value.clone().requires_grad_() for value in PARAMETERS)

    def __call__(self, *parameters: Tensor) -> Tensor:
        tensors = [*parameters, *CONSTANTS]
        for step in self.steps:
            tensors.append(step(tensors))
        loss = 0.1 * parameters[1].square().sum()
        for term in self.terms:
            reduced = REDUCTIONS[term.reduction](tensors[term.operand])
            loss = JOINS[term.join](loss, reduced, parameters[0])
        return loss

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        """Let hypothesis print the steps."""
        printer.text("\n        " + self.source.replace("\n", "\n        "))


@dataclass
class Draft:
    """A program in the making: sample values of its tensors, and what is known of each."""

    steps: list[Step] = field(default_factory=list[Step])
    tensors: list[Tensor] = field(default_factory=lambda: [*PARAMETERS, *CONSTANTS])
    is_random: list[bool] = field(default_factory=lambda: [False] * INPUTS)
    is_noisy: list[bool] = field(default_factory=lambda: [False] * INPUTS)
    paths: int = 1

    def add(self, name: str, operands: tuple[int, ...], option: object) -> bool:
        """Append a step, unless its result is too large."""
        step = Step(name, operands, option)
        value = step(self.tensors).detach()
        if value.numel() > MOST_ELEMENTS or value.ndim > 3 or not value.numel():
            return False
        self.steps.append(step)
        self.tensors.append(value)
        self.is_random.append(name in DRAWS or any(self.is_random[i] for i in operands))
        # What a discrete draw depends on reaches it by its score, not by a pathwise derivative.
        is_noisy = name == "normal" or any(self.is_noisy[i] for i in operands)
        self.is_noisy.append(is_noisy and (name in OPS or name == "normal"))
        return True

    def candidates(self, op: Op, at: int, chosen: tuple[Tensor, ...]) -> list[int]:
        """Return the tensors that can be operand number `at`, newest first."""
        is_last = at == op.arity - 1
        return [
            index
            for index in reversed(range(len(self.tensors)))
            if not (op.is_kinked and at == 0 and self.is_noisy[index])
            and not (is_last and not op.fits(*chosen, self.tensors[index]))
        ]


def drawn_step(choose: Choose, draft: Draft, names: Sequence[str]) -> bool:
    """Append a random step with one of these ops; return whether that was possible."""
    name = choose.among(names)
    op = OPS.get(name) or DRAWS[name]
    operands: tuple[int, ...] = ()
    for at in range(op.arity):
        found = draft.candidates(op, at, tuple(draft.tensors[i] for i in operands))
        if name in DRAWS:
            found = [
                i for i in found if draft.paths * outcomes(name, draft.tensors[i]) <= MOST_OUTCOMES
            ]
        if not found:
            return False
        operands += (choose.among(found),)
    values = [draft.tensors[i] for i in operands]
    option = choose.among(op.options(*values))
    if not draft.add(name, operands, option):
        return False
    if name in DRAWS:
        draft.paths *= outcomes(name, values[0])
    return True


def random_program(choose: Choose) -> RandomProgram:
    """Return a program whose loss depends on a draw."""
    draft = Draft()
    draft.add("bernoulli", (choose.below(2),), None)
    draft.paths = outcomes("bernoulli", draft.tensors[draft.steps[0].operands[0]])
    for _ in range(2 + choose.below(8)):
        is_draw = choose.below(4) == 0
        drawn_step(choose, draft, list(DRAWS if is_draw else OPS))
    random = [i for i in reversed(range(len(draft.tensors))) if draft.is_random[i]]
    terms = tuple(
        Term(choose.among(list(JOINS)), choose.among(list(REDUCTIONS)), choose.among(random))
        for _ in range(1 + choose.below(3))
    )
    return RandomProgram(tuple(draft.steps), terms)


@st.composite
def programs(draw: st.DrawFn) -> RandomProgram:
    """Draw a program whose loss depends on a draw."""
    return random_program(by_hypothesis(draw))


def program_around(name: str, parameter: int, at: int) -> RandomProgram | None:
    """Return a program that draws, runs an op with the draw as operand `at`, and draws again.

    The draw has the shape of a parameter, which is what the other operands are.
    """
    op, draft = OPS[name], Draft()
    draft.add("bernoulli", (parameter,), None)
    draw = INPUTS
    operands = tuple(draw if at in (i, -1) else parameter for i in range(op.arity))
    values = [draft.tensors[i] for i in operands]
    if not op.fits(*values) or not draft.add(name, operands, list(op.options(*values))[-1]):
        return None
    terms = [Term("+", "mse_loss", draw + 1), Term("-", "square_of_sum", draw + 1)]
    if draft.tensors[-1].numel() <= 2:
        draft.add("bernoulli", (draw + 1,), None)
        terms.append(Term("+", "mse_loss", draw + 2))
    return RandomProgram(tuple(draft.steps), tuple(terms))

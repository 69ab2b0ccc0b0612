"""Random programs in Python: source text that draws, branches, loops, writes and indexes.

A writer makes choices, from hypothesis or from a random generator, and puts down one line after the
other. Each name has a kind, so that every line runs. Names bound in a block end with it.

    def program(theta):
        z0 = coin(theta[0])
        losses = [z0 * 0.7]
        if z0 > 0:
            z1 = coin(theta[1] * z0)
            losses.append((z1 - 0.4) ** 2)
        return sum(losses, theta[1])
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter
from torch import Tensor

from programs.choose import by_hypothesis
from programs.control.register import LOGITS, TABLE, coin, num, roll
from programs.densities import NAMES as DENSITIES
from programs.drawn_elsewhere import NAMES as ELSEWHERE
from programs.drawn_elsewhere import WAYS
from programs.expressions import Expressions, Kind, Name

HELPERS = """
def chosen(z, first, second):
    return first if z > 0 else second

def clipped(x, least=-2.0):
    if x < least:
        return x.new_tensor(least)
    return x

def collected(zs, terms):
    for z, term in zip(zs, terms):
        if z > 0:
            yield term

class Box:
    def __init__(self, held):
        self.held = held
    def put(self, held):
        self.held = held
        return self

"""


@dataclass(frozen=True)
class PythonProgram:
    """A program, as source text, and what is in it."""

    source: str
    features: frozenset[str]
    function: Callable[..., Tensor] = field(compare=False, repr=False)

    def __call__(self, *parameters: Tensor) -> Tensor:
        """Run beside a coin that has nothing to do with it: see `Control.program`."""
        other = 0.3 * coin(parameters[0][1])
        return self.function(*parameters) + other

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Fresh parameters."""
        return (torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True),)

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        """Let hypothesis print the source."""
        printer.text("\n" + self.source)


def compiled(body: str, features: frozenset[str] = frozenset()) -> PythonProgram:
    """Return the program with this source."""
    names: dict[str, Any] = {
        **DENSITIES,
        **ELSEWHERE,
        "torch": torch,
        "math": math,
        "np": np,
        "TABLE": TABLE,
        "coin": coin,
        "roll": roll,
        "num": num,
    }
    exec(compile(HELPERS + body, "<program>", "exec"), names)
    return PythonProgram(body, features, names["program"])


class Writer(Expressions):
    """The statements of a program in the making."""

    def draw(self) -> None:
        """Draw something."""
        kind = self.choose.among(
            ("coin", "coin", "coins", "class", "typed", "normal", "thread", "out")
        )
        if kind == "coin" and self.afford(1):
            # What a decision rests on gets a score, of which two values of noise know nothing.
            logit = self.scalar(1, is_smooth=self.is_quiet)
            self.bind("scalar", f"coin({logit})", prefix="z")
        elif kind == "coins" and self.afford(2):
            self.bind("vector", f"coin({self.vector()})", prefix="z")
        elif kind == "class" and self.afford(1.6):
            self.bind("class", f"roll({self.vector()})", prefix="z")
        elif kind == "typed" and self.afford(1):
            made = self.choose.among((".float()", ".bool().double()", ".int().double()"))
            self.bind("scalar", f"coin({self.scalar(1)}){made}", prefix="z")
        elif kind == "thread" and self.afford(1):
            self.features.add("thread")
            where = self.choose.among(("in_thread", "in_pool"))
            self.bind("scalar", f"{where}(lambda: coin({self.scalar(1)}))", prefix="z")
        elif kind == "out" and self.afford(1):
            self.features.add("out")
            way = self.choose.among(tuple(WAYS))
            self.bind("scalar", f"poured({self.scalar(1)}.double(), {way!r})", prefix="z")
        elif kind == "normal" and self.afford(1):
            self.features.add("pathwise")
            scale = self.choose.among(("0.5", "0.8"))
            text = f"Normal({self.scalar(1, is_smooth=True)}, {scale}).rsample()"
            self.bind("scalar", text, is_smooth=True, prefix="y")

    def definition(self) -> None:
        """Bind a name to something computed."""
        kind = self.choose.among(
            (
                "scalar",
                "vector",
                "float",
                "int",
                "buffer",
                "view",
                "view",
                "terms",
                "table",
                "array",
            )
        )
        match kind:
            case "scalar":
                self.bind(kind, self.scalar())
            case "vector":
                self.bind(kind, self.vector(2))
            case "float":
                self.bind(kind, self.float())
            case "int":
                self.bind(kind, self.index())
            case "buffer":
                made = self.choose.among(
                    ("torch.zeros(2, dtype=torch.float64)", f"{self.vector()}.clone()")
                )
                self.bind(kind, made)
            case "view":
                self.sharing()
            case "terms":
                smooth = self.choose.below(3) == 0
                both = [self.scalar(1, is_smooth=smooth) for _ in range(2)]
                self.bind(kind, f"[{both[0]}, {both[1]}]", is_smooth=smooth, prefix="terms")
            case "table":
                row = ", ".join(f"{key}: {self.scalar(1)}" for key in range(3))
                self.bind(kind, f"{{{row}}}", prefix="table")
            case "array":
                if self.is_quiet:
                    return
                self.features.add("escape")
                made = self.choose.among((".numpy()", ".numpy().copy()", ".tolist()"))
                text = f"{self.vector()}.detach().clone(){made}"
                self.bind(kind, f"np.asarray({text})")

    def sharing(self) -> None:
        """Bind two names to one memory."""
        self.features.add("view")
        if not self.known("buffer"):
            self.bind("buffer", f"{self.number()} * torch.ones(2, dtype=torch.float64)")
        base = self.choose.among(self.known("buffer"))
        if not self.is_quiet and self.choose.below(3) == 0:
            self.features.add("memory")
            array = self.bind("array", f"{base}.detach().numpy()")
            if self.choose.below(2):
                self.bind("buffer", f"torch.from_numpy({array.text})")
            return
        ways = (".view(2)", "[:]", ".view(1, 2)[0]", ".flatten()", ".detach()", "")
        self.bind("buffer", f"{base}{self.choose.among(ways)}")

    def write(self) -> None:
        """Change something in place, or what a name stands for."""
        self.features.add("write")
        ways: dict[Kind, Callable[[str], list[Callable[[], str]]]] = {
            "buffer": self._into_buffer,
            "array": lambda a: [lambda: f"{a}[{self.index(0)} % 2] = {self.float()}"],
            "terms": self._into_terms,
            "table": self._into_table,
            "float": lambda f: [lambda: f"{f} += {self.float()}"],
            "scalar": lambda s: [
                lambda: f"{s} = {self.scalar()}",
                lambda: f"{s} = {s} * {self.number()}",
            ],
        }
        # A draw keeps its name, and so do parameters.
        targets = [
            (ways[n.kind], n.text)
            for n in self.names
            if n.kind in ways and n.text[0] not in "zy" and n.text.isidentifier()
        ]
        if targets:
            way, name = self.choose.among(targets)
            text = self.choose.among(way(name))()
            self.note(name, text)
            self.line(text)
            if way == self._into_buffer and name in self.drawn and self.choose.below(2):
                others = [b for b in self.known("buffer") if b != name]  # perhaps views of it
                other = self.choose.among(others or [name])
                self.line(f"loss = loss + {self.number()} * {other}.clone().cumsum(0).prod()")

    def _into_buffer(self, b: str) -> list[Callable[[], str]]:
        return [
            lambda: f"{b}[{self.choose.below(2)}] = {self.scalar()}",
            lambda: f"{b}[{self.index()} % 2] = {self.scalar()}",
            lambda: f"{b}[{self.index()} % 2] += {self.number()}",
            lambda: f"{b}.add_({self.vector()})",
            lambda: f"{b}.copy_({self.vector()})",
            lambda: f"{b}.data.copy_({self.vector()})",
            lambda: f"{b}.fill_({self.float()})",
            lambda: f"{b}[{self.vector(0)} > 0] = {self.number()}",
            lambda: f"{b}[{self.looked_at()}.gt(0.5).long()] = {self.scalar(1)}",
            lambda: f"{b}.detach().zero_().add_({self.vector()}.detach())",
            lambda: f"torch._foreach_add_([{b}], [{self.vector()}])",
            lambda: f"{b}.masked_fill_({self.vector(0)} > 0, {self.number()})",
            lambda: f"torch.mul({self.vector()}.detach(), 2, out={b}.detach())",
            *(() if self.is_quiet else (lambda: f"{b}.detach().numpy()[0] = {self.float()}",)),
        ]

    def _into_terms(self, t: str) -> list[Callable[[], str]]:
        return [
            lambda: f"{t}.append({self.scalar()})",
            lambda: f"{t}[{self.index()} % 2] = {self.scalar(1)}",
            lambda: f"{t}.reverse()",
            lambda: f"{t}[0], {t}[1] = {t}[1], {t}[0]",
            lambda: f"{t}.insert({self.index()}, {self.scalar(1)})",
        ]

    def _into_table(self, t: str) -> list[Callable[[], str]]:
        return [
            lambda: f"{t}[{self.index()}] = {self.scalar(1)}",
            lambda: f"{t}.update({{1: {self.scalar(1)}}})",
        ]

    def term(self) -> None:
        """Add to the loss."""
        x = self.scalar(2, is_smooth=True)
        options = [
            lambda: f"losses.append({x})",
            lambda: f"loss = loss + {x}",
            lambda: f"loss += {x}",
            lambda: f"loss = loss - {self.number()} * ({x})",
            lambda: f"losses += [{x}]",
        ]
        self.line(self.choose.among(options)())

    def check(self) -> None:
        """State something that always holds."""
        if not self.is_quiet:
            self.features.add("escape")
            ways = ("torch._assert({} < 1e9, '')", "assert {} < 1e9")
            self.line(self.choose.among(ways).format(self.looked_at()))

    def branch(self, size: int) -> None:
        """Branch on something."""
        self.features.add("branch")
        before = self.bits
        with self.block(f"if {self.truth()}:"):
            self.statements(size)
            self.leave()
        least, self.bits = self.bits, before
        if self.choose.below(2):
            if self.choose.below(4) == 0:
                with self.block(f"elif {self.truth()}:"):
                    self.statements(size)
                least, self.bits = min(least, self.bits), before
            with self.block("else:"):
                self.statements(size)
        self.bits = min(least, self.bits)

    def leave(self) -> None:
        """End a block early, or not."""
        way = self.choose.below(8)
        if way == 1:
            self.features.add("early return")
            self.line(f"return {self.choose.among(('loss', 'sum(losses, loss)', self.scalar()))}")
        elif way == 2 and self.loops:
            self.line(self.choose.among(("break", "continue")))

    def loop(self, size: int) -> None:
        """Loop a few times."""
        if self.loops == 2:
            return
        self.features.add("loop")
        steps: list[tuple[str, int]] = [
            ("range(2)", 2),
            (f"range({self.index()})", 2),
            (f"range(int({self.truth()}))", 1),
            (f"[k for k in range(2) if {self.truth(0)}]", 2),
        ]
        over, most = self.choose.among(steps)
        self._repeat(f"for k{self.count} in {over}:", most, size)

    def bounded_while(self, size: int) -> None:
        """Loop while something holds, twice at the most."""
        if self.loops == 2:
            return
        self.features.add("loop")
        counter = f"count{self.count}"
        self.count += 1
        self.line(f"{counter} = 0")
        head = f"while {counter} < 2 and {self.truth()}:"
        self._repeat(head, 2, size, first=f"{counter} += 1")

    def iteration(self, size: int) -> None:
        """Loop over the elements of a vector, or over terms."""
        if self.loops == 2:
            return
        self.features.add("loop")
        name = f"s{self.count}"
        self.count += 1
        kept = len(self.names)
        over = self.vector(0)
        self.names.append(Name(name, "scalar"))
        self.note(name, over)
        self._repeat(f"for {name} in {over}:", 2, size)
        del self.names[kept:]

    def _repeat(self, head: str, most: int, size: int, first: str = "") -> None:
        self.count += 1
        self.loops += 1
        before = self.bits
        self.bits = before / most
        with self.block(head):
            if first:
                self.line(first)
            self.statements(size)
            self.leave()
        self.bits = max(0.0, before - most * (before / most - self.bits))
        self.loops -= 1

    def attempt(self, size: int) -> None:
        """Raise on a value, and go on elsewhere."""
        self.features.add("exception")
        before = self.bits
        with self.block("try:"):
            with self.block(f"if {self.truth()}:"):
                self.line("raise ValueError")
            self.statements(size)
        with self.block("except ValueError:"):
            self.statements(size)
        self.bits = min(before, self.bits)

    def rescue(self) -> None:
        """Catch what an op raises because of a value, which makes `backward` raise."""
        name = f"s{self.count}"
        self.count += 1
        if self.is_quiet or not (classes := self.known("class")) or self.choose.below(2):
            return
        self.features.add("rescue")
        with self.block("try:"):
            self.line(f"{name} = TABLE[: 2][{self.choose.among(classes)}]")
        with self.block("except IndexError:"):
            self.line(f"{name} = {self.scalar(1)}")
        self.names.append(Name(name, "scalar"))

    def matching(self, size: int) -> None:
        """Match a number."""
        self.features.add("branch")
        before = least = self.bits
        with self.block(f"match {self.index()}:"):
            for case in ("0", "1", "_"):
                self.bits = before
                with self.block(f"case {case}:"):
                    self.statements(size)
                least = min(least, self.bits)
        self.bits = least

    def statements(self, size: int) -> None:
        """Write some statements."""
        simple: list[Callable[[], None]] = [
            self.term,
            self.draw,
            self.definition,
            self.write,
            self.write,
            self.check,
            self.rescue,
        ]
        blocks: list[Callable[[int], None]] = [
            self.branch,
            self.branch,
            self.loop,
            self.bounded_while,
            self.iteration,
            self.attempt,
            self.matching,
        ]
        options = [*simple]
        options += [partial(block, size - 1) for block in blocks if size > 1]
        for _ in range(1 + self.choose.below(size)):
            self.choose.among(options)()

    def program(self) -> PythonProgram:
        """Write the whole program."""
        self.afford(1)
        self.bind("scalar", f"coin({self.choose.among(('theta[0]', 'theta[1]'))})", prefix="z")
        self.line("losses, loss = [], 0.1 * theta.sum()")
        self.names.append(Name("loss.clone()", "scalar", is_smooth=True))
        first = (self.draw, self.definition, self.definition, self.sharing)
        for _ in range(2 + self.choose.below(3)):
            self.choose.among(first)()
        self.statements(3)
        self.term()
        self.line("return sum(losses, loss)")
        return compiled("\n".join(self.lines) + "\n", frozenset(self.features))


def beside(theta: Tensor) -> Tensor:
    """Return the gradient of the expected cost of the coin beside every program."""
    p = theta[1].detach().sigmoid()
    return torch.stack([torch.zeros_like(p), 0.3 * p * (1 - p)])


@st.composite
def python_programs(draw: st.DrawFn) -> PythonProgram:
    """Draw a program in Python."""
    return Writer(by_hypothesis(draw)).program()

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
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter
from torch import Tensor
from torch.distributions import Normal

from programs.choose import Choose, by_hypothesis
from programs.control.register import LOGITS, TABLE, coin, num, roll

Kind = Literal["scalar", "vector", "buffer", "class", "int", "float", "array", "terms", "table"]
"""What a name stands for: tensors [], [2], [2] that may be written into, and an integer [] in 0..2;
a number of Python, 0 to 2, and any; an array of numpy [2]; a list of scalars, which has two of them
at the least; a dictionary of scalars with the keys 0, 1, 2."""

MOST_BITS = 5.0
"""The logarithm of the number of paths, but for the coin beside."""

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
class Name:
    """A name and what it stands for. What is smooth only must not be compared or escape."""

    text: str
    kind: Kind
    is_smooth: bool = False


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
        "torch": torch,
        "math": math,
        "np": np,
        "Normal": Normal,
        "TABLE": TABLE,
        "coin": coin,
        "roll": roll,
        "num": num,
    }
    exec(compile(HELPERS + body, "<program>", "exec"), names)
    return PythonProgram(body, features, names["program"])


class Writer:
    """A program in the making."""

    def __init__(self, choose: Choose) -> None:
        """Begin with the parameters."""
        self.choose = choose
        self.lines: list[str] = ["def program(theta):"]
        self.features: set[str] = set()
        self._names: list[Name] = [Name("theta[0]", "scalar"), Name("theta[1]", "scalar")]
        self._drawn: set[str] = set()
        self._count = 0
        self._depth = 1
        self._loops = 0
        self._bits = MOST_BITS - choose.below(3)

    # Lines and names

    def line(self, text: str) -> None:
        """Put down one line."""
        self.lines.append("    " * self._depth + text)

    def bind(self, kind: Kind, text: str, *, is_smooth: bool = False, prefix: str = "") -> Name:
        """Bind a new name to an expression."""
        name = Name(f"{prefix or kind[0]}{self._count}", kind, is_smooth)
        self._count += 1
        self._note(name.text, text, is_drawn=prefix in ("z", "y"))
        self.line(f"{name.text} = {text}")
        self._names.append(name)
        return name

    def _note(self, name: str, text: str, *, is_drawn: bool = False) -> None:
        """Note whether a draw decides what a name stands for, now that it is bound to a text."""
        if is_drawn or not self._drawn.isdisjoint(re.findall(r"\w+", text)):
            self._drawn.add(name)

    def known(self, *kinds: Kind, is_smooth: bool = False) -> list[str]:
        """Return the names of these kinds, newest first; smooth ones where they may be used."""
        return [
            n.text for n in reversed(self._names) if n.kind in kinds and is_smooth >= n.is_smooth
        ]

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Indent what is written within."""
        self.line(head)
        kept, at = len(self._names), len(self.lines)
        self._depth += 1
        yield
        if len(self.lines) == at:
            self.line("pass")
        self._depth -= 1
        del self._names[kept:]

    def afford(self, bits: float) -> bool:
        """Return whether that many more outcomes fit in, and count them."""
        if bits > self._bits:
            return False
        self._bits -= bits
        return True

    # Expressions

    def number(self) -> str:
        """Return a constant."""
        return self.choose.among(("0.3", "0.7", "1.4", "-0.6", "2.0"))

    def scalar(self, depth: int = 2, *, is_smooth: bool = False) -> str:
        """Return a scalar tensor."""
        leaves = self.known("scalar", is_smooth=is_smooth)
        if depth == 0 or self.choose.below(3) == 0:
            drawn = [name for name in leaves if name in self._drawn]
            if drawn and self.choose.below(3):
                return self.choose.among(drawn)
            return self.choose.among([*leaves, "theta[0]", f"num({self.number()})"])
        x = self.scalar(depth - 1, is_smooth=is_smooth)

        def y() -> str:
            return self.scalar(depth - 1, is_smooth=is_smooth)

        smooth: list[Callable[[], str]] = [
            lambda: f"({x} + {y()})",
            lambda: f"{x} * {y()}",
            lambda: f"({x} - {self.number()}) ** 2",
            lambda: f"{self.number()} * {x}",
            lambda: f"torch.tanh({x})",
            lambda: f"-{x}",
            lambda: f"torch.stack([{x}, {y()}]).prod()",
            lambda: f"{self.vector(depth - 1)}.sum()",
            lambda: f"{self.vector(depth - 1)}[{self.choose.below(2)}]",
            lambda: f"{self.vector(depth - 1)} @ theta",
            lambda: f"torch.where({self.looked_at()} > 0.5, {x}, {y()})",
            lambda: f"{self.float(depth - 1)} * {x}",
            lambda: f"num({self.float(depth - 1)})",
            lambda: f"torch.tensor({self.float(depth - 1)}, dtype=torch.float64)",
            lambda: f"({x} if {self.truth(depth - 1)} else {y()})",
            lambda: f"chosen({self.looked_at()}, {x}, {y()})",
            lambda: f"[{x}, {y()}][{self.index(depth - 1)} % 2]",
            lambda: f"{{0: {x}, 1: {y()}}}.get({self.index(depth - 1)}, {y()})",
            lambda: f"torch.full((), {self.float(depth - 1)}, dtype=torch.float64)",
            lambda: f"Box({x}).put({y()}).held",
            lambda: f"(lambda a, b=0.5: a * b)({x}, {self.float(depth - 1)})",
        ]
        if classes := self.known("class"):
            smooth += [
                lambda: f"TABLE[{self.choose.among(classes)}]",
                lambda: f"{self.choose.among(classes)} * {x}",
                lambda: f"torch.nn.functional.one_hot({self.choose.among(classes)}, 3)[1] * {x}",
            ]
        if terms := self.known("terms", is_smooth=is_smooth):
            smooth += [
                lambda: f"sum({self.choose.among(terms)}, {x})",
                lambda: f"{self.choose.among(terms)}[{self.choose.among((0, 1, -1))}]",
                lambda: f"{self.choose.among(terms)}[{self.index(0)} % 2]",
                lambda: f"torch.stack({self.choose.among(terms)}).mean()",
            ]
        if tables := self.known("table", is_smooth=is_smooth):
            smooth += [lambda: f"{self.choose.among(tables)}[{self.index(depth - 1)}]"]
        if is_smooth:
            return f"({self.choose.among(smooth)()})"
        kinked: list[Callable[[], str]] = [
            lambda: f"max({x}, {y()})",
            lambda: f"min([{x}, {y()}], key=lambda t: float(t))",
            lambda: f"sorted([{x}, {y()}])[0]",
            lambda: f"clipped({x})",
            lambda: f"({x} > {self.number()}).double()",
            lambda: f"{x}.float().double()",
            lambda: f"({x} > 0).long() * {y()}",
            lambda: f"sum(collected({self.vector(0)}, [{x}, {y()}]), {y()})",
        ]
        return f"({self.choose.among([*smooth, *kinked])()})"

    def looked_at(self, depth: int = 0) -> str:
        """Return a scalar that is worth a look: most often one that a draw decides."""
        drawn = [n for n in self.known(*get_args(Kind)) if n in self._drawn]
        kinds = {n.text: n.kind for n in self._names}
        ways = {"scalar": "{}", "class": "{}", "vector": "{}[0]", "buffer": "{}[1]"}
        found = [ways[kinds[n]].format(n) for n in drawn if kinds[n] in ways]
        if found and self.choose.below(4):
            return self.choose.among(found)
        return self.scalar(depth)

    def vector(self, depth: int = 1) -> str:
        """Return a vector of two."""
        buffers = [f"{name}.clone()" for name in self.known("buffer")]
        leaves = [*self.known("vector"), *buffers, "theta"]
        if depth <= 0 or self.choose.below(3) == 0:
            drawn = [name for name in leaves if name.split(".")[0] in self._drawn]
            return self.choose.among(drawn if drawn and self.choose.below(3) else leaves)
        x = self.vector(depth - 1)
        options: list[Callable[[], str]] = [
            lambda: f"({x} * {self.scalar(depth - 1)})",
            lambda: f"torch.stack([{self.scalar(depth - 1)}, {self.scalar(depth - 1)}])",
            lambda: f"{x}.flip(0)",
            lambda: f"{x}.cumsum(0)",
            lambda: f"torch.sort({x}).values",
            lambda: f"({x} > 0).double()",
            lambda: f"torch.where({x} > 0, {self.vector(depth - 1)}, {self.number()})",
            lambda: f"torch.tensor([{self.float(depth - 1)}, {self.number()}]).double()",
            lambda: f"torch.tensor({x}.tolist()).double()",
            lambda: f"{x}[torch.tensor([1, 0])]",
            lambda: f"torch.tensor([{self.scalar(0)}, {self.scalar(0)}]).double()",
        ]
        if arrays := self.known("array"):
            options += [
                lambda: f"torch.from_numpy({self.choose.among(arrays)}.copy())",
                lambda: f"torch.as_tensor({self.choose.among(arrays)} * {self.number()})",
            ]
        return self.choose.among(options)()

    def float(self, depth: int = 1) -> str:
        """Return a number of Python."""
        if depth <= 0:
            return self.choose.among([*self.known("float", "int"), self.number()])
        options: list[Callable[[], str]] = [
            lambda: f"{self.looked_at(depth - 1)}.item()",
            lambda: f"float({self.looked_at(depth - 1)})",
            lambda: f"{self.vector(0)}.tolist()[{self.choose.below(2)}]",
            lambda: f"math.tanh({self.looked_at(depth - 1)})",
            lambda: f"float({self.vector(0)}.detach().numpy().sum())",
            lambda: f"abs({self.float(depth - 1)})",
            lambda: f"({self.float(depth - 1)} + {self.index(depth - 1)})",
            lambda: f"(1.5 if {self.truth(depth - 1)} else {self.number()})",
            lambda: f"round({self.looked_at()}.item(), 2)",
        ]
        options += [partial("float({}.mean())".format, name) for name in self.known("array")]
        self.features.add("escape")
        return self.choose.among(options)()

    def index(self, depth: int = 1) -> str:
        """Return a number of Python, 0, 1 or 2."""
        known = self.known("int")
        classes = [f"int({name})" for name in self.known("class")]
        if depth <= 0 or self.choose.below(4) == 0:
            return self.choose.among([*known, *classes, "1"])
        self.features.add("escape")
        options: list[Callable[[], str]] = [
            lambda: f"int({self.looked_at(depth - 1)} > {self.number()})",
            lambda: f"{self.vector(0)}.gt(0).nonzero().shape[0]",
            lambda: f"len({self.vector(0)}[{self.vector(0)} > 0])",
            lambda: f"int({self.vector(0)}.argmax())",
            lambda: f"int(np.argmax({self.vector(0)}.detach().numpy()))",
            lambda: f"({self.index(depth - 1)} + 1) % 3",
            lambda: f"sum(bool(v > 0) for v in {self.vector(0)})",
            lambda: f"len({self.vector(0)}.gt(0).unique())",
            lambda: f"[0, 2, 1][({self.looked_at()} > 0.5).long()]",
            lambda: f"(int({self.looked_at()} > 0) ^ 1)",
            lambda: f"int({self.vector(0)}.gt(0.4).sum())",
        ]
        return self.choose.among(options)()

    def truth(self, depth: int = 1) -> str:
        """Return something to branch on."""
        x = self.looked_at(max(0, depth - 1))
        self.features.add("escape")
        options: list[Callable[[], str]] = [
            lambda: f"{x} > {self.choose.among(('0', '0.5', self.number()))}",
            lambda: f"{x}.item() > {self.number()}",
            lambda: f"-0.5 < {x} < 0.5",
            lambda: f"({self.vector(0)} > 0).any()",
            lambda: f"torch.equal({self.vector(0)}, {self.vector(0)})",
            lambda: f"{self.index(depth - 1)} == {self.choose.below(3)}",
            lambda: f"{self.index(depth - 1)}",
            lambda: f"bool({x} != 0)",
            lambda: f"torch.allclose({x}.double(), num({self.number()}))",
        ]
        if depth > 0:
            options += [
                lambda: f"not {self.truth(depth - 1)}",
                lambda: f"({self.truth(depth - 1)} and {self.truth(depth - 1)})",
                lambda: f"any(v > 0.5 for v in {self.vector(0)})",
                lambda: f"all([{x} > 0, {self.looked_at()} > 0])",
                lambda: f"{x} in {self.vector(0)}",
                lambda: f"{{0: True, 1: False}}.get({self.index(depth - 1)}, False)",
            ]
        return self.choose.among(options)()

    # Statements

    def draw(self) -> None:
        """Draw something."""
        kind = self.choose.among(("coin", "coin", "coins", "class", "typed", "normal"))
        if kind == "coin" and self.afford(1):
            self.bind("scalar", f"coin({self.scalar(1, is_smooth=True)})", prefix="z")
        elif kind == "coins" and self.afford(2):
            self.bind("vector", f"coin({self.vector()})", prefix="z")
        elif kind == "class" and self.afford(1.6):
            self.bind("class", f"roll({self.vector()})", prefix="z")
        elif kind == "typed" and self.afford(1):
            made = self.choose.among((".float()", ".bool().double()", ".int().double()"))
            self.bind("scalar", f"coin({self.scalar(1)}){made}", prefix="z")
        elif kind == "normal" and self.afford(1):
            self.features.add("pathwise")
            scale = self.choose.among(("0.5", "0.8"))
            text = f"Normal({self.scalar(1, is_smooth=True)}, {scale}).rsample()"
            self.bind("scalar", text, is_smooth=True, prefix="y")

    def definition(self) -> None:
        """Bind a name to something computed."""
        kind = self.choose.among(
            ("scalar", "vector", "float", "int", "buffer", "view", "terms", "table", "array")
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
                if buffers := self.known("buffer"):
                    made = self.choose.among((".view(2)", "[:]", ".view(1, 2)[0]", ".flatten()"))
                    self.bind("buffer", f"{self.choose.among(buffers)}{made}")
            case "terms":
                smooth = self.choose.below(3) == 0
                both = [self.scalar(1, is_smooth=smooth) for _ in range(2)]
                self.bind(kind, f"[{both[0]}, {both[1]}]", is_smooth=smooth, prefix="terms")
            case "table":
                row = ", ".join(f"{key}: {self.scalar(1)}" for key in range(3))
                self.bind(kind, f"{{{row}}}", prefix="table")
            case "array":
                self.features.add("escape")
                made = self.choose.among((".numpy()", ".numpy().copy()", ".tolist()"))
                text = f"{self.vector()}.detach().clone(){made}"
                self.bind(kind, f"np.asarray({text})")

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
            for n in self._names
            if n.kind in ways and n.text[0] not in "zy" and n.text.isidentifier()
        ]
        if targets:
            way, name = self.choose.among(targets)
            text = self.choose.among(way(name))()
            self._note(name, text)
            self.line(text)

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
            lambda: f"{b}.detach().numpy()[0] = {self.float()}",
            lambda: f"{b}.masked_fill_({self.vector(0)} > 0, {self.number()})",
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

    def branch(self, size: int) -> None:
        """Branch on something."""
        self.features.add("branch")
        before = self._bits
        with self.block(f"if {self.truth()}:"):
            self.statements(size)
            self.leave()
        least, self._bits = self._bits, before
        if self.choose.below(2):
            if self.choose.below(4) == 0:
                with self.block(f"elif {self.truth()}:"):
                    self.statements(size)
                least, self._bits = min(least, self._bits), before
            with self.block("else:"):
                self.statements(size)
        self._bits = min(least, self._bits)

    def leave(self) -> None:
        """End a block early, or not."""
        way = self.choose.below(8)
        if way == 1:
            self.features.add("early return")
            self.line(f"return {self.choose.among(('loss', 'sum(losses, loss)', self.scalar()))}")
        elif way == 2 and self._loops:
            self.line(self.choose.among(("break", "continue")))

    def loop(self, size: int) -> None:
        """Loop a few times."""
        if self._loops == 2:
            return
        self.features.add("loop")
        steps: list[tuple[str, int]] = [
            ("range(2)", 2),
            (f"range({self.index()})", 2),
            (f"range(int({self.truth()}))", 1),
            (f"[k for k in range(2) if {self.truth(0)}]", 2),
        ]
        over, most = self.choose.among(steps)
        self._repeat(f"for k{self._count} in {over}:", most, size)

    def bounded_while(self, size: int) -> None:
        """Loop while something holds, twice at the most."""
        if self._loops == 2:
            return
        self.features.add("loop")
        counter = f"count{self._count}"
        self._count += 1
        self.line(f"{counter} = 0")
        head = f"while {counter} < 2 and {self.truth()}:"
        self._repeat(head, 2, size, first=f"{counter} += 1")

    def iteration(self, size: int) -> None:
        """Loop over the elements of a vector, or over terms."""
        if self._loops == 2:
            return
        self.features.add("loop")
        name = f"s{self._count}"
        self._count += 1
        kept = len(self._names)
        over = self.vector(0)
        self._names.append(Name(name, "scalar"))
        self._note(name, over)
        self._repeat(f"for {name} in {over}:", 2, size)
        del self._names[kept:]

    def _repeat(self, head: str, most: int, size: int, first: str = "") -> None:
        self._count += 1
        self._loops += 1
        before = self._bits
        self._bits = before / most
        with self.block(head):
            if first:
                self.line(first)
            self.statements(size)
            self.leave()
        self._bits = max(0.0, before - most * (before / most - self._bits))
        self._loops -= 1

    def attempt(self, size: int) -> None:
        """Raise on a value, and go on elsewhere."""
        self.features.add("exception")
        before = self._bits
        with self.block("try:"):
            with self.block(f"if {self.truth()}:"):
                self.line("raise ValueError")
            self.statements(size)
        with self.block("except ValueError:"):
            self.statements(size)
        self._bits = min(before, self._bits)

    def matching(self, size: int) -> None:
        """Match a number."""
        self.features.add("branch")
        before = least = self._bits
        with self.block(f"match {self.index()}:"):
            for case in ("0", "1", "_"):
                self._bits = before
                with self.block(f"case {case}:"):
                    self.statements(size)
                least = min(least, self._bits)
        self._bits = least

    def statements(self, size: int) -> None:
        """Write some statements."""
        simple: list[Callable[[], None]] = [
            self.term,
            self.draw,
            self.definition,
            self.write,
            self.write,
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
        self._names.append(Name("loss.clone()", "scalar", is_smooth=True))
        for _ in range(2 + self.choose.below(3)):
            self.choose.among((self.draw, self.definition, self.definition))()
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

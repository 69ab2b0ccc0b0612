"""Expressions of random programs in Python: what a name may be bound to, by its kind."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from programs.choose import Choose
from programs.densities import density, masked

Kind = Literal["scalar", "vector", "buffer", "class", "int", "float", "array", "terms", "table"]
"""What a name stands for: tensors [], [2], [2] that may be written into, and an integer [] in 0..2;
a number of Python, 0 to 2, and any; an array of numpy [2]; a list of scalars, which has two of them
at the least; a dictionary of scalars with the keys 0, 1, 2."""

MOST_BITS = 5.0
"""The logarithm of the number of paths, but for the coin beside."""


@dataclass(frozen=True)
class Name:
    """A name and what it stands for. What is smooth only must not be compared or escape."""

    text: str
    kind: Kind
    is_smooth: bool = False


class Expressions:
    """A program in the making: its lines, its names, and what can be made of them."""

    def __init__(self, choose: Choose) -> None:
        """Begin with the parameters."""
        self.choose = choose
        self.lines: list[str] = ["def program(theta):"]
        self.features: set[str] = set()
        self.names: list[Name] = [Name("theta[0]", "scalar"), Name("theta[1]", "scalar")]
        self.drawn: set[str] = set()
        self.count = 0
        self._depth = 1
        self.loops = 0
        self.bits = MOST_BITS - choose.below(3)
        # After an escape all depends on it: what writes do shows in programs without.
        self.is_quiet = choose.below(3) == 2

    # Lines and names

    def line(self, text: str) -> None:
        """Put down one line."""
        self.lines.append("    " * self._depth + text)

    def bind(self, kind: Kind, text: str, *, is_smooth: bool = False, prefix: str = "") -> Name:
        """Bind a new name to an expression."""
        name = Name(f"{prefix or kind[0]}{self.count}", kind, is_smooth)
        self.count += 1
        self.note(name.text, text, is_drawn=prefix in ("z", "y"))
        self.line(f"{name.text} = {text}")
        self.names.append(name)
        return name

    def note(self, name: str, text: str, *, is_drawn: bool = False) -> None:
        """Note whether a draw decides what a name stands for, now that it is bound to a text."""
        if is_drawn or not self.drawn.isdisjoint(re.findall(r"\w+", text)):
            self.drawn.add(name)

    def known(self, *kinds: Kind, is_smooth: bool = False) -> list[str]:
        """Return the names of these kinds, newest first; smooth ones where they may be used."""
        return [
            n.text for n in reversed(self.names) if n.kind in kinds and is_smooth >= n.is_smooth
        ]

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Indent what is written within."""
        self.line(head)
        kept, at = len(self.names), len(self.lines)
        self._depth += 1
        yield
        if len(self.lines) == at:
            self.line("pass")
        self._depth -= 1
        del self.names[kept:]

    def afford(self, bits: float) -> bool:
        """Return whether that many more outcomes fit in, and count them."""
        if bits > self.bits:
            return False
        self.bits -= bits
        return True

    # Expressions

    def number(self) -> str:
        """Return a constant."""
        return self.choose.among(("0.3", "0.7", "1.4", "-0.6", "2.0"))

    def scalar(self, depth: int = 2, *, is_smooth: bool = False) -> str:
        """Return a scalar tensor."""
        leaves = self.known("scalar", is_smooth=is_smooth)
        if depth == 0 or self.choose.below(3) == 0:
            drawn = [name for name in leaves if name in self.drawn]
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
            lambda: f"torch.full((), {self.float(depth - 1)}, dtype=torch.float64)",
            lambda: f"Box({x}).put({y()}).held",
            lambda: f"(lambda a, b=0.5: a * b)({x}, {self.float(depth - 1)})",
            lambda: self.density(x),
            lambda: self.density(self.looked_at()),
        ]
        if not self.is_quiet:
            smooth += [
                lambda: f"{self.float(depth - 1)} * {x}",
                lambda: f"num({self.float(depth - 1)})",
                lambda: f"torch.tensor({self.float(depth - 1)}, dtype=torch.float64)",
                lambda: f"({x} if {self.truth(depth - 1)} else {y()})",
                lambda: f"chosen({self.looked_at()}, {x}, {y()})",
                lambda: f"[{x}, {y()}][{self.index(depth - 1)} % 2]",
                lambda: f"{{0: {x}, 1: {y()}}}.get({self.index(depth - 1)}, {y()})",
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
            lambda: f"({x} > {self.number()}).double()",
            lambda: f"{x}.float().double()",
            lambda: f"({x} > 0).long() * {y()}",
        ]
        if not self.is_quiet:
            kinked += [
                lambda: f"max({x}, {y()})",
                lambda: f"min([{x}, {y()}], key=lambda t: float(t))",
                lambda: f"sorted([{x}, {y()}])[0]",
                lambda: f"clipped({x})",
                lambda: f"sum(collected({self.vector(0)}, [{x}, {y()}]), {y()})",
                lambda: f"torch.ones({self.counted()}, dtype=torch.float64).sum() * {y()}",
                lambda: f"theta[1:].expand({self.counted()}).sum() * {y()}",
            ]
        return f"({self.choose.among([*smooth, *kinked])()})"

    def density(self, x: str) -> str:
        """Return something that is read off a distribution of a scalar."""
        way = self.choose.among((density, density, density, masked))
        self.features.add("density")
        return way(self.choose, f"{x} * 1.0")

    def looked_at(self, depth: int = 0) -> str:
        """Return a scalar that is worth a look: most often one that a draw decides."""
        drawn = [n for n in self.known(*get_args(Kind)) if n in self.drawn]
        kinds = {n.text: n.kind for n in self.names}
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
            drawn = [name for name in leaves if name.split(".")[0] in self.drawn]
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
            lambda: f"{x}[torch.tensor([1, 0])]",
            lambda: f"torch.tensor([{self.scalar(0)}, {self.scalar(0)}]).double()",
        ]
        if not self.is_quiet:
            options += [lambda: f"torch.tensor({x}.tolist()).double()"]
        if arrays := self.known("array"):
            options += [
                lambda: f"torch.from_numpy({self.choose.among(arrays)}.copy())",
                lambda: f"torch.as_tensor({self.choose.among(arrays)} * {self.number()})",
            ]
        return self.choose.among(options)()

    def float(self, depth: int = 1) -> str:
        """Return a number of Python."""
        if depth <= 0 or self.is_quiet:
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
            self.parsed,
            self.parsed,
        ]
        options += [partial("float({}.mean())".format, name) for name in self.known("array")]
        self.features.add("escape")
        return self.choose.among(options)()

    def index(self, depth: int = 1) -> str:
        """Return a number of Python, 0, 1 or 2."""
        known = self.known("int")
        if self.is_quiet:
            return self.choose.among([*known, "0", "1"])
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
            self.size,
            self.size,
            self.size,
        ]
        return self.choose.among(options)()

    def parsed(self) -> str:
        """Return a number that is read from the text of a tensor."""
        self.features.add("text")
        x = self.looked_at()
        inner = ".split('(')[1].split(',')[0].strip(')')"
        texts = (f"f'{{{x}}}'", f"f'{{{x}:.2f}}'", f"str({x}){inner}", f"repr({x}){inner}")
        return f"float({self.choose.among(texts)})"

    def counted(self) -> str:
        """Return a tensor of integers [], 0 to 2."""
        self.features.add("size")
        if (classes := self.known("class")) and self.choose.below(3):
            return self.choose.among(classes)
        return f"({self.looked_at()} > {self.number()}).long()"

    def size(self) -> str:
        """Return the size of something that has as many elements as a tensor says, 0 to 2."""
        ways = (
            "len(torch.zeros({}))",
            "torch.arange({}).shape[0]",
            "torch.linspace(0, 1, {}).numel()",
            "torch.full(({},), 1.5).numel()",
            "theta.new_zeros({}).numel()",
            "len(torch.eye({}))",
            "theta[:1].expand({}).numel()",
            "len(theta[:1].repeat({}))",
            "torch.nn.functional.pad(theta, (0, {})).numel() - 2",
            "torch.nn.functional.one_hot({}).shape[-1] - 1",
            "torch.repeat_interleave({}.reshape(1)).numel()",
            "torch.tensor_split(torch.arange(3), {}.reshape(1))[0].shape[0]",
            "len(torch.arange(3)[:{}])",
            "torch.ones(3).narrow(0, 0, {}).numel()",
            "torch.arange(3.0).topk({}).values.numel()",
            "torch.zeros(3).resize_({}).numel()",
        )
        return self.choose.among(ways).format(self.counted())

    def truth(self, depth: int = 1) -> str:
        """Return something to branch on."""
        if self.is_quiet:
            return f"{self.index()} == {self.choose.below(2)}"
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
            lambda: f"{self.parsed()} > {self.number()}",
            lambda: f"'True' in str({x} > {self.number()})",
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

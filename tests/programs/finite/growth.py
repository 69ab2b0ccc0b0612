"""Random programs of finite sites."""

import math
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from programs.finite.tree import Block, Body, Kind, Program, Role, Site

MOST_JOINT = 3000  # values of all sites together
MOST_DEPTH = 3
DIMS = (-1, -2)


@dataclass(frozen=True)
class Known:
    """A site that others may depend on."""

    plates: frozenset[str]
    size: int


Scope = dict[str, Known]


@dataclass(frozen=True)
class Around:
    """The blocks around a statement: the plates, how many turns of loops, how many blocks."""

    plates: tuple[Block, ...] = ()
    turns: int = 1
    depth: int = 0
    is_chain: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The names of the plates."""
        return frozenset(plate.name for plate in self.plates)

    @property
    def elements(self) -> int:
        """How many elements a site has here, in all turns."""
        return self.turns * math.prod(plate.part for plate in self.plates)

    def within(self, *plates: Block, turns: int = 1, is_chain: bool = False) -> "Around":
        """Return what is around a statement within one more block."""
        return Around(
            (*self.plates, *plates), self.turns * turns, self.depth + 1, self.is_chain or is_chain
        )


@dataclass
class Growing:
    """A tree that grows: how many joint values it has, and what it may contain.

    `is_scaled` lets blocks count not once, and opens each plate once only: what is opened again may
    join sites across plates, so that a sum within one is not a part of the whole.
    """

    rng: Random
    is_scaled: bool
    joint: int = 1
    made: int = 0
    tables: dict[str, Tensor] = field(default_factory=dict)
    hard: dict[str, Tensor] = field(default_factory=dict)
    plates: list[Block] = field(default_factory=list)  # that may be opened again

    def body(self, scope: Scope, around: Around, length: int) -> Body:
        """Return some statements."""
        return tuple(self._statement(scope, around) for _ in range(length))

    def _statement(self, scope: Scope, around: Around) -> Site | Block:
        kinds = ["site"] * 5
        if around.depth < MOST_DEPTH:
            kinds += ["plate", "plate", "turns", "chain", "mask"]
            kinds += ["scale"] if self.is_scaled else []
        match self.rng.choice(kinds):
            case "plate" if len(around.plates) < len(DIMS):
                return self._plate(scope, around)
            case "turns":
                return self._turns(dict(scope), around)
            case "chain":
                return self._chain(dict(scope), around)
            case "mask":
                return self._mask(scope, around)
            case "scale":
                return self._scale(dict(scope), around)
        return self._site(scope, around)

    def _name(self, letter: str) -> str:
        self.made += 1
        return f"{letter}{self.made}"

    def _some(self, around: Around) -> tuple[str, ...]:
        return tuple(name for name in sorted(around.names) if self.rng.random() < 0.5)

    def _mask(self, scope: Scope, around: Around) -> Block:
        body = self.body(scope, around.within(), self.rng.randint(1, 2))
        return Block("mask", self._name("m"), body, which=self._some(around))

    def _scale(self, scope: Scope, around: Around) -> Block:
        name, which = self._name("w"), self._some(around)
        widths = {-plate.dim: plate.part for plate in around.plates if plate.name in which}
        shape = [widths.get(d, 1) for d in range(max(widths, default=0), 0, -1)]
        is_learned = bool(which) or self.rng.random() < 0.3
        weight = torch.tensor([self.rng.uniform(0.4, 3.0) for _ in range(math.prod(shape))])
        self.tables[name] = weight.double().reshape(shape).requires_grad_(is_learned)
        body = self.body(scope, around.within(), self.rng.randint(1, 2))
        return Block("scale", name, body, which=which)

    def _turns(self, scope: Scope, around: Around) -> Block:
        part = self.rng.randint(1, 2)
        size = part + int(self.is_scaled and self.rng.random() < 0.4)
        body = self.body(scope, around.within(turns=part), self.rng.randint(1, 2))
        return Block("turns", self._name("t"), body, size, part)

    def _chain(self, scope: Scope, around: Around) -> Block:
        """Return a loop; the first site of most depends on itself, a few steps before."""
        size = self.rng.randint(1, 4)
        history = self.rng.randint(1, max(size - 1, 1))
        inner = around.within(turns=size, is_chain=True)
        first = self._site(scope, inner, history=history if self.rng.random() < 0.8 else 0)
        body = (first, *self.body(scope, inner, self.rng.randint(0, 2)))
        return Block("markov", self._name("k"), body, size, size, history=history)

    def _plate(self, scope: Scope, around: Around) -> Block:
        free = sorted(set(DIMS) - {plate.dim for plate in around.plates})
        again = [plate for plate in self.plates if plate.dim in free]
        if again and self.rng.random() < 0.5:
            plate = self.rng.choice(again)
        else:
            part = self.rng.randint(1, 2)
            is_thin = self.is_scaled and not around.is_chain and self.rng.random() < 0.5
            name = self._name("p")
            plate = Block("plate", name, (), part + int(is_thin), part, self.rng.choice(free))
            if not self.is_scaled:
                self.plates.append(plate)
        inner = dict(scope) if self.is_scaled else scope
        body = self.body(inner, around.within(plate), self.rng.randint(1, 3))
        return Block("plate", plate.name, body, plate.size, plate.part, plate.dim)

    def _site(self, scope: Scope, around: Around, *, history: int = 0) -> Site:
        """Return a site; with a history, one that depends on that many values of itself."""
        rng, name = self.rng, self._name("s")
        allowed = [other for other, known in scope.items() if known.plates <= around.names]
        parents = rng.sample(allowed, min(len(allowed), rng.choice([0, 1, 1, 2, 2])))
        kinds: list[Kind] = ["bernoulli", "categorical", "onehot", "normal", "factor"]
        kind: Kind = "categorical" if history else rng.choice(kinds)
        size = 2 if kind == "bernoulli" or history else rng.choice([1, 2, 2, 3])
        role = self._role(kind, size**around.elements)
        for lag in range(1, history + 1):
            scope[f"{name}@{lag}"] = Known(around.names, size)
            parents.append(f"{name}@{lag}")
        own = self._some(around)
        shape = [
            plate.size
            for plate in sorted(around.plates, key=lambda plate: plate.name)
            if plate.name in own
        ]
        shape += [*(scope[parent].size for parent in parents), size]
        weights = torch.tensor([rng.gauss(0, 1) for _ in range(math.prod(shape))])
        self.tables[name] = weights.double().reshape(shape).requires_grad_()
        self.hard[name] = torch.zeros(shape, dtype=torch.double)
        is_listed = kind in ("categorical", "onehot")
        if is_listed and role == "enumerated" and len(shape) > 1 and rng.random() < 0.3:
            self.hard[name].flatten(0, -2)[0, :-1] = -torch.inf
        masks = [other for other in allowed if role == "observed" and rng.random() < 0.2]
        if kind not in ("normal", "factor"):
            scope[name] = Known(around.names, size)
        return Site(name, kind, size, tuple(parents), role, own, masks[0] if masks else None)

    def _role(self, kind: Kind, values: int) -> Role:
        """Return where a site has its value from, and count those that it has."""
        if kind == "factor":
            return "observed"
        roles: list[Role] = ["partly", "given", "observed"]
        roles.extend(["enumerated"] * 5)
        role = self.rng.choice(roles[1:3] if kind == "normal" else roles)
        if role in ("given", "observed"):
            return role
        if self.joint * values > MOST_JOINT:
            return "observed"
        self.joint *= values
        return role


def grown(seed: int, *, is_scaled: bool) -> Program:
    """Return a random program."""
    rng = Random(seed)
    growing = Growing(rng, is_scaled)
    body = growing.body({}, Around(), rng.randint(2, 5))
    return Program(body, growing.tables, growing.hard, seed, by_condition=rng.random() < 0.3)

"""Programs of finite sites summed out: one axis for each element of each site, and one sum.

Nothing is taken from the library but the indices of the subsamples that a run drew. What counts not
once is summed out within its block, everything else at the end.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import ancestral as an
from programs.finite.tree import Block, Body, Program, Site, blocks, earlier, sites

Place = tuple[tuple[str, int], ...]
"""The plates around an element, and the numbers of its repetitions in them."""
Cell = tuple[str, Place]
"""An element of a site: its name with its steps, and where it is."""
Scope = dict[str, dict[Place, Tensor]]
"""The values of the sites in sight, by their elements."""


@dataclass(frozen=True)
class Here:
    """Where a statement is: what is in sight, the names of the steps, the plates, the masks."""

    scope: Scope
    suffix: str = ""
    at: Place = ()
    masks: tuple[tuple[Block, str], ...] = ()


@dataclass(frozen=True)
class Part:
    """The log-density of statements, an axis for each element, and the axes to sum along."""

    log: Tensor
    free: tuple[int, ...] = ()

    def __add__(self, other: "Part") -> "Part":
        """Multiply the densities."""
        return Part(self.log + other.log, self.free + other.free)

    def summed(self) -> Tensor:
        """Return the logarithm of the sum along all axes that are free."""
        dims = [-1 - axis for axis in self.free]
        return self.log.logsumexp(dims, keepdim=True) if dims else self.log


NOTHING = Part(torch.zeros((), dtype=torch.double))


@dataclass(frozen=True)
class Exact:
    """The sum over all joint values of a program.

    `axes` are numbered from the right. `probes` are zeros that are added to the log-probabilities
    of each element of an enumerated site.
    """

    program: Program
    indices: Mapping[str, Tensor]
    axes: dict[Cell, int] = field(default_factory=dict)
    probes: dict[Cell, Tensor] = field(default_factory=dict)

    def log_marginal(self) -> Tensor:
        """Return the logarithm of the sum over all joint values."""
        return self.part().summed().squeeze()

    def part(self) -> Part:
        """Return the density of the whole program."""
        return self._body(self.program.body, Here({}))

    def posteriors(self) -> dict[Cell, Tensor]:
        """Return the probabilities of each element of each enumerated site, [size].

        They are the derivatives of the log-marginal by their log-probabilities, normalized.
        """
        total = self.log_marginal()
        if not self.probes:
            return {}
        found = torch.autograd.grad(total, list(self.probes.values()), create_graph=True)
        return {
            cell: each.flatten() / each.sum() for cell, each in zip(self.probes, found, strict=True)
        }

    def place(self, at: Sequence[tuple[str, int]]) -> tuple[list[int], tuple[int, ...]]:
        """Return the shape of a batch over some plates, and the place of an element in it."""
        around = {b.name: b for b in blocks(self.program.body) if b.kind == "plate"}
        widths = {-around[name].dim: (around[name].part, number) for name, number in at}
        found = [widths.get(d, (1, 0)) for d in range(max(widths, default=0), 0, -1)]
        return [size for size, _ in found], tuple(number for _, number in found)

    def _body(self, body: Body, here: Here) -> Part:
        total = NOTHING
        for part in body:
            total += self._site(part, here) if isinstance(part, Site) else self._block(part, here)
        return total

    def _block(self, block: Block, here: Here) -> Part:
        total = NOTHING
        for inner in self._steps(block, here):
            part = self._body(block.body, inner)
            if block.is_thin or block.kind == "scale":
                part = Part(self._count(block, here.at) * part.summed())
            total += part
        return total

    def _steps(self, block: Block, here: Here) -> Iterator[Here]:
        """Yield the repetitions of a block, one after the other."""
        if block.kind == "mask":
            yield replace(here, masks=(*here.masks, (block, here.suffix)))
        elif block.kind == "scale":
            yield here
        elif block.kind == "plate":
            for number in range(block.part):
                yield replace(here, at=(*here.at, (block.name, number)))
        else:
            yield from self._turns(block, here)

    def _turns(self, block: Block, here: Here) -> Iterator[Here]:
        """Yield the turns of a loop, each with what is in sight of it."""
        start: Scope = {site.name: {(): torch.zeros(())} for site in sites(block.body)}
        past = [start] * block.history
        is_chain = block.kind == "markov"
        steps = range(block.size) if is_chain else self.indices[block.name + here.suffix].tolist()
        for step in steps:
            scope = here.scope | (earlier(past) if is_chain else {})
            yield replace(here, scope=scope, suffix=f"{here.suffix}_{step}")
            past = [{name: scope[name] for name in start if name in scope}, *past[:-1]]

    def _count(self, block: Block, at: Place) -> Tensor | float:
        """Return how often what is within a block counts."""
        if block.kind != "scale":
            return block.size / block.part
        _, place = self.place([(name, n) for name, n in at if name in block.which])
        return self.program.tables[block.name][place]

    def _site(self, site: Site, here: Here) -> Part:
        """Return the density of an element of a site."""
        cell = (site.name + here.suffix, here.at)
        shape, place = self.place(here.at)
        is_free = site.role == "enumerated" or (
            site.role == "partly" and not bool(self.program.seen(cell[0], shape)[place])
        )
        if is_free:
            axis = self.axes.setdefault(cell, len(self.axes))
            value = torch.arange(site.size).reshape(-1, *(1,) * axis)
        else:
            value = self.program.fixed(site, cell[0], shape)[place]
        log = self._log_density(site, value, here)
        here.scope[site.name] = {**here.scope.get(site.name, {}), here.at: value}
        if is_free:
            self.probes[cell] = torch.zeros(value.shape, dtype=torch.double, requires_grad=True)
            return Part(log + self.probes[cell], (axis,))
        if not all(self._is_let(block, suffix, here.at) for block, suffix in here.masks):
            return NOTHING
        if site.masked_by is not None:
            log = torch.where(self._value(site.masked_by, here) > 0, log, 0.0)
        return Part(log)

    def _log_density(self, site: Site, value: Tensor, here: Here) -> Tensor:
        repetitions = dict(here.at)
        index = [self.indices[plate][repetitions[plate]] for plate in site.own]
        index += [self._value(parent, here).long() for parent in site.parents]
        table = self.program.table(site.name)
        if site.kind not in ("normal", "factor"):
            return table.log_softmax(-1)[(*index, value)]
        loc = table[..., 0][tuple(index)]
        if site.kind == "factor":
            return loc
        return -((value - loc) ** 2) / 2 - math.log(2 * math.pi) / 2

    def _is_let(self, block: Block, suffix: str, at: Place) -> bool:
        """Return whether a mask lets an element count."""
        shape, place = self.place([(name, n) for name, n in at if name in block.which])
        return bool(self.program.seen(block.name + suffix, shape)[place])

    @staticmethod
    def _value(name: str, here: Here) -> Tensor:
        """Return the value of that element of a site that stands in the same repetitions."""
        cells = here.scope[name].items()
        return next(value for place, value in cells if set(place) <= set(here.at))


def exact(program: Program, trace: an.Trace) -> Exact:
    """Return what is exact of a program, with the subsamples that a run of it drew."""
    indices = {n: an.untrack(node.value) for n, node in trace.items() if node.type == "plate"}
    return Exact(program, indices)

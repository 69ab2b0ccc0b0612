"""Programs of finite sites as the library runs them."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, OneHotCategorical

import ancestral as an
from ancestral import handlers
from programs.finite.tree import Block, Body, Program, Site, blocks, earlier, sites

FIRST_DIM = -3


@dataclass(frozen=True)
class Frame:
    """Where a run is: the values in sight, the names of the steps, the plates around."""

    values: dict[str, Tensor]
    suffix: str = ""
    plates: tuple[tuple[Block, Tensor], ...] = ()  # outermost first, with indices


def run(program: Program, *, is_enumerated: bool = True) -> an.Trace:
    """Run a program."""
    made = {
        block.name: an.plate(block.name, block.size, block.part, dim=block.dim)
        for block in blocks(program.body)
        if block.kind == "plate"
    }
    with ExitStack() as around:
        trace = around.enter_context(an.record())
        if is_enumerated:
            around.enter_context(handlers.enumerate(first_dim=FIRST_DIM))
        _statements(program, program.body, Frame({}), made)
    return trace


def _statements(program: Program, body: Body, frame: Frame, made: dict[str, an.plate]) -> None:
    for part in body:
        if isinstance(part, Site):
            frame.values[part.name] = _sampled(program, part, frame)
        elif part.kind == "plate":
            with made[part.name] as index:
                inner = Frame(frame.values, frame.suffix, (*frame.plates, (part, index)))
                _statements(program, part.body, inner, made)
        elif part.kind == "turns":
            for n in an.plate(part.name + frame.suffix, part.size, part.part):
                inner = Frame(dict(frame.values), f"{frame.suffix}_{n}", frame.plates)
                _statements(program, part.body, inner, made)
        elif part.kind == "markov":
            start = dict.fromkeys((site.name for site in sites(part.body)), torch.zeros(()))
            past = [start] * part.history
            for t in handlers.markov(range(part.size), history=part.history):
                values = frame.values | earlier(past)
                inner = Frame(values, f"{frame.suffix}_{t}", frame.plates)
                _statements(program, part.body, inner, made)
                past = [{name: values[name] for name in start if name in values}, *past[:-1]]
        else:
            shape = _shape(frame, part.which)
            with _weighing(program, part, part.name + frame.suffix, shape):
                _statements(program, part.body, frame, made)


def _weighing(
    program: Program, block: Block, name: str, shape: tuple[int, ...]
) -> handlers.scale | handlers.mask:
    if block.kind == "mask":
        return handlers.mask(program.seen(name, shape))
    weight = program.tables[block.name]
    return handlers.scale(weight if weight.requires_grad else weight.item())


def _shape(frame: Frame, names: Sequence[str]) -> tuple[int, ...]:
    """Return the shape of a batch that has a dimension for each of some plates around."""
    parts = {-block.dim: block.part for block, _ in frame.plates if block.name in names}
    return tuple(parts.get(d, 1) for d in range(max(parts, default=0), 0, -1))


def _sampled(program: Program, site: Site, frame: Frame) -> Tensor:
    name = site.name + frame.suffix
    shape = _shape(frame, [block.name for block, _ in frame.plates])
    fn = distribution(program, site, frame)
    with ExitStack() as around:
        if site.masked_by is not None:
            around.enter_context(handlers.mask(frame.values[site.masked_by] > 0))
        if isinstance(fn, Tensor):
            an.factor(name, fn)
            return fn
        value = encoded(site, program.fixed(site, name, shape))
        infer = {"enumerate": False} if site.role == "given" else None
        if site.role == "partly":
            seen = program.seen(name, shape)
            return numbers(site, an.sample(name, fn, obs=value, obs_mask=seen))
        if site.role in ("given", "observed"):
            is_data = site.role == "observed"
            if is_data and not program.by_condition:
                return numbers(site, an.sample(name, fn, obs=value))
            verb = handlers.condition if is_data else handlers.substitute
            around.enter_context(verb({name: value}))
        return numbers(site, an.sample(name, fn, infer=infer))


def distribution(program: Program, site: Site, frame: Frame) -> Distribution | Tensor:
    """Return what a site is drawn from, over its batch, or the logarithm of a factor."""
    around = {block.name: (block, index) for block, index in frame.plates}
    picked: list[Tensor] = []
    for name in site.own:
        block, index = around[name]
        picked.append(index.reshape(-1, *(1,) * (-block.dim - 1)))
    parents = [frame.values[parent].long() for parent in site.parents]
    weights = program.table(site.name)[(*picked, *parents)]
    if site.kind in ("normal", "factor"):
        weights = weights[..., 0]
    if site.kind == "factor":
        shape = _shape(frame, [block.name for block, _ in frame.plates])
        return weights.expand(torch.broadcast_shapes(weights.shape, shape))
    if site.kind == "normal":
        return Normal(weights, 1.0)
    if site.kind == "bernoulli":
        return Bernoulli(logits=weights[..., 1] - weights[..., 0])
    kind = Categorical if site.kind == "categorical" else OneHotCategorical
    return kind(logits=weights)


def encoded(site: Site, value: Tensor) -> Tensor:
    """Return numbers as values of a site's distribution."""
    if site.kind == "onehot":
        return torch.nn.functional.one_hot(value, site.size).double()
    return value.double() if site.kind == "bernoulli" else value


def numbers(site: Site, value: Tensor) -> Tensor:
    """Return values of a site's distribution as numbers."""
    return value.argmax(-1) if site.kind == "onehot" else value

"""Bayesian networks from the literature, which ship with pgmpy, as programs that draw from them."""

import gzip
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import networkx as nx
import torch
from torch import Tensor
from torch.distributions import Categorical

import ancestral as an

NAMES = ("asia", "sachs", "child", "insurance", "alarm")


@dataclass(frozen=True)
class Network:
    """A network: for each variable, in an order, its parents and its table, [*parents, states].

    `source` is the network as pgmpy has it.
    """

    parents: dict[str, tuple[str, ...]]
    tables: dict[str, Tensor]
    source: Any

    def named(self) -> dict[str, Tensor]:
        """Draw all variables as sites of their names, and return their states."""
        states: dict[str, Tensor] = {}
        for name in self.parents:
            states[name] = an.sample(name, self.conditional(name, states))
        return states

    def plain(self) -> dict[str, Tensor]:
        """Draw all variables in plain torch, and return their states."""
        states: dict[str, Tensor] = {}
        for name in self.parents:
            states[name] = self.conditional(name, states).sample()
        return states

    def conditional(self, name: str, states: dict[str, Tensor]) -> Categorical:
        """Return the distribution of a variable, given the states of its parents."""
        row = tuple(states[parent] for parent in self.parents[name])
        return Categorical(self.tables[name][row])


@lru_cache
def network(name: str) -> Network:
    """Return one of the networks of `NAMES`."""
    from pgmpy.readwrite import BIFReader

    packed = (files("pgmpy.utils") / "example_models" / f"{name}.bif.gz").read_bytes()
    source = BIFReader(string=gzip.decompress(packed).decode()).get_model()
    parents: dict[str, tuple[str, ...]] = {}
    tables: dict[str, Tensor] = {}
    for variable in nx.lexicographical_topological_sort(source):
        table = source.get_cpds(variable)
        parents[variable] = tuple(table.variables[1:])
        tables[variable] = torch.tensor(table.values).movedim(0, -1)
    return Network(parents, tables, source)

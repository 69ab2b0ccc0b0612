"""Pairs of a model and a guide in Pyro; importing this package registers every one."""

from programs.pyro_pairs import families, handlers, plates, python, weights
from programs.pyro_pairs.pair import PAIRS, Pair

__all__ = ["PAIRS", "Pair", "families", "handlers", "plates", "python", "weights"]

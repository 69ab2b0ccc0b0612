"""The programs that Pyro's documentation is built on, written anew; importing registers them."""

from programs.pyro_examples import autoencoders, groups, regressions
from programs.pyro_examples.example import EXAMPLES, Example, made

__all__ = ["EXAMPLES", "Example", "autoencoders", "groups", "made", "regressions"]

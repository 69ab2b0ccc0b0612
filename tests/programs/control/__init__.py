"""Programs that branch, index, write and convert in Python; importing this registers them all."""

from programs.control import (
    aliases,
    branches,
    choices,
    conversions,
    followed,
    kinds,
    memory,
    modules,
    names,
    numbers,
    operators,
    passes,
    rollouts,
    shapes,
    sizes,
    writes,
)

__all__ = [
    "aliases",
    "branches",
    "choices",
    "conversions",
    "followed",
    "kinds",
    "memory",
    "modules",
    "names",
    "numbers",
    "operators",
    "passes",
    "rollouts",
    "shapes",
    "sizes",
    "writes",
]

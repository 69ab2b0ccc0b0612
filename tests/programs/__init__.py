"""Programs to test estimators with; importing this package registers every example."""

from programs import batches, bounds, distributions, graphs, pathwise, reductions, sites, time

__all__ = [
    "batches",
    "bounds",
    "distributions",
    "graphs",
    "pathwise",
    "reductions",
    "sites",
    "time",
]

"""Programs to test estimators with; importing this package registers every example."""

from programs import (
    batches,
    bounds,
    distributions,
    elements,
    graphs,
    layers,
    pathwise,
    reductions,
    sequences,
    sites,
    time,
)

__all__ = [
    "batches",
    "bounds",
    "distributions",
    "elements",
    "graphs",
    "layers",
    "pathwise",
    "reductions",
    "sequences",
    "sites",
    "time",
]

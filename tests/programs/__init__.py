"""Programs to test estimators with; importing this package registers every example."""

from programs import (
    batches,
    bounds,
    buffers,
    distributions,
    elements,
    graphs,
    groups,
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
    "buffers",
    "distributions",
    "elements",
    "graphs",
    "groups",
    "layers",
    "pathwise",
    "reductions",
    "sequences",
    "sites",
    "time",
]

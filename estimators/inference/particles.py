"""Particles: several draws of a guide at once, in an outer plate.

What they must be is less than what `ancestral.estimators.batched.verify` asks of runs. A bound is
a mean over particles, and its expectation that of one of them: noise, a subsample of the data, or a
counter that they share leaves it unbiased, where draws to be taken for independent ones may share
nothing. And a particle is not compared with a run by itself, which would double the cost of each
step of training; so a size that Python reads off a tensor (``len(z)``) is taken as it is.
"""

from collections.abc import Callable

from ancestral.estimators.batched.outer_plate import along, nesting_of, width
from ancestral.estimators.gradient.surrogate import settle
from ancestral.estimators.inference.model_guide import GuideError, Pair
from ancestral.trace.recording.record import record

NAME = "particles"


def nesting(once: Callable[[], Pair]) -> int:
    """Return how many dimensions the batches of two programs have, as one run of them tells."""
    with record() as around:
        pair = once()
    if around.universe.owner is around:
        settle(around)  # nobody will ask for its gradient, which would keep it alive
    return nesting_of((pair.guide, pair.model))


def together(once: Callable[[], Pair], particles: int, nesting: int) -> Pair:
    """Run two programs for all particles at once, to the left of `nesting` dimensions.

    Raises:
        PlateError: if a site has not one value for each particle, or mixes them.
        SiteError: if Python reads a value that differs among them.
        GuideError: if the programs have more dimensions.
    """
    try:
        pair = along(NAME, particles, nesting, once)
    except Exception as error:
        error.add_note(
            f"The programs ran for all particles at once, within plate {NAME!r}: each site must "
            "have, or be expanded to, one batch dimension more, and keep the particles apart; what "
            "Python only shows is read with an.untrack. With vectorized=False they run one after "
            "the other."
        )
        raise
    for node in (*pair.guide.values(), *pair.model.values()):
        plates = (-p.dim for p in node.cond_indep_stack if p.dim is not None and p.name != NAME)
        needed = max(*plates, width(node) - 1, 0)
        if needed > nesting:
            raise GuideError(
                f"site {node.name!r} ({node.location}) uses {needed} dimensions of its batch, but "
                f"max_plate_nesting={nesting}, so that the particles would be mixed with one of "
                f"them; say max_plate_nesting={needed}, or leave it out"
            )
    return pair

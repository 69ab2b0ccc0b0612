"""All cases."""

from alignments.case import Case
from alignments.layers import LAYERS
from alignments.picking import ELEMENTWISE, INDEXING, SUBSCRIPTS
from alignments.products import FOURIER, MATRICES, PRODUCTS
from alignments.shapes import JOINS, REDUCTIONS, SCANS, VIEWS
from alignments.space import LOSSES, SPACE


def _numbered() -> dict[str, Case]:
    """Return the cases by their rule, and a number where it has several."""
    families = (PRODUCTS, MATRICES, FOURIER, REDUCTIONS, SCANS, VIEWS, JOINS, SPACE, LOSSES, LAYERS)
    found: dict[str, Case] = {}
    for family in (*families, INDEXING, SUBSCRIPTS, ELEMENTWISE):
        for case in family:
            count = sum(other.rule == case.rule for other in found.values())
            found[f"{case.rule} #{count + 1}"] = case
    return found


CASES = _numbered()

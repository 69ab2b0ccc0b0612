"""Notation: alignments as text, for tables, tooltips and errors."""

from ancestral.provenance.alignment import LOST, Alignment


def shown(alignment: Alignment, between: str = " ") -> str:
    """Return an alignment as text: the dimension that each one indexes, and the windows.

    >>> shown(Alignment((0, LOST), there=((1, 2, 3),)))
    '0 - of [:, 2]'
    """
    dims = [
        ("-" if dim == LOST else str(dim))
        if isinstance(dim, int)
        else "*".join("-" if d == LOST else str(d) for d, _ in dim)
        for dim in alignment.dims
    ]
    text = between.join(dims) or "scalar"
    for word, windows in (("at", alignment.here), ("of", alignment.there)):
        if windows:
            by_dim = {d: (first, end) for d, first, end in windows}
            spans = [by_dim.get(d) for d in range(max(by_dim) + 1)]
            text += f" {word} [{', '.join(_span(span) for span in spans)}]"
    return text


def _span(span: tuple[int, int] | None) -> str:
    if span is None:
        return ":"
    return str(span[0]) if span[1] - span[0] == 1 else f"{span[0]}:{span[1]}"

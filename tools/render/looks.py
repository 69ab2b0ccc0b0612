"""Looks: the shapes and colours of the kinds of vertices, and the colours of shares.

Kinds differ by shape and by shade, so that a picture needs no colours; a share is redder the more
it is, and its number stands beside it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """How a kind of vertex is drawn, and the words for it."""

    shape: str
    fill: str
    line: str
    legend: str
    meaning: str
    plural: str
    outlines: int = 1


LOOKS = {
    "score": Look(
        "ellipse",
        "#eaf1fb",
        "#3c6ea8",
        "ellipse = score site",
        "score site, drawn by sample",
        "draws",
    ),
    "pathwise": Look(
        "hexagon",
        "#e6f4ee",
        "#2f7d63",
        "hexagon = pathwise site",
        "pathwise site, drawn by rsample",
        "draws",
    ),
    "observed": Look(
        "ellipse", "#d3d6da", "#3f4348", "shaded = observed", "observed", "observations", 2
    ),
    "deterministic": Look(
        "cds", "#f3f3f1", "#6b6f73", "arrow = named value", "named value", "named values"
    ),
    "cost": Look("box", "#fdf2de", "#a86c10", "box = cost", "cost", "costs"),
    "noise": Look(
        "diamond", "#ffffff", "#8a8f94", "diamond = noise", "noise without parameters", "draws"
    ),
    "param": Look(
        "plaintext", "#ffffff", "#ffffff", "no outline = parameter", "parameter", "parameters"
    ),
}
NIGHT = {
    "score": ("#1f334d", "#8ab4e8"),
    "pathwise": ("#1d3a30", "#7cc7aa"),
    "observed": ("#4c5056", "#d5d8dc"),
    "deterministic": ("#33363a", "#a9adb2"),
    "cost": ("#43341a", "#e3b15c"),
    "noise": ("#1b1c1f", "#8a8f94"),
    "param": ("#1b1c1f", "#1b1c1f"),
}
"""The fill and the line of each kind on dark pages."""

STEPS = 10
_DAY = ("#fff7ec", "#f0713f")
_DARK = ("#2b2420", "#8f3418")


def step_of(share: float) -> int:
    """Return the shade of a share, of those from 0 to `STEPS`.

    >>> step_of(0.0), step_of(0.62), step_of(1.0)
    (0, 6, 10)
    """
    return round(min(max(share, 0.0), 1.0) * STEPS)


def shade(step: int, *, is_night: bool = False) -> str:
    """Return the fill of a shade, on which the colour of the text can be read.

    >>> shade(0), shade(STEPS)
    ('#fff7ec', '#f0713f')
    """
    ends = [bytes.fromhex(colour[1:]) for colour in (_DARK if is_night else _DAY)]
    mixed = (round(a + (b - a) * step / STEPS) for a, b in zip(*ends, strict=True))
    return f"#{bytes(mixed).hex()}"

"""Result: what is found of a model of the gallery, and the file that keeps them.

The page is made of this file alone, so that no figure on it is written by hand.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGE, PICTURES = DOCS / "gallery.md", DOCS / "gallery"
RESULTS = PICTURES / "results.json"


@dataclass(frozen=True)
class Estimate:
    """A variance of the gradient in total, and the ratio of that by leave-one-out to it."""

    variance: float
    times_below: float
    error: float
    """The standard error of the ratio, over the draws."""


@dataclass(frozen=True)
class Result:
    """One model: what ran, and what was measured."""

    package: str
    version: str
    python: str
    torch: str
    code: str
    explanation: str
    compiled: str
    warned: tuple[str, ...]
    draws: int
    parameters: int
    per_example: float
    """The variance by hand without a baseline."""
    leave_one_out: float
    ours: Estimate
    trust: tuple[str, ...]
    trusting: Estimate | None
    """With `trust`, where there is some."""
    milliseconds: float
    """For a step by hand."""
    step: float
    """The time for ours, to that by hand."""

    @property
    def name(self) -> str:
        """The name of the model, which is that of its picture too."""
        return name_of(self.package)

    @property
    def is_whole(self) -> bool:
        """Whether `an.compile` makes one graph of it."""
        return self.compiled.startswith("whole")


def name_of(package: str) -> str:
    """Return the name of the model of a package.

    >>> name_of("gluonts[torch]"), name_of("torch-struct")
    ('gluonts', 'torch_struct')
    """
    return package.partition("[")[0].replace("-", "_")


@dataclass(frozen=True)
class Results:
    """The results by the name of the model, and the code that models share."""

    shared: Mapping[str, str]
    models: Mapping[str, Result]


def to_json(results: Results) -> str:
    """Return results as text."""
    models = {name: asdict(result) for name, result in results.models.items()}
    return json.dumps({"shared": dict(results.shared), "models": models}, indent=1) + "\n"


def from_json(text: str) -> Results:
    """Return the results that a text holds."""
    found = json.loads(text)
    return Results(found["shared"], {n: result_of(each) for n, each in found["models"].items()})


def result_of(found: Mapping[str, object]) -> Result:
    """Return a result from what JSON made of it.

    Raises:
        TypeError: if a field is missing, or one too many.
    """
    fields = {key: tuple(v) if isinstance(v, list) else v for key, v in found.items()}
    for key in ("ours", "trusting"):
        if isinstance(each := fields.get(key), dict):
            fields[key] = Estimate(**each)
    return Result(**fields)  # type: ignore[arg-type]  # JSON has no types

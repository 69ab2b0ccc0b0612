"""The table: how many ops are followed, how many keep an alignment, and why the rest is not.

It is filled by the tests and printed when they are over.
"""

import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Table:
    """The names under each heading."""

    rows: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def put(self, part: str, heading: str, name: str) -> None:
        """Put a name under a heading of a part of the table, once."""
        names = self.rows.setdefault(part, defaultdict(list))[heading]
        if name not in names:
            names.append(name)

    def lines(self) -> Iterator[str]:
        """Yield the counts, and the names folded."""
        for part, headings in self.rows.items():
            total = sum(map(len, headings.values()))
            yield f"{part}: {total}"
            for heading, names in sorted(headings.items()):
                yield f"  {heading}: {len(names)}"
                yield from textwrap.wrap(
                    " ".join(sorted(names)),
                    100,
                    initial_indent="    ",
                    subsequent_indent="    ",
                    break_long_words=False,
                )


table = Table()
"""The table of this session."""

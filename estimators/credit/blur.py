"""Blur: the terms that a site is credited with because Python may have decided on its value.

A read of a value makes a decision, which stands between the site and what came after, or all terms,
and keeps no dimension apart. Without the decisions the structure tells what was apart.
"""

import linecache
import math
import sys
import warnings
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, compress

from torch import Tensor

from ancestral.estimators.credit.credit import Credit, by_element
from ancestral.provenance.algebra.alignment_loss import separate
from ancestral.provenance.algebra.provenance import Source, Sources, Universe
from ancestral.provenance.tensor.control_flow import Escape, Noted, decisions_of
from ancestral.provenance.tensor.frame_owner import user_frame
from ancestral.provenance.tensor.tensor import raw
from ancestral.trace.context.place import stacklevel
from ancestral.trace.graph.reachability import Closure, TermSet, downstream, no_terms
from ancestral.trace.graph.structure import Entries, Structure


class Blur:
    """The terms that decisions add to what each site reaches, or tie to all of its elements."""

    def __init__(
        self,
        structure: Structure,
        sources: Sequence[Source],
        counted: Container[str],
        nothing: Collection[int] = (),
    ) -> None:
        """Take a structure and the sources of its sites.

        Args:
            structure: the sites and terms.
            sources: of the sites.
            counted: the names of the sites that count.
            nothing: the numbers of the terms that are zero, which do not.
        """
        self._structure = structure
        self._sources = sources
        self._counted = counted
        self._nothing = frozenset(nothing)
        self._end = len(structure.terms)

    @cached_property
    def without(self) -> Structure:
        """The structure as if Python had decided on nothing."""
        decisions = frozenset(n for n, source in enumerate(self._sources) if source.is_decision)
        return Structure(
            tuple(
                replace(site, incoming=_less(site.incoming, decisions))
                for site in self._structure.sites
            ),
            tuple(
                replace(term, entries=_less(term.entries, decisions))
                for term in self._structure.terms
            ),
        )

    @cached_property
    def changed(self) -> list[TermSet]:
        """The terms that each site reaches in another way because of decisions."""
        apart = downstream(self.without)
        found: list[TermSet] = []
        for number, closure in enumerate(self._closures):
            changed = no_terms(self._end)
            for claims, terms in closure.items():
                known = apart[number].get(claims)
                changed = changed.union(terms if known is None else terms.without(known))
            found.append(changed)
        return found

    def terms(self, read: Iterable[Source], decision: Collection[Source]) -> TermSet:
        """Return the terms that a decision ties to the sites that it was read from."""
        reached = no_terms(self._end)
        for source in decision:
            if source in self._numbers:
                for terms in self._closures[self._numbers[source]].values():
                    reached = reached.union(terms)
        tied = no_terms(self._end)
        for number in self.upstream(read):
            tied = tied.union(self.changed[number])
        return tied.common(reached)

    def mixed(self, read: Iterable[Source]) -> frozenset[int]:
        """Return the numbers of the terms of several elements that mix those of sites read."""
        found = no_terms(self._end)
        for number in self.upstream(read):
            sizes = self._structure.sites[number].shape
            dims = {dim for dim, size in enumerate(sizes) if size > 1}
            for claims, terms in self._closures[number].items():
                if not dims <= separate(claims):
                    found = found.union(terms)
        shapes = self._structure.terms
        return frozenset(n for n in found.numbers().tolist() if max(shapes[n].shape, default=1) > 1)

    def upstream(self, read: Iterable[Source]) -> set[int]:
        """Return the numbers of those that count of some sources, and of all that reach them."""
        pending = [self._numbers[source] for source in read if source in self._numbers]
        seen = set[int]()
        while pending:
            number = pending.pop()
            if number not in seen:
                seen.add(number)
                for _, parents in self._structure.sites[number].incoming:
                    pending.extend(parents)
        return {number for number in seen if self._sources[number].name in self._counted}

    def count(self, read: Sources, decision: Sources) -> int:
        """Return how many terms a decision blurs."""
        return len(self.numbers(read, decision))

    def numbers(self, read: Sources, decision: Sources) -> frozenset[int]:
        """Return the numbers of the terms that a decision blurs."""
        return frozenset(self.terms(read, decision).numbers().tolist()) - self._nothing

    @cached_property
    def _numbers(self) -> dict[Source, int]:
        return {source: number for number, source in enumerate(self._sources)}

    @cached_property
    def _closures(self) -> tuple[Closure, ...]:
        return downstream(self._structure)


def _less(entries: Entries, decisions: frozenset[int]) -> Entries:
    left = (
        (alignment, tuple([site for site in sites if site not in decisions]))
        for alignment, sites in entries
    )
    return tuple((alignment, sites) for alignment, sites in left if sites)


class BlurredCreditWarning(UserWarning):
    """A read of a value costs credit that was apart.

    Attributes:
        filename, line: where it was read.
        terms: how many terms of the loss are blurred by it.
        ratio: how many times larger the squared credit is than without such reads, None where that
            does not tell.
    """

    filename: str = ""
    line: int = 0
    terms: int = 0
    ratio: float | None = None


def _warning(noted: Noted, count: int, total: int, ratio: float | None) -> BlurredCreditWarning:
    """Return the warning, with the line, what was read, what it costs, and the ways out."""
    read = noted.escape
    cost = "" if ratio is None else f", and the squared credit is {_times(ratio)} what it was"
    found = BlurredCreditWarning(
        f"{read.filename}:{read.line}{_code(read)} reads a value that depends on {_names(read)}, "
        f"and Python may decide on it: {count} of {total} terms of the loss, which were apart from "
        f"it, count for every element of it now{cost}; "
        f"{_AFTER if noted.is_after else WAYS_OUT.format(package=_package(read))}"
    )
    found.filename, found.line, found.terms, found.ratio = read.filename, read.line, count, ratio
    return found


def _code(read: Escape) -> str:
    code = linecache.getline(read.filename, read.line).strip()
    return f" ({code[:80]})" if code else ""


def _names(read: Escape) -> str:
    names = sorted(read.sources)
    return ", ".join(map(repr, names[:5])) + (" ..." if len(names) > 5 else "")


WAYS_OUT = (
    "read an.untrack(value) for a log line, or read after the block; if it is a library that logs "
    "or checks, say an.record(trust=({package!r},)); if a decision follows, declare the finished "
    "costs before it with an.cost, or say control='after'; a simulator of a batch is one op as "
    "an.external(function)"
)
_AFTER = (
    "what is computed after a read that follows the block counts as chosen by it: compute it "
    "before the read or within the block, read an.untrack(value) for a log line, or make a "
    "simulator one op with an.external(function)"
)


def _package(read: Escape) -> str:
    """Return the package that reads, a word in its place where that is the user's own code."""
    return read.module.split(".")[0] if "-packages" in read.filename else "package"


def _times(ratio: float) -> str:
    """Return a ratio by its order, so that the text of a line is the same at most draws."""
    if ratio < 3:
        return "up to 3 times"
    return f"about {10 ** round(math.log10(ratio)):,} times"


def warn_of_blur(
    structure: Structure,
    sources: Sequence[Source],
    values: Sequence[Tensor],
    universe: Universe,
    blurring: Collection[Source],
) -> None:
    """Warn once a line where reads of values have blurred credit that was apart.

    Args:
        structure: that of the loss, its sites decided.
        sources: of its sites.
        values: of its terms.
        universe: the recording's.
        blurring: the decisions that all terms depend on, whenever they were finished.
    """
    noted = [each for each in decisions_of(universe).noted if each.decision]
    if not noted or not any(compress(map(_is_decision, sources), structure.reaches)):
        return
    scored = [site for site in structure.sites if site.needs_score]
    is_one = all(size == 1 for site in scored for size in site.shape)
    lines: dict[tuple[str, int, bool], list[Noted]] = {}
    for each in noted:
        is_whole = each.is_after or each.decision <= frozenset(blurring)
        if is_whole or not is_one:
            lines.setdefault((each.escape.filename, each.escape.line, is_whole), []).append(each)
    zero = [number for number, value in enumerate(values) if lines and not raw(Tensor.any, value)]
    blur = Blur(structure, sources, {site.name for site in scored}, zero)
    lost: dict[tuple[str, int], tuple[Noted, frozenset[int]]] = {}
    for (filename, line, is_whole), reads in lines.items():
        read = frozenset[Source]().union(*(each.sources for each in reads))
        terms = blur.numbers(read, frozenset[Source]().union(*(each.decision for each in reads)))
        if terms and (is_whole or _could_be_apart(structure, blur.upstream(read), terms)):
            lost[filename, line] = reads[0], terms
    total, found = len(values) - len(zero), list[BlurredCreditWarning]()
    if lost:
        blurred = frozenset[int]().union(*(terms for _, terms in lost.values()))
        ratio = None
        # A term that only decisions make depend on draws may be computed from what was read.
        if all(blur.without.terms[number].entries for number in blurred):
            ratio = _ratio(by_element(structure, values), by_element(blur.without, values))
        found = [_warning(each, len(terms), total, ratio) for each, terms in lost.values()]
    for choice in _choices(noted, universe):
        is_said = (choice.escape.filename, choice.escape.line) in lost
        mixed = frozenset[int]() if is_said else blur.mixed(choice.sources)
        if mixed:
            found.append(_of_choice(choice, len(mixed), total))
    for warning in found:
        warnings.warn(_as_shown(warning), stacklevel=stacklevel())


CHOOSING = frozenset("getitem masked_select nonzero argwhere where".split())
"""Ops that take the elements at which a mask holds: it decides which of them stands where."""
WAYS_OUT_OF_CHOICE = (
    "keep each element at its place: torch.where(mask, new, old), and a product with the mask for "
    "a sum over what it takes"
)


def _choices(noted: Iterable[Noted], universe: Universe) -> Iterable[Noted]:
    """Return a read of each line at which elements were taken by a mask, and so mixed."""
    mixes = chain.from_iterable(universe.mixes.values())
    places = {mix.place for mix in mixes if mix.op in CHOOSING}
    reads = {f"{each.escape.filename}:{each.escape.line}": each for each in noted}
    return [each for place, each in reads.items() if place in places]


def _of_choice(noted: Noted, count: int, total: int) -> BlurredCreditWarning:
    """Return the warning of a line that takes elements by a mask."""
    read = noted.escape
    found = BlurredCreditWarning(
        f"{read.filename}:{read.line}{_code(read)} takes elements by a mask that depends on "
        f"{_names(read)}: which of them stands where depends on the whole mask, and {count} of "
        f"{total} terms of the loss count for every element of it; {WAYS_OUT_OF_CHOICE}"
    )
    found.filename, found.line, found.terms = read.filename, read.line, count
    return found


def _is_decision(source: Source) -> bool:
    return source.is_decision


def _as_shown(warning: BlurredCreditWarning) -> BlurredCreditWarning:
    """Return a warning with the text that the line had before: Python shows each text once."""
    frame = user_frame(sys._getframe(1))  # pyright: ignore[reportPrivateUsage]
    shown = {} if frame is None else frame.f_globals.get("__warningregistry__", {})
    start = f"{warning.filename}:{warning.line} "
    texts = (key[0] for key in shown if isinstance(key, tuple) and key[1] is BlurredCreditWarning)
    warning.args = (next((text for text in texts if text.startswith(start)), warning.args[0]),)
    return warning


def _could_be_apart(structure: Structure, sites: Iterable[int], terms: Iterable[int]) -> bool:
    """Return whether some term has as many elements along a dimension as some site."""
    sizes = {n for number in sites for n in structure.sites[number].shape if n > 1}
    return bool(sizes) and any(
        sizes.intersection(structure.terms[number].shape) for number in terms
    )


def _ratio(given: Iterable[Credit], apart: Iterable[Credit]) -> float | None:
    """Return how many times larger the squared credit is, summed over the elements of all sites."""
    least = squared(apart)
    return squared(given) / least if least else None


def squared(given: Iterable[Credit]) -> float:
    """Return the squared credit, summed over the elements of all sites."""
    return float(raw(_square, given))


def _square(given: Iterable[Credit]) -> float:
    return sum(float(c.total.double().square().expand(c.shape).sum()) for c in given)

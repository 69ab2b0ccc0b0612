"""Every rule of alignment, on shapes of any size: what it keeps, and that it claims no more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignments.case import (
    Case,
    Sizes,
    claims_too_much,
    follow,
    is_refused,
    perturbed,
    refuted,
    results,
)
from alignments.table import CASES
from ancestral.provenance.algebra.alignment import LOST
from ancestral.provenance.rules.registry import RULES

WITHOUT_ALIGNMENT = {"value_free"}


def equal(case: Case, size: int = 3) -> Sizes:
    """Return the same size for all letters: what changes no size is not lost by itself."""
    return dict.fromkeys(case.letters, size)


def test_every_rule_has_a_case() -> None:
    names = {rule.__name__ for rule in RULES.values()}
    assert names == {case.rule for case in CASES.values()} | WITHOUT_ALIGNMENT


@pytest.mark.filterwarnings("ignore")  # of torch: functions that are old
@pytest.mark.parametrize("name", CASES)
def test_a_rule_keeps_what_it_says(name: str) -> None:
    case = CASES[name]
    tensors = case.tensors(equal(case))
    results(case, tensors)  # torch takes them
    for operand, kept in enumerate(case.alignments()):
        shown = perturbed(case, tensors, operand)
        for chosen in ([operand], range(len(tensors))):
            followed = follow(case, tensors, chosen)
            found = followed.kept(0, operand)
            shape = tensors[operand].shape
            # Of a dimension of size one there is nothing to keep.
            is_one = {d for d, size in enumerate(shape) if size == 1}
            expected = kept and tuple(LOST if d in is_one else d for d in kept)
            assert found == expected, (operand, chosen)
            assert refuted(followed, operand, shown) is None


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=3, database=None, derandomize=True)
@given(st.data())
@pytest.mark.parametrize("name", CASES)
def test_no_rule_claims_more_than_a_perturbation_shows(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    sizes = {letter: data.draw(st.integers(0, 3), label=letter) for letter in case.letters}
    tensors = case.tensors(sizes, seed=data.draw(st.integers(0, 3), label="seed"))
    if is_refused(case, tensors):
        return  # by torch itself
    chosen = data.draw(
        st.sampled_from([[n] for n in range(len(tensors))] + [[*range(len(tensors))]])
    )
    followed = follow(case, tensors, chosen)
    for operand in chosen:
        assert claims_too_much(case, tensors, followed, operand, most=10) is None


def twins(case: Case) -> list[tuple[int, int]]:
    """Return the pairs of operands that one tensor can stand for."""
    texts = [text.strip("#?").split("#") for text in case.operands.split()]
    kinds = [
        (len(t[0]), t[0].translate({ord(s): str(n) for s, n in case.sizes.items()})) for t in texts
    ]
    marks = ["#" in t or "?" in t for t in case.operands.split()]
    return [
        (a, b)
        for b in range(len(kinds))
        for a in range(b)
        if kinds[a][0] == kinds[b][0] and not (marks[a] or marks[b]) and not case.sizes
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in CASES if twins(CASES[name])])
def test_an_operand_that_is_given_twice_keeps_what_holds_for_both(name: str) -> None:
    case = CASES[name]
    for a, b in twins(case):
        tensors = case.tensors(equal(case))
        tensors[b] = tensors[a]
        if not is_refused(case, tensors):
            followed = follow(case, tensors, [a])
            assert claims_too_much(case, tensors, followed, a) is None

"""Exports: every public name says in its first line what it is or does."""

import pytest

import ancestral
from ancestral import handlers


@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module in (ancestral, handlers) for name in module.__all__],
)
def test_every_public_name_has_a_docstring_whose_first_line_is_a_sentence(
    module: object, name: str
) -> None:
    text = getattr(module, name).__doc__
    assert text is not None
    first = text.splitlines()[0]
    assert first.endswith(".")
    assert first[0].isupper()


def test_public_names_are_in_order_and_come_once() -> None:
    for module in (ancestral, handlers):
        assert module.__all__ == sorted(set(module.__all__))

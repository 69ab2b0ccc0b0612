"""The rows of ops: an op has one, and each of its names is one of torch."""

from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.rules.registry import OPS, functions

NAMES = [(op, name) for op in OPS for name in op.names.split()]


def test_an_op_has_one_row() -> None:
    found = Counter(
        function for op in OPS for function in {f for n in op.names.split() for f in functions(n)}
    )
    assert [function for function, count in found.items() if count > 1] == []


def test_rows_of_one_name_say_the_same_of_what_is_looked_up_by_that_name() -> None:
    said: defaultdict[str, set[Any]] = defaultdict(set)
    for op, name in NAMES:
        said[name.rpartition(".")[2]].add((op.escapes, op.reads_numbers))
    assert [name for name, facts in said.items() if len(facts) > 1] == []


def test_every_name_is_one_of_torch() -> None:
    owners = (torch.ops.aten, type(Tensor.shape))  # of what is known by its name alone
    assert [
        name
        for _, name in NAMES
        if not any(True for spelling in (name, name + "_") for _ in functions(spelling))
        and not any(hasattr(owner, name) for owner in owners)
    ] == []

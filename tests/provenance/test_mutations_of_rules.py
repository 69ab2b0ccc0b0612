"""Every rule is needed, and every rule is held back: both are seen by mutating the table of rules.

Without its rule, a call of each family loses the alignment that the rule gives it. With a rule in
its place that claims that every dimension stays, the perturbation of single elements refutes it,
unless the family is elementwise, where the claim is what holds.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance import rules
from ancestral.provenance.alignment import LOST, Alignment, Shape, keeps
from ancestral.provenance.inference import infer
from ancestral.provenance.tensor import raw, track
from perturbation import reachable

X = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
M, V = X[0].clone(), X[1, 0].clone()
WEIGHT = X.flip(0).clone()
INDEX = torch.tensor([2, 0, 1])
OTHER = X.flip(1).clone()
NORM = (V, V.flip(0))
PROJECTIONS = (torch.cat([M, M.T, M]), torch.cat([V, V, V]), M.T.contiguous(), V)


class _Made(tuple[Any, ...]):
    """A function, the tensor that is its source, and how it is called with that tensor."""


def _call(function: Callable[..., Any], source: Tensor, *rest: Any, **named: Any) -> _Made:
    return _Made((function, source, (source, *rest), named))


CASES: dict[str, _Made] = {
    "pointwise": _call(torch.lerp, X, WEIGHT, 0.3),
    "rrelu": _call(F.rrelu, X),
    "first_pointwise": _call(Tensor.type_as, X, WEIGHT),
    "first_alone": _call(torch.broadcast_to, M, (3, 3, 3)),
    "where": _Made((torch.where, X, (WEIGHT > 0.9, X, WEIGHT), {})),
    "reduction": _call(torch.sum, X, 0),
    "third_reduction": _call(torch.norm, X, 2, 0),
    "paired_reduction": _call(F.cosine_similarity, X, WEIGHT, 0),
    "normalized": _call(F.layer_norm, X, (3,)),
    "batched": _call(F.conv1d, X, WEIGHT),
    "padded": _call(F.pad, X, (1, -1)),
    "along": _call(torch.cumsum, X, 1),
    "along_last": _call(torch.argsort, X),
    "third_along": _call(torch.roll, X, 1, 1),
    "matmul": _call(torch.matmul, X, WEIGHT),
    "reversed_matmul": _call(Tensor.__rmatmul__, X, WEIGHT),
    "add_matmul": _Made((torch.addmm, M, (M.T, M, M.T), {})),
    "linear": _call(F.linear, X, M),
    "einsum": _Made((torch.einsum, X, ("bij,bkj->kib", X, WEIGHT), {})),
    "reshape": _call(torch.reshape, torch.arange(48.0).reshape(3, 2, 2, 4), (3, 4, 2, 2)),
    "transpose": _call(torch.transpose, X, 0, 1),
    "last_two": _call(torch.t, M),
    "all_reversed": _call(vars(torch._C.TensorBase)["T"].__get__, M),
    "permute": _call(torch.permute, X, (1, 2, 0)),
    "movedim": _call(torch.movedim, X, 0, 2),
    "select": _call(torch.select, X, 0, 1),
    "narrow": _call(torch.narrow, X, 1, 1, 1),
    "getitem": _call(Tensor.__getitem__, X, (slice(None), 0)),
    "setitem": _call(Tensor.__setitem__, X, (0,), V),
    "cat": _Made((torch.cat, X, ([X, WEIGHT], 1), {})),
    "stack": _Made((torch.stack, X, ([X, WEIGHT], 0), {})),
    "gather": _call(torch.gather, X, 1, INDEX.expand(3, 3, 3)),
    "index_select": _call(torch.index_select, X, 1, INDEX),
    "appended": _call(F.one_hot, INDEX, 3),
    "table_first": _Made((torch.embedding, INDEX, (M, INDEX), {})),
    "attention": _call(F.scaled_dot_product_attention, X, WEIGHT, OTHER),
    "multi_head": _call(
        *(F.multi_head_attention_forward, X, WEIGHT, OTHER, 3, 1, *PROJECTIONS[:2]),
        *(None, None, False, 0.0, *PROJECTIONS[2:]),
    ),
    "native_multi_head": _call(
        torch._native_multi_head_attention, X, WEIGHT, OTHER, 3, 1, *PROJECTIONS
    ),
    "encoder": _call(
        torch._transformer_encoder_layer_fwd,
        *(X, 3, 1, *PROJECTIONS, False, False, 1e-5, *NORM, *NORM, M, V, M, V),
    ),
    "recurrent": _call(
        *(torch.rnn_tanh, X, WEIGHT[:1].clone(), [M, M, V, V]),
        *(True, 1, 0.0, False, False, True),
    ),
    "cell": _call(torch.lstm_cell, M, (M.T, M.flip(0)), *[torch.cat([M, M.T, M, M.T])] * 2),
    "bag": _call(F.embedding_bag, INDEX.repeat(3, 1), M),
    "bilinear": _call(F.bilinear, M, M.T, WEIGHT),
    "dropped": _call(F.alpha_dropout, X, 0.5, False),
    "class_loss": _call(F.cross_entropy, X, INDEX.expand(3, 3), reduction="none"),
}
# These answer for the sources, not for an alignment: without them, sources that reach nothing stay.
SOURCES_ONLY = {
    "value_free": _call(torch.zeros_like, X),
    "separately": _Made((torch.broadcast_tensors, X, (WEIGHT, X), {})),
}
# Every element stays at its place: that no dimension moves is what their rules say.
ELEMENTWISE = {
    *("pointwise", "rrelu", "first_pointwise", "first_alone", "where", "setitem", "dropped")
}
# The dimension that is joined changes its size, or keeps all its indices: it is lost by itself.
SIZED = {"cat"}
# Where the claim that all stays would hold for the operand above, another one refutes it.
REFUTING = {
    "appended": _Made((F.embedding, M, (INDEX, M), {})),
    "table_first": _Made((torch.embedding, M, (M, INDEX), {})),
}


def _result(made: _Made, source: Tensor) -> Tensor:
    function, original, args, named = made
    given = [
        [source if x is original else x for x in item]
        if isinstance(item, list)
        else (source if item is original else item)
        for item in args
    ]
    result: Any = raw(function, *given, **named)
    if result is None:  # an op that writes
        return source
    return result if isinstance(result, Tensor) else result[0]


def _alignment(made: _Made) -> Alignment | None:
    """Return the alignment that the rules as they are now find, in a universe of its own."""
    function, original, args, named = made
    source = track(original.clone(), "x")
    given = [
        [source if x is original else x for x in item]
        if isinstance(item, list)
        else (source if item is original else item)
        for item in args
    ]
    result = _result(made, original.clone())
    found = infer(function, result, rules.operands_of(function, 0, given), named)
    return None if found is None else found.entries[0][0]


def _is_refuted(made: _Made, alignment: Alignment) -> bool:
    """Return whether a perturbation of one element changes one that claims not to read it."""
    source = made[1]
    before = _result(made, source.clone())
    for place in torch.cartesian_prod(*[torch.arange(n) for n in source.shape]).reshape(
        -1, source.ndim
    ):
        for step in (0.7, -0.4) if source.dtype.is_floating_point else (1, -1):
            moved = source.clone()
            moved[tuple(place)] += step
            if not moved.dtype.is_floating_point and not 0 <= int(moved[tuple(place)]) < 3:
                continue
            region = torch.zeros(source.shape, dtype=torch.bool)
            region[tuple(place)] = True
            changed = _result(made, moved) != before
            if (changed & ~reachable([alignment], region, tuple(before.shape))).any():
                return True
    return False


def _without(monkeypatch: pytest.MonkeyPatch, name: str, instead: rules.Rule | None) -> None:
    """Put another rule, or none, in the place of a rule wherever it stands."""
    for function, rule in list(rules.RULES.items()):
        if rule.__name__ == name:
            if instead is None:
                monkeypatch.delitem(rules.RULES, function)
            else:
                monkeypatch.setitem(rules.RULES, function, instead)


def _everything_stays(shape: Shape, args: rules.Args, kwargs: rules.Kwargs) -> list[rules.Pair]:
    """Claim, for every operand, that each dimension of the result indexes its own."""
    return [
        (t, tuple(d if d < len(t.shape) else LOST for d in range(len(shape))))
        for t in rules.tensors_in(args, kwargs)
    ]


def test_every_rule_of_the_tables_has_a_case() -> None:
    names = {rule.__name__ for rule in rules.RULES.values()}
    assert names == {*CASES, *SOURCES_ONLY}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_gives_an_alignment_that_holds_and_that_is_lost_without_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _alignment(CASES[name])
    assert found is not None
    assert keeps(found)
    assert not _is_refuted(CASES[name], found)
    _without(monkeypatch, name, None)
    lost = _alignment(CASES[name])
    assert lost is not None
    assert not keeps(lost)


@pytest.mark.parametrize("name", SOURCES_ONLY)
def test_a_rule_leaves_out_a_source_that_reaches_nothing_and_that_stays_without_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _alignment(SOURCES_ONLY[name]) is None
    assert not _is_refuted(SOURCES_ONLY[name], Alignment((LOST,) * 3))
    _without(monkeypatch, name, None)
    assert _alignment(SOURCES_ONLY[name]) is not None


@pytest.mark.parametrize("name", sorted(CASES.keys() - ELEMENTWISE - SIZED))
def test_a_rule_that_claims_too_much_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, name, _everything_stays)
    made = REFUTING.get(name, CASES[name])
    claimed = _alignment(made)
    assert claimed is not None
    assert _is_refuted(made, claimed)

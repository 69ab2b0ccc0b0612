"""Buffers: elements that are written through views stay apart, as perturbation shows them to be."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ancestral as an
from ancestral.provenance.algebra.alignment_loss import separate
from ancestral.provenance.tensor.tensor import provenance
from perturbation import check, numbers

T, B, D = 3, 4, 2
Write = Callable[[Tensor, int, Tensor], object]
"""Puts a row, [B], into a buffer, [T, B], at a time."""


def _assigned(b: Tensor, t: int, r: Tensor) -> None:
    b[t][:] = r


def _iadd(b: Tensor, t: int, r: Tensor) -> None:
    b[t] += r


def _at_once(b: Tensor, t: int, r: Tensor) -> None:
    b.view(-1)[t * B : (t + 1) * B] = r


def _row(b: Tensor, t: int, r: Tensor) -> None:
    for at, row in enumerate(b):
        if at == t:
            row += r


def _column(b: Tensor, t: int, r: Tensor) -> None:
    b.T[:, t] += r


def _by_tensor(b: Tensor, t: int, r: Tensor) -> None:
    b[torch.tensor(t)] = r


def _by_list(b: Tensor, t: int, r: Tensor) -> None:
    b[[t]] = r


def _by_indices(b: Tensor, t: int, r: Tensor) -> None:
    b[torch.tensor([t])] = r[None]


def _data(b: Tensor, t: int, r: Tensor) -> None:
    b.data[t] = r


def _mine(b: Tensor, t: int, r: Tensor) -> None:
    mine = b.detach()[t]
    mine.mul_(0).add_(r)


WRITES: dict[str, Write] = {
    "copy_": lambda b, t, r: b[t].copy_(r),
    "+=": _iadd,
    "[:]": _assigned,
    "flat": _at_once,
    "row +=": _row,
    "transposed": _column,
    "select": lambda b, t, r: b.select(0, t).add_(r),
    "narrow": lambda b, t, r: b.narrow(0, t, 1).copy_(r),
    "unbind": lambda b, t, r: b.unbind()[t].copy_(r),
    "split": lambda b, t, r: b.split(1)[t][0].copy_(r),
    "out": lambda b, t, r: torch.mul(r, 2.0, out=b[t]),
    "index_copy_": lambda b, t, r: b.index_copy_(0, torch.tensor([t]), r[None]),
    "index_add_": lambda b, t, r: b.index_add_(0, torch.tensor([t]), r[None]),
    "tensor": _by_tensor,
    "list": _by_list,
    "indices": _by_indices,
    "data": _data,
    "detached": _mine,
    "movedim": lambda b, t, r: b.movedim(0, 1)[:, t].copy_(r),
    "squeezed": lambda b, t, r: b[None, t : t + 1].squeeze().copy_(r),
    "swapped": lambda b, t, r: b.view(1, T, B).transpose(1, 2)[0, :, t].copy_(r),
}
BUFFERS: dict[str, Callable[[], Tensor]] = {
    "a tensor": lambda: torch.zeros(T, B),
    "a view of a row": lambda: torch.zeros(T * B).view(T, B),
    "a transposed one": lambda: torch.zeros(B, T).T,
    "a part": lambda: torch.zeros(T + 2, B)[1:-1],
    "a slab": lambda: torch.zeros(2, T, B)[1],
}


@pytest.mark.parametrize("held", [False, True], ids=["", "seen by an older view"])
@pytest.mark.parametrize(  # torch has no flat view of a transposed tensor
    ("write", "buffer"),
    [pair for pair in itertools.product(WRITES, BUFFERS) if pair != ("flat", "a transposed one")],
)
def test_rows_written_through_views_stay_apart(write: str, buffer: str, held: bool) -> None:
    older: list[Tensor] = []

    def call(z: Tensor) -> Tensor:
        b = BUFFERS[buffer]()
        if held:
            older.append(b[1])
        for t in range(T):
            WRITES[write](b, t, z[t] * (t + 1))
        return b.exp()

    found = provenance(check(call, numbers(T, B)))
    assert found is not None
    (source,) = found.sources
    claims = [a for a, members in found.entries if source in members]
    assert separate(claims) == {0, 1}, claims
    found = provenance(older[-1].exp()) if held else None
    assert found is None or separate(a for a, _ in found.entries) == {0, 1}


@pytest.mark.parametrize("write", WRITES)
def test_each_draw_of_a_rollout_stands_in_its_row(write: str) -> None:
    b = torch.zeros(T, B)
    for t in range(T):
        WRITES[write](b, t, an.track(torch.ones(B), f"z{t}"))
    for t in range(T):
        # What was tracked by itself is of another universe: that of the youngest has them all.
        found = provenance(b[t] * 1)
        assert found is not None
        assert [source.name for source in found.sources] == [f"z{t}"]
        assert separate(a for a, _ in found.entries) == {0}


def _cache(k: Tensor, t: int, new: Tensor) -> None:
    k[:, :, t] = new


CACHES: dict[str, Write] = {
    "item": _cache,
    "transposed": lambda k, t, new: k.transpose(1, 2)[:, t].copy_(new),
    "viewed": lambda k, t, new: k.view(B, 2, T, D)[:, :, t, :].copy_(new),
    "flat": lambda k, t, new: k.view(B, 2, T * D)[:, :, t * D : (t + 1) * D].copy_(new),
    "index_copy_": lambda k, t, new: k.index_copy_(2, torch.tensor([t]), new[:, :, None]),
    "slice": lambda k, t, new: k[:, :, t : t + 1].copy_(new[:, :, None]),
    "out": lambda k, t, new: torch.add(new, 1, out=k[:, :, t]),
}


@pytest.mark.parametrize("write", CACHES)
def test_a_cache_of_keys_keeps_batch_heads_and_time_apart(write: str) -> None:
    def call(z: Tensor) -> list[Tensor]:
        k = torch.zeros(B, 2, T, D)
        for t in range(T):
            CACHES[write](k, t, z[:, :, t] * 2)
        return [k + 1, (k[:, :, :2] * 2), k.transpose(1, 2) + 0, k.sum(-1)]

    for result in check(call, numbers(B, 2, T, D)):
        found = provenance(result)
        assert found is not None
        assert separate(a for a, _ in found.entries) >= {0, 1, 2}


def _overlapping(b: Tensor) -> dict[str, Tensor]:
    """Return views of a buffer of six elements of every unusual kind."""
    return {
        "windows": b.unfold(0, 3, 1),
        "every other": b[::2],
        "repeated": b.expand(2, 6),
        "strided": b.as_strided((2, 2), (1, 2), 1),
        "diagonal": b.view(2, 3).diagonal(),
        "across rows": b.view(2, 3).view(-1)[1:5],
        "as integers": b.view(torch.int32),
        "as halves": b.view(torch.int16),
        "as pairs": torch.view_as_complex(b.view(3, 2)),
        "detached": b.detach(),
        "data": b.data,
        "columns": b.view(2, 3).T,
        "itself": b,
        "one": b[2],
        "none": b[3:3],
        "tail": b[4:],
    }


_KINDS = list(_overlapping(torch.zeros(6)))
_UNWRITABLE = frozenset({"windows", "repeated"})


def _numbers_in(view: Tensor) -> Tensor:
    """Return what a view holds, in a copy of a type that can be compared."""
    return view * 1 if view.dtype in (torch.float32, torch.complex64) else view.long()


@pytest.mark.parametrize("kind", [kind for kind in _KINDS if kind not in _UNWRITABLE])
def test_no_view_of_any_kind_loses_what_was_written_through_another(kind: str) -> None:
    def call(z: Tensor) -> list[Tensor]:
        found = []
        for reader in _KINDS:
            for written in (0, 1):
                b = torch.zeros(6)
                older = _overlapping(b)
                target = (older, _overlapping(b))[written][kind]
                value = z.repeat(2)[: target.numel()].reshape(target.shape)
                target.copy_((value * 1000).to(target.dtype))
                found += [_numbers_in(views[reader]) for views in (older, _overlapping(b))]
        return found

    check(call, numbers(6))


def _swapped(b: Tensor, at: Tensor) -> Tensor:
    other = torch.zeros(2)
    other.data = b[at]
    return other


def _sparse(values: Tensor) -> Tensor:
    places = torch.tensor([[0, 1]])
    return torch.sparse_coo_tensor(places, values, (2,), check_invariants=False)


CHOICES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "item": lambda b, at: b[at],
    "detached": lambda b, at: b[at].detach(),
    "later": lambda b, at: b.detach()[at],
    "within": lambda b, at: b[at].view(2, 1)[0:, 0],
    "unbound": lambda b, at: torch.stack([b, b], 1)[at].unbind()[0],
    "select": lambda b, at: b.select(0, at),  # type: ignore[arg-type]  # torch takes it
    "narrow": lambda b, at: b.narrow(0, at, 1),
    "op": lambda b, at: torch.ops.aten.select.int(b, 0, at),
    "split": lambda b, at: b[at].view(2, 1).split(1)[0],
    "written": lambda b, at: b[at].mul_(2.0),
    "shallow copy": lambda b, at: copy.copy(b[at]),
    "subclass": lambda b, at: b[at].as_subclass(Tensor),
    "constructor": lambda b, at: Tensor(b[at]),
    "set_": lambda b, at: torch.empty(0).set_(b[at]),  # type: ignore[call-overload]  # torch takes it
    "swapped": _swapped,
    "sparse": lambda b, at: _sparse(b[at])._values(),
    "mapped": lambda b, at: torch.vmap(lambda x: x[at])(b.T),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_part_that_a_draw_chose_lets_the_whole_buffer_depend_on_it(choice: str) -> None:
    def call(z: Tensor) -> list[Tensor]:
        b = torch.zeros(3, 2)
        rest = b[1:]
        view = CHOICES[choice](b, (z[0] > 0).long())
        b[0].add_(z[0])
        view.add_(1.0)
        return [b * 1, rest * 1]

    x = torch.tensor([-0.05, 0.3])
    check(call, x, escapes=choice in ("select", "narrow", "sparse"))
    with an.record():
        results = call(an.track(x, "z"))
    if choice != "unbound":  # of a copy
        for result in results:
            found = provenance(result)
            assert found is not None
            assert any(not (a.here or a.there) and set(a.dims) == {-1} for a, _ in found.entries)


def test_rows_of_different_times_do_not_reach_each_other() -> None:
    for first, second in itertools.permutations(range(3), 2):
        b = torch.zeros(3, 2)
        b[first].copy_(an.track(torch.ones(2), "z"))
        assert an.provenance_of(b[second]) == frozenset()
        assert an.provenance_of(b[first]) == an.provenance_of(b.sum()) == {"z"}

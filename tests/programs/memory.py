"""Random programs on memory: views of buffers, writes into them, and reads of whatever there is.

Each is judged by perturbation: one element of one source is changed, and what changes with it, of
any tensor that there is in the end, its provenance has to claim.
"""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

import ancestral as an
from ancestral.provenance.algebra.alignment import LOST, Alignment
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.provenance.tensor.tensor import provenance
from perturbation import reachable
from programs.choose import Choose
from programs.verdict import Verdict

ESCAPING = ("numpy", "dlpack", "storage", "apply_", "map_", "] += 1.")
"""What lets values out, after which all that is computed depends on them: it hides the rest."""
SHAPES = ((), (2,), (4,), (2, 2), (2, 3), (4, 3), (2, 2, 3))
MOST_ELEMENTS = 30
Tensors = dict[str, Tensor]


def numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return numbers of either sign, none of them near another."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 0.01 * seed


@dataclass(frozen=True)
class MemoryProgram:
    """The shapes of the sources, and the lines."""

    shapes: tuple[tuple[int, ...], ...]
    lines: tuple[str, ...]

    @property
    def source(self) -> str:
        """The program as one would write it."""
        given = [f"z{i} = an.track(numbers({s}, {i}), 'z{i}')" for i, s in enumerate(self.shapes)]
        return "\n".join([*given, *self.lines])

    def inputs(self) -> Tensors:
        """Return the values of the sources."""
        return {f"z{i}": numbers(shape, i) for i, shape in enumerate(self.shapes)}

    def run(self, inputs: Tensors) -> Tensors:
        """Return all tensors that are there in the end."""
        torch.manual_seed(7)
        names: dict[str, Any] = {"torch": torch, **inputs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch advises against some of it
            for line in self.lines:
                exec(_compiled(line), names)
        return {n: tensor for n, tensor in names.items() if isinstance(tensor, Tensor)}


@cache
def _compiled(line: str) -> Any:
    return compile(line, "<program>", "exec")


class _Writing:
    """A program that is being written: its lines so far, and the tensors that they made."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.shapes = tuple(choose.among(SHAPES) for _ in range(1 + choose.below(2)))
        self.lines: list[str] = []
        self.tensors: Tensors = MemoryProgram(self.shapes, ()).inputs()
        self.made = 0

    def program(self) -> MemoryProgram:
        return MemoryProgram(self.shapes, tuple(self.lines))

    def name(self) -> str:
        """Return the name of some tensor, a new one as often as all before."""
        names = list(self.tensors)
        last = names[-4:]
        return self.choose.among(last if self.choose.below(2) else names)

    def among(self, *options: str) -> str:
        return self.choose.among(options)

    def number(self, bound: int) -> int:
        return self.choose.below(max(bound, 1))

    def dim(self, x: Tensor) -> int:
        return self.number(x.ndim)

    def attempt(self, line: str) -> bool:
        """Add a line, unless torch refuses it or it makes too much."""
        if any(word in line for word in ESCAPING) and self.number(12):
            return False
        trial = MemoryProgram(self.shapes, (*self.lines, line))
        try:
            tensors = trial.run(trial.inputs())
        except (RuntimeError, IndexError, TypeError, ValueError, AttributeError, AssertionError):
            return False
        if any(x.numel() > MOST_ELEMENTS for x in tensors.values()):
            return False
        if not _is_written(line) and _memory(tensors) > _memory(self.tensors):
            return False
        self.lines.append(line)
        self.tensors = tensors
        return True

    def assign(self, expression: str) -> bool:
        self.made += 1
        return self.attempt(f"t{self.made} = {expression}")


def _is_written(line: str) -> bool:
    """Return whether all of the memory that a line asks for is written: else, it holds anything."""
    return (
        "resize" not in line and "set_" not in line and "out=" not in line
    ) or ".fill_(1.5)" in line


def _memory(tensors: Tensors) -> int:
    storages = [x.untyped_storage() for x in tensors.values()]
    return sum({s._cdata: s.nbytes() for s in storages}.values())


def _slice(w: _Writing, size: int) -> str:
    a, b = w.number(size), w.number(size)
    return w.among(f"{a}:", f":{b + 1}", f"{min(a, b)}:{max(a, b) + 1}", "::2", f"{a}::2", ":")


def _subscript(w: _Writing, x: Tensor) -> str:
    """Return a subscript of a tensor: numbers, slices, None, dots, masks, tensors of indices."""
    items: list[str] = []
    for size in x.shape[: w.number(x.ndim + 1)]:
        kind = w.number(9)
        at = w.number(size)
        if kind < 3:
            items.append(_slice(w, size))
        elif kind < 5:
            items.append(str(at))
        elif kind == 5:
            items.append(f"torch.tensor({at})")
        elif kind == 6:
            items.append(f"torch.tensor([{at}, {w.number(size)}])")
        elif kind == 7:
            items.append(f"[{at}]")
        else:
            mask = [bool(w.number(2)) for _ in range(size)]
            items.append(f"torch.tensor({mask})")
        if not w.number(5):
            items.append("None")
    if not items or not w.number(5):
        items.insert(w.number(len(items) + 1), "...")
    return ", ".join(items)


def _basic(w: _Writing, x: Tensor) -> str:
    items = [w.among(_slice(w, n), _slice(w, n), str(w.number(n))) for n in x.shape[: w.number(4)]]
    return ", ".join(items) or "..."


def _sizes(w: _Writing, total: int) -> str:
    """Return a shape with so many elements."""
    found: list[int] = []
    while total > 1 and len(found) < 3:
        size = w.choose.among([n for n in range(1, total + 1) if total % n == 0])
        found.append(size)
        total //= size
    return str((*found, total) if total > 1 or not found else tuple(found))


def _view(w: _Writing, n: str, x: Tensor) -> str:
    d, e = w.dim(x), w.dim(x)
    size = x.shape[d] if x.ndim else 1
    total = x.numel()
    order = list(range(x.ndim))
    for i in range(len(order)):
        j = w.number(len(order))
        order[i], order[j] = order[j], order[i]
    strides = tuple(w.choose.among((0, 1, 2, 3, 4, 6)) for _ in range(w.number(3) + 1))
    given = tuple(w.choose.among((1, 2, 3)) for _ in strides)
    return w.among(
        f"{n}[{_basic(w, x)}]",
        f"{n}[{_basic(w, x)}]",
        f"{n}[{_basic(w, x)}]",
        f"{n}[{_subscript(w, x)}]",
        f"{n}.select({d}, {w.number(size)})",
        f"{n}.transpose({d}, {e})",
        f"{n}.permute({order})",
        f"{n}.expand({w.number(3) + 1}, *{n}.shape)",
        f"{n}.unfold({d}, {w.number(size) + 1}, {w.number(2) + 1})",
        f"{n}.diagonal(dim1={d}, dim2={e})",
        f"{n}.view({_sizes(w, total)})",
        f"{n}.reshape({_sizes(w, total)})",
        f"{n}.unflatten({d}, {_sizes(w, size)})",
        f"{n}.flatten({min(d, e)}, {max(d, e)})",
        f"{n}.unsqueeze({w.number(x.ndim + 1)})",
        f"{n}.squeeze()",
        f"{n}.movedim({d}, {e})",
        f"{n}.narrow({d}, {w.number(size)}, {w.number(size) + 1})",
        f"{n}.chunk(2, {d})[-1]",
        f"{n}.split({w.number(size) + 1}, {d})[-1]",
        f"{n}.unbind({d})[{w.number(size)}]",
        f"{n}.tensor_split(2, {d})[0]",
        f"list({n})[-1]",
        f"{n}.as_strided({given}, {strides})",
        f"{n}.as_strided({given}, {strides}, {w.number(6)})",
        f"torch.as_strided({n}, {given}, {strides}, {w.number(6)})",
        f"{n}.T",
        f"{n}.mT",
        f"{n}.data",
        f"{n}.detach()",
        f"{n}.view_as({n})",
        f"torch.view_as_complex({n})",
        f"torch.view_as_real({n})",
        f"{n}.real",
        f"{n}.imag",
        f"{n}.view(torch.int64)",
        f"{n}.view(torch.float64)",
        f"{n}.view(torch.int32)",
        f"{n}.swapaxes({d}, {e})",
        f"{n}.view(torch.complex128)",
        f"torch.broadcast_to({n}, (2, *{n}.shape))",
        f"torch.broadcast_tensors({n}, {w.name()})[0]",
        f"torch.atleast_2d({n})",
        f"{n}.expand_as({w.name()})",
        f"torch.from_numpy({n}.numpy())",
        f"torch.from_dlpack({n})",
        f"torch.as_tensor({n})",
        f"torch.asarray({n})",
        f"{n}.contiguous()",
        f"torch.nn.Parameter({n}, requires_grad=False).data",
        f"torch.empty(0, dtype={x.dtype}).set_({n})",
        f"torch.empty(0, dtype={x.dtype}).set_({n}.untyped_storage(), {w.number(3)}, {given})",
        f"torch.empty(0, dtype={x.dtype}).set_({n}.untyped_storage(), 0, {given}, {strides})",
    )


def _fresh(w: _Writing, n: str, x: Tensor) -> str:
    shape = w.choose.among(SHAPES)
    return w.among(
        f"torch.zeros({shape}, dtype=torch.float64)",
        f"torch.zeros({shape}, dtype=torch.float64)",
        f"torch.arange({max(x.numel(), 1)}.)",
        f"torch.zeros_like({n})",
        f"torch.full_like({n}, 2.)",
        f"{n}.new_zeros({shape})",
        f"{n}.clone()",
        f"{n} * 2",
        f"{n} + {w.name()}",
        f"{n}.flip({w.dim(x)})",
        f"{n} > 0",
        f"{n}.sum({w.dim(x)})",
        f"{n}.cumsum({w.dim(x)})",
        f"{n}.repeat({', '.join('2' * max(x.ndim, 1))})",
        f"torch.cat([{n}, {w.name()}], {w.dim(x)})",
        f"torch.stack([{n}, {w.name()}], {w.dim(x)})",
        f"torch.where({n} > 0, {w.name()}, {n})",
    )


def _write(w: _Writing, n: str, x: Tensor) -> str:
    m, k = w.name(), w.name()
    d = w.dim(x)
    size = x.shape[d] if x.ndim else 1
    at = [w.number(size) for _ in range(w.number(2) + 1)]
    index = f"torch.tensor({at})"
    rows = f"{m}[:{len(at)}]"
    mask = w.among("> 0", "< 0.5", "!= 0")
    return w.among(
        f"{n}.copy_({m})",
        f"{n}.copy_({m})",
        f"{n} += {m}",
        f"{n} *= 0.5",
        f"{n}.mul_({m})",
        f"{n}.add_({m}, alpha=2)",
        f"{n}.index_put_(({index},), {m})",
        f"{n}.index_put_(({index},), {m}, accumulate=True)",
        f"{n}.index_copy_({d}, {index}, {m})",
        f"{n}.index_copy_(0, {index}, {rows})",
        f"{n}.index_add_({d}, {index}, {m})",
        f"{n}.index_add_(0, {index}, {rows})",
        f"{n}.index_fill_({d}, {index}, 3.)",
        f"{n}.index_reduce_(0, {index}, {rows}, 'amax')",
        f"{n}.scatter_({d}, torch.zeros_like({m}).long(), {m})",
        f"{n}.scatter_add_({d}, torch.zeros_like({m}).long(), {m})",
        f"{n}.scatter_reduce_({d}, torch.zeros_like({m}).long(), {m}, 'sum')",
        f"{n}.masked_fill_({m} {mask}, 7.)",
        f"{n}.masked_scatter_({m} {mask}, {k})",
        f"{n}.masked_fill_(torch.ones(()).bool(), {m})",
        f"{n}.fill_diagonal_(2.)",
        f"{n}.fill_({m})",
        f"{n}.fill_(2.)",
        f"{n}.zero_()",
        f"torch.mul({m}, 2, out={n})",
        f"torch.add({m}, {k}, out={n})",
        f"torch.cat([{m}, {k}], out={n})",
        f"torch.stack([{m}, {k}], out={n})",
        f"torch.sum({m}, {d}, out={n})",
        f"{n}[{_subscript(w, x)}] = {m}",
        f"{n}[{_subscript(w, x)}] = {m}",
        f"{n}[{_subscript(w, x)}] = 1.5",
        f"{n}[{_subscript(w, x)}] += {m}",
        f"{n}[{_basic(w, x)}] = {m}",
        f"{n}[{_basic(w, x)}] += {m}",
        f"{n}[{_basic(w, x)}].copy_({m})",
        f"{n}[{m} {mask}] = 4.",
        f"{n}[{m} {mask}] = {k}",
        f"{n}[{m} {mask}] += 1.",
        f"{n}.set_({m})",
        f"{n}.data = {m}",
        f"{n}.data = {m}.clone()",
        f"{n}.data[:1] = {m}",
        f"{n}.resize_({w.choose.among(SHAPES)})",
        f"{n}.resize_({w.choose.among(SHAPES)}).fill_(1.5)",
        f"{n}.resize_as_({m})",
        f"{n}.real = {m}",
        f"{n}.imag = {m}",
        f"{n}.put_({index}, {m}.flatten()[:{len(at)}])",
        f"{n}.T.copy_({m})",
        f"torch._foreach_add_([{n}, {m}], {k})",
        f"torch._foreach_mul_([{n}, {m}], [{k}, {k}])",
        f"torch._foreach_copy_([{n}, {m}], [{k}, {k}])",
        f"torch._foreach_zero_([{n}])",
        f"torch._foreach_addcmul_([{n}], [{m}], [{k}], 0.5)",
        f"torch._foreach_lerp_([{n}], [{m}], 0.5)",
        f"{n}.normal_()",
        f"{n}.bernoulli_(0.5)",
        f"{n}.uniform_()",
        f"{n}.addcmul_({m}, {k})",
        f"{n}.addcdiv_({m}, {k}.abs() + 1)",
        f"{n}.lerp_({m}, 0.5)",
        f"{n}.clamp_(-1, 1)",
        f"{n}.neg_()",
        f"{n}.tril_()",
        f"{n}.cumsum_({d})",
        f"{n}.t_()",
        f"{n}.transpose_({d}, 0)",
        f"{n}.squeeze_()",
        f"{n}.unsqueeze_(0)",
        f"{n}.swapaxes_({d}, 0)",
        f"torch.as_strided({n}, (2,), (1,)).copy_({m})",
        f"{n}.as_strided_((2,), (1,))",
        f"{n}.select_scatter({m}, {d}, 0)",
        f"torch.nn.functional.relu({n}, inplace=True)",
        f"torch.nn.functional.relu_({n})",
        f"torch.ops.aten.copy_({n}, {m})",
        f"torch.ops.aten.add_.Tensor({n}, {m})",
        f"torch.fill_({n}, {m})",
        f"{n}.map_({n}, lambda a, b: a + b)",
        f"{n}.apply_(abs)",
        f"{n}.numpy()[...] = 2",
        f"{n}.__setitem__(0, {m})",
        f"torch.nn.init.constant_({n}, 2.)",
        f"torch.utils.swap_tensors({n}, {m})",
        f"{n}.untyped_storage().copy_({m}.untyped_storage())",
        f"{n}.untyped_storage().fill_(0)",
        f"{n}.storage().fill_(1.)",
        f"{n}.storage()[0] = 2.",
    )


def random_memory_program(choose: Choose, length: int = 9) -> MemoryProgram:
    """Return a random program of that many lines or a few less."""
    w = _Writing(choose)
    w.assign(f"torch.zeros({w.choose.among(SHAPES)}, dtype=torch.float64)")
    tries = 0
    while len(w.lines) < length and tries < 4 * length:
        tries += 1
        n = w.name()
        x = w.tensors[n]
        kind = w.number(10)
        if kind < 4:
            w.assign(_view(w, n, x))
        elif kind < 5:
            w.assign(_fresh(w, n, x))
        else:
            w.attempt(_write(w, n, x))
    return w.program()


def _values(tensor: Tensor) -> Tensor:
    return an.untrack(tensor).detach().clone().resolve_conj().resolve_neg()


def _differs(a: Tensor, b: Tensor) -> Tensor:
    return ~((a == b) | ((a != a) & (b != b)))


def _claims(found: Provenance, source: Source) -> Iterator[Alignment]:
    """Yield what a provenance claims of a source, also through what stands for it."""
    for alignment, members in found.entries:
        if source in members:
            yield alignment
        elif source in found.universe.closure(members):
            yield Alignment((LOST,) * len(found.shape), here=alignment.here)


Seen = dict[str, tuple[Provenance | None, ...]]
"""What is known of each tensor by its name: of itself, and of what is computed from it."""


def _followed(program: MemoryProgram) -> tuple[Tensors, Seen, bool]:
    """Run a program with its sources tracked; say whether a value escaped as well."""
    with an.record() as trace:
        tensors = program.run({n: an.track(t, n) for n, t in program.inputs().items()})
        seen: Seen = {}
        for name, tensor in tensors.items():
            read = provenance(tensor[...] + 0)
            # The decision of an escape is given to what is computed.
            seen[name] = (read,) if trace.escapes else (read, provenance(tensor))
    return tensors, seen, bool(trace.escapes)


def verdict_on_memory(program: MemoryProgram) -> Verdict:
    """Return the verdict on a program: biased where a change is not claimed."""
    plain = {name: _values(tensor) for name, tensor in program.run(program.inputs()).items()}
    try:
        tensors, seen, is_escaping = _followed(program)
    except Exception as error:
        return Verdict("refused", 1, text=f"{type(error).__name__}: {error}")
    for name, value in plain.items():
        shapes = {tuple(tensors[name].shape), *(p.shape for p in seen[name] if p is not None)}
        if shapes != {tuple(value.shape)} or bool(_differs(_values(tensors[name]), value).any()):
            return Verdict("refused", 1, is_escaping, f"{name} has become another tensor")
    is_trivial = True
    for source, at, after in _changed(program):
        for name in set(plain) & set(after) - {source}:
            if after[name].shape == plain[name].shape:
                moves = _differs(_values(after[name]), plain[name])
                is_trivial = is_trivial and not bool(moves.any())
                for known in seen[name]:
                    if bool(moves.any()) and not _is_claimed(moves, known, source, at):
                        text = f"{name} changes with {source} at {at.nonzero().tolist()}, "
                        text += f"at {moves.nonzero().tolist()}, but depends on {known}"
                        return Verdict("biased", 1, is_escaping, text)
    return Verdict("trivial" if is_trivial else "exact", 1, is_escaping)


def _changed(program: MemoryProgram) -> Iterator[tuple[str, Tensor, Tensors]]:
    """Yield a source, the place of an element of it, and what comes of changing that."""
    for name, given in program.inputs().items():
        for at in range(given.numel()):
            place = torch.arange(given.numel()).view(given.shape) == at
            for changed in (-given - 0.3, given * 0.7 + 0.05):
                inputs = program.inputs()
                inputs[name] = torch.where(place, changed, given)
                with suppress(RuntimeError, IndexError):  # as a mask selects more or less
                    yield name, place, program.run(inputs)


def _is_claimed(moves: Tensor, found: Provenance | None, source: str, place: Tensor) -> bool:
    if found is None:
        return False
    claims = [c for s in found.sources if s.name == source for c in _claims(found, s)]
    return not bool((moves & ~reachable(claims, place, tuple(moves.shape))).any())

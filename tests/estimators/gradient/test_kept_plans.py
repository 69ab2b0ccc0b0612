"""What is kept for later recordings is never used for one that differs.

Programs are run in turns, so that each finds what all others have left, and then anew, with nothing
kept: the structure, what each tensor depends on and the gradient are the same to the last bit.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

import ancestral as an
from ancestral.errors import BlurredCreditWarning
from ancestral.provenance.algebra import pattern
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.trace.graph.structure import Structure

Program = Callable[[Tensor], Tensor]  # of logits, [4, 3]
ROWS, ZEROS = torch.tensor([0, 1, 2, 3]), torch.zeros(2, 3)


def coins(logits: Tensor) -> Tensor:
    return Bernoulli(logits=logits).sample()


def cost(z: Tensor) -> Tensor:
    return (z - 0.45) ** 2


def two_sites(logits: Tensor) -> Tensor:
    a = coins(logits)
    b = coins(logits * 2)
    return cost(a).sum() + 2 * cost(b).sum()


def two_sites_swapped(logits: Tensor) -> Tensor:
    """Draw two sites of the same names and shapes; the first comes by the second's parameters."""
    a = coins(logits * 2)
    b = coins(logits)
    return 2 * cost(a).sum() + cost(b).sum()


def second_below_first(logits: Tensor) -> Tensor:
    a = coins(logits)
    b = coins(logits * a)
    return cost(a).sum() + 2 * cost(b).sum()


def first_alone_counts(logits: Tensor) -> Tensor:
    a = coins(logits)
    coins(logits * 2)
    return cost(a).sum() + 2 * cost(a).mean()


def other_names(logits: Tensor) -> Tensor:
    b = coins(logits)
    a = coins(logits * 2)
    return cost(b).sum() + 2 * cost(a).sum()


def rows_are_mixed(logits: Tensor) -> Tensor:
    a = coins(logits)
    return cost(a.sum(0)).sum() + cost(a.sum(1)).sum()


def rows_are_mixed_elsewhere(logits: Tensor) -> Tensor:
    """Mix the same by the same calls, on other lines of other code."""
    a = coins(logits)
    first = a.sum(0)
    return cost(first).sum() + cost(a.sum(1)).sum()


def rows_are_mixed_by_turns(logits: Tensor) -> Tensor:
    """Mix the same at one instruction that is run in another order than the last time."""
    a = coins(logits)
    return sum((cost(a.sum(dim)).sum() for dim in (1, 0)), torch.zeros(()))


def columns_are_mixed(logits: Tensor) -> Tensor:
    a = coins(logits)
    return cost(a.sum(1)).sum() + cost(a.sum(1)).sum()


def kept_dimension(logits: Tensor) -> Tensor:
    a = coins(logits)
    return cost(a.sum(0, keepdim=True) + a).sum()


def fewer_rows(logits: Tensor) -> Tensor:
    a = coins(logits[:2])
    return cost(a.sum(1)).sum()


def square(logits: Tensor) -> Tensor:
    a = coins(logits[:3])
    return cost(a + a.T).sum()


def square_untransposed(logits: Tensor) -> Tensor:
    a = coins(logits[:3])
    return cost(a + a).sum()


def picked(index: list[int]) -> Program:
    def program(logits: Tensor) -> Tensor:
        a = coins(logits)
        return (
            cost(a[torch.tensor(index)]).sum(1).mean() + cost(a).sum(1)[torch.tensor(index)].sum()
        )

    return program


def masked(mask: list[bool]) -> Program:
    def program(logits: Tensor) -> Tensor:
        a = coins(logits)
        kept = torch.tensor(mask)
        return cost(a[kept]).sum() + torch.where(kept[:, None], cost(a), 0).sum()

    return program


def sliced(first: int) -> Program:
    def program(logits: Tensor) -> Tensor:
        a = coins(logits)
        return cost(a[first : first + 2] - a[2:]).sum()

    return program


def joined(dim: int) -> Program:
    def program(logits: Tensor) -> Tensor:
        a, b = coins(logits[:3]), coins(logits[1:])
        return cost(torch.cat([a, b], dim)).prod(0).sum()

    return program


def rolled(by: int) -> Program:
    def program(logits: Tensor) -> Tensor:
        a = coins(logits)
        return cost(a * torch.roll(a, by, 0)).sum()

    return program


def branching(control: str) -> Program:
    def program(logits: Tensor) -> Tensor:
        a = coins(logits)
        before = cost(a).sum()
        b = coins(logits * 2) if a[0, 0] > 0 else coins(logits * 3)
        return before + cost(b).sum()

    program.control = control  # type: ignore[attr-defined]
    return program


def read_later(logits: Tensor) -> Tensor:
    a = coins(logits)
    b = coins(logits * 2)
    found = cost(a).sum()
    if b.sum() > 6:
        found = found * 2
    return found + cost(b).sum()


def normals(logits: Tensor) -> Tensor:
    a = Normal(logits, 1.0).rsample()
    return cost(a).sum() + cost(a.sum(1)).sum()


def normals_behind_a_step(logits: Tensor) -> Tensor:
    a = Normal(logits, 1.0).rsample()
    return cost(a).sum() + (a > 0).double().sum(1).square().sum()


def normals_scored(logits: Tensor) -> Tensor:
    a = Normal(logits, 1.0).sample()
    return cost(a).sum() + (a > 0).double().sum(1).square().sum()


def weighed(step: Callable[[Tensor], Tensor]) -> Program:
    """Return a program that takes parts of draws and of costs, each twice, with other weights."""

    def program(logits: Tensor) -> Tensor:
        a = coins(logits)
        costs = cost(a)
        once, again = step(costs), step(costs)
        weights = torch.arange(once.numel(), dtype=logits.dtype).reshape(once.shape)
        drawn = cost(step(a)).sum() + cost(step(a).sum(0)).sum()
        return (once * weights).sum() - 2 * again.sum() + drawn

    return program


def taken_at(index: Any) -> Program:
    return weighed(lambda x: x[index])


def columns_at(index: list[int]) -> Program:
    return weighed(lambda x: x.index_select(1, torch.tensor(index)))


def added_in_place(is_seen: bool) -> Program:
    def program(logits: Tensor) -> Tensor:
        a = coins(logits)
        total = torch.zeros(4, 3, dtype=logits.dtype)
        row = total[1] if is_seen else None
        total += cost(a)
        total += a
        return total.sum() + (cost(total).sum() if row is None else cost(row).sum())

    return program


def viewed_classes(logits: Tensor) -> Tensor:
    """Take a mean over classes that are counted by how many there are, since none is ignored."""
    a = Categorical(logits=logits).sample().reshape(2, 2).reshape(-1)
    return F.cross_entropy(logits.detach(), a) + F.nll_loss(logits.detach(), a.view(4, 1).view(4))


def from_a_table(logits: Tensor) -> Tensor:
    a = Categorical(logits=logits).sample()
    table = logits.detach()
    return (
        cost(F.embedding(a, table)).sum() + cost(F.embedding(a, table.clone(), max_norm=0.5)).sum()
    )


def in_halves(logits: Tensor) -> Tensor:
    a = coins(logits)
    return cost(a.float().sum(1)).double().sum()


def whole_numbers(logits: Tensor) -> Tensor:
    a = Categorical(logits=logits).sample()
    return cost(logits.detach()[ROWS, a]).sum() + cost(F.one_hot(a, 3).double()).sum()


def written(at: int) -> Program:
    def program(logits: Tensor) -> Tensor:
        a = coins(logits)
        buffer = torch.zeros(4, 3, dtype=logits.dtype)
        buffer[at] = a[0]
        return cost(buffer + a).sum()

    return program


def many(count: int) -> Program:
    def program(logits: Tensor) -> Tensor:
        drawn = [coins(logits[n % 4]) for n in range(count)]
        total = torch.stack(drawn).sum(0)
        return cost(total).sum() + cost(drawn[count // 2]).sum()

    return program


def tracked_besides(logits: Tensor) -> Tensor:
    other = an.track(torch.ones(4, 3, dtype=logits.dtype), "other")
    return cost(coins(logits) * other).sum() + other.mean()


def declared(logits: Tensor) -> Tensor:
    a = coins(logits)
    named = an.deterministic("named", a * 2)
    b = coins(named - 1)
    return cost(named).sum() + cost(b).sum()


def observed(logits: Tensor) -> Tensor:
    a = coins(logits)
    return -Bernoulli(logits=logits + a).log_prob(torch.ones(4, 3, dtype=logits.dtype)).sum()


def dropped(training: bool) -> Program:
    def program(logits: Tensor) -> Tensor:
        a = coins(logits)
        return cost(F.rrelu(a - 0.5, training=training)).sum()

    return program


def of_size(size: int) -> Program:
    def program(logits: Tensor) -> Tensor:
        a = coins(logits[:1].expand(size, 3))
        return cost(a).mean(0).sum() + cost(a.mean(1)).sum()

    return program


PROGRAMS: dict[str, Program] = {
    program.__name__: program
    for program in (
        *(two_sites, two_sites_swapped, second_below_first, first_alone_counts, other_names),
        *(
            rows_are_mixed,
            rows_are_mixed_elsewhere,
            rows_are_mixed_by_turns,
            columns_are_mixed,
            kept_dimension,
            fewer_rows,
            square,
            in_halves,
        ),
        *(square_untransposed, read_later, normals, normals_behind_a_step, normals_scored),
        *(whole_numbers, tracked_besides, declared, observed),
    )
}
PROGRAMS |= {
    f"picked {index}": picked(index) for index in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 1, 1])
}
PROGRAMS |= {f"masked {mask}": masked(mask) for mask in ([True, False] * 2, [False, True] * 2)}
PROGRAMS |= {f"sliced from {first}": sliced(first) for first in (0, 1, 2)}
PROGRAMS |= {f"joined along {dim}": joined(dim) for dim in (0, 1)}
PROGRAMS |= {f"rolled by {by}": rolled(by) for by in (0, 1, 2)}
PROGRAMS |= {
    f"branching, {control}": branching(control) for control in ("strict", "after", "ignore")
}
PROGRAMS |= {f"written at {at}": written(at) for at in (0, 2)}
PROGRAMS |= {f"{count} sites": many(count) for count in (3, 31, 33, 40)}
PROGRAMS |= {f"noise {training}": dropped(training) for training in (True, False)}
PROGRAMS |= {f"size {size}": of_size(size) for size in (1, 2, 5)}
_INDICES: dict[str, object] = {
    "0": 0,
    "-1": -1,
    "1:3": slice(1, 3),
    "::2": slice(None, None, 2),
    "..., 0": (..., 0),
    "..., 1": (..., 1),
    ":, 1:": (slice(None), slice(1, None)),
    "None": None,
    "True": True,
    "[1]": [1],
    "[2, 0]": [2, 0],
    "(2, 0)": (2, 0),
}
PROGRAMS |= {f"at {words}": taken_at(index) for words, index in _INDICES.items()}
PROGRAMS |= {
    f"at the tensor {index}": taken_at(torch.tensor(index))
    for index in ([2, 0], [0, 2], [[2, 0]], [True, False, True, False], 2, 0)
}
PROGRAMS |= {
    f"columns at {index}": columns_at(index) for index in ([0, 1, 2], [1, 0, 2], [2, 1, 0])
}
PROGRAMS |= {
    f"{words}": weighed(step)
    for words, step in {
        "cat with itself": lambda x: torch.cat([x, x]),
        "cat with zeros": lambda x: torch.cat([x, torch.zeros_like(x)]),
        "cat after zeros": lambda x: torch.cat((torch.zeros_like(x), x)),
        "cat with one row of zeros, then two": lambda x: torch.cat([x, ZEROS[:1], x, ZEROS[:2]]),
        "cat with two rows of zeros, then one": lambda x: torch.cat([x, ZEROS[:2], x, ZEROS[:1]]),
        "cat along the columns": lambda x: torch.cat([x, 2 * x], 1),
        "stack with itself": lambda x: torch.stack([x, x, 3 * x]),
        "stack along the rows": lambda x: torch.stack([x, x, 3 * x], 1),
        "transpose": lambda x: x.transpose(0, 1),
        "permute": lambda x: x.permute(1, 0),
        "flip": lambda x: x.flip(0),
        "flip columns": lambda x: x.flip(1),
        "select a row": lambda x: x.select(0, 1),
        "select a column": lambda x: x.select(1, 1),
        "narrow": lambda x: x.narrow(0, 1, 2),
        "narrow from 0": lambda x: x.narrow(0, 0, 2),
        "where": lambda x: torch.where(x > 0.3, x, 0.0),
        "where not": lambda x: torch.where(x > 0.3, 0.0, x),
        "clone": lambda x: x.clone(),
        "double": lambda x: x.double(),
        "double of whole numbers": lambda x: x.long().double(),
        "chunk": lambda x: x.chunk(2)[1],
        "view": lambda x: x.reshape(2, 6),
        "expand": lambda x: x.expand(2, 4, 3),
    }.items()
}
PROGRAMS |= {f"added in place, seen {seen}": added_in_place(seen) for seen in (False, True)}
PROGRAMS |= {"from a table": from_a_table, "viewed classes": viewed_classes}
DTYPES = (torch.float64, torch.float32)


def shown(found: Provenance | None) -> object:
    """Return what a provenance says, with names in the place of sources."""
    if found is None:
        return None
    return found.shape, {a: frozenset(s.name for s in sources) for a, sources in found.entries}


Outcome = tuple[Structure, object, object, Tensor]


def outcome(name: str, dtype: torch.dtype, seed: int) -> Outcome:
    """Run a program; return its structure, what its sites and its terms depend on, the gradient."""
    program = PROGRAMS[name]
    logits = torch.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3).requires_grad_()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlurredCreditWarning)  # of the programs that read
        with an.record(control=getattr(program, "control", None)) as trace:
            loss = program(logits)
        an.backward(loss)
    account = trace.account
    sites = {node.name: shown(node.param_provenance) for node in trace.values()}
    terms = [shown(found) for found in account.provenances]
    explained = str(trace.explain())
    assert logits.grad is not None
    return account.structure, (sites, explained), terms, logits.grad


def unordered(structure: Structure) -> object:
    """Return a structure without the order of what stands under several alignments."""
    sites = [(v.name, v.shape, frozenset(v.incoming), v.needs_score) for v in structure.sites]
    return sites, [(term.shape, frozenset(term.entries)) for term in structure.terms]


def assert_same(one: Outcome, other: Outcome) -> None:
    assert unordered(one[0]) == unordered(other[0])
    assert one[1:3] == other[1:3]
    assert torch.equal(one[3], other[3])


@pytest.fixture(scope="module")
def anew() -> dict[tuple[str, torch.dtype], Outcome]:
    """Return the outcome of each program with nothing kept."""
    found: dict[tuple[str, torch.dtype], Outcome] = {}
    for name in PROGRAMS:
        for dtype in DTYPES:
            pattern.forget()
            found[name, dtype] = outcome(name, dtype, 7)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_step_that_differs_finds_nothing_of_another(
    seed: int, anew: dict[tuple[str, torch.dtype], Outcome]
) -> None:
    pattern.forget()
    order = [(name, dtype) for name in PROGRAMS for dtype in DTYPES] * 2
    random.Random(seed).shuffle(order)
    for name, dtype in order:
        assert_same(outcome(name, dtype, 7), anew[name, dtype])


def test_a_second_step_has_the_same_structure_as_the_first() -> None:
    pattern.forget()
    first = outcome("second_below_first", torch.float64, 0)
    second = outcome("second_below_first", torch.float64, 1)
    assert first[0] is second[0]


def test_what_is_kept_is_bounded_however_many_programs_there_are() -> None:
    pattern.forget()
    counts: list[int] = []
    for step in range(300):
        logits = torch.zeros(step % 60 + 1, requires_grad=True)
        with an.record():
            z = coins(logits)
            loss = cost(z * (step + 0.5)).roll(step).sum() + cost(z.sum()) * z.clamp(max=step).sum()
        an.backward(loss)
        counts.append(pattern.of_thread().count)
    assert max(counts) <= pattern.MOST_KEPT


def test_when_too_much_is_kept_recordings_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern, "MOST_KEPT", 40)
    seen = set[int]()
    for size in range(1, 30):
        logits = torch.zeros(size, requires_grad=True)
        with an.record():
            loss = cost(coins(logits)).mean()
        an.backward(loss)
        seen.add(id(pattern.of_thread()))
        assert pattern.of_thread().count <= 40 + 10
    assert len(seen) > 1

"""The database: torch's own list of its ops, with sample inputs, as calls.

Every sample that runs on the CPU in float64 and in int64 is called as a function. A few of them are
called in every other way that the op has: as a method, an operator, in place, with ``out=``, by
another name, and with tensors in the place of numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

import ancestral as an
from sweep.calls import Call, leaves, mapped
from sweep.checks import Findings, Sources, check, quiet, spying
from sweep.gradients import check_gradients

try:
    # Private, and there is nothing public that knows how to call every op.
    from torch.testing._internal.common_methods_invocations import op_db
except ImportError as error:
    raise ImportError(
        "the sweep over every op reads torch.testing._internal.common_methods_invocations, which "
        "is private to torch; install the dev extras (expecttest, which it imports), and if this "
        "torch has moved it, say in tests/sweep/database.py where it is now"
    ) from error

OPS: dict[str, Any] = {".".join(filter(None, (op.name, op.variant_test_name))): op for op in op_db}
UNDEFINED = frozenset(
    "empty empty_like empty_permuted empty_strided new_empty new_empty_strided".split()
)
"""Their values are whatever was in memory: nothing can be compared."""
_ON_GPU = frozenset(
    "nn.functional.batch_norm.without_cudnn torch.ops.aten._efficient_attention_forward "
    "torch.ops.aten._flash_attention_forward".split()
)
DTYPES = (torch.float64, torch.int64)
MOST_SAMPLES = 60
"""Of one dtype: the few ops that have more (pooling, with each combination of its options) are
thinned out evenly."""
_FEW = 3  # samples, evenly spread, that are called in all other ways
_SMALL = 300  # elements of a sample whose gradients are compared


@cache
def sweep(name: str) -> Findings:
    """Return what all calls of an op showed; it is found once in a session."""
    op, findings, sources = OPS[name], Findings(), Sources()
    if name in UNDEFINED:
        return findings
    supported = op.supported_dtypes("cpu")
    dtypes = [d for d in DTYPES if d in supported] or [
        d for d in (torch.complex128, torch.float32) if d in supported
    ]
    with quiet(), spying(findings):
        for dtype in dtypes:
            if dtype in supported:
                samples = evenly(samples_of(op, dtype), MOST_SAMPLES)
                ran = [call for call in samples if check(call, sources, findings)]
                for call in evenly(ran, _FEW):
                    for other in other_ways(op, call):
                        is_checked = check(other, sources, findings)
                        is_written = "in place" in other.name and dtype.is_floating_point
                        if is_checked and is_written and op.supports_autograd:
                            check_gradients(other, sources, findings, is_twice=False)
                with an.record():  # where the numbers that torch reads are seen
                    for call in evenly(of_every_kind(ran), _FEW):
                        for other in with_tensors_for_numbers(call):
                            check(other, sources, findings)
                if op.supports_autograd and dtype != torch.int64:
                    small = [c for c in ran if sum(t.numel() for t in c.tensors) <= _SMALL]
                    for call in evenly(small, _FEW):
                        check_gradients(call, sources, findings, op.supports_gradgrad)
    return findings


def samples_of(op: Any, dtype: torch.dtype) -> list[Call]:
    """Return the samples of an op as calls, the same each time."""
    torch.default_generator.manual_seed(0)
    samples = op.sample_inputs("cpu", dtype, requires_grad=False)
    return [
        Call("function", op.op, (s.input, *s.args), dict(s.kwargs), s.broadcasts_input)
        for s in samples
    ]


def evenly(calls: Sequence[Call], most: int) -> list[Call]:
    """Return at most some of the calls, evenly spread, with the first."""
    count = len(calls)
    return [calls[k * count // most] for k in range(most)] if count > most else list(calls)


def of_every_kind(calls: Sequence[Call]) -> list[Call]:
    """Return the first call of each kind: with other arguments that are numbers."""
    kinds: dict[Any, Call] = {}
    for call in calls:
        kind = mapped((call.args, call.kwargs), type)
        kinds.setdefault(repr(kind), call)
    return [call for call in kinds.values() if any(map(_is_number, _items(call)))]


def other_ways(op: Any, call: Call) -> Iterator[Call]:
    """Yield the same call in the other ways that the op has."""
    for name, function in variants(op):
        if "in place" in name and call.is_broadcast:
            continue  # the operand has no room for the result
        yield Call(name, function, call.args, call.kwargs)
    if op.supports_out:
        yield from _with_out(call)
    if isinstance(call.args[0], Tensor):
        yield Call(
            "input by name", call.function, call.args[1:], {"input": call.args[0], **call.kwargs}
        )


def variants(op: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    for alias in (op, *op.aliases):
        prefix = "" if alias is op else f"{alias.name}: "
        ways = {
            "function": None if alias is op else alias.op,
            "method": alias.method_variant,
            "in place": alias.inplace_variant,
            "operator": getattr(alias, "operator_variant", None),
            "operator in place": getattr(alias, "inplace_operator_variant", None),
        }
        for way, function in ways.items():
            if function is not None:
                yield prefix + way, function


def _with_out(call: Call) -> Iterator[Call]:
    torch.default_generator.manual_seed(0)
    result = call.function(*call.args, **call.kwargs)
    if isinstance(result, (Tensor, tuple)) and all(isinstance(t, Tensor) for t in leaves(result)):
        out = (
            torch.zeros_like(result)
            if isinstance(result, Tensor)
            else tuple(torch.zeros_like(t) for t in leaves(result))
        )
        yield Call("out=", call.function, call.args, {**call.kwargs, "out": out})


def with_tensors_for_numbers(call: Call) -> Iterator[Call]:
    """Yield the call with a tensor for each number among its arguments, one at a time."""
    numbers = sum(1 for item in _items(call) if _is_number(item))
    for chosen in range(numbers):
        seen = iter(range(numbers))

        def replaced(item: Any, chosen: int = chosen, seen: Iterator[int] = seen) -> Any:
            if _is_number(item) and next(seen) == chosen:
                return torch.tensor(item, dtype=torch.float64 if type(item) is float else None)
            return item

        args, kwargs = mapped(call.args, replaced), mapped(call.kwargs, replaced)
        name = f"a tensor for number {chosen}"
        yield Call(name, call.function, args, kwargs, is_number=True)


def _items(call: Call) -> list[Any]:
    found: list[Any] = []
    mapped((call.args, call.kwargs), found.append)
    return found


def _is_number(item: object) -> bool:
    return type(item) in (int, float)


def reason(name: str) -> str | None:
    """Return why an op is not applicable, None where it is."""
    found = sweep(name)
    if name in UNDEFINED:
        return "its values are undefined"
    if not found.calls:
        if name.startswith("jiterator") or name in _ON_GPU:
            return "needs a GPU"
        return "takes 8-bit floats alone" if "_scaled_mm" in name else "does not run here"
    if found.follows:
        return None
    if not found.takes_tensors:
        return "takes no tensor"
    if not found.gives_tensors:
        return "gives no tensor"
    return "depends on no value, as perturbing shows"

"""Fuzz of compiled steps: enumerated and random programs, beside recordings of the same draws.

What compiles gives the gradient of the recording; what does not says so, and gives it too.

    python tests/fuzz_compiled.py --examples 2000 --seed 1
"""

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from programs.choose import Choose
from programs.example import EXAMPLES
from programs.python import Writer
from programs.random import random_program
from steps import compiled, gradients
from torch import Tensor

import ancestral as an

PERIOD = 10.0
"""Seconds between two lines of progress."""
SEEDS = 2
_Program = tuple[str, Callable[..., Tensor], Sequence[Tensor]]


def _chosen(numbers: random.Random, bound: int) -> int:
    return int(numbers.random() * bound)


def programs(examples: int, seed: int) -> Iterator[_Program]:
    """Yield the enumerated programs, and as many random ones, with their parameters."""
    for name, example in EXAMPLES.items():
        yield name, example.program, example.parameters
    for number in range(seed, seed + examples):
        numbers = random.Random(number)
        choose = Choose(partial(_chosen, numbers))
        program = Writer(choose).program() if number % 3 == 2 else random_program(choose)
        yield f"program {number}\n{program.source}", program, program.parameters


def recorded(
    function: Callable[..., Tensor], parameters: Sequence[Tensor], seed: int
) -> list[Tensor]:
    """Return the gradient of a recording."""
    torch.manual_seed(seed)
    with an.record():
        loss = function(*parameters)
    an.backward(loss)
    return gradients(parameters)


def raised(
    run: Callable[..., object],
    function: Callable[..., Tensor],
    parameters: Sequence[Tensor],
    seed: int,
) -> str:
    """Return the kind of error that a run ends with, "" for none."""
    try:
        run(function, parameters, seed)
    except Exception as error:
        gradients(parameters)
        return type(error).__name__
    return ""


def verdict(function: Callable[..., Tensor], parameters: Sequence[Tensor]) -> str:
    """Return what a program is: compiled, eager, refused by a recording, or wrong, and how."""
    step = an.compile(function, backend="eager")
    for seed in range(SEEDS):
        # A recording looks at whether an error of a check may be caught: none is, where it counts.
        refused = raised(recorded, function, parameters, seed)
        if refused:
            return f"refused by a recording: {refused}"
        theirs = recorded(function, parameters, seed)
        torch.manual_seed(seed)
        _, ours = compiled(step, parameters, *parameters)
        size = max(float(each.abs().max()) for each in theirs)
        apart = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
        is_compiled = step.plan is not None and step.plan.is_compiled
        # `an.surrogate` multiplies a term of single precision as such, `an.backward` its gradient.
        rounding = 1e-9 if is_compiled else 2**-23
        if not apart <= rounding * size + 1e-12:
            kind = "compiled" if is_compiled else "eager"
            return f"wrong: {kind}, by {apart:.1g} of {size:.1g}"
    assert step.plan is not None
    reason = step.plan.refusal.rpartition(": ")[2][:60]
    return "compiled" if step.plan.is_compiled else f"eager: {reason}"


def main() -> int:
    """Run the programs, and print what they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts, reasons = Counter[str](), Counter[str]()
    begin = told = time.monotonic()
    for text, function, parameters in programs(options.examples, options.seed):
        found = verdict(function, parameters)
        torch._dynamo.reset()
        counts[found.partition(":")[0]] += 1
        reasons[found.partition(": ")[2]] += 1
        if found.startswith("wrong"):
            print(f"{text}\n{found}\n", flush=True)
        if time.monotonic() - told > PERIOD:
            told = time.monotonic()
            print(f"{told - begin:.0f} s: {dict(counts)}", flush=True)
    print(f"{time.monotonic() - begin:.0f} s: {dict(counts)}")
    for reason, count in reasons.most_common(20):
        if reason:
            print(f"{count:6} {reason}")
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

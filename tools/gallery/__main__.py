"""The gallery's command: run the models, and make the page of what was found.

    make gallery                       # all; `make gallery ONLY="zuko pfrl"` for some

Prints for each model how many times the variance of its gradient is below that of the estimator
that is written by hand with leave-one-out, the time for a step beside it, and whether `an.compile`
makes one graph of it. What fails keeps the result that it had.
"""

import inspect
import json
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

from ancestral.tools.gallery import measure, models
from ancestral.tools.gallery.page import is_close, page, times_below
from ancestral.tools.gallery.result import (
    PAGE,
    PICTURES,
    RESULTS,
    ROOT,
    Result,
    Results,
    from_json,
    name_of,
    result_of,
    to_json,
)

TORCH = "torch==2.13.0"
OURS = ["numpy", "networkx", "opt_einsum", "graphviz", "graphviz-pure"]
# Together in one environment are those that do not conflict.
GROUPS: dict[str, list[str]] = {
    "models": """
        zuko normflows torch_geometric x-transformers transformers torch-struct botorch diffusers
    """.split(),
    "control": "torchrl stable-baselines3 pfrl tianshou rl4co".split(),
    "series": "gluonts[torch] pytorch-forecasting".split(),
}
SHARED = (
    models.Outcome,
    measure.leave_one_out,
    measure.by_hand,
    models.to_go,
    models.latent,
    models.rollout,
    models.autoregressive,
)
ENOUGH = 13


def shared() -> dict[str, str]:
    """Return the code that the models share."""
    return {each.__name__: inspect.getsource(each) for each in SHARED}


def installed(folder: Path, package: str) -> str | None:
    """Install a package beside torch; return what failed, None if nothing did."""
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    done = subprocess.run(
        [*command, TORCH, *OURS, package], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else f"not installed: {_last_line(done.stderr)}"


def measured(folder: Path, package: str) -> Result | str:
    """Run the model of a package, and draw its graph; return what went wrong in a line."""
    command = [str(folder / "bin" / "python"), "-m", "ancestral.tools.gallery.measure"]
    done = subprocess.run(
        [*command, package, str(PICTURES / f"{name_of(package)}.svg")],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    if done.returncode:
        return _last_line(done.stderr)
    return result_of(json.loads(_last_line(done.stdout)))


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")


def known() -> Results:
    """Return the results that are stored."""
    if RESULTS.exists():
        return from_json(RESULTS.read_text())
    return Results({}, {})


def write(found: Mapping[str, Result]) -> None:
    """Store results, in the order of the packages, and make the page of them."""
    order = [name_of(package) for packages in GROUPS.values() for package in packages]
    results = Results(shared(), {name: found[name] for name in order if name in found})
    RESULTS.write_text(to_json(results))
    PAGE.write_text(page(results))


def main(only: list[str]) -> int:
    """Run the models, print the table and write the page.

    Returns:
        How many models fall short of what must be reached.
    """
    names = {name_of(package) for package in only}
    PICTURES.mkdir(exist_ok=True)
    print(f"{'package':22}{'times below':>20}{'step':>8}  compiled")
    found = dict(known().models)
    close = count = 0
    for group, packages in GROUPS.items():
        for package in packages:
            if names and name_of(package) not in names:
                continue
            count += 1
            folder = ROOT / ".gallery" / group
            result = installed(folder, package) or measured(folder, package)
            if isinstance(result, str):
                print(f"{package:22}{result}", flush=True)
                continue
            close += is_close(result)
            found[result.name] = result
            write(found)
            below = times_below(result.ours)
            print(f"{package:22}{below:>20}{result.step:8.1f}  {result.compiled}", flush=True)
    print(f"{close} of {count} are close to the estimator by hand, or better")
    whole = sum(each.is_whole for each in found.values())
    print(f"{whole} of the {len(found)} that are stored compile whole")
    return max(min(ENOUGH, count) - close, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

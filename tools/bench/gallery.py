"""Gallery: packages that sample, each with a small model, in an environment apart.

    make gallery                       # all; `make gallery ONLY="zuko pfrl"` for some

Prints for each how many times the variance of the gradient is below that of the total cost, by our
estimator and by the one that is written by hand, on common seeds, and what was lost on the way.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
OURS = ["numpy", "networkx", "opt_einsum", "graphviz"]
# Together in one environment are those that do not conflict.
GROUPS: dict[str, list[str]] = {
    "models": """
        zuko normflows torch_geometric x-transformers transformers torch-struct botorch diffusers
    """.split(),
    "control": "torchrl stable-baselines3 pfrl tianshou rl4co".split(),
    "series": "gluonts[torch] pytorch-forecasting".split(),
}
CLOSE = 1.05
ENOUGH = 13


def case_of(package: str) -> str:
    """Return the name of the model of a package."""
    return package.partition("[")[0].replace("-", "_")


def installed(folder: Path, package: str) -> str | None:
    """Install a package beside torch; return what failed, None if nothing did."""
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    command = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        TORCH,
        *OURS,
        package,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"not installed: {_last_line(done.stderr)}"


def measured(folder: Path, root: Path, package: str) -> dict[str, object]:
    """Run the model of a package; return what it printed, or what went wrong."""
    command = [str(folder / "bin" / "python"), "-m", "ancestral.tools.bench.gallery_case"]
    done = subprocess.run(
        [*command, case_of(package)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    if done.returncode:
        return {"error": _last_line(done.stderr)}
    found: dict[str, object] = json.loads(_last_line(done.stdout))
    return found


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")


def main(only: list[str]) -> int:
    """Print the table; return how many models fall short of what must be reached."""
    root = Path(__file__).resolve().parents[2]
    print(f"{'package':22}{'ours':>10}{'by hand':>10}   lost")
    close = count = 0
    for group, packages in GROUPS.items():
        for package in packages:
            if only and case_of(package) not in map(case_of, only):
                continue
            count += 1
            folder = root / ".gallery" / group
            failure = installed(folder, package)
            row = {"error": failure} if failure else measured(folder, root, package)
            if "error" in row:
                print(f"{package:22}{row['error']}", flush=True)
                continue
            ours, by_hand = float(str(row["ours"])), float(str(row["by hand"]))
            close += ours * CLOSE >= by_hand
            lost = row["lost"] if isinstance(row["lost"], list) else []
            where = "; ".join(map(str, lost[:3]))
            print(f"{package:22}{ours:10.2f}{by_hand:10.2f}   {where}", flush=True)
    print(f"{close} of {count} within {CLOSE - 1:.0%} of the estimator by hand")
    return max(min(ENOUGH, count) - close, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

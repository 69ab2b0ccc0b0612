"""One model of the gallery: its graph, its variance and its time beside the estimator by hand.

    python -m ancestral.tools.gallery.measure zuko picture.svg

Both draw the same values from the same seeds. The estimator by hand is plain torch: it runs the
model outside of any recording.
"""

import inspect
import json
import platform
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

import ancestral as an
from ancestral.tools.bench.steps import times
from ancestral.tools.gallery.models import MODELS, Model, Outcome
from ancestral.tools.gallery.result import ROOT, Estimate, Result, name_of
from ancestral.tools.render.dot import prefix
from ancestral.tools.render.render import picture

ROUNDS = 12


def leave_one_out(credit: Tensor) -> Tensor:
    """Return the costs of each example less the mean of the others', [batch]."""
    return credit - (credit.sum() - credit) / (len(credit) - 1)


def by_hand(outcome: Outcome, of_credit: Callable[[Tensor], Tensor] = leave_one_out) -> Tensor:
    """Return the surrogate that one writes by hand: each score with its example's own costs, []."""
    surrogate = outcome.loss
    for log_prob, costs in zip(outcome.log_probs, outcome.credits, strict=True):
        credit = outcome.spread(of_credit(costs.detach()))
        scores = log_prob().reshape(len(credit), -1).sum(1)
        surrogate = surrogate + (scores * credit).sum()
    return surrogate


def recorded(model: Model, trust: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
    """Return the loss of a recorded run, and its surrogate."""
    with an.record(trust=trust):
        loss = model.run().loss
    return loss, an.surrogate(loss)


def gradients(model: Model, seed: int) -> dict[str, Tensor]:
    """Return the gradients of one run by each estimator, [parameters].

    Raises:
        RuntimeError: if a recorded run and a plain one draw different values.
    """
    torch.manual_seed(seed)
    outcome = model.run()
    surrogates = {
        "per example": by_hand(outcome, lambda credit: credit),
        "leave-one-out": by_hand(outcome),
    }
    for words, trust in {"ours": (), "trusting": model.trust}.items():
        if words == "ours" or trust:
            torch.manual_seed(seed)
            loss, surrogates[words] = recorded(model, trust)
            if not torch.allclose(an.untrack(loss), outcome.loss, rtol=1e-4):
                raise RuntimeError(f"the loss is {outcome.loss}, and {loss} when recorded")
    return {words: _flat(surrogate, model) for words, surrogate in surrogates.items()}


def check_scores(model: Model) -> None:
    """Check the yardstick: with one credit for all, it is the estimator of the total cost.

    Raises:
        RuntimeError: if a log-probability by hand is not that of the draw which was recorded.
    """
    torch.manual_seed(0)
    outcome = model.run()
    total = outcome.loss.item()
    theirs = _flat(by_hand(outcome, lambda credit: torch.full_like(credit, total)), model)
    torch.manual_seed(0)
    with an.record():
        loss = model.run().loss
    surrogate = an.surrogate(loss, baseline=None, credit=an.estimators.total_cost)
    ours = _flat(surrogate, model)
    if (ours - theirs).norm() > 1e-3 * theirs.norm():
        raise RuntimeError("the log-probabilities by hand are not those of the draws")


def _flat(surrogate: Tensor, model: Model) -> Tensor:
    parameters = [p for p in model.module.parameters() if p.requires_grad]
    found = torch.autograd.grad(
        an.untrack(surrogate), parameters, retain_graph=True, allow_unused=True
    )
    pairs = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def estimate(found: Tensor, to: Tensor) -> Estimate:
    """Return a variance, and how many times it is below another, from gradients at common seeds.

    Args:
        found: The gradients, [draws, parameters].
        to: Those to compare with, of the same draws.
    """
    ours, theirs = (_squared_deviations(each) for each in (found, to))
    ratio = theirs.mean() / ours.mean()
    error = (theirs - ratio * ours).std() / ours.mean() / len(ours) ** 0.5
    return Estimate(_variance(found), ratio.item(), error.item())


def _squared_deviations(found: Tensor) -> Tensor:
    return (found.double() - found.double().mean(0)).square().sum(1)


def _variance(found: Tensor) -> float:
    return (_squared_deviations(found).sum() / (len(found) - 1)).item()


def step_times(model: Model) -> tuple[float, float]:
    """Return the seconds of a step by hand, and the ratio of ours to them."""

    def theirs() -> None:
        by_hand(model.run()).backward()

    def ours() -> None:
        with an.record():
            loss = model.run().loss
        an.backward(loss)

    hand, own = times([theirs, ours], 2, ROUNDS)
    return hand.least, own.least / hand.least


def compiled(model: Model) -> str:
    """Return what `an.compile` makes of a model: whole, or why not."""
    step = an.compile(lambda: model.run().loss, backend="aot_eager")
    step().backward()
    assert step.plan is not None  # it has run
    if step.plan.is_compiled:
        return str(step.plan).partition(";")[0].replace("compiled", "whole")
    return without_folders(step.plan.refusal)


def without_folders(text: str) -> str:
    """Return a text whose files are named from their package on.

    >>> without_folders("/a/lib/python3.11/site-packages/zuko/transforms.py:71: no")
    'zuko/transforms.py:71: no'
    """
    return re.sub(r"/\S*/site-packages/", "", text).replace(f"{ROOT}/", "").strip()


def told(model: Model, name: str, svg: Path) -> tuple[str, tuple[str, ...]]:
    """Draw the graph of a model; return what it explains, and the warnings that it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with an.record() as trace:
            loss = model.run().loss
        explanation = without_folders(str(trace.explain(loss)))
        an.backward(loss)
    ours = {w.category.__name__ for w in caught if w.category.__module__.startswith("ancestral")}
    text = picture(trace.graph, "svg").decode()
    # Graphs that are alike have the same ids, and stand on one page.
    svg.write_text(text.replace(prefix(trace.graph), f"{name}-"))
    return explanation, tuple(sorted(ours))


def measure(package: str, svg: Path) -> Result:
    """Measure a model, and draw its graph."""
    name = name_of(package)
    torch.manual_seed(0)
    model = MODELS[name]()
    explanation, warned = told(model, name, svg)
    warnings.simplefilter("ignore")
    check_scores(model)
    runs = [gradients(model, seed) for seed in range(model.draws)]
    of = {words: torch.stack([run[words] for run in runs]) for words in runs[0]}
    yardstick = of["leave-one-out"]
    seconds, step = step_times(model)
    return Result(
        package=package,
        version=version(package.partition("[")[0]),
        python=platform.python_version(),
        torch=torch.__version__.partition("+")[0],
        code=inspect.getsource(MODELS[name]),
        explanation=explanation,
        compiled=compiled(model),
        warned=warned,
        draws=model.draws,
        parameters=yardstick.shape[1],
        per_example=_variance(of["per example"]),
        leave_one_out=_variance(yardstick),
        ours=estimate(of["ours"], yardstick),
        trust=model.trust,
        trusting=estimate(of["trusting"], yardstick) if model.trust else None,
        milliseconds=1e3 * seconds,
        step=step,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(measure(sys.argv[1], Path(sys.argv[2])))))

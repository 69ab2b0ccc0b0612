"""One model of the gallery: its variance against that of the estimator that is written by hand.

python -m ancestral.tools.bench.gallery_case zuko
"""

import json
import sys
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

import ancestral as an
from ancestral.tools.bench.gallery_cases import CASES, Run

DRAWS = 40


def estimates(run: Run, parameters: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
    """Yield what three estimators make of one run: the total cost's, ours, the one by hand."""
    torch.manual_seed(seed)
    with an.record() as trace:
        loss, costs = run()
    sites = [node for node in trace.values() if node.is_score and node.fn is not None]
    if len(sites) != len(costs):
        raise RuntimeError(f"{len(costs)} draws by hand, {len(sites)} recorded")
    by_hand = an.untrack(loss)
    for site, credit in zip(sites, costs, strict=True):
        score, weight = site.score, an.untrack(credit).detach()
        rest = (1,) * (score.dim() - weight.dim())
        by_hand = by_hand + (score * weight.reshape(*weight.shape, *rest)).sum()
    total = an.surrogate(loss, baseline=None, credit=an.estimators.total_cost)
    for surrogate in (total, an.surrogate(loss, baseline=None), by_hand):
        plain = an.untrack(surrogate)
        found = torch.autograd.grad(plain, parameters, retain_graph=True, allow_unused=True)
        yield torch.cat([g.flatten() for g in found if g is not None])


def measure(name: str) -> dict[str, object]:
    """Return the variances below that of the total cost, and what was lost on the way."""
    torch.manual_seed(0)
    model, run = CASES[name]()
    parameters = [p for p in model.parameters() if p.requires_grad]
    runs = [list(estimates(run, parameters, seed)) for seed in range(DRAWS)]
    total, ours, by_hand = (float(torch.stack(of).var(0).sum()) for of in zip(*runs, strict=True))
    with an.record() as trace:
        loss, _ = run()
    lines = [line for line in trace.explain(loss).lines if not line.is_separate]
    lost = sorted({str(mix) for line in lines for mix in line.mixes})
    escapes = sorted({f"{escape.filename}:{escape.line}" for escape in trace.escapes})
    return {"ours": total / ours, "by hand": total / by_hand, "lost": lost + escapes}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(measure(sys.argv[1])))

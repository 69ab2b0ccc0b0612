"""Optimal baseline: that of least variance, of what is known without the draw itself."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

from ancestral.estimators.baselines.learned import Learned, Memory, decayed
from ancestral.estimators.baselines.leave_one_out import exact, predicted
from ancestral.estimators.credit.credit import Credit
from ancestral.trace.nodes.distribution_params import factorized, held_within
from ancestral.trace.nodes.mask import rebuilt
from ancestral.trace.nodes.node import Node

_SLOW, _FAST = 0.001, 0.1
"""The least weight of the last step in a mean over a long time, and over a short one."""


class Optimal(Learned):
    """The baseline of least variance, as far as earlier recordings and other elements tell it.

        b* = E[|s|² C] / E[|s|²],   s = ∂ log q(z) / ∂ parameters of q
        b = Σ_k w_k p_k,   w = argmin Σ_earlier |s|² (C - Σ_k w_k p_k)²

    The predictions p are b* over a long time, over a short one, and of each place along the
    dimensions of the site after the first of several; and what the other elements predict, as in
    `LeaveOneOut`. Of one constant the fit is b* itself.

    Unbiased, because w and all p hold draws of earlier recordings and of other elements only.
    The variance of Σ s (C - b) in the parameters of q is E[|s|² (C - b)²] less what b does not
    change: Greensmith, Bartlett and Baxter (2004), "Variance reduction techniques for gradient
    estimates in reinforcement learning", section 4.
    """

    is_proven = True
    KEYS = frozenset({"steps", "slow", "fast", "place"})

    def _predict(self, credit: Credit, memory: Memory) -> Tensor:
        others = predicted(credit)
        if not memory:
            return torch.zeros_like(credit.total.reshape(-1)[0]) if others is None else others
        known = _predictions(credit, memory, others)
        weights = _weights(memory, has_others=others is not None)
        return (weights @ known).reshape(credit.shape).to(credit.total.dtype)

    def _learn(self, credit: Credit, memory: Memory) -> Memory:
        cost = exact(credit.total.detach()).expand(credit.shape)
        squares = exact(score_squares(credit)).expand(credit.shape)
        both = torch.stack([squares * cost, squares])  # the two parts of b*
        whole, place = both.reshape(2, -1).mean(1), both.mean(1) if cost.ndim > 1 else both
        steps = memory["steps"] if memory else cost.new_zeros(())
        latest = 1 / (steps + 1)
        learned = {
            "steps": steps + 1,
            "slow": decayed(memory.get("slow"), whole, latest.clamp(min=_SLOW)),
            "fast": decayed(memory.get("fast"), whole, latest.clamp(min=_FAST)),
            "place": decayed(
                _place(credit, memory) if memory else None, place, latest.clamp(min=_SLOW)
            ),
        }
        if memory:
            known = _predictions(credit, memory, predicted(credit))
            weighed = known * squares.flatten()
            gram, cross = weighed @ known.T, weighed @ cost.flatten()
            latest = (1 / steps).clamp(min=_SLOW)
            learned["gram"] = decayed(memory.get("gram"), gram, latest)
            learned["cross"] = decayed(memory.get("cross"), cross, latest)
        return learned


def _predictions(credit: Credit, memory: Memory, others: Tensor | None) -> Tensor:
    """Return b* over a long time, and what others add to it, [4, elements]."""
    slow, fast, place = (
        moments[0] / moments[1].clamp(min=torch.finfo(moments.dtype).tiny)
        for moments in (memory["slow"], memory["fast"], _place(credit, memory))
    )
    known = [slow, fast - slow, place - slow, slow * 0 if others is None else others - slow]
    return torch.stack([exact(p).expand(credit.shape).flatten() for p in known])


def _place(credit: Credit, memory: Memory) -> Tensor:
    """Return what is known of each place; of a site that has other places, of all alike."""
    shape = credit.shape[1:] if len(credit.shape) > 1 else credit.shape
    known = memory["place"]
    if tuple(known.shape[1:]) == shape:
        return known
    return memory["slow"].reshape(2, *(1 for _ in shape)).expand(2, *shape)


def _weights(memory: Memory, *, has_others: bool) -> Tensor:
    """Return the least-squares weights of the predictions, [4].

    Begin with what others predict, or else with b* over a long time; as steps go by that counts
    less.
    """
    begin = memory["slow"].new_tensor([1.0, 0.0, 0.0, float(has_others)])
    if "gram" not in memory:
        return begin
    gram = memory["gram"]
    scale = gram.diagonal()
    prior = (scale / memory["steps"] + torch.finfo(gram.dtype).eps * scale.max()).diag()
    prior = prior + torch.finfo(gram.dtype).tiny * torch.eye(len(gram)).to(gram)
    found: Tensor = torch.linalg.solve(gram + prior, memory["cross"] + prior @ begin)
    # Beyond what lies between, the fit would tell examples that come again by who is missing.
    return torch.cat([found[:1], found[1:].clamp(0, 1)])


def score_squares(credit: Credit) -> Tensor:
    """Return the squared norm of each element's score in the parameters of its distribution.

    Those of classes and of coins are logits. [*shape of the site]; ones where its density says
    nothing of elements.
    """
    node = credit.site
    if node is None or node.fn is None or node.shape != credit.shape:
        return torch.ones_like(credit.total)
    return _score_squares(node)


def _score_squares(node: Node) -> Tensor:
    assert node.fn is not None
    fn: Any = factorized(node.fn)
    if isinstance(fn, Bernoulli):
        return (node.value - fn.probs).detach().square()
    if isinstance(fn, Categorical):
        chosen = torch.nn.functional.one_hot(node.value.long(), fn.param_shape[-1])
        return (chosen - fn.probs).detach().square().sum(-1)
    if isinstance(fn, OneHotCategorical):
        return (node.value - fn.probs).detach().square().sum(-1)
    leaves: dict[int, Tensor] = {}
    for tensor, event in held_within(fn):
        if tensor.is_floating_point() and 0 <= event <= tensor.dim():
            whole = node.shape + tensor.shape[tensor.dim() - event :]
            leaves[id(tensor)] = tensor.detach().expand(whole).clone().requires_grad_()
    with torch.enable_grad():
        density = rebuilt(fn, leaves).log_prob(node.value.detach())
        found = torch.autograd.grad(
            density.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    nothing = torch.zeros(node.shape, dtype=density.dtype, device=density.device)
    return sum((each.square().reshape(*node.shape, -1).sum(-1) for each in found), nothing)

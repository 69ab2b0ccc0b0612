"""RELAX: a function of the relaxed draw, which may learn, as a control variate."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from ancestral.estimators.relaxation.concrete import Relaxed, check_temperature, relaxed
from ancestral.estimators.rerun.evaluation import Evaluation
from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class RELAX:
    """Take a function of the relaxed draw off the loss, and put its gradient back.

        g = Σ_n (f_n(z) - c(y) - η f_n(r)) ∇ log q(z[n]) + c'(y) · (∇y_free - ∇y_given)
            + η f'(r) · (∇r_free - ∇r_given)

    y is the relaxed draw before it is squashed, drawn given z, and r what it is squashed to: y_free
    is it as a function of the parameters with the noise held fixed, y_given with that of the
    conditional draw. c is `control`; it is called with y of the elements that have costs in common,
    group by group, so that no other example takes part in it.

    Needs no evaluation more, or one with its derivative if `scale`, η, is not 0, under the
    conditions of `REBAR`. Bernoulli and OneHotCategorical sites. Unbiased for every c. Its
    parameters get no gradient from the surrogate: they learn by `Estimate.second_moment`, the
    square of g by the logits, whose mean is least where the variance is.
    Grathwohl, Choi, Wu, Roeder and Duvenaud (2018), "Backpropagation through the void: optimizing
    control variates for black-box gradient estimation", equations 4 and 9.

    Attributes:
        control: returns c, a scalar, for y [*elements that have costs in common, *event].
        scale: η, how much of the loss at the relaxed value is added to c.
        temperature: of the relaxation of that.
    """

    control: Callable[[Tensor], Tensor] = field(repr=False)
    scale: float = 0.0
    temperature: float = 0.5

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            TypeError: if the control variate is no function.
            ValueError: if the temperature is not positive.
        """
        if not callable(self.control):
            raise TypeError("RELAX: control must be a function of a tensor, such as a module")
        check_temperature(self, self.temperature)

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli, OneHotCategorical)
        logits = site.parameter("logits")
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            soft = relaxed(site, self.temperature, leaf)
            run = None
            if self.scale:
                run = site.evaluate_slope(soft.free.detach(), is_smooth=True)
            part = self._part(site, leaf, soft, run)
            (by_logits,) = torch.autograd.grad(part, [leaf], create_graph=True)
        if by_logits.requires_grad:
            site.second_moment = (by_logits**2).sum()
        return (by_logits.detach() * logits).sum()

    def _part(self, site: SiteDraw, leaf: Tensor, soft: Relaxed, run: Evaluation | None) -> Tensor:
        """Return what has g as its derivative by the logits, itself a function of c."""
        y = soft.before.detach().requires_grad_()
        groups = site.groups(y)
        control = torch.stack([self._of_group(site, group) for group in groups])
        (slope,) = torch.autograd.grad(control.sum(), [y], create_graph=True, allow_unused=True)
        weight = site.credit - site.of_groups(control)
        total = torch.zeros_like(control[0])
        if slope is not None:
            total = total + (slope * (soft.before - soft.before_given)).sum()
        if run is not None:
            weight = weight - self.scale * run.credit
            total = total + self.scale * (run.slope * (soft.free - soft.given)).sum()
        fn = type(site.fn)(logits=leaf, validate_args=False)
        scored: Tensor = (weight * fn.log_prob(site.value)).sum()
        return total + scored

    def _of_group(self, site: SiteDraw, group: Tensor) -> Tensor:
        found = self.control(group)
        if found.numel() != 1:
            raise ValueError(
                f"{site.where}: the control variate of RELAX returned a tensor of shape "
                f"{list(found.shape)} for one of shape {list(group.shape)}; expected a scalar"
            )
        return found.reshape(())

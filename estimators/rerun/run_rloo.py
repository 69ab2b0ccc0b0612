"""RLOO over whole runs: independent runs of a program, each compared with the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit, Estimator, by_element
from ancestral.estimators.credit.site_choices import Choices, PerSite
from ancestral.estimators.gradient.surrogate import surrogate, surrogate_of_costs
from ancestral.estimators.rerun.replay import First, Program, credit_of
from ancestral.estimators.rerun.streams import Chance
from ancestral.trace.context.argument_checks import check_count


@dataclass(frozen=True)
class RunRLOO:
    """Compare each of several independent runs of the whole program with the others.

        g = 1/K Σ_k [ ∇L_k + Σ_i Σ_n (f_in(z_k) - 1/(K-1) Σ_{j≠k} f_in(z_j)) ∇ log q(z_ki[n]) ]
        z_1, ..., z_K the draws of K runs,   f_in the costs downstream of element n of site i

    For all sites of a program: ``estimators=RunRLOO(4)``. Others are those runs in which a site of
    the same name and shape is drawn; where there is none, nothing is subtracted. Draws of
    ``rsample`` are pathwise, as by "auto".

    Needs K - 1 evaluations more, however many sites there are. Every site with a density. Unbiased,
    with derivatives of every order: what is subtracted depends on no draw of run k. `RLOO` draws
    one site again, given what is upstream of it; here what is upstream varies too. Salimans and
    Knowles (2014), "On using control variates with stochastic approximation for variational Bayes
    and its connection to stochastic linear regression"; Kool, van Hoof and Welling (2019), "Buy 4
    REINFORCE samples, get a baseline for free!", equation 8; of higher order as Farquhar, Whiteson
    and Foerster (2019), "Loaded DiCE", equation 13.

    Attributes:
        samples: K, at least 2.
    """

    samples: int = 2

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            ValueError: if it is none.
        """
        check_count("RunRLOO: samples", self.samples, least=2)


@dataclass(frozen=True, eq=False)
class WholeRuns:
    """Several first runs of a program, each with other draws.

    Attributes:
        runs: the runs.
        credit: which costs count for a site.
    """

    runs: Sequence[First]
    credit: PerSite[Estimator]

    @classmethod
    def of(
        cls, program: Program, count: int, credit: PerSite[Estimator], chance: Chance
    ) -> "WholeRuns":
        """Run a program several times.

        Raises:
            NotAFunctionError: if the loss of one run depends on the draws of another.
        """
        runs: list[First] = []
        for _ in range(count):
            runs.append(First.of(program, chance.fresh() if runs else chance, runs))
        return cls(runs, credit)

    @property
    def value(self) -> Tensor:
        """The mean of the losses, [], a constant."""
        return torch.stack([run.problem.loss.detach() for run in self.runs]).mean()

    @property
    def surrogate(self) -> Tensor:
        """The mean of the surrogates of the runs, []."""
        found = [self._credits(run) for run in self.runs]
        parts = []
        for number, run in enumerate(self.runs):
            others = found[:number] + found[number + 1 :]
            parts.append(self._of(run, _OfOtherRuns(others)))
        return torch.stack(parts).mean()

    def _of(self, run: First, baseline: "_OfOtherRuns") -> Tensor:
        if run.loss is not None:
            return surrogate(run.loss, baseline=baseline, credit=self.credit)
        return surrogate_of_costs(run.trace, run.left_out, baseline=baseline, credit=self.credit)

    def _credits(self, run: First) -> dict[str, Tensor]:
        """Return the credit of each element of the sites of a run, [*shape] by name."""
        counts = Choices[Estimator]("credit", self.credit, by_element)
        found: dict[str, Tensor] = {}
        for name, node in run.nodes.items():
            credit = credit_of(run.problem, name, counts.of(node)) if node.is_learned else None
            if credit is not None:
                found[name] = credit.total.detach().expand(credit.shape)
        return found


@dataclass(frozen=True, eq=False)
class _OfOtherRuns:
    """The mean of the credits that an element had in other runs, which are independent."""

    credits: Sequence[dict[str, Tensor]]
    is_proven: bool = field(default=True, init=False)

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return the baseline of a site, [*shape]; zeros if no other run has it."""
        alike = [each[credit.name] for each in self.credits if credit.name in each]
        alike = [each for each in alike if tuple(each.shape) == tuple(credit.shape)]
        return torch.stack(alike).mean(0) if alike else torch.zeros(())

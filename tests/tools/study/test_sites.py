"""The shares of sites that a study finds, beside exact variances, and as colours of a graph."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.tools.cli import main
from ancestral.tools.study import work

LOGITS = torch.tensor([0.4, -0.6, 0.9], dtype=torch.float64)


def errors(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    z = Bernoulli(logits=a).sample()
    y = Bernoulli(logits=b).sample()
    x = Bernoulli(logits=c * (1 + y)).sample()
    return (z - 0.3) ** 2 + 3 * (y - 0.2) ** 2 + 0.2 * (x - 0.7) ** 2  # type: ignore[no-any-return]


def leaves() -> list[Tensor]:
    return [each.clone().requires_grad_() for each in LOGITS]


def exact() -> dict[str, float]:
    """Return the variance of score times downstream cost of each site, over all outcomes."""
    rows, chances = [], []
    for z, y, x in itertools.product((0.0, 1.0), repeat=3):
        inner = torch.tensor([1, 1, 1 + y], dtype=torch.float64)
        p, draw = torch.sigmoid(LOGITS * inner), torch.tensor([z, y, x], dtype=torch.float64)
        cost = 0.2 * (x - 0.7) ** 2
        credit = torch.tensor([(z - 0.3) ** 2, 3 * (y - 0.2) ** 2 + cost, cost])
        rows.append((draw - p) * inner * credit)
        chances.append(torch.where(draw == 1, p, 1 - p).prod())
    g, chance = torch.stack(rows), torch.stack(chances)[:, None]
    variance = (chance * (g - (chance * g).sum(0)) ** 2).sum(0)
    return dict(zip("zyx", variance.tolist(), strict=True))


def test_the_variance_of_a_site_is_that_of_its_scores() -> None:
    """Each parameter is reached by one site and nothing else: the table has the same numbers."""
    found = an.study(errors, *leaves(), estimators="auto", draws=60, steps=0)
    groups = [row.variance for row in found.rows if row.group != "total"]
    assert list(found.sites.values()) == pytest.approx(sorted(groups, reverse=True), rel=1e-9)
    assert sum(found.shares().values()) == pytest.approx(1)
    for site, variance in exact().items():
        assert found.sites[site] == pytest.approx(variance, rel=0.4)


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")  # it branches
def test_a_site_counts_as_zero_where_it_is_not_drawn() -> None:
    def program(a: Tensor, b: Tensor) -> Tensor:
        z = Bernoulli(logits=a).sample()
        return 2 * Bernoulli(logits=b).sample() if z > 0 else z + 0.5  # type: ignore[no-any-return]

    args = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.1, -0.2)]
    found = an.study(program, *args, estimators="auto", draws=100, steps=0)
    groups = [row.variance for row in found.rows if row.group != "total"]
    assert sorted(found.sites.values()) == pytest.approx(sorted(groups))


def test_draws_of_a_long_loop_count_together_and_costs_may_be_declared() -> None:
    def program(logits: Tensor) -> None:
        for step in range(40):
            z = Bernoulli(logits=logits).sample()
            an.cost(f"error_{step}", (z - 0.3) ** 2)

    logits = torch.zeros((), dtype=torch.float64, requires_grad=True)
    found = an.study(program, logits, estimators="auto", draws=20, steps=0)
    assert found.shares() == {"z": 1.0}
    assert found.sites["z"] == pytest.approx(found["auto"].variance, rel=1e-9)


def test_a_study_without_scores_has_no_shares() -> None:
    mean = torch.zeros((), dtype=torch.float64, requires_grad=True)
    found = an.study(lambda m: Normal(m, 1.0).rsample() ** 2, mean, estimators="auto", draws=8)
    assert found.shares() == {}


def test_a_study_and_its_folder_colour_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = leaves()
    found = an.study(errors, *args, estimators="auto", draws=40, steps=0, out=tmp_path)
    graph = an.graph(errors, *args)
    colored = graph.colored(found)
    assert {v.name: v.share for v in colored.vertices if v.share is not None} == found.shares()
    assert graph.colored(tmp_path) == graph.colored(tmp_path / "sites.csv") == colored
    assert f"{found.shares()['y']:.0%} of the variance" in graph.to_html(shares=str(tmp_path))
    text = graph.render(tmp_path / "g.dot", shares=found).read_text()
    assert f"{found.shares()['y']:.0%} of the variance" in text
    assert "variance by site" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(work, "site_variances", None)  # they are kept
    again = an.study(errors, *args, estimators="auto", draws=40, steps=0, out=tmp_path)
    assert again.sites == found.sites


def test_the_command_takes_the_folder_and_says_if_it_is_of_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "coins.py"
    model.write_text(
        "import torch\n\nlogits = torch.zeros(4, requires_grad=True)\n\n\ndef coins():\n"
        "    def run():\n        heads = torch.distributions.Bernoulli(logits=logits).sample()\n"
        "        return (heads - 0.3).pow(2).sum()\n\n    return run\n"
    )
    out, named = tmp_path / "out", f"{model}:coins"
    asked = ["--estimators", "auto", "--draws", "20", "--steps", "0", "--out", str(out)]
    assert main(["study", named, *asked]) == 0
    drawing = ["graph", named, "-o", str(tmp_path / "g.dot"), "--shares"]
    assert main([*drawing, str(out)]) == 0
    assert "100% of the variance" in (tmp_path / "g.dot").read_text()
    assert capsys.readouterr().err == ""
    (tmp_path / "sites.csv").write_text("site,variance,share\ntails,1.0,1.0\n")
    assert main([*drawing, str(tmp_path)]) == 0
    assert "is in this graph, which has no colours" in capsys.readouterr().err
    assert main([*drawing, str(tmp_path / "nowhere")]) == 2
    assert "a study leaves it in its folder when it has ended" in capsys.readouterr().err

"""The gallery: its page is what is made of the stored results, and its yardstick is right."""

import inspect
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical

from ancestral.tools.gallery import __main__ as command
from ancestral.tools.gallery.measure import (
    by_hand,
    check_scores,
    estimate,
    gradients,
    leave_one_out,
    without_folders,
)
from ancestral.tools.gallery.models import (
    BATCH,
    MODELS,
    Model,
    Outcome,
    autoregressive,
    latent,
    rollout,
)
from ancestral.tools.gallery.page import page
from ancestral.tools.gallery.result import DOCS, PAGE, PICTURES, RESULTS, from_json, to_json

RUN = "run `make gallery ONLY=...` for the models that changed"
STORED = from_json(RESULTS.read_text())
TEXTS = [PAGE, RESULTS, *sorted(PICTURES.glob("*.svg"))]


def test_the_page_is_made_of_the_stored_results() -> None:
    assert PAGE.read_text() == page(STORED), (
        "run `python -m ancestral.tools.gallery.page`; the page is not edited by hand"
    )


def test_every_figure_of_the_page_changes_with_its_result() -> None:
    found = RESULTS.read_text()
    for key in ("variance", "times_below", "per_example", "leave_one_out", "milliseconds", "step"):
        other, count = re.subn(rf'("{key}": )[\d.e+-]+', r"\g<1>8765.0", found)
        assert count >= len(MODELS)
        assert page(from_json(other)).count("8") > page(STORED).count("8")


def test_results_survive_the_file() -> None:
    assert to_json(from_json(RESULTS.read_text())) == RESULTS.read_text()


def test_every_model_has_a_result_and_no_other() -> None:
    packages = [package for group in command.GROUPS.values() for package in group]
    assert [result.package for result in STORED.models.values()] == packages
    assert set(STORED.models) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_the_code_on_the_page_is_the_code_of_the_model(name: str) -> None:
    assert STORED.models[name].code == inspect.getsource(MODELS[name]), RUN


def test_the_shared_code_on_the_page_is_what_runs() -> None:
    assert STORED.shared == command.shared(), RUN


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_small_picture(name: str) -> None:
    picture = PICTURES / f"{name}.svg"
    assert f"]({picture.relative_to(DOCS)})" in PAGE.read_text()
    assert 1_000 < picture.stat().st_size < 100_000
    assert "<svg" in picture.read_text()


def test_no_two_pictures_on_the_page_have_an_id_in_common() -> None:
    found = [ids(PICTURES / f"{name}.svg") for name in MODELS]
    assert sum(map(len, found)) == len(set().union(*found))
    assert all(found)


def ids(picture: Path) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', picture.read_text()))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_folder_of_a_machine_is_told(path: Path) -> None:
    assert not re.search(r"/(home|root|tmp|work|usr|Users)/|site-packages", path.read_text())


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_everything_is_small(path: Path) -> None:
    assert path.stat().st_size < 100_000


def plain_models() -> dict[str, Model]:
    """Return models of torch alone, of each kind that packages are an instance of."""
    bits, logits, policy = nn.Linear(2, 3), nn.Linear(1, 7), nn.Linear(3, 4)

    def act(state: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        q = Categorical(logits=policy(state))
        action = q.sample()
        return action, lambda: q.log_prob(action)

    return {
        "latent": Model(bits, lambda: latent(bits, lambda x, z: (z.sum(1) - x[:, 0]) ** 2)),
        "autoregressive": Model(
            logits, lambda: autoregressive(lambda t: logits(t.float().mean(1, keepdim=True)))
        ),
        "rollout": Model(policy, lambda: rollout(act)),
    }


@pytest.mark.parametrize("name", plain_models())
def test_ours_is_the_estimator_by_hand_draw_by_draw(name: str) -> None:
    torch.manual_seed(0)
    model = plain_models()[name]
    for seed in range(3):
        found = gradients(model, seed)
        torch.testing.assert_close(found["ours"], found["leave-one-out"], rtol=1e-4, atol=1e-6)
        assert not torch.allclose(found["per example"], found["leave-one-out"], rtol=0.01)


@pytest.mark.parametrize("of_credit", [leave_one_out, lambda credit: credit])
def test_the_estimator_by_hand_has_the_mean_of_the_gradient(
    of_credit: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact: a bit for each of the 8 examples has 256 outcomes in all."""
    net = nn.Linear(2, 1)
    x = torch.linspace(-2, 2, BATCH * 2).reshape(BATCH, 2)
    p = torch.sigmoid(net(x))[:, 0]
    # The cost is linear in z, so that its mean is that of the mean of z.
    expected = ((1 + x[:, 0]) * p).sum() / BATCH
    truth = torch.autograd.grad(expected, list(net.parameters()))
    sums = [torch.zeros_like(each) for each in truth]
    for bits in itertools.product((0.0, 1.0), repeat=BATCH):
        z = torch.tensor(bits)[:, None]
        monkeypatch.setattr(Bernoulli, "sample", lambda _, z=z: z)
        outcome = latent(net, lambda x, z: z[:, 0] * (1 + x[:, 0]))
        found = torch.autograd.grad(by_hand(outcome, of_credit), list(net.parameters()))
        weight = outcome.log_probs[0]().sum().exp().detach()
        sums = [total + weight * each for total, each in zip(sums, found, strict=True)]
    for total, each in zip(sums, truth, strict=True):
        torch.testing.assert_close(total, each, rtol=1e-4, atol=1e-6)


def test_a_gradient_of_half_the_size_has_four_times_less_variance() -> None:
    theirs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = estimate(theirs / 2, theirs)
    assert found.times_below == pytest.approx(4)
    assert found.error == pytest.approx(0, abs=1e-12)
    assert found.variance == pytest.approx(theirs.var(0).sum().item() / 4)


def test_the_error_of_a_ratio_is_that_of_repetitions() -> None:
    generator = torch.Generator().manual_seed(0)
    found = [
        estimate(*torch.randn(2, 200, 2, generator=generator, dtype=torch.float64))
        for _ in range(200)
    ]
    spread = torch.tensor([each.times_below for each in found]).std().item()
    assert sum(each.error for each in found) / len(found) == pytest.approx(spread, rel=0.2)


def test_different_draws_are_refused() -> None:
    net, calls = nn.Linear(2, 3), iter(range(9))
    model = Model(net, lambda: latent(net, lambda x, z: z.sum(1) + next(calls)))
    with pytest.raises(RuntimeError, match="when recorded"):
        gradients(model, 0)


@pytest.mark.parametrize("name", plain_models())
def test_log_probabilities_by_hand_are_checked(name: str) -> None:
    torch.manual_seed(0)
    model = plain_models()[name]
    check_scores(model)
    stale: list[Callable[[], Tensor]] = []

    def run() -> Outcome:
        outcome = model.run()
        stale.append(outcome.log_probs[-1])
        return outcome._replace(log_probs=[*outcome.log_probs[:-1], stale[0]])

    model.run()
    stale.append(model.run().log_probs[-1])
    with pytest.raises(RuntimeError, match="by hand are not those of the draws"):
        check_scores(Model(model.module, run))


def test_files_are_named_from_their_package_on() -> None:
    assert without_folders("in /a/.b/lib/site-packages/zuko/c.py:7: no") == "in zuko/c.py:7: no"


def test_what_fails_is_named_and_keeps_its_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = RESULTS.read_text(), PAGE.read_text()
    monkeypatch.setattr(command, "installed", lambda *_: "not installed: no such package")
    monkeypatch.setattr(command, "PICTURES", tmp_path)
    assert command.main(["pfrl"]) == 1
    assert re.search(r"^pfrl +not installed: no such package$", capsys.readouterr().out, re.M)
    assert (RESULTS.read_text(), PAGE.read_text()) == before

"""What the monitor logs, given to what writes logs: stand-ins with the signatures of each, and each
that is installed."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.tools.demo.belief_net import BeliefNet

IMAGES = torch.bernoulli(torch.full((8, 6), 0.4), generator=torch.Generator().manual_seed(0))


# What other packages warn of is theirs.
OTHERS = pytest.mark.filterwarnings("ignore", "error::ancestral.errors.MonitorWarning")


def trained(steps: int = 3) -> an.Monitor:
    torch.manual_seed(0)
    model = BeliefNet(pixels=6, units=4, causes=3)
    monitor = an.Monitor(model, every=1)
    for _ in range(steps):
        with an.record():
            loss = model(IMAGES)
        an.backward(loss, monitor=monitor)
    return monitor


def test_the_log_has_plain_finite_numbers_by_plain_names() -> None:
    log = trained().log(pairs=True)
    assert {type(name) for name in log} == {str}
    assert {type(value) for value in log.values()} == {float}
    assert all(map(math.isfinite, log.values()))
    assert log["site/h1/variance_share"] + log["site/h2/variance_share"] == pytest.approx(1)
    assert "site/h1/param/infer_h1.weight/variance" in log
    assert "param/infer_h2.bias/variance_share" in log
    assert not any("/param/" in name for name in trained().log())


def test_after_one_measured_step_there_is_no_interval() -> None:
    assert not [name for name in trained(1).log() if name.endswith("_error")]
    assert [name for name in trained(2).log() if name.endswith("_error")]


class Writer:
    """`torch.utils.tensorboard.SummaryWriter`."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        assert not re.search(r"[^-/\w\.]", tag)  # else it is renamed, with a warning
        self.seen[tag] = float(scalar_value)

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, float],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        for tag, value in tag_scalar_dict.items():
            self.add_scalar(f"{main_tag}/{tag}", value, global_step)


class Run:
    """`wandb.sdk.wandb_run.Run`: a slash makes a section."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def log(
        self, data: dict[str, Any], step: int | None = None, commit: bool | None = None
    ) -> None:
        assert isinstance(data, dict)
        assert all(isinstance(key, str) for key in data)
        self.seen |= data


class Mlflow:
    """`mlflow`: a name is letters, digits and "_-. /", and a path in its shortest form."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def log_metrics(
        self,
        metrics: dict[str, float],
        step: int | None = None,
        synchronous: bool | None = None,
        run_id: str | None = None,
        timestamp: int | None = None,
        model_id: str | None = None,
        dataset: object = None,
    ) -> None:
        for name, value in metrics.items():
            assert re.fullmatch(r"[/\w.\- :]*", name)
            assert str(Path(name)) == name
            assert len(name) <= 250
            assert math.isfinite(value)
            self.seen[name] = value


class Lightning:
    """`lightning.LightningModule`: a value becomes a tensor of one number."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def log_dict(
        self,
        dictionary: Mapping[str, Any],
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Any = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        for name, value in dictionary.items():
            tensor = torch.tensor(value, dtype=torch.get_default_dtype())
            assert tensor.numel() == 1
            self.seen[name] = float(tensor)


def test_each_logger_takes_it() -> None:
    log = trained().log()
    writer, run, mlflow, module = Writer(), Run(), Mlflow(), Lightning()
    for name, value in log.items():
        writer.add_scalar(name, value, 3)
    assert writer.seen == log
    writer.add_scalars("gradient", log, 3)
    assert len(writer.seen) == 2 * len(log)
    run.log(log, step=3)
    mlflow.log_metrics(log, step=3)
    module.log_dict(log)
    assert run.seen == mlflow.seen == log
    assert module.seen == pytest.approx(log)


def test_names_that_loggers_refuse_are_replaced_and_stay_apart() -> None:
    logits = torch.zeros(3, requires_grad=True)
    monitor = an.Monitor({"w[0]": logits, "..": torch.zeros(1, requires_grad=True)}, every=1)
    names = ["z[0]", "z(0)", "z_0_", "a b/c", "π", ".", ".."]
    with an.record() as trace:
        for name in names:
            z = an.sample(name, Bernoulli(logits=logits.expand(4, 3)))
            an.cost(f"{name} cost", (z - 0.3 * torch.arange(4)[:, None]).pow(2))
    trace.backward(monitor=monitor)
    log = monitor.log(pairs=True)
    mlflow = Mlflow()
    mlflow.log_metrics(log)
    shares = [value for name, value in log.items() if re.fullmatch("site/.*variance_share.*", name)]
    assert len(shares) == len(names)
    assert sum(shares) == pytest.approx(1)
    assert set(monitor.shares()) == set(names)


@OTHERS
def test_tensorboard_writes_it(tmp_path: Path) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    from torch.utils.tensorboard import SummaryWriter

    log = trained().log()
    with SummaryWriter(str(tmp_path)) as writer:
        for name, value in log.items():
            writer.add_scalar(name, value, 3)
    read = events.EventAccumulator(str(tmp_path)).Reload()
    assert {name: read.Scalars(name)[0].value for name in log} == pytest.approx(log)


@OTHERS
def test_mlflow_writes_it(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    log = trained().log()
    with mlflow.start_run() as run:
        mlflow.log_metrics(log, step=3)
    assert mlflow.get_run(run.info.run_id).data.metrics == pytest.approx(log)


@OTHERS
def test_lightning_trains_with_it(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = BeliefNet(pixels=6, units=4, causes=3)
            self.monitor = an.Monitor(self.net, every=2)

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            with an.record():
                loss = self.net(batch)
            scalar = an.surrogate(loss, monitor=self.monitor)
            self.log_dict(self.monitor.log())
            return scalar

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01)

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["monitor"] = self.monitor.state_dict()

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.monitor.load_state_dict(checkpoint["monitor"])

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=2,
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    images: Any = list(IMAGES.repeat(4, 1))
    loader: Any = torch.utils.data.DataLoader(images, batch_size=8)
    trainer.fit(module, loader)
    found = {k: float(v) for k, v in trainer.callback_metrics.items()}
    assert found["site/net.h1/variance_share"] + found[
        "site/net.h2/variance_share"
    ] == pytest.approx(1)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    again = Module()
    again.on_load_checkpoint(torch.load(path, weights_only=False))
    assert again.monitor.log() == module.monitor.log()
    assert isinstance(module.net, nn.Module)

"""Copies: through memory, files, processes, precisions and modes, the sources come along."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import einops
import pytest
import torch
import torch.multiprocessing
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

import ancestral as an
from ancestral.provenance.algebra.alignment import LOST, Dims
from ancestral.provenance.algebra.factors import Factor
from ancestral.provenance.tensor.tensor import provenance
from perturbation import check, gradients, numbers


def saved(value: Any, **options: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


def holding(x: Tensor) -> nn.Module:
    module = nn.BatchNorm1d(3)
    module.register_buffer("kept", x)
    return module


COPIES: dict[str, Callable[[Tensor], Any]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "a deep copy of a module": lambda x: dict(copy.deepcopy(holding(x)).named_buffers()),
    "a deep copy of a container": lambda x: copy.deepcopy({"a": [x, (x,)]}),
    "pickle": lambda x: pickle.loads(pickle.dumps({"a": x * 2})),
    "torch.save": lambda x: saved(x * 2),
    "torch.save, unsafe": lambda x: saved([x], weights_only=False),
    "torch.save of a sparse tensor": lambda x: saved(x.to_sparse()),
    "torch.save of a state": lambda x: saved(holding(x).state_dict()),
    "to another device": lambda x: x.to("cpu", copy=True),
    "shared memory": lambda x: x.clone().share_memory_(),
    "a clone": lambda x: x.clone(memory_format=torch.contiguous_format),
    "collating": lambda x: default_collate([{"a": x, "b": 1}, {"a": x * 2, "b": 2}]),
    "loading": lambda x: list(DataLoader(TensorDataset(x, numbers(4)), batch_size=3)),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_keeps_the_sources(name: str) -> None:
    check(COPIES[name], numbers(4, 3), escapes=name.startswith(("pickle", "torch.save")))


class Doubled(Dataset[Any]):
    """Computes with a tracked tensor, in the process of the worker."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return {"row": self.x[index] * 2, "index": index}


def loaded(x: Tensor, workers: int) -> list[Any]:
    return list(DataLoader(Doubled(x), batch_size=2, num_workers=workers))


def test_what_workers_load_belongs_to_the_recording() -> None:
    found: list[list[float]] = []
    for workers in (0, 2):
        torch.manual_seed(5)
        logits = torch.zeros(4, 2, requires_grad=True)
        with an.record() as trace:
            z = Bernoulli(logits=logits).sample()
            batches = loaded(z, workers)
            loss = sum(((batch["row"] - 0.7) ** 2).sum() for batch in batches)
            assert isinstance(loss, Tensor)
            assert an.provenance_of(loss) == {"z"}
            assert [source.universe for source in provenance(loss).sources] == [trace.universe]  # type: ignore[union-attr]
        an.backward(loss, credit=an.estimators.total_cost)
        assert logits.grad is not None
        found.append(logits.grad.flatten().tolist())
    assert found[0] == found[1]
    assert any(found[0])


def test_what_a_queue_brings_back_belongs_to_the_recording() -> None:
    queue: Any = torch.multiprocessing.SimpleQueue()
    with an.record() as trace:
        queue.put(an.track(numbers(3), "z") * 2)
        again = queue.get()
        # Another process may read it and answer with a number.
        assert [escape.sources for escape in trace.escapes] == [{"z"}]
    found = provenance(again)
    assert found is not None
    assert found.universe is trace.universe
    assert found.entries[0][0].dims == (LOST,)


def test_a_parameter_of_a_draw_stays_one() -> None:
    made = nn.Parameter(an.track(numbers(3), "z"))
    made.grad = torch.ones(3)
    for twin in (copy.deepcopy(made), copy.copy(made), saved(made)):
        assert isinstance(twin, nn.Parameter)
        assert an.provenance_of(twin) == {"z"}
        assert twin.requires_grad
    assert copy.deepcopy(made).is_leaf
    assert saved(made).is_leaf
    deep = copy.deepcopy(made)
    assert deep.grad is not None
    assert deep.grad.data_ptr() != made.grad.data_ptr()


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


def inferred(x: Tensor) -> Any:
    with torch.inference_mode():
        a, b = torch.ones(4, 3), x.clone()
        a.add_(x)
        b.mul_(2)
        made = [x * 2, a, b, x.view(3, 4), a + 1]
    return made, made[0] + 1


def cast(x: Tensor) -> Any:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return layer(x), torch.mm(x, numbers(3, 2)), x @ numbers(3), (x @ numbers(3)).sum()


def on_default(x: Any) -> Any:
    with default_device("cpu"):
        return x * 2, torch.tensor([x[0, 0], 1.0]), torch.full((2,), x[0, 0]), torch.stack([x])


MODES: dict[str, Callable[[Tensor], Any]] = {
    "no_grad": lambda x: torch.no_grad()(lambda y: (y * 2, y.sum(0)))(x),
    "inference": inferred,
    "autocast": cast,
    "a default device": on_default,
    "enabled gradients": lambda x: torch.set_grad_enabled(True)(lambda y: y * 2)(x),
}


@pytest.mark.filterwarnings("ignore")  # of torch: a tensor made of tensors is a copy
@pytest.mark.parametrize("name", MODES)
def test_a_mode_changes_nothing(name: str) -> None:
    check(MODES[name], numbers(4, 3))


def test_the_gradient_under_autocast_is_torchs_own() -> None:
    gradients(cast, numbers(4, 3))


def test_tensors_without_data_are_followed() -> None:
    with an.record():
        x = an.track(numbers(4, 3), "x").to("meta")
        y = (x @ torch.ones(3, 2, device="meta")).sum(1)
        assert an.provenance_of(y) == {"x"}
        assert (y.device.type, y.shape) == ("meta", (4,))
        with torch.device("meta"):
            assert torch.tensor([1.0, 2.0]).device.type == "meta"
            assert torch.full((2,), 1.0).device.type == "meta"


def test_a_device_is_a_default_after_a_recording_as_before() -> None:
    torch.utils._device._device_constructors.cache_clear()
    with an.record(), torch.device("meta"):
        torch.ones(2)
    with torch.device("meta"):
        assert torch.tensor([1.0]).device.type == "meta"


def test_a_capsule_lets_the_values_out() -> None:
    with an.record() as trace:
        x = an.track(numbers(3), "x")
        exchange: Any = torch.utils.dlpack
        again = exchange.from_dlpack(exchange.to_dlpack(x))
        assert len(trace.escapes) == 1
        assert an.provenance_of(again * 1) == {"x"}


EINOPS: dict[str, tuple[Callable[[Tensor], Tensor], Dims]] = {
    "rearrange": (lambda x: einops.rearrange(x, "a b c -> c a b"), (2, 0, 1)),
    "merge": (lambda x: einops.rearrange(x, "a b c -> b (a c)"), (1, (Factor(0, 2), Factor(2, 4)))),
    "split": (
        lambda x: einops.rearrange(x, "a b (c d) -> a b c d", d=2),
        (0, 1, (Factor(2, 2, 2, 4),), (Factor(2, 2, 1, 4),)),
    ),
    "reduce": (lambda x: einops.reduce(x, "a b c -> a c", "mean"), (0, 2)),
    "repeat": (lambda x: einops.repeat(x, "a b c -> a b r c", r=2), (0, 1, LOST, 2)),
    "einsum": (lambda x: einops.einsum(x, numbers(4, 5), "a b c, c d -> a d b"), (0, LOST, 1)),
    "a layer": (lambda x: Rearrange("a b c -> a (b c)")(x), (0, (Factor(1, 3), Factor(2, 4)))),
}


@pytest.mark.parametrize("name", EINOPS)
def test_einops_keep_what_the_rules_of_their_steps_keep(name: str) -> None:
    call, kept = EINOPS[name]
    found = provenance(check(call, numbers(2, 3, 4)))
    assert found is not None
    assert [alignment.dims for alignment, _ in found.entries] == [kept]


def test_einops_pack_and_unpack() -> None:
    def packed(x: Tensor) -> Any:
        both, shapes = einops.pack([x, numbers(4)], "a *")
        return both, einops.unpack(both, shapes, "a *")

    check(packed, numbers(4, 3))

"""Checkpoints: one file with the states of all that a run is made of, from which it goes on.

A file is one of safetensors, which holds no code: the tensors of all states, and beside them, as
JSON, how they are nested, with the numbers and texts among them.

>>> import torch
>>> from tempfile import TemporaryDirectory
>>> layer = torch.nn.Linear(2, 1)
>>> with TemporaryDirectory() as folder:
...     save_checkpoint(f"{folder}/run.safetensors", model=layer, step=7)
...     load_checkpoint(f"{folder}/run.safetensors", model=torch.nn.Linear(2, 1))
{'step': 7}
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.serialize.file import replacing

_STRUCTURE = "ancestral"


class CheckpointError(ValueError):
    """A state cannot be written into a checkpoint, or a file is not that of such a run."""


def save_checkpoint(path: str | Path, /, **parts: Any) -> None:
    """Write the states of objects into a file of safetensors, which takes the place of another.

    Args:
        path: where to write; what was there stays if anything fails.
        parts: what the run is made of, by names of your choice: modules, parameter stores,
            optimizers, schedulers, baselines and monitors, which have a `state_dict`; a
            `torch.Generator` such as `torch.default_generator`; and plain values, the step say.

    Raises:
        CheckpointError: if a part holds something else than tensors, numbers, texts and None in
            dictionaries, lists and tuples.
        ModuleNotFoundError: if safetensors is not installed.
        OSError: if the path cannot be written.
    """
    torch_part = _safetensors("torch")
    tensors: dict[str, Tensor] = {}
    structure = {name: _encoded(_state(part), name, tensors) for name, part in parts.items()}
    try:
        body = torch_part.save(tensors, {_STRUCTURE: json.dumps(structure)})
    except KeyError as error:
        raise CheckpointError(
            f"safetensors has no tensors of {error}; write the part that has them with torch.save"
        ) from None
    with replacing(Path(path)) as file:
        file.write(body)


def load_checkpoint(path: str | Path, /, **parts: Any) -> dict[str, Any]:
    """Give objects the states of a file, by the names that they were saved under.

    Returns:
        The parts of the file that no object is named for, plain values and states, on the CPU.

    Raises:
        CheckpointError: if the file is none of `save_checkpoint`, or lacks a part.
        ModuleNotFoundError: if safetensors is not installed.
        OSError: if the file cannot be read.
    """
    held = _read(Path(path))
    missing = [name for name in parts if name not in held]
    if missing:
        raise CheckpointError(
            f"{path} has no part {missing[0]!r}; it has {', '.join(map(repr, held)) or 'none'}"
        )
    for name, part in parts.items():
        if not (hasattr(part, "load_state_dict") or isinstance(part, torch.Generator)):
            raise CheckpointError(
                f"part {name!r} is {kind_of(part)}, which takes no state: leave it out, and take "
                f"load_checkpoint(...)[{name!r}]"
            )
    # Those of random numbers last: to load another may draw some.
    for name in sorted(parts, key=lambda name: isinstance(parts[name], torch.Generator)):
        state, part = held.pop(name), parts[name]
        part.set_state(state) if isinstance(part, torch.Generator) else part.load_state_dict(state)
    return held


def _safetensors(name: str) -> ModuleType:
    """Return a part of safetensors."""
    try:
        return __import__(f"safetensors.{name}", fromlist=[name])
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "safetensors":
            raise
        raise ModuleNotFoundError(
            "a checkpoint is a file of safetensors, which is not installed: pip install "
            "'ancestral[safetensors]', or write state_dict() of each part with torch.save",
            name=error.name,
        ) from None


def _read(path: Path) -> dict[str, Any]:
    """Return the parts of a file."""
    load, body = _safetensors("torch").load, path.read_bytes()
    try:
        size = int.from_bytes(body[:8], "little")
        structure = json.loads(json.loads(body[8 : 8 + size])["__metadata__"][_STRUCTURE])
        tensors = load(body)
        return {name: _decoded(node, tensors) for name, node in structure.items()}
    except Exception as error:
        raise CheckpointError(
            f"{path} is no file that save_checkpoint wrote, or was damaged "
            f"({type(error).__name__}); one of torch.save is read by torch.load"
        ) from None


def _state(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    return part.state_dict() if hasattr(part, "state_dict") else part


def _encoded(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON, in which tensors stand by the names that they are put under."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided:
        while where in tensors:
            where += "'"
        # A copy: tied weights share memory, which no file of safetensors does.
        tensors[where] = value.detach().clone(memory_format=torch.contiguous_format)
        return {"tensor": where}
    if isinstance(value, Mapping):
        items = [
            [_encoded(key, where, tensors), _encoded(item, f"{where}.{key}", tensors)]
            for key, item in value.items()
        ]
        versions = getattr(value, "_metadata", None)  # of modules, by which they read old states
        return {"items": items, "versions": _encoded(versions, where, tensors)}
    if type(value) in (list, tuple):
        inside = [_encoded(item, f"{where}.{n}", tensors) for n, item in enumerate(value)]
        return {type(value).__name__: inside}
    raise CheckpointError(
        f"{where} is {kind_of(value)}; a checkpoint holds tensors, numbers, texts and None, in "
        "dictionaries, lists and tuples: write this part with torch.save, or, if its tensors lie "
        "on several machines, as those of FSDP2 do, with torch.distributed.checkpoint"
    )


def _decoded(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "items" in node:
        found = OrderedDict(
            (_decoded(key, tensors), _decoded(item, tensors)) for key, item in node["items"]
        )
        if node["versions"] is None:
            return dict(found)
        found._metadata = _decoded(node["versions"], tensors)  # type: ignore[attr-defined]
        return found
    ((kind, inside),) = node.items()
    return {"list": list, "tuple": tuple}[kind](_decoded(item, tensors) for item in inside)

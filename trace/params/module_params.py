"""Module parameters: those of a network as entries of a store, whose state may come first."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from ancestral.trace.params.errors import mismatch, wrong_param
from ancestral.trace.recording.message import Message


class Slot(NamedTuple):
    """A place for a tensor within a module that a program names.

    `name` is that of the tensor in the state of a store; `owner` has it as `attribute`.
    """

    name: str
    root_name: str
    root: nn.Module
    owner: nn.Module
    attribute: str

    @property
    def leaf(self) -> nn.Parameter:
        """The parameter that is there now."""
        found = self.owner._parameters[self.attribute]
        assert found is not None
        return found


def slots_of(name: str, module: nn.Module) -> Iterator[Slot]:
    """Yield the places of the parameters of a module, those too that hold the same one."""
    for path, owner in module.named_modules(remove_duplicate=False):
        for attribute, leaf in owner._parameters.items():
            if leaf is not None:
                yield Slot(_joined(name, path, attribute), name, module, owner, attribute)


def adopt(
    name: str, module: nn.Module, loaded: dict[str, nn.Parameter | None], message: Message
) -> None:
    """Put what was loaded for a module into it, and take it out of what was loaded.

    The parameters that were loaded become those of the module, so that an optimizer that was made
    of them goes on; the buffers take over the values.

    Raises:
        ParamError: if only some of the parameters were loaded, or a tensor of another shape.
    """
    slots = list(slots_of(name, module))
    buffers = {_joined(name, path): each for path, each in module.named_buffers()}
    wanted = {slot.name: slot.leaf for slot in slots} | buffers
    known = {key: leaf for key in wanted if (leaf := loaded.get(key)) is not None}
    missing = [slot.name for slot in slots if slot.name not in known]
    if known and missing:
        raise wrong_param(
            message,
            f"module {name!r} was loaded without {', '.join(map(repr, missing))}; expected the "
            "state of a module with the same parameters",
        )
    for key, leaf in known.items():
        if leaf.shape != wanted[key].shape:
            raise mismatch(
                message, f"the shape of {key!r}", list(wanted[key].shape), list(leaf.shape), None
            )
    placed: dict[nn.Parameter, nn.Parameter] = {}
    for slot, own in [(slot, slot.leaf) for slot in slots] if known else ():
        if own not in placed:
            placed[own] = _as(own, known[slot.name])
        slot.owner._parameters[slot.attribute] = placed[own]
    for key in buffers.keys() & known.keys():
        buffers[key].copy_(known[key].detach())
    for key in known:
        del loaded[key]


def _as(own: nn.Parameter, leaf: nn.Parameter) -> nn.Parameter:
    """Return a loaded parameter that is learned, and stored, as that of the module is."""
    leaf.data = leaf.data.to(own.device, own.dtype)
    leaf.requires_grad_(own.requires_grad)
    return leaf


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)

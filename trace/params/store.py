"""Parameter store: the parameters of probabilistic programs, kept as a module.

A store is a module of torch whose parameters are the unconstrained leaves that `an.param` asked
for, under their own names, and the modules that `an.module` named. So `state_dict`, optimizers,
copies, pickles and devices work as ever.

>>> import torch
>>> from torch.distributions import constraints
>>> from ancestral.trace.program.primitives import param
>>> def program():
...     return param("rate", torch.tensor(2.0), constraint=constraints.positive)
>>> store = ParamStore()
>>> with store:
...     rate = program()
>>> round(rate.item(), 4), sorted(store.state_dict())  # the state is the logarithm of the rate
(2.0, ['rate'])
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn.parameter import is_lazy

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.tensor.torch_internals import functional_call
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.place import Location
from ancestral.trace.params import constraints as constraining
from ancestral.trace.params.dotted_names import Branching
from ancestral.trace.params.errors import ParamWarning, StoreError, mismatch, wrong_param
from ancestral.trace.params.module_params import Slot, adopt, slots_of
from ancestral.trace.recording.message import Handler, Message, handlers

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Declared:
    """What a program said of a parameter where it asked first, and what its leaf was then.

    Attributes:
        version: how often the leaf had been written into.
        begun: some of its numbers, which tell too if it changed where torch counts nothing: a
            fused optimizer, `.data`, a copy. Empty if it had none yet.
    """

    constraint: Constraint
    location: Location
    version: int
    begun: Tensor

    def has_changed(self, leaf: Tensor) -> bool:
        """Return whether the leaf is another than it was."""
        if leaf.is_inference() or not self.begun.numel():  # nothing changes the one, or it is new
            return False
        begun = self.begun.to(leaf.device, leaf.dtype)
        return leaf._version > self.version or not torch.equal(begun, _some(leaf))


def _declared(constraint: Constraint, location: Location, leaf: Tensor) -> Declared:
    """Return what is said of a leaf, as it is now."""
    version = 0 if leaf.is_inference() else leaf._version
    return Declared(constraint, location, version, _some(leaf))


def _some(leaf: Tensor) -> Tensor:
    """Return at most 64 of the numbers of a leaf, in their own memory."""
    if is_lazy(leaf):
        return torch.empty(0)
    numbers = leaf.detach().reshape(-1)
    return torch.nan_to_num(numbers[:: max(1, numbers.numel() // 64)][:64])


class ParamStore(Handler, Branching):
    """A module that keeps the parameters of the programs that run while it is open.

    ``with store: model()``, ``store(model)()`` and ``store.bind(model)()`` do the same. The
    innermost open store keeps what no handler answers, wherever the handlers stand, and what
    `an.handlers.block` hides as well. Parameters appear when a program first asks for them: run it
    once before an optimizer is made, or load a state.

    ``store[name]`` is the constrained value and ``store.unconstrained(name)`` the leaf that is
    learned. A state that is loaded makes those parameters that are not there yet; their constraint
    comes when a program asks. A name with dots is a path too, as `get_parameter` and
    `torch.func.functional_call` take it; the latter refuses one that begins with the name of a
    module, or of another parameter. In a network that is to be called, by them or by
    `torch.nn.parallel.DistributedDataParallel`, a store is a submodule that `forward` opens.
    """

    is_recorder = True  # draws need not ask it
    __repr__ = nn.Module.__repr__

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[str, Declared] = {}
        self._is_loaded = False

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function with the store open around every call.

        Raises:
            StoreError: if torch calls, with values that are gone when the function is called.
        """
        if sys._getframe(1).f_code is functional_call.__code__:
            raise StoreError(
                "functional_call of a store would bind a function, and run it with other values "
                "than given; make the store a submodule of a network whose forward opens it, as in "
                "`with self.store: ...`, and give functional_call that network"
            )
        return super().__call__(function)

    def bind(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function with the store open around every call."""
        return self(function)

    def __getitem__(self, name: str) -> Tensor:
        """Return the constrained value of a parameter, differentiable in its leaf.

        Raises:
            StoreError: if there is none of this name, or no program has asked for it yet.
        """
        leaf = self.unconstrained(name)
        if name not in self._declared:
            raise StoreError(
                f"parameter {name!r} was loaded, and no program has asked for it yet, so that "
                "its constraint is unknown; run the program first, or take "
                f"store.unconstrained({name!r})"
            )
        value: Tensor = constraining.transform_of(self._declared[name].constraint)(leaf)
        return value

    def unconstrained(self, name: str) -> nn.Parameter:
        """Return the leaf of a parameter, which is what an optimizer changes.

        Raises:
            StoreError: if there is none of this name.
        """
        leaf = self._leaf(name)
        if leaf is None:
            known = ", ".join(map(repr, self)) or "none"
            raise StoreError(f"the store has no parameter {name!r}; it has {known}")
        return leaf

    @property
    def constraints(self) -> Mapping[str, Constraint]:
        """The constraints of the parameters that programs asked for, by name."""
        return MappingProxyType({name: each.constraint for name, each in self._declared.items()})

    def __contains__(self, name: object) -> bool:
        """Return whether there is a parameter of this name."""
        return isinstance(name, str) and self._leaf(name) is not None

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the parameters."""
        return (name for name, _ in self.named_parameters(remove_duplicate=False))

    def _leaf(self, name: str) -> nn.Parameter | None:
        own = self._parameters.get(name)
        if own is not None or not self._modules:
            return own
        return dict(self.named_parameters(remove_duplicate=False)).get(name)

    def get_parameter(self, target: str) -> nn.Parameter:
        """Return the leaf of this name, as any module does.

        Raises:
            AttributeError: if there is none.
        """
        leaf = self._leaf(target)
        return super().get_parameter(target) if leaf is None else leaf

    def shape_of(self, name: str, asked: Constraint) -> Shape | None:
        """Return the shape of the value of a parameter, None if there is none of this name.

        One that was loaded has the constraint that is asked for now.
        """
        leaf, known = self._leaf(name), self._declared.get(name)
        if leaf is None:
            return None
        constraint = asked if known is None else known.constraint
        return tuple(constraining.transform_of(constraint).forward_shape(leaf.shape))

    def value_of(self, message: Message) -> Tensor:
        """Return the value of the parameter that a program asks for, made if it is new.

        Raises:
            ParamError: if it is asked for as another than it is, or cannot be made.
        """
        slot: Slot | None = message.options.get("slot")
        if slot is not None:
            self._take(slot, message)
            return slot.leaf
        known = self._declared.get(message.name)
        if known is None:
            self._declare(message)
        else:
            self._check(message, known)
        return self[message.name]

    def _declare(self, message: Message) -> None:
        name, init = message.name, message.options["init"]
        asked = message.options["constraint"]
        constraint = constraints.real if asked is None else asked
        leaf = self._leaf(name)
        constraining.check_constraint(constraint, message)
        if leaf is None:
            value = constraining.initial(message)
            begun = constraining.unconstrained(value, constraint, message)
            self._warn_if_late(message)
            self._parameters[name] = nn.Parameter(begun)
        elif init is not None:
            size = constraining.initial(message).shape
            expected = list(constraining.transform_of(constraint).inverse_shape(size))
            found = f"{list(size)}, which is {expected} unconstrained"
            if expected != list(leaf.shape):
                held = f"{list(leaf.shape)} unconstrained"
                raise mismatch(message, "its shape", found, held, None)
        if leaf is not None and name in self._parameters:
            # In the order of the program, whatever that of the state: optimizers count by it.
            self._parameters[name] = self._parameters.pop(name)
        leaf = self.unconstrained(name)
        self._declared[name] = _declared(constraint, message.where.location, leaf)

    def _check(self, message: Message, known: Declared) -> None:
        """Raise unless a parameter is asked for again as it is.

        By its name alone it may be asked for whatever it is.
        """
        init, asked = message.options["init"], message.options["constraint"]
        if asked is None and init is not None:
            asked = constraints.real
        if asked is not None and not constraining.is_same(asked, known.constraint):
            found, expected = short(asked), short(known.constraint)
            raise mismatch(message, "its constraint", found, expected, known.location)
        shape = self.shape_of(message.name, known.constraint)
        if isinstance(init, Tensor) and tuple(init.shape) != shape:
            raise mismatch(
                message, "its shape", list(init.shape), list(shape or ()), known.location
            )

    def _warn_if_late(self, message: Message) -> None:
        """Warn of a parameter that is made now, though a state was loaded, or others were trained.

        An optimizer that has changed others already does not know it.
        """
        name, where = message.name, message.where.location
        leaves = dict(self.named_parameters(remove_duplicate=False))
        trained = [
            known
            for known, declared in self._declared.items()
            if known in leaves and declared.has_changed(leaves[known])
        ]
        if self._is_loaded:
            problem = (
                "begins with its init: the state that the store has loaded lacks it; load the "
                "state of the same program, or, if the rest is to be new, run the program before "
                "the state is loaded, with strict=False"
            )
        elif trained:
            problem = (
                f"is new to the store, in which {trained[0]!r} has changed already: an optimizer "
                "that was made before does not train it; run the program once before the "
                "optimizer is made, or tell it, with optimizer.add_param_group({'params': "
                f"[store.unconstrained({name!r})]}})"
            )
        else:
            return
        warning = ParamWarning(f"parameter {name!r} ({where}) {problem}")
        warnings.warn_explicit(warning, None, where.filename, where.line)

    def module_of(self, name: str) -> nn.Module | None:
        """Return the module that the store has of this name."""
        return self._modules.get(name)

    def _take(self, slot: Slot, message: Message) -> None:
        """Let a module be one of the store, with the state that was loaded for it."""
        name, module = slot.root_name, slot.root
        if self._modules.get(name) is module:
            return
        first = self._declared.get(message.name)
        if first is not None:
            raise wrong_param(
                message,
                f"module {name!r} has a parameter of a name that an.param asked for at "
                f"{first.location}; give one of them another name",
            )
        if message.name not in self._parameters:
            self._warn_if_late(message)
        adopt(name, module, self._parameters, message)
        self._modules[name] = module
        for each in slots_of(name, module):
            self._declared[each.name] = _declared(
                constraints.real, message.where.location, each.leaf
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *options: Any) -> None:
        """Make the parameters that are new, and load: no name is unexpected."""
        metadata, strict, missing, _, errors = options
        within = self.state_dict().keys() - self._parameters.keys()  # what the modules have
        given = {key[len(prefix) :]: key for key in state_dict if key.startswith(prefix)}
        ours = {name: key for name, key in given.items() if name not in within}
        for name in [name for name in ours if name not in self._parameters]:
            tensor = state_dict[ours[name]]
            if isinstance(tensor, Tensor):
                is_learned = tensor.is_floating_point() or tensor.is_complex()
                fresh = tensor.detach().clone()
                self._parameters[name] = nn.Parameter(fresh, requires_grad=is_learned)
            else:
                kind = type(tensor).__name__
                errors.append(f"parameter {name!r} is a {kind}; expected a torch.Tensor.")
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, [], errors)
        self._is_loaded = self._is_loaded or bool(given)
        for key in ours.values():  # a module of the store would not expect those of its prefix
            del state_dict[key]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, of which parameters may have the name."""
        if name in self._parameters and isinstance(value, nn.Parameter):
            self._parameters[name] = value  # names with dots are none of an attribute
        elif name in vars(self):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def extra_repr(self) -> str:
        """Show the parameters that are in no module of the store."""
        return "\n".join(
            f"({name}): {list(leaf.shape)}"
            + (f", {short(known.constraint)}" if known is not None else ", loaded")
            for name, leaf in self._parameters.items()
            for known in (self._declared.get(name),)
            if leaf is not None
        )


def open_store() -> ParamStore | None:
    """Return the innermost store that is open."""
    for handler in reversed(handlers()):
        if isinstance(handler, ParamStore):
            return handler
    return None


def valued(message: Message) -> Tensor:
    """Return the value of a parameter: given by a handler, or kept by the open store.

    Raises:
        ParamError: if neither is there, or the value is none that the parameter can have.
    """
    store = open_store()
    if message.value is None:
        if store is None:
            raise wrong_param(
                message,
                "no store is open that could keep it; make one, store = an.ParamStore(), and run "
                "the program within it, as in `with store: model()`, or give the value with "
                "an.handlers.substitute or an.handlers.lift",
            )
        return store.value_of(message)
    known = None if store is None else store.constraints.get(message.name)
    asked = message.options["constraint"]
    constraint = asked if asked is not None else known or constraints.real
    constraining.check_value(message, expected_shape(message), constraint)
    return message.value


def expected_shape(message: Message) -> Shape | None:
    """Return the shape of a parameter as far as it is known without evaluating its init."""
    slot: Slot | None = message.options.get("slot")
    if slot is not None:
        return tuple(slot.leaf.shape)
    store = open_store()
    init, asked = message.options["init"], message.options["constraint"]
    constraint = constraints.real if asked is None else asked
    constraining.check_constraint(constraint, message)
    known = None if store is None else store.shape_of(message.name, constraint)
    if known is None and isinstance(init, Tensor):
        return tuple(init.shape)
    return known

"""Neural baseline: a network that predicts the credit of a site from what was there before it."""

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, Self
from weakref import ref

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from ancestral.estimators.baselines.learned import Learned, Memory, StateError, decayed
from ancestral.estimators.baselines.leave_one_out import predicted
from ancestral.estimators.credit.credit import Credit, Part
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.nodes.distribution_params import Held, factorized, parameters
from ancestral.trace.nodes.node import Node

Inputs = Tensor | Callable[[Credit], Tensor]
_KEPT = 0.99
_ADAM = partial(torch.optim.Adam, lr=0.01)


class Neural(Learned):
    """What a network predicts of the credit, and of the rest the other elements.

        b[n, k] = m + d f(x[n], z[n, others than k]) + LOO(what is left)[n, k]
        f = argmin Σ_earlier (C - m - d f)²

    By default, x is what the distribution of each example was given: its parameters. Of the other
    elements of the example, f is linear. LOO is what `LeaveOneOut` subtracts; m and d are mean and
    deviation of earlier credits. After each recording the network takes a step towards it.

    Unbiased, because x is there before the draw, which is checked, the elements of a site are drawn
    independently, and m, d and f hold earlier recordings only. Mnih and Gregor (2014), "Neural
    variational inference and learning in belief networks", section 2.3.

    Args:
        inputs: x, [N, ...] for a site of N examples along its first dimension, or of another shape
            for all of them; a tensor, or a function of the credit that returns one.
        net: maps [N, features] to one number for each example, [N, 1], or for each of its elements;
            by default, a network of 64 hidden units for each site, which sees the other elements.
        optimizer: makes the optimizer of a network from its parameters, Adam at 0.01 by default.
            If None, its gradients are left in ``.grad``, for an optimizer of the user's.

    Raises:
        TypeError: if `inputs` is no tensor or function, `net` no module, `optimizer` no function.
    """

    is_proven = True  # with its inputs checked
    KEYS = frozenset({"mean", "square", "inputs", "squared inputs", "weight"})

    def __init__(
        self,
        inputs: Inputs | None = None,
        net: nn.Module | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Any] | None = _ADAM,
    ) -> None:
        """Begin with nothing known."""
        if inputs is not None and not isinstance(inputs, Tensor) and not callable(inputs):
            raise TypeError(f"inputs must be a tensor or a function, not {kind_of(inputs)}")
        if net is not None and not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, not {kind_of(net)}")
        if optimizer is not None and not callable(optimizer):
            raise TypeError(
                f"optimizer must be a function of parameters, such as torch.optim.Adam, or None, "
                f"not {kind_of(optimizer)}"
            )
        super().__init__()
        self._inputs, self._optimizer = inputs, optimizer
        self._shared = net
        self._nets: dict[str, tuple[nn.Module, Any]] = {}
        self._latest: ref[Any] | None = None  # the recording that was asked for last
        self._pending: dict[str, Any] = {}  # states of networks that are not made yet

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what only recordings of this process have."""
        return {**super().__getstate__(), "_latest": None}

    @property
    def asks_user(self) -> bool:
        """Whether its inputs are a function of the user's."""
        return callable(self._inputs)

    def inputs_of(self, credit: Credit) -> Tensor | None:
        """Return the user's x for a site, tracked; None for the parameters of its distribution."""
        return self._inputs(credit) if callable(self._inputs) else self._inputs

    def _predict(self, credit: Credit, memory: Memory) -> Tensor:
        net, _ = self._net_of(credit)
        if self._shared is not None and self._is_new(credit.recording):
            self._step()  # not before: the other sites of its recording are to have the net of then
            if credit.recording is not None and self._given.get(credit.recording):
                memory = {}  # asked for other sites before, from which the net has learned
        with torch.no_grad():
            known = self._ask(net, credit, memory).to(credit.total.dtype)
        others = predicted(credit)
        if others is None:
            return known
        rest = predicted(replace(credit, parts=(*credit.parts, Part(-known, frozenset({0})))))
        return known if rest is None else known + rest

    def _learn(self, credit: Credit, memory: Memory) -> Memory:
        cost = credit.total.detach().float().expand(credit.shape)
        x = _features(credit)
        if memory and memory["inputs"].shape != x.shape[1:]:
            memory = {}
        now = {
            "mean": cost.mean(),
            "square": cost.square().mean(),
            "inputs": x.mean(0),
            "squared inputs": x.square().mean(0),
            "weight": cost.new_ones(()),
        }
        learned = {
            key: decayed(memory.get(key, 0 * value), value, 1 - _KEPT) for key, value in now.items()
        }
        net, optimizer = self._net_of(credit)
        if optimizer is not None and self._shared is None:
            optimizer.zero_grad()
        with torch.enable_grad():
            left = cost - self._ask(net, credit, learned)
            (left / _deviation(learned, "mean", "square")).square().mean().backward()
        if optimizer is not None and self._shared is None:
            optimizer.step()
        return learned

    def _is_new(self, recording: Any) -> bool:
        """Return whether this is the first site of a recording that is asked for."""
        before, self._latest = self._latest, recording and ref(recording)
        return before is None or before() is not recording

    def _step(self) -> None:
        """Take the step that the sites of the recording before have asked for."""
        for _, optimizer in self._nets.values():
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()

    def _ask(self, net: nn.Module, credit: Credit, memory: Memory) -> Tensor:
        """Return what a network predicts, [*shape of the site] with ones."""
        x, shape = _features(credit), credit.shape
        if not memory or memory["inputs"].shape != x.shape[1:]:
            return x.new_zeros((1,) * len(shape))
        if self._shared is None:
            away = x - memory["inputs"] / memory["weight"]
            x = away / _deviation(memory, "inputs", "squared inputs")
        if self._shared is None:
            found: Tensor = net(x, _values(credit))
        else:
            own = next(net.parameters(), x)
            found = net(x.to(own)).to(x)
        size = (1,) * len(shape[1:]) if found.numel() == len(found) else shape[1:]
        rows = [len(x)] if shape else []
        if found.numel() != math.prod((*rows, *size)):
            raise ValueError(
                f"site {credit.name!r} ({credit.site and credit.site.location}): the net of Neural "
                f"returns {list(found.shape)} of inputs {list(x.shape)}; expected one number for "
                f"each example, [{len(x)}, 1], or for each of its elements, of {list(shape)}"
            )
        found = found.reshape((*rows, *size))
        return memory["mean"] / memory["weight"] + _deviation(memory, "mean", "square") * found

    def _net_of(self, credit: Credit) -> tuple[nn.Module, Any]:
        """Return the network of a site, and its optimizer."""
        values, features = _values(credit), _features(credit).shape[-1]
        size = (features, *values.shape[1:])
        key = "" if self._shared is not None else f"{credit.name} {list(size)}"
        if key not in self._nets:
            loaded = self._pending.pop(key, None)
            net = self._shared
            if net is None and loaded is None:
                net = _Network(*size).to(credit.total.device)
            elif net is None:
                with torch.device("meta"):  # draws no numbers, as a run that goes on draws none
                    net = _Network(*size)
                net = net.to_empty(device=credit.total.device)
            made = None if self._optimizer is None else self._optimizer(net.parameters())
            self._nets[key] = net, made
            if loaded is not None:
                self._load(key, loaded)
        return self._nets[key]

    def _load(self, key: str, state: Mapping[str, Any]) -> None:
        net, optimizer = self._nets[key]
        net.load_state_dict(state["net"])
        if optimizer is not None and state["optimizer"] is not None:
            optimizer.load_state_dict(state["optimizer"])

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of all sites, the networks, and their optimizers."""
        if self._shared is not None:
            self._step()
        nets = {
            key: {"net": net.state_dict(), "optimizer": made and made.state_dict()}
            for key, (net, made) in self._nets.items()
        }
        # A copy, which what is learned later leaves as it is.
        return {"sites": super().state_dict(), "nets": deepcopy({**self._pending, **nets})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what is known of all sites, in place of what was; networks when they are met.

        Raises:
            StateError: if it is no such state.
        """
        if not isinstance(state, Mapping) or set(state) != {"sites", "nets"}:
            raise StateError("the state has no 'sites' and 'nets'; expected that of a Neural")
        super().load_state_dict(state["sites"])
        self._pending = dict(state["nets"])
        for key in self._nets.keys() & self._pending.keys():
            self._load(key, self._pending.pop(key))

    def merge_state(self, others: Iterable[Self]) -> Self:
        """Take in what others have learned: means of moments, and of the networks' parameters."""
        others = list(others)
        super().merge_state(others)
        for key, (net, _) in self._nets.items():
            same = [net, *(other._nets[key][0] for other in others if key in other._nets)]
            with torch.no_grad():
                for each in zip(*(one.parameters() for one in same), strict=True):
                    each[0].copy_(torch.stack([p.to(each[0]) for p in each]).mean(0))
        return self


class _Network(nn.Module):
    """Predicts the credit of each element from inputs, and from the values of the others."""

    def __init__(self, features: int, elements: int, width: int) -> None:
        super().__init__()
        last = nn.Linear(64, elements)
        nn.init.zeros_(last.weight)  # to begin with the mean
        self.inner = nn.Sequential(nn.Linear(features, 64), nn.Tanh(), last)
        self.others = nn.Parameter(torch.zeros(elements, width))

    def forward(self, x: Tensor, values: Tensor) -> Tensor:
        """Return what [N, features] and values [N, elements, width] predict, [N, elements]."""
        own = (values * self.others).sum(-1)
        found: Tensor = self.inner(x) + own.sum(1, keepdim=True) - own
        return found


def _values(credit: Credit) -> Tensor:
    """Return the values of each example, [N, elements, width], classes as ones among zeros."""
    count = credit.shape[0] if credit.shape else 1
    elements = math.prod(credit.shape[1:])
    node: Node | None = credit.site
    if node is None or node.shape != credit.shape:
        return torch.zeros(count, elements, 0, device=credit.total.device)
    value, fn = node.value.detach(), factorized(node.fn) if node.fn is not None else None
    if isinstance(fn, Categorical):
        value = nn.functional.one_hot(value.long(), fn.param_shape[-1])
    return value.reshape(count, elements, -1).to(credit.total.device, torch.float32)


def _given_to(credit: Credit) -> Tensor:
    """Return the parameters of the distribution of each example, [N, features].

    Raises:
        TypeError: if it is not known.
    """
    node: Node | None = credit.site
    if node is None or node.fn is None:
        raise TypeError(f"site {credit.name!r} has no distribution: pass inputs= to Neural")
    fn: Any = factorized(node.fn)
    if hasattr(type(fn), "logits"):  # the same, whichever were asked for
        held = [Held(fn.logits, fn.logits.dim() - len(fn.batch_shape))]
    else:
        held = [each for each in parameters(fn) if each.tensor.is_floating_point()]
    wholes = [
        tensor.detach().expand(node.shape + tensor.shape[tensor.dim() - event :])
        for tensor, event in held
        if 0 <= event <= tensor.dim()
    ]
    return torch.cat([whole.reshape(*credit.shape[:1], -1) for whole in wholes], -1)


def _features(credit: Credit) -> Tensor:
    """Return the inputs of each example, [N, features], or of a single one."""
    x = credit.inputs
    if x is None:
        x = _given_to(credit)
    x = x.detach().to(credit.total.device, torch.float32)
    if credit.shape and x.shape[:1] == credit.shape[:1]:
        return x.reshape(len(x), -1)
    return x.reshape(1, -1)


def _deviation(memory: Memory, first: str, second: str) -> Tensor:
    """Return the standard deviation by the means of a quantity and of its square."""
    mean, square = memory[first] / memory["weight"], memory[second] / memory["weight"]
    return (square - mean.square()).clamp(min=1e-6 * square + 1e-12).sqrt()

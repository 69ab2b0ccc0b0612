"""Bridge: a handler of Pyro that turns a finished message into a statement of the library.

It is asked last, when the handlers of Pyro have set value, mask, scale and plates of a statement,
and answers as `an.sample` does. So a recording sees a Pyro program with its names, and Pyro's own
traces hold tracked values.
"""

import itertools
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Size, Tensor
from torch.distributions import Distribution

from ancestral.provenance.algebra.alignment_map import common_shape
from ancestral.provenance.tensor.tensor import provenance, untrack
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import place
from ancestral.trace.context.stack import local
from ancestral.trace.enumeration.enumerate import open_room
from ancestral.trace.enumeration.markov import Window
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate_frame import Plate
from ancestral.trace.program.checks import fitting, weighable
from ancestral.trace.program.site import drawn, given, named
from ancestral.trace.recording.message import Message, apply_stack, is_handled
from ancestral.trace.serialize.pyro_distributions import Site, translated
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.markov_messenger import MarkovMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.subsample_messenger import _Subsample

KEY = "_ancestral"
"""The key that a message of Pyro, a site of its traces, and its `infer` have the node under."""


class Recorded(NamedTuple):
    """The node of a statement, and the distribution that Pyro knows it by."""

    node: Node
    fn: Any


def node_of(site: Any) -> Node | None:
    """Return the node of a site of a trace of Pyro, None if that was not recorded so."""
    known = site.get(KEY)
    return known.node if known is not None and known.fn is site["fn"] else None


class Bridge(Messenger):
    """Answers the statements of a Pyro program while this thread records."""

    def __init__(self) -> None:
        super().__init__()
        self._indices: dict[str, tuple[int, Tensor]] = {}
        self._serials = itertools.count(-2, -1)  # those of plates here count upwards
        self._windows: dict[MarkovMessenger, Window] = {}

    def forget(self) -> None:
        """Forget the subsamples and the steps of the recordings that have ended."""
        self._indices.clear()
        self._windows.clear()

    def _pyro_sample(self, msg: Any) -> None:
        """Give a sample its value, and take it into the recordings."""
        fn = msg["fn"]
        is_ours = bool(local.traces) and not local.is_inside
        if not is_ours or isinstance(fn, _Subsample) or not isinstance(fn, Distribution):
            return
        if msg["args"] or msg["kwargs"]:  # a draw of another shape than Pyro knows
            return
        if msg["infer"].get("_deterministic"):
            self._deterministic(msg)
            return
        site = translated(fn, msg["value"], msg["mask"])
        message = self._message(msg, _broadcast(site, msg["scale"]))
        _refuse_twin(message)
        with self._steps():
            answered = apply_stack(message, _settled) if is_handled() else _settled(message)
        if not isinstance(site.fn, Factor):
            msg["value"] = answered.value
        elif msg["value"] is None:
            msg["value"] = fn.sample()
        msg["is_observed"] = answered.is_observed
        msg["done"] = True
        if answered.enumeration is not None and answered.enumeration.own is not None:
            msg["infer"] = {**msg["infer"], "_enumerate_dim": answered.enumeration.own.dim}
        node = local.traces[-1].get(msg["name"])
        if node is not None and node is not message.origin:
            msg[KEY] = Recorded(node, fn)
            # A replay hands this very dictionary on from the guide to the model.
            msg["infer"] = {**msg["infer"], KEY: node}

    def _steps(self) -> AbstractContextManager[object]:
        """Open, for one message, a window on the steps of each ``pyro.markov`` that is open.

        What ``keep=True`` lets come back into sight keeps its dimension.
        """
        found = (m for m in _PYRO_STACK if isinstance(m, MarkovMessenger) and not m.keep)
        open_now = dict.fromkeys(found)
        if not open_now:
            return nullcontext()
        stack = ExitStack()
        for messenger in open_now:
            window = self._windows.setdefault(messenger, Window(messenger.history))
            window.step = vars(messenger)["_pos"]
            stack.enter_context(window)
        return stack

    def _message(self, msg: Any, site: Site) -> Message:
        return Message(
            "sample",
            msg["name"],
            place(),
            site.fn,
            value=site.value,
            is_observed=msg["is_observed"],
            is_reparameterized=site.is_reparameterized,
            infer=_infer(msg["infer"]),
            mask=site.mask,
            scale=msg["scale"],
            plates=self._plates(msg),
            origin=None if msg["is_observed"] else _origin(msg),
            traces=() if is_handled() else local.traces,
        )

    def _deterministic(self, msg: Any) -> None:
        """Name a value that the program computes."""
        message = Message(
            "deterministic",
            msg["name"],
            place(),
            value=msg["value"],
            plates=self._plates(msg),
            options={"event_dim": len(msg["fn"].event_shape)},
            traces=() if is_handled() else local.traces,
        )
        answered = apply_stack(message, named) if is_handled() else named(message)
        msg["value"] = answered.value

    def _plates(self, msg: Any) -> tuple[Plate, ...]:
        return tuple([self._plate(frame, msg["fn"]) for frame in msg["cond_indep_stack"]])

    def _plate(self, frame: CondIndepStackFrame, fn: Distribution) -> Plate:
        part, dim = frame.size, frame.dim
        if part is None or part < 0:  # nobody has said
            is_there = dim is not None and -dim <= len(fn.batch_shape)
            part = fn.batch_shape[dim] if dim is not None and is_there else 1
        size = part if frame.full_size is None else frame.full_size
        serial, indices = self._indices.get(frame.name, (-1, None))
        turn = None if dim is not None else frame.counter
        return Plate(frame.name, int(size), int(part), dim, turn, serial, indices, is_checked=False)

    def _pyro_post_sample(self, msg: Any) -> None:
        """Note which part of a plate is there."""
        value = msg["value"]
        if not isinstance(msg["fn"], _Subsample) or not local.traces:
            return
        if isinstance(value, Tensor):
            self._indices[msg["name"]] = next(self._serials), untrack(value)

    def _pyro_post_param(self, msg: Any) -> None:
        """Name a parameter; Pyro's own tensor goes on, whose attributes are asked for."""
        is_ours = local.traces and not local.is_inside and not _are_unnamed.get()
        if is_ours and isinstance(msg["value"], Tensor):
            message = Message(
                "param", msg["name"], place(), value=msg["value"], traces=local.traces
            )
            named(message)


_OWN = frozenset({KEY, "baseline"})


def _infer(infer: Any) -> Mapping[str, Any]:
    """Return what is said of inference, without Pyro's options for a baseline, which are none."""
    is_theirs = isinstance(infer.get("baseline"), Mapping)
    if not is_theirs and KEY not in infer:
        return infer  # type: ignore[no-any-return]
    left_out = _OWN if is_theirs else {KEY}
    return {key: value for key, value in infer.items() if key not in left_out}


def _origin(msg: Any) -> Node | None:
    """Return the node of the site that a value is replayed from."""
    node = msg["infer"].get(KEY)
    if node is None or node.name != msg["name"]:
        return None
    found = provenance(msg["value"])
    return node if found is not None and node.source in found.members else None


def _refuse_twin(message: Message) -> None:
    """Raise a SiteError if a program states a site twice."""
    known = local.traces[-1].get(message.name)
    if known is not None and known.type == "sample" and known is not message.origin:
        raise SiteError(
            f"Multiple sample sites named {message.name!r}: at {known.location} and at "
            f"{message.where.location}; expected its own name for each in one run, for example "
            f"f'{message.name}_{{i}}' in a loop; a recording has room for one run"
        )


def _broadcast(site: Site, scale: Any) -> Site:
    """Return a site whose value has the batch that its density has: Pyro broadcasts all of it."""
    fn, value, mask, _ = site
    if value is None or open_room() is not None:
        return site
    batch = value.shape[: value.dim() - len(fn.event_shape)]
    weights = [each.shape for each in (mask, scale) if isinstance(each, Tensor)]
    if batch == fn.batch_shape and not weights:
        return site
    try:
        whole = common_shape(fn.batch_shape, batch, *weights)
    except RuntimeError:  # to be told by whoever combines them
        return site
    if whole != batch:
        value = value.expand(*whole, *value.shape[len(batch) :])
    return site._replace(value=value, fn=fn if whole == fn.batch_shape else fn.expand(Size(whole)))


def _settled(message: Message) -> Message:
    if message.is_intervened:
        return named(message)
    if message.value is None:
        return drawn(message)
    return given(message if message.enumeration is None else weighable(fitting(message)))


_are_unnamed: ContextVar[bool] = ContextVar("parameters without a node", default=False)


@contextmanager
def unnamed_params() -> Generator[None]:
    """Take no parameters into the recordings: a step of training has many, and asks for none."""
    token = _are_unnamed.set(True)
    try:
        yield
    finally:
        _are_unnamed.reset(token)


_BRIDGE = Bridge()


def join() -> None:
    """Put the bridge on Pyro's stack."""
    if _BRIDGE not in _PYRO_STACK:
        _PYRO_STACK.insert(0, _BRIDGE)


def part() -> None:
    """Take it off."""
    _BRIDGE.forget()
    if _BRIDGE in _PYRO_STACK:
        _PYRO_STACK.remove(_BRIDGE)

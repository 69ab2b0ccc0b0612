"""Markers: identity ops by which a captured graph tells its draws and densities.

While the compiler reads a loss function, and only then, the methods of every distribution are
replaced: a draw is marked together with its log-density, and a density together with its value. So
that the graph carries the user's own density, and no class needs to be known.
"""

import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, enable_grad
from torch.compiler import is_dynamo_compiling
from torch.distributions import Distribution, Independent

from ancestral.estimators.capture.kl_divergence import CODE, FUNCTION, fill
from ancestral.estimators.capture.opaque_draws import OPAQUE
from ancestral.estimators.capture.statements import INSTEAD, METHODS
from ancestral.provenance.tensor.torch_internals import compiler
from ancestral.trace.context.patch import subclasses
from ancestral.trace.context.switch import restore_torch

_Method = Callable[..., Any]

_library: Any = torch.library.Library("ancestral", "DEF")
_library.define("site(Tensor value, Tensor log_prob) -> Tensor")
_library.define("pathwise_site(Tensor value, Tensor log_prob) -> Tensor")
_library.define("noise(Tensor value) -> Tensor")
_library.define("held(Tensor value) -> Tensor")
_library.define("density(Tensor log_prob, Tensor value) -> Tensor")
_library.define("whole(Tensor value) -> Tensor")
_library.define("given(Tensor value, Tensor[] tensors, str[] names) -> Tensor")


def _first(value: Tensor, *_: Any) -> Tensor:
    return value.view_as(value)


for _name in ("site", "pathwise_site", "noise", "density", "whole", "given"):
    _library.impl(_name, _first, "CompositeImplicitAutograd")
_library.impl("held", lambda value: value.detach(), "CompositeImplicitAutograd")

SITE: Any = torch.ops.ancestral.site
"""A draw of ``sample``, and its log-density."""
PATHWISE: Any = torch.ops.ancestral.pathwise_site
"""A draw of ``rsample``, and its log-density where it is held fixed."""
NOISE: Any = torch.ops.ancestral.noise
"""A draw of a distribution that has no density."""
HELD: Any = torch.ops.ancestral.held
"""A drawn value that is held fixed, for its score."""
DENSITY: Any = torch.ops.ancestral.density
"""A log-density that the program computes, and the value it is taken at."""
GIVEN: Any = torch.ops.ancestral.given
"""A draw, and the tensors of its distribution by their names, for baselines that look at them."""
WHOLE: Any = torch.ops.ancestral.whole
"""A value that is taken as it is, and not apart into what it was computed from."""
SITES = frozenset({SITE, PATHWISE})
MARKERS = SITES | {NOISE, HELD, DENSITY, WHOLE, GIVEN}


class _Depth:
    """Whether the compiler reads what a draw or a density does inside: it follows the attribute."""

    def __init__(self) -> None:
        self.is_inside = False


_depth = _Depth()


def _density_of(fn: Distribution, value: Tensor) -> Tensor | None:
    try:
        density: Tensor = fn.log_prob(value)
    except NotImplementedError:  # a class without one: what it draws is noise, and has no score
        return None
    return density


def _tensors_of(fn: Distribution) -> dict[str, Tensor]:
    """Return the tensors that a distribution holds, and those of the distributions that it holds.

    By the names of the attributes, as in ``base_dist.loc``.
    """
    held: dict[str, Tensor] = {}
    for name, each in fn.__dict__.items():
        if isinstance(each, Tensor):
            held[name] = each
        elif isinstance(each, Distribution):
            for inner, item in each.__dict__.items():
                if isinstance(item, Tensor):
                    held[f"{name}.{inner}"] = item
    return held


def _drawing(original: _Method, is_pathwise: bool, has_params: bool) -> _Method:
    mark = PATHWISE if is_pathwise else SITE

    def drawn(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _depth.is_inside or not is_dynamo_compiling():
            return original(self, *args, **kwargs)
        _depth.is_inside = True
        try:
            value = original(self, *args, **kwargs)
            with enable_grad():
                density = _density_of(self, HELD(value))
        finally:  # the program may catch what is raised, and the compiler keeps what is set
            _depth.is_inside = False
        if density is None:
            return NOISE(value)
        if has_params:
            held = _tensors_of(self)
            value = GIVEN(value, [*held.values()], [*held])
        return mark(value, density)

    return drawn


def _scoring(original: _Method) -> _Method:
    def scored(self: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if _depth.is_inside or not is_dynamo_compiling():
            return original(self, value, *args, **kwargs)
        _depth.is_inside = True
        try:
            density = original(self, value, *args, **kwargs)
        finally:
            _depth.is_inside = False
        return DENSITY(density, value) if isinstance(value, Tensor) else density

    return scored


def _unchecked(
    self: Any,
    batch_shape: torch.Size = torch.Size(),  # noqa: B008 (as torch has it)
    event_shape: torch.Size = torch.Size(),  # noqa: B008
    validate_args: bool | None = None,
) -> None:
    """Take shapes as `Distribution.__init__` does, without the checks, which read values."""
    self._batch_shape, self._event_shape, self._validate_args = batch_shape, event_shape, False


def _accept(self: Any, value: Tensor) -> None:
    """Take a value as `Distribution._validate_sample` does, without the checks."""


_UNCHECKED: dict[str, Any] = {"__init__": _unchecked, "_validate_sample": _accept}
for _name, _function in _UNCHECKED.items():
    _function.__wrapped__ = vars(Distribution)[_name]


@functools.lru_cache(maxsize=1024)
def _replacement(name: str, original: _Method, has_params: bool) -> _Method:
    is_draw, is_pathwise = name != "log_prob", name == "rsample"
    made: Any = _drawing(original, is_pathwise, has_params) if is_draw else _scoring(original)
    made.__wrapped__ = original  # other threads may look, which compile nothing
    return made  # type: ignore[no-any-return]


class _Marks(threading.local):
    """Whether a step of this thread may be compiled, and what is replaced while it is read."""

    def __init__(self) -> None:
        self.is_wanted = self.has_params = False
        self.count = 0
        self.replaced: list[tuple[Any, str, Any]] = []
        self._quiet = ExitStack()

    def begin(self) -> None:
        """Mark draws and densities, wherever the compiler reads them."""
        self.count += 1
        with suppress(RuntimeError):  # another thread records
            restore_torch()
        fill()
        self._quiet.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", DeprecationWarning)  # of the compiler by itself
        self._replace(FUNCTION, "__code__", CODE)
        for kind in (Distribution, *subclasses(Distribution)):
            if issubclass(kind, Independent):
                continue  # the draw of its base is the site
            for name in ("sample", "rsample", "log_prob"):
                original = vars(kind).get(name)
                if callable(original) and not (kind is Distribution and name != "sample"):
                    original = OPAQUE.get(original, original)
                    self._replace(kind, name, _replacement(name, original, self.has_params))
        for name, function in _UNCHECKED.items():
            self._replace(Distribution, name, function)
        for kind, name, function in METHODS:
            self._replace(kind, name, function)
        for function, code in INSTEAD.items():
            self._replace(function, "__code__", code)
            if hasattr(function, "_torchdynamo_disable"):
                self._replace(function, "_torchdynamo_disable", False)
        config = compiler().config
        self._replace(config, "allow_rnn", True)

    def end(self) -> None:
        """Put everything back."""
        while self.replaced:
            owner, name, original = self.replaced.pop()
            setattr(owner, name, original)
        self._quiet.close()

    def _replace(self, owner: Any, name: str, new: Any) -> None:
        known = vars(owner)[name] if isinstance(owner, type) else getattr(owner, name)
        self.replaced.append((owner, name, known))
        setattr(owner, name, new)


_marks = _Marks()


def _start(_: Any) -> None:
    if _marks.is_wanted and not _marks.replaced:
        _marks.begin()


def _end(_: Any) -> None:
    _marks.end()


def mark_what_is_compiled(has_params: bool) -> None:
    """Mark draws and densities whenever the compiler reads a function, until told otherwise.

    Args:
        has_params: whether draws are marked with the tensors of their distributions.
    """
    callbacks = compiler().callbacks
    if _start not in callbacks.start_callbacks:  # a reset of the compiler forgets them
        callbacks.start_callbacks.append(_start)
        callbacks.end_callbacks.append(_end)
    _marks.is_wanted, _marks.has_params = True, has_params


def mark_no_more() -> None:
    """Let the compiler read functions as they are."""
    _marks.is_wanted = False
    if _marks.replaced:
        _marks.end()


def times_read() -> int:
    """Return how often the compiler has begun to read a function with its draws marked."""
    return _marks.count


@contextmanager
def unmarked() -> Iterator[None]:
    """Leave everything as it is without markers, from now on until the compiler reads anew."""
    _marks.end()
    was_wanted, _marks.is_wanted = _marks.is_wanted, False
    try:
        yield
    finally:
        _marks.is_wanted = was_wanted

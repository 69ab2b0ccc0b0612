"""What recordings replace in torch: attributes of any kind, which are put back as they were."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.errors import TransformError
from ancestral.trace.context.patch import Replacing, interceptors


class _Meta(type):
    def made(cls) -> str:
        return cls.__name__


class _Everything(dict[str, int], metaclass=_Meta):
    """Has an attribute of every kind, some of C, some inherited."""

    __slots__ = ("slot",)
    number = 3
    of_c = vars(dict)["fromkeys"]
    from_c = len
    of_torch = torch._C.TensorBase.add

    def method(self) -> int:
        return len(self)

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @staticmethod
    def alone() -> int:
        return 1

    @property
    def computed(self) -> int:
        return 2


OWN = "slot number of_c from_c of_torch method of_class alone computed".split()
INHERITED = "fromkeys get keys __len__".split()


def replaced() -> list[tuple[Any, str]]:
    """Return what a recording replaces."""
    with an.record():
        return [
            (owner, name)
            for each in interceptors
            if isinstance(each, Replacing)
            for owner, name, _ in each._originals
        ]


@pytest.mark.parametrize("name", [*OWN, *INHERITED])
def test_an_attribute_of_any_kind_is_put_back_as_it_was(name: str) -> None:
    before = copy.copy(dict(vars(_Everything)))
    replacing = Replacing()
    replacing.enter()
    replacing.replace(_Everything, name, lambda *_: 7)
    replacing.replace(_Everything, name, lambda *_: 8)
    assert vars(_Everything)[name]() == 8
    replacing.leave()
    after = dict(vars(_Everything))
    assert after == before
    assert all(after[each] is before[each] for each in before)


class Counting(Replacing):
    """Replaces a method by one more than it, and counts how often it sets out to."""

    begun = 0

    def begin(self) -> None:
        self.begun += 1
        original = vars(_Everything)["method"]
        self.replace(_Everything, "method", lambda each: original(each) + 1)


def test_what_was_replaced_is_replaced_again_and_anew_where_somebody_changed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def value() -> int:
        return int(_Everything().method())

    replacing, before = Counting(), value()
    for _ in range(3):
        replacing.enter()
        assert value() == before + 1
        replacing.leave()
        assert value() == before
    assert replacing.begun == 1
    monkeypatch.setattr(_Everything, "method", lambda _: 40)
    replacing.enter()
    assert value() == 41
    replacing.leave()
    assert (value(), replacing.begun) == (40, 2)


def test_torch_is_left_as_it_was() -> None:
    places = replaced()
    before = [vars(owner).get(name, "absent") for owner, name in places]
    with an.record(), an.record():
        Bernoulli(logits=torch.zeros((), requires_grad=True)).sample()
    after = [vars(owner).get(name, "absent") for owner, name in places]
    assert len(places) > 50
    assert all(a is b for a, b in zip(after, before, strict=True))


_of_class = vars(torch.autograd.Function)["apply"]
_of_base = vars(torch._C._FunctionBase)["apply"]
APPLIES: dict[str, Callable[[], Any]] = {
    "as torch has it": lambda: _of_class,
    "of C": lambda: _of_base,
    "of Python": lambda: classmethod(lambda cls, *args: _of_base.__get__(None, cls)(*args)),
    "inherited": lambda: None,
}


@pytest.mark.parametrize("kind", APPLIES)
def test_a_function_is_applied_whatever_kind_of_attribute_that_is(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "inherited":
        monkeypatch.delattr(torch.autograd.Function, "apply")
    else:
        monkeypatch.setattr(torch.autograd.Function, "apply", APPLIES[kind]())
    was = vars(torch.autograd.Function).get("apply")

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 2 * grad

    class Drawn(Doubled):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            z: Tensor = Bernoulli(logits=x).sample()
            return z

    logits = torch.tensor([0.3, -0.2], requires_grad=True)
    apply: Any
    draw: Any
    with an.record():
        z = Bernoulli(logits=logits).sample()
        apply, draw = Doubled.apply, Drawn.apply
        assert an.provenance_of(apply(z)) == {"z"}
        assert an.provenance_of(apply(torch.ones(2))) == frozenset()
        with pytest.raises(TransformError, match=r"Drawn\.forward"):
            draw(logits)
    assert vars(torch.autograd.Function).get("apply") is was

"""What recordings replace in torch: attributes of any kind, which are put back as they were."""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from recorded import Doubled
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.errors import TransformError
from ancestral.trace.context.patch import Descendants, Group, Lasting, Patch, Staying


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


@pytest.fixture(params=["class", "module"])
def owner(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "class":
        yield type("Owner", (), {"f": len, "g": max})
    else:
        made = ModuleType("owner")
        vars(made).update(f=len, g=max)
        yield made


@pytest.fixture(params=[Group, Lasting])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


class Made:
    """What takes a place; counts how often something was made."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, original: Any) -> Any:
        self.number += 1
        return lambda *args: ("ours", original, *args)


def always(value: int) -> Callable[[Any], Any]:
    return lambda _: lambda *_: value


def there(owner: Any, name: str) -> Any:
    return vars(owner).get(name)


@pytest.mark.parametrize("name", [*OWN, *INHERITED])
def test_an_attribute_of_any_kind_is_put_back_as_it_was(name: str, kind: Any) -> None:
    before = copy.copy(dict(vars(_Everything)))
    inner, outer = (
        kind([Patch(_Everything, name, always(value), is_raw=True)]) for value in (7, 8)
    )
    for _ in range(2):
        inner.replace()
        outer.replace()
        assert vars(_Everything)[name]() == 8
        outer.restore()
        assert vars(_Everything)[name]() == 7
        inner.restore()
        after = dict(vars(_Everything))
        assert after == before
        assert all(after[each] is before[each] for each in before)


def test_what_was_made_is_used_again_and_made_anew_where_somebody_changed_it(
    owner: Any, kind: Any
) -> None:
    made = Made()
    group = kind([Patch(owner, "f", made), Patch(owner, "g", made)])
    for _ in range(3):
        group.replace()
        assert [owner.f.__closure__[0].cell_contents, owner.g.__closure__[0].cell_contents] == [
            len,
            max,
        ]
        group.restore()
        assert (there(owner, "f"), there(owner, "g")) == (len, max)
    assert made.number == 2
    owner.f = min
    group.replace()
    assert owner.f.__closure__[0].cell_contents is min
    group.restore()
    assert (there(owner, "f"), there(owner, "g"), made.number) == (min, max, 3)


def test_what_somebody_puts_there_meanwhile_stays(owner: Any, kind: Any) -> None:
    group = kind([Patch(owner, "f", Made()), Patch(owner, "g", Made())])
    group.replace()
    owner.f = min
    group.restore()
    assert (there(owner, "f"), there(owner, "g")) == (min, max)


def test_ours_that_somebody_has_put_back_is_no_original(owner: Any, kind: Any) -> None:
    group = kind([Patch(owner, "f", Made())])
    group.replace()
    ours = there(owner, "f")
    group.restore()
    owner.f = ours  # as a patch of a test does, which began in a recording and ended after it
    group.replace()
    assert there(owner, "f") is ours
    group.restore()
    assert there(owner, "f") is len


def test_what_is_inherited_is_inherited_again(kind: Any) -> None:
    group = kind([Patch(Inheriting, "method", Made())])
    for _ in range(2):
        group.replace()
        assert vars(Inheriting)["method"](1)[0] == "ours"
        group.restore()
        assert "method" not in vars(Inheriting)
        assert Inheriting().method() == 0


class Inheriting(_Everything):
    """Has nothing itself."""


def test_what_stays_is_made_once_and_leaves_what_is_somebody_elses(owner: Any) -> None:
    made = Made()
    staying = Staying([Patch(owner, "f", made), Patch(owner, "g", made)])
    owner.f = min  # before the first recording
    assert [patch.name for patch in staying.replace_own()] == ["f"]
    assert there(owner, "f") is min
    owner.f = len
    assert staying.replace_own() == []
    ours = there(owner, "f"), there(owner, "g")
    assert staying.replace_own() == []
    assert (there(owner, "f"), there(owner, "g")) == ours
    assert made.number == 2
    owner.g = min
    staying.restore()
    assert (there(owner, "f"), there(owner, "g")) == (len, min)
    owner.g = max
    assert staying.replace_own() == []
    assert (there(owner, "f"), there(owner, "g")) == ours
    staying.restore()
    assert (there(owner, "f"), there(owner, "g")) == (len, max)


def test_classes_of_users_are_found_however_they_are_defined_and_let_go_of() -> None:
    class Root:
        pass

    class Known(Root):
        pass

    kinds = Descendants(Root, {Known}.__contains__)
    assert kinds.others() == kinds.others() == []

    class Silent:
        def __init_subclass__(cls) -> None:
            """Tell nobody above."""

    class Mine(Silent, Known):
        pass

    below = type("Below", (Mine,), {})
    assert kinds.others() == kinds.others() == [Mine, below]
    held = weakref.ref(below)
    del below
    gc.collect()
    assert held() is None
    assert kinds.others() == [Mine]


an.restore_torch()  # other tests may have recorded before
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
    _ = torch.autograd.Function.apply  # who asks gives it back
    assert vars(torch.autograd.Function).get("apply") is was

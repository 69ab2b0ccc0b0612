"""Kinds of tensors and of numbers: layouts, precisions, and the classes that are refused."""

import copy
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.masked import as_masked_tensor, masked_tensor

import ancestral as an
from ancestral.errors import UnsupportedTensorError
from ancestral.provenance.dispatch.inplace import WriteIntoParameterError
from ancestral.trace.intercept.opaque import plain
from perturbation import check, gradients, numbers

COLUMNS, ROWS = torch.tensor([0, 1, 2]), torch.tensor([0, 2, 3])


def coordinates(x: Tensor) -> Any:
    s = x.to_sparse()
    flat = torch.sparse_coo_tensor(torch.tensor([[0, 1, 1]]), x[0], (3,))
    return (
        *(s, s.to_dense(), s * 2, s + s, s.coalesce(), s.transpose(0, 1)),
        *(torch.sparse.mm(s, numbers(3, 2)), torch.sparse.sum(s, 0), torch.sparse.softmax(s, 1)),
        *(torch.sparse.addmm(numbers(4, 2), s, numbers(3, 2)), flat.coalesce().to_dense()),
        torch.sparse_coo_tensor(x[:1].long().abs(), numbers(3), (9,)).to_dense(),
        numbers(4, 3).sparse_mask(s),
    )


def parts(x: Tensor) -> Any:
    s = x.to_sparse().coalesce()
    rows = x.to_sparse_csr()
    return (
        *(s.indices(), s.values(), s._indices(), s._values(), rows.crow_indices()),
        *(rows.col_indices(), rows.values(), x.to_sparse_csc().ccol_indices()),
        *(x.to_sparse_csc().row_indices(), x.to_sparse_bsr((2, 1)).values()),
    )


def compressed(x: Tensor) -> Any:
    values = x[0]
    s = torch.sparse_csr_tensor(ROWS, COLUMNS, values, (2, 3))
    return (
        s,
        s.to_dense(),
        s @ numbers(3, 2),
        torch.sparse_csc_tensor(
            torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0]), values, (2, 3)
        ),
        torch.sparse_compressed_tensor(ROWS, COLUMNS, values, (2, 3), layout=torch.sparse_csr),
        torch.sparse_bsr_tensor(
            torch.tensor([0, 1]), torch.tensor([0]), values[None, None], (1, 3)
        ),
    )


def written_sparse(x: Tensor) -> Any:
    s = numbers(4, 3).to_sparse().coalesce()
    t = numbers(4, 3).to_sparse()
    s.values().mul_(x.flatten())
    t.add_(x.to_sparse())
    return s.to_dense(), t.to_dense()


def quantized(x: Tensor) -> Any:
    q = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
    return (
        q.dequantize(),
        q.int_repr(),
        torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255),
        torch.quantize_per_channel(x, torch.ones(4), torch.zeros(4), 0, torch.qint8).dequantize(),
        torch.quantize_per_tensor(numbers(3), x[0, 0].abs() + 0.1, COLUMNS[0], torch.qint8),
        q.reshape(-1).dequantize(),
    )


def mkldnn(x: Tensor) -> Any:
    m = x.to_mkldnn()
    return m.to_dense(), (m + m).to_dense(), m.relu().to_dense()


def complex_numbers(x: Tensor) -> Any:
    c = torch.complex(x, numbers(4, 3))
    written = torch.zeros(4, 3, dtype=torch.complex64)
    view = written[1:]
    written.imag = x
    return (
        *(c, c.real, c.imag, c.abs(), c.conj(), c.conj().resolve_conj() * 1j, c.mH),
        *(torch.view_as_real(c), torch.view_as_complex(torch.stack([x, x], -1))),
        *(torch.polar(numbers(4, 3).abs(), x), torch.fft.irfft(torch.fft.rfft(x)), written),
        view * 1,
    )


def truths(x: Tensor) -> Any:
    a, b = x > 0, numbers(4, 3, seed=5) > 0
    return a & b, a | b, ~a, a ^ b, a.any(0), a.all(1), a.float(), torch.where(a, 1.0, 2.0), a + a


def precisions(x: Tensor) -> Any:
    return (
        *(x.half() * 2, x.bfloat16().sum(0), x.double(), x.to(torch.float8_e4m3fn).float()),
        *(x.view(torch.int32), x.view(torch.uint8), x.long(), x.to(torch.int8)),
        *(x.type(torch.float64), x.to(numbers(1).double())),
    )


def made_of(x: Any) -> Any:
    """Tensors that are made of tracked ones on ways that torch's overrides do not see."""
    return (
        *(torch.tensor([x[0, 0], x[0, 1]]), torch.Tensor(x), torch.FloatTensor(x)),
        *(torch.as_tensor([x[0, 0], x[0, 1]]), torch.asarray(x), torch.empty(0).set_(x)),
        *(x.as_subclass(Tensor), torch.full_like(numbers(2), x[0, 0])),
        *(numbers(2).new_full((2,), x[0, 0]), numbers(2).new_tensor(x), torch.stack(list(x))),
        *(torch.as_strided(x, (2,), (1,)), nn.Parameter(x.detach(), requires_grad=False) * 1),
        torch.masked.sum(x, dim=1, mask=numbers(4, 3) > 0),
    )


FOLLOWED: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "coordinates": (coordinates, False),
    "parts": (parts, True),
    "compressed": (compressed, False),
    "written sparse": (written_sparse, False),
    "quantized": (quantized, False),
    "mkldnn": (mkldnn, False),
    "complex": (complex_numbers, False),
    "truths": (truths, False),
    "precisions": (precisions, False),
    "made of": (made_of, False),
}


@pytest.mark.filterwarnings("ignore")  # of torch: compressed layouts are in beta, copies cost
@pytest.mark.parametrize("name", FOLLOWED)
def test_a_kind_of_tensor_is_followed(name: str) -> None:
    call, escapes = FOLLOWED[name]
    check(call, numbers(4, 3), escapes=escapes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", [coordinates, complex_numbers, precisions, mkldnn])
def test_the_gradient_through_a_kind_is_torchs_own(call: Callable[[Tensor], Any]) -> None:
    gradients(lambda x: [t for t in call(x) if t.layout is torch.strided], numbers(4, 3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make", [Tensor.to_sparse, Tensor.to_sparse_csr, Tensor.to_mkldnn, Tensor.half]
)
def test_a_kind_is_printed_and_untracked(make: Callable[[Tensor], Tensor]) -> None:
    for x in (torch.eye(3), torch.eye(3, requires_grad=True)):
        made = make(an.track(x, "z"))
        assert "provenance={z}" in repr(made)
        assert an.provenance_of(an.untrack(made)) == frozenset()
        assert an.untrack(made).layout is made.layout


Pair = namedtuple("Pair", "first second")


@dataclass
class Batch:
    """What a user keeps tensors in."""

    inputs: Tensor
    size: int


class Listed(list[Any]):
    """A list of its own class."""


def kept(x: Tensor) -> Any:
    """Functions of torch that give back more than one tensor keep their classes."""
    return (
        *(x.max(1), x.sort(0), x.topk(2), x.median(0), torch.linalg.svd(x, full_matrices=False)),
        *(torch.linalg.slogdet(x[:3]), torch.linalg.qr(x), torch.frexp(x), torch.aminmax(x)),
        *(x.mode(0), x.shape, x.size(), x[:0].shape, torch.var_mean(x), x.split(2), x.unbind(1)),
        x.kthvalue(1),
    )


def test_results_of_several_tensors_keep_their_classes() -> None:
    result = check(kept, numbers(4, 3))
    assert type(result[10]) is torch.Size


OPERATIONS: dict[str, Callable[[Any, Tensor], Any]] = {
    "foreach": lambda keep, x: torch._foreach_add([x, x * 2], 1.0),
    "the pytree": lambda keep, x: torch.utils._pytree.tree_map(lambda t: t * 2, keep(x)),
    "a deep copy": lambda keep, x: copy.deepcopy(keep(x)),
    "collating": lambda keep, x: torch.utils.data.default_collate([keep(x), keep(x)]),
    "converting": lambda keep, x: torch.utils.data.default_convert(keep(x)),
}
CONTAINERS: dict[str, Callable[[Tensor], Any]] = {
    "a dict": lambda x: {"a": x * 1, "b": [x * 2]},
    "an ordered dict": lambda x: OrderedDict(a=x * 1, b=x * 2),
    "a named tuple": lambda x: Pair(x * 1, (x * 2, 3.0)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_keep_their_classes(operation: str, container: str) -> None:
    x = numbers(4, 3)
    check(lambda x: OPERATIONS[operation](CONTAINERS[container], x), x)


def test_what_is_handed_to_an_opaque_function_keeps_its_class() -> None:
    z = an.track(numbers(3), "z")
    values: list[Any] = [
        *(Pair(z, {"a": z}), OrderedDict(a=z), Batch(z, 3), Listed([z, 1]), z.sort()),
        torch.nn.utils.rnn.pack_sequence([z]),
    ]
    for value in values:
        made = plain(value)
        assert type(made) is type(value)
    assert type(plain(values[2]).inputs) is type(plain(values[0]).second["a"]) is Tensor
    assert an.provenance_of(values[2].inputs) == {"z"}
    untouched = Pair(numbers(2), [1])
    assert plain(untouched) is untouched


REFUSED: dict[str, Callable[[Tensor], object]] = {
    "nested": lambda z: torch.nested.nested_tensor([z, torch.ones(2)]),
    "nested, by layout": lambda z: torch.nested.nested_tensor([z], layout=torch.jagged),
    "as nested": lambda z: torch.nested.as_nested_tensor([z, torch.ones(2)]),
    "jagged": lambda z: torch.nested.nested_tensor_from_jagged(z, torch.tensor([0, 1, 3])),
    "meeting jagged": lambda z: (
        torch.nested.nested_tensor([torch.ones(3), torch.ones(2)], layout=torch.jagged) * z[0]
    ),
    "masked": lambda z: masked_tensor(z, torch.tensor([True, False, True])),
    "masked by": lambda z: masked_tensor(torch.ones(3), z > 0),
    "as masked": lambda z: as_masked_tensor(z, torch.tensor([True, False, True])),
    "meeting masked": lambda z: masked_tensor(torch.ones(3), torch.ones(3) > 0) * z,
    "a subclass": lambda z: z.as_subclass(Subclass),
    "a subclass of": lambda z: Subclass(z),
    "meeting a subclass": lambda z: Subclass(torch.ones(3)) + z,
    "met by a subclass": lambda z: torch.cat([z, Subclass(torch.ones(3))]),
    "a subclass as a keyword": lambda z: torch.lerp(z, z, weight=Subclass(torch.ones(3))),
}


class Subclass(Tensor):
    """A user's class, which computes on its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class Passive(Tensor):
    """A user's class, which leaves all to torch."""


class Unwrapping(Tensor):
    """A user's class, which hands plain tensors on."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            given = [x.as_subclass(Tensor) if isinstance(x, Unwrapping) else x for x in args]
        return func(*given, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore")  # of torch: these classes are prototypes
@pytest.mark.parametrize("name", REFUSED)
def test_a_class_that_cannot_carry_provenance_refuses_and_names_the_line(name: str) -> None:
    with (
        an.record(),
        pytest.raises(
            UnsupportedTensorError,
            match=r"(nested tensor|masked tensor|[A-Z]\w+) at .*test_\w+.py:\d+ .*'z'",
        ),
    ):
        REFUSED[name](an.track(torch.ones(3), "z"))


@pytest.mark.filterwarnings("ignore")
def test_a_class_refuses_to_meet_what_is_tracked_while_storages_are_watched() -> None:
    with an.record():
        z, base = an.track(torch.ones(3), "z"), torch.zeros(3)
        view = base[1:]
        base.add_(z)
        for name in ("meeting jagged", "meeting masked"):
            with pytest.raises(UnsupportedTensorError):
                REFUSED[name](z)
        assert an.provenance_of(view * 1) == {"z"}


@pytest.mark.filterwarnings("ignore")
def test_those_classes_work_where_nothing_is_tracked() -> None:
    with an.record():
        jagged = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)], layout=torch.jagged)
        strided = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])
        masked: Any = masked_tensor(torch.ones(3), torch.tensor([True, False, True]))
        assert float((jagged * 2).values().sum()) == 10.0
        assert float((strided * 2).to_padded_tensor(0).sum()) == 10.0
        assert float((masked * 2).sum().get_data()) == 4.0
        assert type(torch.ones(2).as_subclass(Subclass)) is Subclass


class Weight(nn.Parameter):
    """A parameter of its own class."""


class Mapped(Tensor):
    """One with data besides, made in its own way."""

    label: str

    def __new__(cls, data: Any, label: str = "") -> "Mapped":
        made = super().__new__(cls, data)
        made.label = label
        return made

    def __init__(self, data: Any, label: str = "") -> None:
        """Take nothing more."""


MADE: dict[str, Callable[[], Any]] = {
    "of a tensor": lambda: Passive(torch.ones(3)),
    "of a tensor of another type": lambda: Passive(torch.ones(3, dtype=torch.float64)),
    "of itself": lambda: Passive(Passive(torch.ones(3))),
    "of a size": lambda: Passive(2, 3).zero_(),
    "of nothing": lambda: Passive(),
    "of a list": lambda: Passive([1.0, 2.0]),
    "of an array": lambda: Passive(numbers(3).numpy()),
    "of a parameter": lambda: Passive(nn.Parameter(torch.ones(2))),
    "with data besides": lambda: Mapped(torch.ones(2), "a"),
    "by _make_subclass": lambda: Tensor._make_subclass(Passive, torch.ones(2), True),
    "by as_subclass": lambda: torch.ones(2).as_subclass(Passive),
    "one that computes on its own": lambda: Subclass(torch.ones(2)),
    "a parameter": lambda: Weight(torch.ones(2)),
    "a parameter of one": lambda: nn.Parameter(Passive(torch.ones(2))),
    "a buffer": lambda: nn.Buffer(torch.ones(2)),
    "an uninitialized parameter": lambda: nn.UninitializedParameter(),
    "a lazy layer": lambda: nn.LazyLinear(2, bias=False)(torch.zeros(1, 3)),
    "plain": lambda: torch.Tensor([1.0, 2.0]),
    "a shallow copy": lambda: copy.copy(Passive(torch.ones(2))),
    "an op of one": lambda: Passive(torch.ones(2)) * 2,
}


@pytest.mark.parametrize("audit", [False, True])
@pytest.mark.parametrize("name", MADE)
def test_a_tensor_of_a_class_is_made_within_a_recording_as_outside(name: str, audit: bool) -> None:
    outside = MADE[name]()
    with an.record(audit=audit):
        inside = MADE[name]()
    assert type(inside) is type(outside)
    assert getattr(inside, "label", None) == getattr(outside, "label", None)
    if not nn.parameter.is_lazy(inside):
        assert inside.requires_grad == outside.requires_grad
        torch.testing.assert_close(inside, outside)


def test_a_class_is_torchs_own_after_a_recording() -> None:
    with an.record():

        class Late(Tensor):
            """Defined while it is open."""

        assert type(Late(torch.ones(2)) * 2) is Late
    for name in ("__new__", "_make_subclass", "__init_subclass__", "as_subclass"):
        assert getattr(Tensor, name) is not None  # who asks gives it back
        assert name not in vars(Tensor)
    assert type(Late(torch.ones(2)) * 2) is Late
    assert type(Tensor(2)) is Tensor


def test_a_passive_class_that_meets_or_is_made_of_a_tracked_tensor_is_followed() -> None:
    x = numbers(4, 3)
    for kind in (Passive, Mapped, Weight):
        other = Tensor._make_subclass(kind, numbers(4, 3, seed=2))
        check(lambda x, other=other: [(x * other).as_subclass(Tensor)], x)  # type: ignore[misc]
        check(lambda x, other=other: [torch.stack([x, other]).as_subclass(Tensor)], x)  # type: ignore[misc]
    check(lambda x: [Unwrapping(numbers(4, 3)) * x], x)
    check(lambda x: [(Passive(x) * 2).as_subclass(Tensor), x * 1], x)


def test_the_gradient_of_a_passive_class_is_torchs_own() -> None:
    theta = torch.tensor([0.3, -0.2], requires_grad=True)
    for leaf in (Weight(torch.tensor([0.7, 0.9])), Passive([0.7, 0.9]).requires_grad_()):
        with an.record() as trace:
            z = torch.distributions.Bernoulli(logits=theta).sample()
            loss = (leaf * z).square().sum()
        an.backward(loss)
        torch.testing.assert_close(leaf.grad, 2 * leaf.detach() * trace["z"].value)


def test_a_write_into_a_passive_class_is_refused_and_names_the_line() -> None:
    with an.record():
        z, whole = an.track(torch.ones(3), "z"), Passive(torch.zeros(2, 3))
        for write in (
            lambda: whole.add_(z),
            lambda: whole.__setitem__(0, z),
            lambda: torch.add(z, 1, out=whole[0]),
        ):
            with pytest.raises(WriteIntoParameterError, match=r"\w+.py:\d+: .*'z' into a Passive"):
                write()


def test_an_answer_that_lost_a_source_is_refused_and_a_number_is_an_escape() -> None:
    with an.record() as trace:
        z, other = an.track(torch.ones(3), "z"), Subclass(torch.ones(3))
        with pytest.raises(UnsupportedTensorError):
            torch.add(other, z)
        assert not trace.escapes
        torch.equal(other, z)
        assert trace.escapes[0].sources == {"z"}


NUMBERS: dict[str, Callable[[Any], object]] = {
    "alpha": lambda z: torch.add(torch.ones(3), torch.ones(3), alpha=z),
    "value": lambda z: torch.addcmul(torch.ones(3), torch.ones(3), torch.ones(3), value=z),
    "eps": lambda z: torch.nn.functional.layer_norm(torch.ones(3), (3,), eps=z),
    "eye": lambda z: torch.eye(z.long() + 1),
    "randperm": lambda z: torch.randperm(z.long() + 1),
    "select": lambda z: torch.ones(3).select(0, z.long()),
    "narrow": lambda z: torch.ones(3).narrow(0, 0, z.long()),
    "roll": lambda z: torch.ones(3).roll(z.long()),
    "topk": lambda z: torch.ones(3).topk(z.long() + 1),
    "an overload": lambda z: torch.ops.aten.item.default(z),
    "a scale": lambda z: torch.quantize_per_tensor(
        torch.ones(2), z, torch.tensor(0), torch.quint8
    ).q_scale(),
    "how many": lambda z: z[None].to_sparse()._nnz(),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_torch_takes_is_an_escape(name: str) -> None:
    with an.record() as trace:
        z = an.track(torch.tensor(0.5), "z")
        NUMBERS[name](z)
        assert trace.escapes[0].sources == {"z"}
        assert trace.escapes[0].filename == __file__
        assert an.provenance_of(torch.ones(2) * 1) == {"z"}


def test_a_size_that_is_given_is_read() -> None:
    with an.record():
        size: Any = an.track(torch.tensor(3), "n")
        made = torch.ones(2).new_zeros(size)
        assert an.provenance_of(made) == {"n"}

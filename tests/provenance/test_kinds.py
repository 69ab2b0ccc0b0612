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
from ancestral.trace.kinds import UnsupportedTensorError
from ancestral.trace.opaque import plain
from perturbation import check, gradients


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


COLUMNS, ROWS = torch.tensor([0, 1, 2]), torch.tensor([0, 2, 3])


def coordinates(x: Tensor) -> Any:
    s = x.to_sparse()
    flat = torch.sparse_coo_tensor(torch.tensor([[0, 1, 1]]), x[0], (3,))
    return (
        s,
        s.to_dense(),
        s * 2,
        s + s,
        s.coalesce(),
        s.transpose(0, 1),
        torch.sparse.mm(s, numbers(3, 2)),
        torch.sparse.sum(s, 0),
        torch.sparse.softmax(s, 1),
        torch.sparse.addmm(numbers(4, 2), s, numbers(3, 2)),
        flat.coalesce().to_dense(),
        torch.sparse_coo_tensor(x[:1].long().abs(), numbers(3), (9,)).to_dense(),
        numbers(4, 3).sparse_mask(s),
    )


def parts(x: Tensor) -> Any:
    s = x.to_sparse().coalesce()
    rows = x.to_sparse_csr()
    return (
        s.indices(),
        s.values(),
        s._indices(),
        s._values(),
        rows.crow_indices(),
        rows.col_indices(),
        rows.values(),
        x.to_sparse_csc().ccol_indices(),
        x.to_sparse_csc().row_indices(),
        x.to_sparse_bsr((2, 1)).values(),
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
        c,
        c.real,
        c.imag,
        c.abs(),
        c.conj(),
        c.conj().resolve_conj() * 1j,
        c.mH,
        torch.view_as_real(c),
        torch.view_as_complex(torch.stack([x, x], -1)),
        torch.polar(numbers(4, 3).abs(), x),
        torch.fft.irfft(torch.fft.rfft(x)),
        written,
        view * 1,
    )


def truths(x: Tensor) -> Any:
    a, b = x > 0, numbers(4, 3, seed=5) > 0
    return a & b, a | b, ~a, a ^ b, a.any(0), a.all(1), a.float(), torch.where(a, 1.0, 2.0), a + a


def precisions(x: Tensor) -> Any:
    return (
        x.half() * 2,
        x.bfloat16().sum(0),
        x.double(),
        x.to(torch.float8_e4m3fn).float(),
        x.view(torch.int32),
        x.view(torch.uint8),
        x.long(),
        x.to(torch.int8),
        x.type(torch.float64),
        x.to(numbers(1).double()),
    )


def made_of(x: Any) -> Any:
    """Tensors that are made of tracked ones on ways that torch's overrides do not see."""
    return (
        torch.tensor([x[0, 0], x[0, 1]]),
        torch.Tensor(x),
        torch.FloatTensor(x),
        torch.as_tensor([x[0, 0], x[0, 1]]),
        torch.asarray(x),
        torch.empty(0).set_(x),
        x.as_subclass(Tensor),
        torch.full_like(numbers(2), x[0, 0]),
        numbers(2).new_full((2,), x[0, 0]),
        numbers(2).new_tensor(x),
        torch.stack(list(x)),
        torch.as_strided(x, (2,), (1,)),
        nn.Parameter(x.detach(), requires_grad=False) * 1,
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
    """A list of a class of its own."""


def kept(x: Tensor) -> Any:
    """Functions of torch that give back more than one tensor keep their classes."""
    return (
        x.max(1),
        x.sort(0),
        x.topk(2),
        x.median(0),
        torch.linalg.svd(x, full_matrices=False),
        torch.linalg.slogdet(x[:3]),
        torch.linalg.qr(x),
        torch.frexp(x),
        torch.aminmax(x),
        x.mode(0),
        x.shape,
        x.size(),
        x[:0].shape,
        torch.var_mean(x),
        x.split(2),
        x.unbind(1),
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
        Pair(z, {"a": z}),
        OrderedDict(a=z),
        Batch(z, 3),
        Listed([z, 1]),
        z.sort(),
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
}


class Subclass(Tensor):
    """A user's class."""


@pytest.mark.filterwarnings("ignore")  # of torch: these classes are prototypes
@pytest.mark.parametrize("name", REFUSED)
def test_a_class_that_cannot_carry_provenance_refuses_and_names_the_line(name: str) -> None:
    with (
        an.record(),
        pytest.raises(
            UnsupportedTensorError,
            match=r"(nested tensor|masked tensor|Subclass) at .*test_kinds.py:\d+ .*'z'",
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

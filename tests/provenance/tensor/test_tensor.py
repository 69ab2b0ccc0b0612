"""The tensor: it is its own data, keeps its class where torch would, and survives copies."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ancestral.provenance.dispatch.inplace import WriteIntoParameterError
from ancestral.provenance.tensor.tensor import provenance_of, raw, track, untrack


@pytest.fixture
def z() -> Tensor:
    """A tracked tensor."""
    return track(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), "z")


def test_a_tracked_tensor_shares_data_and_history() -> None:
    x = torch.ones(3, requires_grad=True)
    z = track(x, "z")
    (z * 2).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 2, 2]
    assert type(x.grad) is Tensor
    assert z.data_ptr() == x.data_ptr()
    assert type(x) is Tensor


def test_an_untracked_result_is_a_plain_tensor(z: Tensor) -> None:
    assert type(torch.ones(3) + 1) is Tensor
    assert type(untrack(z)) is Tensor
    assert type(untrack(z) * 2) is Tensor
    assert untrack(z).data_ptr() == z.data_ptr()


def test_sources_join_and_untracking_forgets(z: Tensor) -> None:
    w = track(torch.ones(3), "w")
    assert provenance_of(z + w) == {"z", "w"}
    assert provenance_of(torch.ones(3) * w) == {"w"}
    assert provenance_of(untrack(z) + w) == {"w"}
    assert provenance_of(3) == frozenset()


def test_tracking_takes_tensors_only() -> None:
    with pytest.raises(TypeError, match="not list"):
        track([1.0], "z")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [
        lambda z, p: p.type_as(z),
        lambda z, p: torch.broadcast_tensors(p, z)[0],
        lambda z, p: p.to(z),
        lambda z, p: torch.atleast_1d(p),
    ],
)
def test_an_argument_that_comes_back_stays_plain(
    z: Tensor, function: Callable[[Tensor, Tensor], Tensor]
) -> None:
    p = torch.ones(4, 3)
    function(z, p)
    assert type(p) is Tensor
    assert provenance_of(p * 1) == frozenset()


def test_a_parameter_stays_a_parameter(z: Tensor) -> None:
    p = nn.Parameter(torch.ones(3))
    assert type(p) is nn.Parameter
    (z * p).sum().backward()
    assert type(p) is nn.Parameter
    assert type(p.grad) is Tensor


def test_a_write_keeps_what_was_there(z: Tensor) -> None:
    buffer = track(torch.zeros(4, 3), "old") * 1
    buffer[0] = z[0]
    assert provenance_of(buffer) == {"old", "z"}


def test_a_write_into_a_parameter_is_refused_before_it_happens(z: Tensor) -> None:
    p = nn.Parameter(torch.zeros(4, 3))
    with torch.no_grad(), pytest.raises(WriteIntoParameterError, match="'z'"):
        p.copy_(z)
    assert p.tolist() == torch.zeros(4, 3).tolist()


def test_deepcopy_of_a_leaf_keeps_requires_grad_and_of_an_inner_tensor_raises_as_torch_does() -> (
    None
):
    leaf = track(torch.ones(2), "z").requires_grad_()
    assert copy.deepcopy(leaf).requires_grad
    with pytest.raises(RuntimeError, match="created explicitly by the user"):
        copy.deepcopy(leaf * 2)


def test_printing_shows_data_and_sources(z: Tensor) -> None:
    assert repr(z) == repr(untrack(z))[:-1] + ", provenance={z})"
    assert f"{z[0, 0]:.3f}" == f"{float(untrack(z)[0, 0]):.3f}"
    assert "provenance={z}" in f"{z}"


def test_metadata_needs_no_provenance(z: Tensor) -> None:
    assert (z.shape, z.dtype, z.ndim, z.requires_grad) == ((4, 3), torch.float32, 2, False)
    assert z.grad_fn is None
    z.requires_grad = True
    assert z.is_leaf
    assert {z: "found"}[z] == "found"


def test_operators_with_what_is_no_tensor_behave_as_in_torch(z: Tensor) -> None:
    with pytest.raises(TypeError):
        z + "text"  # type: ignore[operator]
    assert z.__eq__("text") is NotImplemented
    assert (z == None) is False  # noqa: E711 (the comparison is what is tested)


def test_a_function_that_runs_with_tracking_off_gives_plain_tensors(z: Tensor) -> None:
    assert type(raw(lambda x: (x + 1).exp() / 2, z)) is Tensor


def test_a_tracked_tensor_adds_no_node_to_the_graph_of_autograd() -> None:
    x = torch.ones(3, requires_grad=True)
    plain, tracked = x * 2 + 1, track(x, "x") * 2 + 1

    def depth(tensor: Tensor) -> int:
        node, count = tensor.grad_fn, 0
        while node is not None:
            node, count = node.next_functions[0][0] if node.next_functions else None, count + 1
        return count

    assert depth(tracked) == depth(plain) + 1  # the alias that track makes

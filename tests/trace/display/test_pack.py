"""Packing: vectors of values, and back."""

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

import ancestral as an
from ancestral.errors import SiteError


@pytest.fixture
def trace() -> an.Trace:
    """Sites of three dtypes."""
    with an.record() as trace:
        an.sample("z", Normal(torch.zeros(2, 3), 1.0))
        an.sample("k", Categorical(torch.ones(4, 5)))
        an.sample("b", Bernoulli(torch.tensor(0.5, dtype=torch.float64)))
        an.sample("x", Normal(torch.zeros(2), 1.0), obs=torch.ones(2))
    return trace


def test_values_come_back_with_shape_and_dtype(trace: an.Trace) -> None:
    vector = trace.pack()
    assert (tuple(vector.shape), vector.dtype) == ((11,), torch.float64)
    back = trace.unpack(vector)
    assert list(back) == ["z", "k", "b"]
    for name, value in back.items():
        assert torch.equal(an.untrack(value), trace[name].value)
        assert value.dtype == trace[name].value.dtype


def test_names_choose_and_order(trace: an.Trace) -> None:
    vector = trace.pack(["x", "k"])
    assert torch.equal(an.untrack(vector[:2]), torch.ones(2))
    assert list(trace.unpack(vector, ["x", "k"])) == ["x", "k"]
    assert trace.pack([]).shape == (0,)


def test_a_vector_depends_on_the_sites_in_it(trace: an.Trace) -> None:
    assert an.provenance_of(trace.pack(["z", "k"])) == {"z", "k"}


def test_the_pathwise_gradient_goes_through() -> None:
    loc = torch.zeros(2, requires_grad=True)
    with an.record() as trace:
        an.sample("z", Normal(loc, 1.0))
    an.untrack(trace.pack()).sum().backward()
    assert loc.grad is not None
    assert loc.grad.tolist() == [1, 1]


def test_what_does_not_fit_names_the_site(trace: an.Trace) -> None:
    with pytest.raises(SiteError, match="no site 'q'; it has 'z', 'k', 'b', 'x'"):
        trace.pack(["q"])
    with pytest.raises(SiteError, match=r"has shape \[3\]; expected \[11\], for 'z' \[2, 3\]"):
        trace.unpack(torch.zeros(3))
    with pytest.raises(SiteError, match=r"site 'k' .* which cannot hold its part"):
        trace.unpack(torch.full((4,), 0.5), ["k"])
    with pytest.raises(SiteError, match="the vector is a dict; expected a torch"):
        trace.unpack({})  # type: ignore[arg-type]
    with pytest.raises(SiteError, match="'z' is named twice"):
        trace.pack(["z", "z"])


def test_a_number_that_a_narrow_float_cannot_hold_is_refused() -> None:
    with an.record() as trace:
        an.deterministic("h", torch.zeros(1, dtype=torch.float16))
    assert trace.unpack(torch.tensor([1 / 3]), ["h"])["h"].dtype == torch.float16
    with pytest.raises(SiteError, match=r"site 'h' .* torch\.float16, which cannot hold .*1000000"):
        trace.unpack(torch.tensor([1e6]), ["h"])
    assert bool(trace.unpack(torch.tensor([torch.inf]), ["h"])["h"].isinf())


def test_an_integer_that_floats_cannot_hold_is_refused() -> None:
    with an.record() as trace:
        an.sample("z", Normal(0.0, 1.0))
        an.deterministic("n", torch.tensor(2**24 + 1))
    with pytest.raises(SiteError, match=r"site 'n' .* holds torch\.int64 values"):
        trace.pack(["z", "n"])
    assert int(trace.pack(["n"])) == 2**24 + 1
    with pytest.raises(SiteError, match=r"site 'z' .* cannot hold its part .* torch\.int64"):
        trace.unpack(trace.pack(["n"]), ["z"])

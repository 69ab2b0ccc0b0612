"""Saving: what is loaded is what was saved."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stored import again, everything, file_in, names, of_everything, run
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

import ancestral as an

STANDARD = Normal(0.0, 1.0)


def many_sources() -> None:
    parts = [an.sample(f"z_{i}", Bernoulli(torch.full((3,), 0.5))) for i in range(50)]
    an.sample("x", Normal(torch.stack(parts).sum(0), 1.0))


def weights() -> None:
    z = an.sample("z", Bernoulli(torch.full((3,), 0.5)))
    w = an.sample("w", Normal(torch.zeros(3), 1.0))
    with an.handlers.mask(z > 0), an.handlers.scale(1 + w.square()):
        an.sample("x", Normal(torch.zeros(3), 1.0))
    with an.handlers.mask(False), an.handlers.scale(3):
        an.sample("y", Normal(0.0, 1.0))


def named_values() -> None:
    """Each of two before it, so that there are 2^60 ways from the last to the first."""
    a = b = an.sample("z", Normal(torch.zeros(3), 1.0))
    for i in range(60):
        a, b = an.deterministic(f"d_{i}", a + b), a
    an.sample("x", Normal(a, 1.0))


PROGRAMS = [everything, many_sources, weights, named_values, names]


trace = pytest.fixture(of_everything)
path = pytest.fixture(file_in)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_trace_is_the_same_after_a_file_and_after_a_dictionary(
    program: Callable[[], object], path: Path
) -> None:
    before = run(program)
    if "c" in before:
        before.backward()
    before.save(path)
    loaded = an.Trace.load(path)
    assert "untracked" not in loaded
    for after in (again(before), loaded, again(loaded)):
        assert before.compare(after).is_equal, str(before.compare(after))
        assert after.graph == before.graph
        assert after.plates == before.plates
        assert str(after) == str(before)
        assert after.format_shapes() == before.format_shapes()
        assert after.topological_order() == before.topological_order()
        assert torch.equal(after.log_prob_sum(), before.log_prob_sum())
        assert len(after.everything) == len(before.everything)
        for name, node in before.items():
            for what in ("parents", "location", "shape", "cond_indep_stack", "is_drawn"):
                assert getattr(after[name], what) == getattr(node, what)
            assert after[name].is_score == node.is_score
    assert before.escapes == ()


def test_what_masks_and_scales_depend_on_is_kept() -> None:
    graph = again(run(weights)).graph
    assert graph.parents("x") == {"z", "w"}
    assert graph.parents("y") == frozenset()


def test_a_trace_within_another_is_stored_with_the_values_that_it_took_from_there() -> None:
    with an.record():
        d = z = an.sample("z", Normal(0.0, 1.0))
        for i in range(300):
            d = an.deterministic(f"d_{i}", d * 2)
        with an.record() as inner:
            an.sample("x", Normal(d + z, 1.0))
    assert again(inner)["x"].parents == inner["x"].parents == {"d_299", "z"}


class Label(str):
    """A text of its own class, as numpy has them."""


def test_texts_and_numbers_of_other_classes_are_stored_as_those_of_python(path: Path) -> None:
    with an.record() as trace, an.plate(Label("rows"), 2):
        infer = {Label("a"): np.float64(2), "b": [np.int64(3)], "c": {"d": (Label("e"),)}}
        an.sample(Label("z"), Normal(0.0, 1.0), infer=infer)
    trace.save(path)
    loaded = an.Trace.load(path)
    assert loaded["z"].infer == {"a": 2.0, "b": [3], "c": {"d": ("e",)}}
    assert [type(name) for name in loaded] == [str, str]
    assert loaded.graph == trace.graph


DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.bool),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint64),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2)], ids=str)
def test_a_value_is_the_same_to_the_bit(
    dtype: torch.dtype, shape: tuple[int, ...], path: Path
) -> None:
    value = torch.full(shape, 3.0).to(dtype)
    run(lambda: an.deterministic("d", value)).save(path)
    found = an.Trace.load(path)["d"].value
    assert (found.dtype, found.shape) == (dtype, value.shape)
    assert found.flatten().view(torch.uint8).tolist() == value.flatten().view(torch.uint8).tolist()


def test_a_dictionary_shares_no_memory_with_the_trace(trace: an.Trace) -> None:
    data, before = trace.to_dict(), trace["z"].value.clone()
    trace["z"].value.add_(1)
    assert torch.equal(an.Trace.from_dict(data)["z"].value, before)


def test_a_value_that_has_not_all_its_numbers_is_refused() -> None:
    trace = run(lambda: an.deterministic("d", torch.eye(2).to_sparse()))
    with pytest.raises(
        an.errors.SiteError, match=r"site 'd' .*test_file.py:\d+.*sparse_coo.*to_dense"
    ):
        trace.to_dict()


def test_functions_and_a_list_that_holds_itself_are_left_out_of_infer() -> None:
    endless: list[Any] = []
    endless.append(endless)
    infer = {"endless": endless, "rank": 1, "f": print, "numbers": {1: 2}}
    trace = run(lambda: an.sample("z", Normal(0.0, 1.0), infer=infer))
    assert again(trace)["z"].infer == {"rank": 1}


class Kind(Tensor):
    """A tensor of a class of the user."""


class Stand(Tensor):
    """A tensor of a class of the user that computes for itself."""

    @classmethod
    def __torch_dispatch__(cls, *_: Any) -> Any:
        raise NotImplementedError


def test_a_tensor_of_another_class_is_stored_as_one_of_torch(path: Path) -> None:
    value = torch.arange(3.0).as_subclass(Kind)
    infer = {"a": value, "b": [nn.Parameter(value)]}
    trace = run(lambda: (an.deterministic("d", value), an.sample("z", STANDARD, infer=infer)))
    trace.save(path)
    loaded = an.Trace.load(path)
    found: Any = loaded["z"].infer
    for each in (loaded["d"].value, found["a"], found["b"][0]):
        assert type(each) is Tensor
        assert each.tolist() == [0.0, 1.0, 2.0]


def test_what_no_file_could_give_back_is_left_out_of_infer(path: Path) -> None:
    large = 2**2000 - 1
    stand = Tensor._make_wrapper_subclass(Stand, (2,))
    infer = {"a": large, "b": -large, "c": large + 1, "d": Fraction(10**400), "e": stand}
    run(lambda: an.sample("z", STANDARD, infer=infer)).save(path)
    assert an.Trace.load(path)["z"].infer == {"a": large, "b": -large}


def test_values_of_a_loaded_trace_are_constants_to_a_recording(trace: an.Trace) -> None:
    with an.record() as later, an.handlers.replay(again(trace)):
        z = an.sample("z", Bernoulli(torch.tensor([0.3, 0.6])))
    assert torch.equal(z, trace["z"].value)
    assert not later["z"].is_drawn


def test_a_loaded_trace_has_no_gradient_and_says_so(trace: an.Trace) -> None:
    loaded = again(trace)
    for each in (loaded, loaded.copy()):
        for ask in (each.backward, each.explain):
            with pytest.raises(
                an.errors.SettledError, match=r"was loaded, .* record the program again"
            ):
                ask()
    with pytest.raises(an.errors.SettledError, match="already taken"):
        trace.backward()


def test_an_enumerated_trace_is_not_stored() -> None:
    with an.record() as trace, an.handlers.enumerate():
        an.sample("z", Bernoulli(0.5), infer={"enumerate": "parallel"})
    with pytest.raises(ValueError, match=r"site .z. .* is enumerated"):
        trace.to_dict()

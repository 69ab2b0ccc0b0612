"""Saving: what is loaded is what was saved, and nothing of a file is run."""

import copy
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, parameters_of
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
)

import ancestral as an
from ancestral.trace.serialize.distributions import UnloadedDistributionError
from ancestral.trace.serialize.plain import StoredTraceError


class Triangle(Distribution):
    """A distribution of the user."""

    arg_constraints: Any = {}  # noqa: RUF012 (as torch writes it)

    def __init__(self, width: Tensor) -> None:
        self.width = width
        super().__init__(width.shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return (torch.rand(shape) + torch.rand(shape) - 1) * self.width

    def log_prob(self, value: Tensor) -> Tensor:
        return ((1 - (value / self.width).abs()) / self.width).log()


def program(scale: Tensor) -> None:
    z = an.sample("z", Bernoulli(torch.tensor([0.3, 0.6])), infer={"rank": 2, "f": print})
    w = an.sample("w", Independent(Triangle(scale), 1))
    for i in an.plate("steps", 2):
        an.sample(f"t_{i}", Normal(z.sum(), 1.0))
    with an.plate("data", 10, 4) as index, an.handlers.scale(2.0):
        m = an.deterministic("m", z[:1] + w.sum() + index)
        with an.handlers.mask(torch.tensor([True, False, True, True])):
            an.sample("x", Normal(m, 1.0), obs=torch.ones(4))
    an.factor("f", -(m[0] ** 2))
    with an.handlers.block():
        an.sample("untracked", Bernoulli(0.5))
    an.cost("c", m.sum())


@pytest.fixture
def trace() -> an.Trace:
    """The trace of a program with one of everything."""
    torch.manual_seed(0)
    with an.record() as trace:
        program(torch.ones(3, requires_grad=True))
    trace.backward()
    return trace


def check_same(before: an.Trace, after: an.Trace) -> None:
    assert before.compare(after).is_equal, str(before.compare(after))
    assert after.graph == before.graph
    assert after.plates == before.plates
    assert str(after) == str(before)
    assert after.format_shapes() == before.format_shapes()
    assert after.topological_order() == before.topological_order()
    assert torch.equal(after.log_prob_sum(), before.log_prob_sum())
    assert len(after.everything) == len(before.everything)
    for name, node in before.items():
        found = after[name]
        assert (found.parents, found.location, found.shape) == (
            node.parents,
            node.location,
            node.shape,
        )
        assert (found.is_drawn, found.is_score) == (node.is_drawn, node.is_score)
        assert found.cond_indep_stack == node.cond_indep_stack


def test_a_trace_is_the_same_after_a_file(trace: an.Trace, tmp_path: Path) -> None:
    trace.save(tmp_path / "a.trace")
    loaded = an.Trace.load(tmp_path / "a.trace")
    check_same(trace, loaded)
    loaded.save(tmp_path / "b.trace")
    check_same(trace, an.Trace.load(tmp_path / "b.trace"))


def test_a_trace_is_the_same_after_a_dictionary(trace: an.Trace) -> None:
    check_same(trace, an.Trace.from_dict(trace.to_dict()))


def draws_of(fn: Any) -> list[Tensor]:
    torch.manual_seed(1)
    return [fn.sample(), fn.expand((2, *fn.batch_shape)).sample()]


@pytest.mark.filterwarnings("ignore:Singular sample")  # a batch of Wishart says so always
@pytest.mark.parametrize("name", FAMILIES)
def test_a_distribution_of_torch_has_the_same_density_to_the_bit(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with an.record() as trace:
        fn = FAMILIES[name].make(**parameters_of(name))
        an.sample("z", fn)
    assert trace.compare(trace).is_equal  # distributions remember what they computed
    trace.save(tmp_path / "a.trace")
    loaded = an.Trace.load(tmp_path / "a.trace")
    found: Any = loaded["z"].fn
    assert type(found) is type(fn)
    assert trace.compare(loaded).is_equal  # of densities too, exactly
    assert (repr(found), str(found.support)) == (repr(fn), str(fn.support))
    for here, there in zip(draws_of(fn), draws_of(found), strict=True):
        assert torch.equal(here, there)


def test_many_sources_keep_their_alignments(tmp_path: Path) -> None:
    with an.record() as trace:
        parts = [an.sample(f"z_{i}", Bernoulli(torch.full((3,), 0.5))) for i in range(50)]
        an.sample("x", Normal(torch.stack(parts).sum(0), 1.0))
    check_same(trace, an.Trace.from_dict(trace.to_dict()))


def test_what_masks_and_scales_depend_on_is_kept(tmp_path: Path) -> None:
    with an.record() as trace:
        z = an.sample("z", Bernoulli(torch.full((3,), 0.5)))
        w = an.sample("w", Normal(torch.zeros(3), 1.0))
        with an.handlers.mask(z > 0), an.handlers.scale(1 + w.square()):
            an.sample("x", Normal(torch.zeros(3), 1.0))
        with an.handlers.mask(False), an.handlers.scale(3):
            an.sample("y", Normal(0.0, 1.0))
    assert trace.graph.parents("x") == {"z", "w"}
    assert trace.graph.parents("y") == frozenset()
    check_same(trace, an.Trace.from_dict(trace.to_dict()))
    trace.save(tmp_path / "a.trace")
    check_same(trace, an.Trace.load(tmp_path / "a.trace"))
    assert trace.escapes == ()


class Label(str):
    """A text of its own class, as numpy has them."""


def test_texts_and_numbers_of_other_classes_are_stored_as_those_of_python(tmp_path: Path) -> None:
    with an.record() as trace, an.plate(Label("rows"), 2):
        an.sample(Label("z"), Normal(0.0, 1.0), infer={Label("a"): np.float64(2), "b": np.int64(3)})
    trace.save(tmp_path / "a.trace")
    loaded = an.Trace.load(tmp_path / "a.trace")
    assert loaded["z"].infer == {"a": 2.0, "b": 3}
    assert {type(item) for item in loaded["z"].infer.values()} == {float, int}
    assert [type(name) for name in loaded] == [str, str]
    assert loaded.graph == trace.graph


@pytest.mark.parametrize(
    "name", ["it's", 'a"b', "a/b\\c", "\u00e9\u2603", "x\ny", "\x00", "\ud800", "a.b"]
)
def test_a_name_may_have_any_characters(name: str, tmp_path: Path) -> None:
    with an.record() as trace:
        an.sample(name, Normal(0.0, 1.0))
    trace.save(tmp_path / "a.trace")
    check_same(trace, an.Trace.load(tmp_path / "a.trace"))


DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.bool),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint64),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2)], ids=str)
def test_a_value_is_the_same_to_the_bit(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    value = torch.full(shape, 3.0).to(dtype)
    with an.record() as trace:
        an.deterministic("d", value)
    trace.save(tmp_path / "a.trace")
    found = an.Trace.load(tmp_path / "a.trace")["d"].value
    assert (found.dtype, found.shape) == (dtype, value.shape)
    assert found.flatten().view(torch.uint8).tolist() == value.flatten().view(torch.uint8).tolist()


def test_a_value_that_has_not_all_its_numbers_is_refused() -> None:
    with an.record() as trace:
        an.deterministic("d", torch.eye(2).to_sparse())
    with pytest.raises(
        an.errors.SiteError, match=r"site 'd' .*test_file.py:\d+.*sparse_coo.*to_dense"
    ):
        trace.to_dict()


def test_a_list_that_holds_itself_is_left_out() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with an.record() as trace:
        an.sample("z", Normal(0.0, 1.0), infer={"endless": endless, "rank": 1})
    assert an.Trace.from_dict(trace.to_dict())["z"].infer == {"rank": 1}


def test_a_mixture_of_foreign_parts_says_which_class_is_foreign() -> None:
    parts = Independent(Triangle(torch.ones(2, 3)), 1)
    with an.record() as trace:
        mixture = MixtureSameFamily(Categorical(torch.ones(2)), parts, validate_args=False)
        an.sample("z", mixture, obs=torch.zeros(3))
    fn = an.Trace.from_dict(trace.to_dict())["z"].fn
    assert fn is not None
    with pytest.raises(UnloadedDistributionError, match=r"^Triangle is no class of torch.*Mixture"):
        fn.log_prob(torch.ones(3))
    for ask in ("mean", "variance", "mode", "support", "stddev"):
        with pytest.raises(UnloadedDistributionError, match="make the distribution again"):
            getattr(fn, ask)
    for ask in ("expand", "cdf", "entropy", "enumerate_support"):
        with pytest.raises(NotImplementedError, match="Triangle is no class of torch"):
            getattr(fn, ask)()


def test_a_foreign_distribution_keeps_the_density_of_its_value_only(trace: an.Trace) -> None:
    fn = an.Trace.from_dict(trace.to_dict())["w"].fn
    assert isinstance(fn, Independent)
    with pytest.raises(UnloadedDistributionError, match="Triangle is no class of torch"):
        fn.base_dist.log_prob(torch.zeros(3))
    with pytest.raises(UnloadedDistributionError, match="Triangle"):
        fn.base_dist.sample()


class Blank(Distribution):
    """A distribution of the user that has no density."""

    arg_constraints: Any = {}  # noqa: RUF012 (as torch writes it)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.rand(self._extended_shape(sample_shape))


def test_a_distribution_without_density_is_stored_as_that(tmp_path: Path) -> None:
    with an.record() as trace:
        an.sample("z", Independent(Blank(torch.Size([3]), validate_args=False), 1))
    trace.save(tmp_path / "a.trace")
    loaded = an.Trace.load(tmp_path / "a.trace")
    assert trace.compare(loaded).is_equal
    assert loaded.format_shapes() == trace.format_shapes()
    assert loaded.compare(an.Trace.from_dict(loaded.to_dict())).is_equal
    with pytest.raises(UnloadedDistributionError, match="Blank is no class of torch"):
        _ = loaded["z"].log_prob


def test_a_distribution_that_changed_after_the_draw_is_not_stored_as_that_of_the_draw() -> None:
    loc = torch.zeros(2, requires_grad=True)

    def drawn(is_asked: bool) -> an.Trace:
        with an.record() as trace:
            an.sample("z", Independent(Normal(loc, 1.0), 1))
        if is_asked:
            trace.log_prob_sum()
        with torch.no_grad():
            loc.add_(1)
        return trace

    trace = drawn(is_asked=False)
    loaded = an.Trace.from_dict(trace.to_dict())
    with pytest.raises(UnloadedDistributionError, match="written into after the draw: of this Nor"):
        _ = loaded["z"].log_prob
    assert trace.compare(loaded).is_equal
    trace = drawn(is_asked=True)  # which the trace remembers
    loaded = an.Trace.from_dict(trace.to_dict())
    assert torch.equal(loaded["z"].log_prob, trace["z"].log_prob)


def test_functions_in_infer_are_left_out(trace: an.Trace) -> None:
    assert an.Trace.from_dict(trace.to_dict())["z"].infer == {"rank": 2}


def test_values_of_a_loaded_trace_are_constants_to_a_recording(trace: an.Trace) -> None:
    loaded = an.Trace.from_dict(trace.to_dict())
    with an.record() as again, an.handlers.replay(loaded):
        z = an.sample("z", Bernoulli(torch.tensor([0.3, 0.6])))
    assert torch.equal(z, trace["z"].value)
    assert not again["z"].is_drawn


def test_a_loaded_trace_has_no_gradient_and_says_so(trace: an.Trace) -> None:
    loaded = an.Trace.from_dict(trace.to_dict())
    for each in (loaded, loaded.copy()):
        for ask in (each.backward, each.explain):
            with pytest.raises(
                an.errors.SettledError, match=r"was loaded, .* record the program again"
            ):
                ask()
    with pytest.raises(an.errors.SettledError, match="already taken"):
        trace.backward()


class Malice:
    def __reduce__(self) -> Any:
        return os.mkdir, ("was-run",)


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "trace of ancestral", "trace": Malice()}, "bad.trace")
    with pytest.raises(
        StoredTraceError, match=r"^bad\.trace is no trace .*UnpicklingError"
    ) as caught:
        an.Trace.load("bad.trace")
    assert "weights_only" not in str(caught.value)  # torch tells how to run the code
    assert not Path("was-run").exists()


@pytest.mark.parametrize("other", [2, 4])
def test_a_file_of_another_version_is_refused(trace: an.Trace, tmp_path: Path, other: int) -> None:
    path = tmp_path / "a.trace"
    trace.save(path)
    torch.save({**torch.load(path), "version": other}, path)
    with pytest.raises(StoredTraceError, match=rf"a\.trace is no .* is {other}; expected 3"):
        an.Trace.load(path)


def test_a_pickle_that_is_put_into_a_file_is_not_run(
    trace: an.Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trace.save("a.trace")
    with zipfile.ZipFile("a.trace") as before, zipfile.ZipFile("b.trace", "w") as after:
        for name in before.namelist():
            is_pickle = name.endswith("data.pkl")
            after.writestr(name, pickle.dumps(Malice()) if is_pickle else before.read(name))
    Path("c.trace").write_bytes(pickle.dumps(Malice()))
    for path in ("b.trace", "c.trace"):
        with pytest.raises(StoredTraceError, match="more than plain data"):
            an.Trace.load(path)
    assert not Path("was-run").exists()


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_a_file_cut_short_is_refused(trace: an.Trace, tmp_path: Path, part: float) -> None:
    path = tmp_path / "a.trace"
    trace.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(StoredTraceError):
        an.Trace.load(path)


def test_a_number_that_changed_on_the_way_is_found(tmp_path: Path) -> None:
    with an.record() as trace:
        an.sample("z", Normal(torch.tensor(1234.5), 1.0), obs=torch.tensor(1234.5))
    path = tmp_path / "a.trace"
    trace.save(path)
    before = torch.tensor(1234.5).numpy().tobytes()
    assert before in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(before, torch.tensor(1234.0).numpy().tobytes()))
    with pytest.raises(StoredTraceError):
        an.Trace.load(path)


def test_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(StoredTraceError, match=r"not written by Trace\.save"):
        an.Trace.load(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError):
        an.Trace.load(tmp_path / "missing")


def test_a_file_stays_if_its_replacement_fails(
    trace: an.Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.trace"
    trace.save(path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="full"):
        trace.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.trace"]


@pytest.mark.skipif(os.name == "nt", reason="there are no modes of files")
def test_a_file_that_is_replaced_keeps_its_mode(trace: an.Trace, tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    trace.save(path)
    path.chmod(0o600)
    trace.save(path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("keys", "value", "found"),
    [
        (("nodes", 0, "name"), 3, "'name' is a int; expected a str"),
        (("nodes", 0, "type"), "code", "no node of type 'code'"),
        (("nodes", 0, "source"), 99, "no source of number 99"),
        (("nodes", 0, "fn", "family"), "Module", "no distribution or transform called 'Module'"),
        (("nodes", 0, "fn", "family"), "ExpTransform", "no distribution"),
        (("nodes", 0, "fn", "kind"), "eval", "of kind 'eval'"),
        (("nodes", 0, "fn", "state", "log_prob"), 1, "cannot hold 'log_prob'"),
        (("nodes", 0, "fn", "state", "__class__"), 1, "cannot hold '__class__'"),
        (("nodes", 1, "name"), "z", "two nodes have one name"),
        (("nodes",), None, "'nodes' is a NoneType"),
        (("sources",), [], "no source of number"),
    ],
)
def test_data_that_is_no_trace_is_refused(
    trace: an.Trace, keys: tuple[Any, ...], value: Any, found: str
) -> None:
    data = copy.deepcopy(trace.to_dict())
    inner: Any = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    with pytest.raises(StoredTraceError, match=found):
        an.Trace.from_dict(data)


def test_an_enumerated_trace_is_not_stored() -> None:
    with an.record() as trace, an.handlers.enumerate():
        an.sample("z", Bernoulli(0.5), infer={"enumerate": "parallel"})
    with pytest.raises(ValueError, match=r"site .z. .* is enumerated"):
        trace.to_dict()

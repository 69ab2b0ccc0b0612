"""Saving: what is loaded is what was saved, and nothing of a file is run."""

import copy
import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, parameters_of
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    constraints,
)

import ancestral as an
from ancestral.errors import StoredTraceError, UnloadedDistributionError


class Blank(Distribution):
    """A distribution of the user that has no density."""

    arg_constraints: Any = {}  # noqa: RUF012 (as torch writes it)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.rand(self._extended_shape(sample_shape))


class Triangle(Blank):
    """A distribution of the user, of one width."""

    def log_prob(self, value: Tensor) -> Tensor:
        return (1 - value.abs()).log()


def triangle(*shape: int) -> Distribution:
    return Independent(Triangle(torch.Size(shape), validate_args=False), 1)


def everything() -> None:
    scale = torch.ones(3, requires_grad=True)
    z = an.sample("z", Bernoulli(torch.tensor([0.3, 0.6])), infer={"rank": 2, "f": print})
    w = scale * an.sample("w", triangle(3))
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


def names() -> None:
    for name in ("it's", 'a"b', "a/b\\c", "\u00e9\u2603", "x\ny", "\x00", "\ud800", "a.b"):
        an.sample(name, Normal(0.0, 1.0))


PROGRAMS = [everything, many_sources, weights, named_values, names]


def run(program: Callable[[], object]) -> an.Trace:
    torch.manual_seed(0)
    with an.record() as trace:
        program()
    return trace


def again(trace: an.Trace) -> an.Trace:
    return an.Trace.from_dict(trace.to_dict())


@pytest.fixture
def trace() -> an.Trace:
    """The trace of a program with one of everything."""
    trace = run(everything)
    trace.backward()
    return trace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a trace is stored."""
    return tmp_path / "a.trace"


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


def draws_of(fn: Any) -> list[Tensor]:
    torch.manual_seed(1)
    return [fn.sample(), fn.expand((2, *fn.batch_shape)).sample()]


@pytest.mark.filterwarnings("ignore:Singular sample")  # a batch of Wishart says so always
@pytest.mark.parametrize("name", FAMILIES)
def test_a_distribution_of_torch_has_the_same_density_to_the_bit(name: str, path: Path) -> None:
    fn = FAMILIES[name].make(**parameters_of(name))
    trace = run(lambda: an.sample("z", fn))
    assert trace.compare(trace).is_equal  # distributions remember what they computed
    trace.save(path)
    loaded = an.Trace.load(path)
    found: Any = loaded["z"].fn
    assert type(found) is type(fn)
    assert trace.compare(loaded).is_equal  # of densities too, exactly
    assert (repr(found), str(found.support)) == (repr(fn), str(fn.support))
    assert type(found.batch_shape) is torch.Size
    for here, there in zip(draws_of(fn), draws_of(found), strict=True):
        assert torch.equal(here, there)


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


STANDARD = Normal(0.0, 1.0)
NAMESAKE, NOTED = type("Normal", (Normal,), {})(0.0, 1.0), Normal(0.0, 1.0)
NOTED.notes = {"class": "Normal"}  # type: ignore[attr-defined]
MIXTURE = MixtureSameFamily(Categorical(torch.ones(2)), triangle(2, 3), validate_args=False)
KNOWN = "a stored trace holds the name only, and the log-probability of the value it drew; make"


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (triangle(3), rf"Triangle is no class of torch\.distributions: of this Triangle {KNOWN}"),
        (MIXTURE, rf"Triangle is no class of .*: of this MixtureSameFamily {KNOWN}"),
        (Independent(Blank(torch.Size([3])), 1), r"Blank is no class of .* the name only; make"),
        (NAMESAKE, rf"Normal is no class of torch\.distributions: of this Normal {KNOWN}"),
        (NOTED, rf"a dictionary is no part of a .*: of this Normal {KNOWN}"),
    ],
)
def test_a_distribution_not_of_torch_keeps_its_name_and_the_density_of_its_value(
    fn: Distribution, message: str
) -> None:
    value = torch.zeros(fn.batch_shape + fn.event_shape)
    trace = run(lambda: an.sample("z", fn, obs=value))
    loaded = again(trace)
    for after in (loaded, again(loaded)):
        assert trace.compare(after).is_equal
        assert after.format_shapes() == trace.format_shapes()
        found: Any = getattr(after["z"].fn, "base_dist", after["z"].fn)
        for attribute in ("mean", "variance", "mode", "support", "stddev"):
            with pytest.raises(UnloadedDistributionError, match=f"^{message}"):
                getattr(found, attribute)
        for method in ("expand", "cdf", "entropy", "enumerate_support", "sample"):
            with pytest.raises(NotImplementedError, match=f"^{message}"):
                getattr(found, method)()
        with pytest.raises(UnloadedDistributionError, match=f"^{message}"):
            found.log_prob(value + 1)


class Narrow(Triangle):
    """A distribution of the user that says which values it can take."""

    support = constraints.unit_interval


@pytest.mark.parametrize("family", [Triangle, Narrow])
@pytest.mark.parametrize("keep", [(True, False, True), (False, True, True), (False,) * 3], ids=str)
@pytest.mark.parametrize("hidden", [0.2, 7.0, torch.nan])
def test_the_density_that_is_stored_is_masked_as_it_was(
    family: type[Triangle], keep: tuple[bool, ...], hidden: float
) -> None:
    def masked() -> None:
        fn = family(torch.Size((3, 2)), validate_args=False)
        value = torch.full((3, 2), 0.5)
        value[~torch.tensor(keep)] = hidden
        with an.handlers.mask(torch.tensor(keep)), an.handlers.scale(2.0):
            an.sample("x", Independent(fn, 1), obs=value)
            an.sample("z", Independent(fn, 1))

    trace = run(masked)
    loaded = again(trace)
    for after in (loaded, again(loaded)):
        assert trace.compare(after).is_equal, str(trace.compare(after))
        assert after.format_shapes() == trace.format_shapes()
        assert torch.equal(after.log_prob_sum(), trace.log_prob_sum())


def test_missing_data_have_the_density_that_is_stored() -> None:
    value = torch.tensor([0.5, torch.nan, 0.2])
    trace = run(lambda: an.sample("x", triangle(3), obs=value))
    assert trace.compare(again(trace)).is_equal


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_distribution_that_changed_after_the_draw_is_not_stored_as_that_of_the_draw(
    is_asked: bool,
) -> None:
    loc = torch.zeros(2, requires_grad=True)
    trace = run(lambda: an.sample("z", Independent(Normal(loc, 1.0), 1)))
    if is_asked:
        trace.log_prob_sum()
    with torch.no_grad():
        loc.add_(1)
    loaded = again(trace)
    assert trace.compare(loaded).is_equal
    if is_asked:  # which the trace remembers
        assert torch.equal(loaded["z"].log_prob, trace["z"].log_prob)
    else:
        with pytest.raises(UnloadedDistributionError, match=r"written into .*: of this Normal"):
            _ = loaded["z"].log_prob


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


def sealed(data: object) -> bytes:
    """Return a file of the right version with the right digest."""
    saved = io.BytesIO()
    torch.save(data, saved)
    body = data if isinstance(data, bytes) else saved.getvalue()
    return b"trace of ancestral, version 4\n" + hashlib.sha256(body).digest() + body


class Malice:
    def __reduce__(self) -> Any:
        return os.mkdir, ("was-run",)


def test_no_code_of_a_file_is_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    run(names).save(path)
    swapped = io.BytesIO()
    body = io.BytesIO(path.read_bytes().partition(b"\n")[2][32:])
    with zipfile.ZipFile(body) as before, zipfile.ZipFile(swapped, "w") as after:
        for name in before.namelist():
            is_pickle = name.endswith("data.pkl")
            after.writestr(name, pickle.dumps(Malice()) if is_pickle else before.read(name))
    for bad in ({"nodes": Malice()}, swapped.getvalue(), pickle.dumps(Malice())):
        path.write_bytes(sealed(bad))
        with pytest.raises(StoredTraceError, match=r"a\.trace .* more than plain data") as caught:
            an.Trace.load(path)
        assert "weights_only" not in str(caught.value)  # torch tells how to run the code
    assert not Path("was-run").exists()


@pytest.mark.parametrize("other", [b"3", b"5", b"?"])
def test_a_file_of_another_version_is_refused(path: Path, other: bytes) -> None:
    run(names).save(path)
    path.write_bytes(path.read_bytes().replace(b"version 4", b"version " + other, 1))
    with pytest.raises(StoredTraceError, match=rf"a\.trace is no .* is [{other.decode()}]; expec"):
        an.Trace.load(path)


def test_a_file_that_was_damaged_or_cut_short_is_refused(path: Path) -> None:
    run(names).save(path)
    content = path.read_bytes()
    for at in range(0, len(content), len(content) // 50):
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        for damaged in (content[:at], changed):
            path.write_bytes(damaged)
            with pytest.raises(StoredTraceError, match=r"damaged|its version is"):
                an.Trace.load(path)


def test_something_else_is_refused(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        an.Trace.load(path)
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(StoredTraceError, match=r"not written by Trace\.save"):
        an.Trace.load(path)
    for data, found in ({}, "'sources' is missing"), ([1], "'it' is a list; expected a dict"):
        path.write_bytes(sealed(data))
        with pytest.raises(StoredTraceError, match=rf"a\.trace is no .*{found}"):
            an.Trace.load(path)


def test_a_file_stays_if_its_replacement_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = run(names)
    trace.save(path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    for owner, name in ((torch, "save"), (Path, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fail)
            with pytest.raises(OSError, match="full"):
                trace.save(path)
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["a.trace"]


@pytest.mark.skipif(os.name == "nt", reason="there are no modes of files")
def test_a_file_that_is_replaced_keeps_its_mode(path: Path) -> None:
    run(names).save(path)
    path.chmod(0o600)
    run(names).save(path)
    assert path.stat().st_mode & 0o777 == 0o600


CLAIMS = ("nodes", 3, "param_provenance", "claims")


@pytest.mark.parametrize(
    ("keys", "value", "found"),
    [
        ((), 3, "'it' is a int; expected a dict"),
        (("nodes", 0, "name"), 3, "'name' is a int; expected a str"),
        (("nodes", 0, "is_observed"), 1, "'is_observed' is a int; expected a bool"),
        (("nodes", 0, "event_dims"), True, "'event_dims' is a bool; expected a int"),
        (("nodes", 0, "type"), "code", "no node of type 'code'"),
        (("nodes", 0, "value"), [1.0], "'value' is a list; expected a Tensor"),
        (("nodes", 0, "scale"), "x", "'scale' is a str; expected a float"),
        (("nodes", 0, "location"), {}, "'filename' is missing"),
        (("nodes", 0, "source"), True, "'source' is a bool; expected a int"),
        (("nodes", 0, "source"), 99, "no source of number 99"),
        (("nodes", 0, "source"), -1, "no source of number -1"),
        ((*CLAIMS, 0, 0, "dims"), [0, 0], "an alignment of 0 dimensions has others"),
        ((*CLAIMS, 0, 0, "there"), [[0, 1]], "ValueError"),
        (CLAIMS, [], "a dependency has no source"),
        (("nodes", 0, "fn"), 3, "'fn' is a int; expected a dict"),
        (("nodes", 0, "fn", "class"), "Module", "no distribution or transform called 'Module'"),
        (("nodes", 0, "fn", "class"), "ExpTransform", "'fn' is a ExpTransform; expected a Distr"),
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
    whole: Any = [copy.deepcopy(trace.to_dict())]
    inner, place = whole, 0
    for key in keys:
        inner, place = inner[place], key
    inner[place] = value
    with pytest.raises(StoredTraceError, match=f"^this is no trace that can be read: .*{found}"):
        an.Trace.from_dict(whole[0])

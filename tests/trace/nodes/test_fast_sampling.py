"""Simple families: what is drawn untracked shows all that it did when it was followed."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as d
from torch.overrides import TorchFunctionMode

import ancestral as an
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.tensor import provenance
from ancestral.trace.nodes.known_families import drawing

FAMILIES: dict[str, Callable[[Tensor], d.Distribution]] = {
    "Binomial": lambda x: d.Binomial(5, logits=x),
    "Bernoulli of probs": lambda x: d.Bernoulli(x * 0.5 + 0.1),
    "Bernoulli of logits": lambda x: d.Bernoulli(logits=x),
    "Exponential": lambda x: d.Exponential(x + 1),
    "Normal": lambda x: d.Normal(x, x + 1),
    "Poisson": lambda x: d.Poisson(x + 1),
    "Uniform": lambda x: d.Uniform(x, x + 1),
    "Gamma": lambda x: d.Gamma(x + 1, x + 2),
    "Chi2": lambda x: d.Chi2(x + 1),
    "StudentT": lambda x: d.StudentT(x + 2, x, x + 1),
    "FisherSnedecor": lambda x: d.FisherSnedecor(x + 1, x + 2),
    "NegativeBinomial of probs": lambda x: d.NegativeBinomial(x + 1, x * 0.5 + 0.1),
    "NegativeBinomial of logits": lambda x: d.NegativeBinomial(x + 1, logits=x),
}
STEPS: dict[str, Callable[[Tensor], d.Distribution]] = {
    "Categorical of probs": lambda x: d.Categorical(x[..., None] * x.new_ones(3) * 0.5 + 0.1),
    "Categorical of logits": lambda x: d.Categorical(logits=x[..., None] * torch.arange(3)),
    "Geometric": lambda x: d.Geometric(logits=x),
    "Multinomial": lambda x: d.Multinomial(5, logits=x[..., None] * torch.arange(3)),
    "OneHotCategorical": lambda x: d.OneHotCategorical(logits=x[..., None] * torch.arange(3)),
    "VonMises": lambda x: d.VonMises(x, x.exp() + 1),
}
"""Those that draw by steps without a useful derivative."""
FAMILIES |= STEPS
_WITHOUT_RSAMPLE = ("Bernoulli", "Binomial", "Poisson", "NegativeBinomial")
PAIRS = [
    (name, method)
    for name in FAMILIES
    for method in ("sample", "rsample")
    if method == "sample"
    or (
        name.split()[0] not in ("Bernoulli", "Binomial", "Poisson", "NegativeBinomial")
        and name not in STEPS
    )
]


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_a_draw_leaves_nothing_in_the_table_of_shared_memory(family: str, method: str) -> None:
    """What torch writes into in between is nobody else's."""
    with an.record():
        q = FAMILIES[family](coin(4, 2))
        drawn = getattr(q, method)()
        assert not storage.table
        assert not storage.concerns(drawn, vars(q))


def coin(*size: int) -> Tensor:
    """Draw fair coins, learned."""
    z: Tensor = d.Bernoulli(torch.full(size, 0.5, requires_grad=True)).sample()
    return z


@pytest.mark.parametrize(("family", "method"), PAIRS)
@pytest.mark.parametrize("sample_shape", [(), (3,)])
def test_a_draw_has_the_parents_and_alignments_of_its_parameters(
    family: str, method: str, sample_shape: tuple[int, ...]
) -> None:
    with an.record() as trace:
        z = coin(4, 2)
        drawn = getattr(FAMILIES[family](z), method)(torch.Size(sample_shape))
        node = trace["drawn"]
        assert node.parents == {"z"}
        assert node.param_provenance is not None
        lost = (-1,) * len(sample_shape)
        assert [alignment.dims for alignment, _ in node.param_provenance.entries] == [(*lost, 0, 1)]
        assert an.provenance_of(drawn) == {"drawn"}


@pytest.mark.parametrize(("family", "method"), PAIRS)
@pytest.mark.parametrize("arguments", [(), ((3,),)])
@pytest.mark.parametrize("change", [lambda fn: fn, lambda fn: fn.expand((5, 4, 2))])
def test_a_draw_is_the_one_that_plain_torch_makes(
    family: str, method: str, arguments: Any, change: Callable[[d.Distribution], d.Distribution]
) -> None:
    x = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    plain = getattr(change(FAMILIES[family](x)), method)(*arguments)
    torch.manual_seed(0)
    with an.record():
        ours = getattr(change(FAMILIES[family](x)), method)(*arguments)
    assert ours.stride() == plain.stride()
    torch.testing.assert_close(an.untrack(ours), plain, rtol=0, atol=0)
    assert ours.requires_grad is plain.requires_grad
    assert ours.dtype is plain.dtype
    if plain.requires_grad:
        expected = torch.autograd.grad(plain.sum(), x)
        torch.testing.assert_close(torch.autograd.grad(an.untrack(ours).sum(), x), expected)


@pytest.mark.parametrize("family", STEPS)
@pytest.mark.parametrize("sample_shape", [(), (3,)])
@pytest.mark.parametrize("is_hidden", [False, True])
def test_a_draw_of_steps_depends_on_the_kinks_that_its_ops_show(
    family: str, sample_shape: tuple[int, ...], is_hidden: bool
) -> None:
    loc = torch.zeros(4, 2, requires_grad=True)
    with an.record() as trace, torch.set_grad_enabled(not is_hidden):
        with torch.enable_grad():
            x = d.Normal(loc, 1.0).rsample()
        STEPS[family](x).sample(torch.Size(sample_shape))
        with storage.guard(lambda *_: None):  # which leads back to the ops
            STEPS[family](x).sample(torch.Size(sample_shape))
    _, *nodes = trace.values()
    quick, followed = (node.param_provenance for node in nodes)
    assert quick is not None
    assert followed is not None
    assert dict(quick.entries) == dict(followed.entries)
    # The draw, and that its gradient stops there unless the score goes on with it.
    assert len(quick.members) == (1 if nodes[0].is_learned else 2)
    assert (*(-1,) * len(sample_shape), 0, 1) in {each.dims for each, _ in quick.entries}


def test_a_parameter_that_a_draw_computed_for_itself_keeps_its_provenance() -> None:
    with an.record():
        z = coin(4)
        q = d.Bernoulli(logits=3 * z)
        q.sample()
        found = provenance(q.probs)
        assert found is not None
        assert {source.name for source in found.sources} == {"z"}
        assert [alignment.dims for alignment, _ in found.entries] == [(0,)]
        assert q.probs.requires_grad is z.requires_grad


def test_a_parameter_that_a_draw_computed_for_itself_is_computed_once_as_in_plain_torch() -> None:
    """Whoever reads it after a write into the other gets what was drawn from."""

    def read(logits: Tensor) -> tuple[Tensor, bool]:
        q = d.Bernoulli(logits=logits)
        q.sample()
        with torch.no_grad():
            logits.fill_(7)
        return q.probs, q.probs is q.probs

    plain, _ = read(torch.zeros(3))
    with an.record():
        ours, is_kept = read(an.track(torch.zeros(3), "x"))
    torch.testing.assert_close(an.untrack(ours), plain)
    assert is_kept


def test_a_parameter_that_a_draw_computed_for_itself_keeps_its_history() -> None:
    logits = torch.zeros(3, requires_grad=True)
    with an.record():
        q = d.Bernoulli(logits=logits)
        q.sample()
    q.probs.sum().backward()
    torch.testing.assert_close(logits.grad, torch.full((3,), 0.25))


@pytest.mark.parametrize(
    "draw",
    [
        lambda z: d.Bernoulli(z + 2, validate_args=False).sample(),
        lambda z: d.Normal(z, z - 2, validate_args=False).sample(),
        lambda z: d.Poisson(z - 2, validate_args=False).sample(),
    ],
)
def test_a_draw_that_values_make_raise_is_noted(draw: Callable[[Tensor], Tensor]) -> None:
    with an.record():
        z = coin()
        with pytest.raises(RuntimeError):
            draw(z)
        with pytest.raises(an.errors.CaughtError, match=rf"{re.escape(__file__)}:\d+ raised"):
            an.backward(z * 2)


def test_a_draw_that_shapes_make_raise_is_no_escape() -> None:
    with an.record(control="error"):
        z = coin(2)
        with pytest.raises(RuntimeError):
            d.Bernoulli(0.5 * z).sample((-1,))
        an.backward(z.sum())


def test_what_was_written_into_the_memory_of_a_parameter_is_a_parent_of_its_draws() -> None:
    probs = torch.full((3,), 0.5)
    with an.record() as trace:
        whole = probs[:]
        z = coin(3)
        whole.copy_(0.5 * z)
        drawn = d.Bernoulli(probs).sample()
        q = d.Bernoulli(logits=probs)
        q.sample()
    assert trace["drawn"].parents == {"z"}
    assert an.provenance_of(drawn) == {"drawn"}
    assert an.provenance_of(q.probs) == {"z"}


def test_a_decision_is_a_parent_of_the_draws_after_it() -> None:
    with an.record() as trace:
        z = coin()
        if z > 0.5:
            pass
        q = d.Bernoulli(logits=torch.zeros(2, requires_grad=True))
        drawn = q.sample()
        assert "z" in an.provenance_of(q.probs)
    assert trace["drawn"].parents == {"z"}
    assert an.provenance_of(drawn) == {"drawn"}


def test_a_number_of_samples_that_depends_on_a_value_is_an_escape() -> None:
    with an.record() as trace:
        z = coin()
        count = (z + 1).long()
        d.Bernoulli(torch.full((2,), 0.5, requires_grad=True)).sample((count,))
        assert [escape.sources for escape in trace.escapes] == [frozenset({"z"})]


def test_a_draw_of_integers_stops_the_gradient_of_what_it_depends_on() -> None:
    """Under no_grad nothing else tells that the score of x is needed."""
    torch.manual_seed(1)
    loc = torch.zeros(3, requires_grad=True)
    with an.record() as trace:
        x = d.Normal(loc, 1.0).rsample()
        with torch.no_grad():
            k = d.Categorical(logits=x).sample()
        an.backward((k + 1.0).sum())
    gate = trace["x"].gate
    assert gate is not None
    assert gate.is_shut
    assert trace["k"].value > 0
    assert loc.grad is not None
    assert loc.grad.any()


class Doubled(d.Bernoulli):
    """A class of the user, whose draws depend on a value that it does not declare."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__(torch.tensor(0.5))
        self.hidden = hidden

    def sample(self, sample_shape: Any = ()) -> Any:
        return super().sample(sample_shape) * self.hidden  # type: ignore[no-untyped-call]


def test_a_class_of_the_user_is_followed() -> None:
    with an.record() as trace:
        z = coin()
        Doubled(z).sample()
    assert [node.parents for node in trace.values()] == [frozenset(), {"z"}]


class Overdispersed(d.Poisson):
    """A class of the user that draws by a Gamma, whose parameters it declares in part only."""

    def __init__(self, rate: Tensor, hidden: Tensor) -> None:
        super().__init__(rate)
        self.hidden = hidden

    def sample(self, sample_shape: Any = ()) -> Any:
        drawn = d.Gamma(self.rate, self.hidden + 1).sample(sample_shape)
        assert isinstance(provenance(drawn), Provenance)
        return torch.poisson(drawn)


@pytest.mark.parametrize("sample_shape", [(), (3,)])
def test_a_gamma_within_a_draw_depends_on_its_parameters_element_by_element(
    sample_shape: tuple[int, ...],
) -> None:
    with an.record() as trace:
        a, b = coin(4, 2), coin(2)
        k = Overdispersed(a + 1, b).sample(sample_shape)
        inverse = d.InverseGamma(a + 1, b + 1).sample(sample_shape)
        assert not storage.table
    assert trace["k"].parents == trace["inverse"].parents == {"z", "z_1"}
    found = trace["inverse"].param_provenance
    assert found is not None
    lost = (-1,) * len(sample_shape)
    alignments = {s.name: each.dims for each, sources in found.entries for s in sources}
    assert alignments == {"z": (*lost, 0, 1), "z_1": (*lost, -1, 0)}
    assert an.provenance_of(k) | an.provenance_of(inverse) == {"k", "inverse"}


class _Calls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_mode_of_the_user_still_sees_what_is_drawn() -> None:
    with an.record(), _Calls() as calls:
        d.Bernoulli(0.5 * coin()).sample()
    assert calls.names.count("bernoulli") == 2


class _Foreign(Tensor):
    """A tensor of another library, which sees what is done with it."""

    calls: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def test_a_parameter_of_another_kind_of_tensor_is_left_to_its_own_library() -> None:
    with an.record():
        q = d.Bernoulli(torch.full((2,), 0.5))
        q.probs = torch.full((2,), 0.5).as_subclass(_Foreign)
        _Foreign.calls.clear()
        q.sample()
    assert "bernoulli" in _Foreign.calls


def test_a_method_that_nobody_has_read_is_run_as_it_is() -> None:
    assert drawing(d.Categorical.sample) is d.Categorical.sample


@pytest.mark.parametrize("size", [(3,), (4, 3), (2, 4, 3), (1, 1)])
@pytest.mark.parametrize("sample_shape", [(), (2,), (2, 5)])
@pytest.mark.parametrize("given", ["probs", "logits"])
def test_a_categorical_draws_what_plain_torch_draws(
    size: tuple[int, ...], sample_shape: tuple[int, ...], given: str
) -> None:
    """Whatever the step before at the same place was: no draw remembers another."""
    for dtype, is_learned, validates in itertools.product(
        (torch.float32, torch.float64), (False, True), (False, True)
    ):
        x = torch.rand(size, dtype=dtype).add(0.1).requires_grad_(is_learned)

        def draw(x: Tensor = x, validates: bool = validates) -> tuple[Tensor, d.Categorical]:
            torch.manual_seed(0)
            q = d.Categorical(**{given: x}, validate_args=validates)
            return q.sample(torch.Size(sample_shape)), q

        plain, expected = draw()
        with an.record() as trace:
            ours, q = draw()
        (node,) = trace.values()
        assert torch.equal(node.value, plain)
        assert (ours.dtype, ours.stride()) == (plain.dtype, plain.stride())
        assert node.is_learned is is_learned
        assert vars(q).keys() == vars(expected).keys()
        assert torch.equal(q.probs, expected.probs)
        assert q.probs.requires_grad is expected.probs.requires_grad


def test_a_categorical_has_the_parents_of_its_parameters() -> None:
    weights = torch.eye(3)[None]
    with an.record() as trace:
        for _ in range(2):
            plain = d.Categorical(logits=weights[0]).sample()
            z = coin(4, 1)
            drawn = d.Categorical(logits=z * weights[:, 0]).sample()
        written = torch.zeros(4, 3)
        whole = written[:]
        whole.copy_(z.expand(4, 3))
        after = d.Categorical(logits=written).sample()
    assert trace["plain"].parents == trace["plain_1"].parents == frozenset()
    assert trace["drawn"].parents == {"z"}
    assert trace["drawn_1"].parents == {"z_1"}
    assert trace["after"].parents == {"z_1"}
    assert plain.shape == (3,)
    assert drawn.shape == after.shape == (4,)


def test_a_categorical_that_another_draws_for_is_met() -> None:
    own = vars(d.Categorical)["sample"]
    for is_other in (False, True, False):
        if is_other:
            d.Categorical.sample = lambda self, shape=(): torch.tensor(7)  # type: ignore[method-assign]
        try:
            with an.record() as trace:
                d.Categorical(logits=torch.zeros(3)).sample()
        finally:
            if is_other:
                d.Categorical.sample = own  # type: ignore[method-assign]
        (node,) = trace.values()
        assert (int(node.value) == 7) is is_other


def test_a_categorical_drawn_under_inference_mode_can_be_scored() -> None:
    for _ in range(2):
        logits = torch.zeros(3, requires_grad=True)
        with an.record() as trace:
            with torch.inference_mode():
                d.Categorical(logits=logits.detach()).sample()
            z = d.Categorical(logits=logits).sample()
            an.backward(z.float())
        assert len(trace) == 2
        assert logits.grad is not None

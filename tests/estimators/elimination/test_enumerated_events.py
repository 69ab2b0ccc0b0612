"""Sites whose elements are one event, beside enumerated ones: their dimensions stand for no values.

Every sum is compared with that over runs which have one joint value each, in float64.
"""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Dirichlet,
    Distribution,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
)
from torch.nn.functional import one_hot

import ancestral as an
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import lift, markov, substitute

K, D, N = 3, 2, 2
PI = torch.tensor([0.2, 0.3, 0.5]).double()
DATA = torch.tensor([[0.3, -1.0], [1.2, 0.4], [-0.7, 0.9]]).double()
ZEROS, ONES = torch.zeros(K, D).double(), torch.ones(K).double()

Run = Callable[[Tensor], object]
"""A program, given a leaf to learn: the logits of three classes."""
Places = dict[str, tuple[int, tuple[int, ...]]]
"""The enumerated sites of a program, each with the number of its values and its batch."""


def normal(shape: tuple[int, ...], name: str = "locs") -> Tensor:
    zeros = torch.zeros(shape).double()
    return an.sample(name, Independent(Normal(zeros, 1.0), len(shape)))


def coin(name: str, probs: Tensor) -> Tensor:
    return an.sample(name, Bernoulli(probs))


def vectors(name: str, mean: Tensor, data: Tensor, event: int = 1) -> None:
    an.observe(name, Independent(Normal(mean, 0.5), event), data)


def mixture(
    chosen: Callable[[Tensor, Tensor], Tensor] = lambda locs, z: locs[z],
    centers: Callable[[], Tensor] = lambda: normal((K, D)),
) -> Run:
    def program(logits: Tensor) -> None:
        locs = centers()
        with an.plate("data", N):
            z = an.sample("z", Categorical(logits=logits))
            vectors("x", chosen(locs, z), DATA[:N])

    return program


def gathered(locs: Tensor, z: Tensor) -> Tensor:
    index = z[..., None, None].expand(*z.shape, 1, D)
    return locs.expand(*z.shape, K, D).gather(-2, index).squeeze(-2)


def where(locs: Tensor, z: Tensor) -> Tensor:
    later = torch.where((z == 1)[..., None], locs[1], locs[2])
    return torch.where((z == 0)[..., None], locs[0], later)


def of_a_vector_site(logits: Tensor) -> None:
    w = normal((K,), "w")
    locs = normal((K,))
    z = an.sample("z", Categorical(logits=w + logits))
    an.observe("x", Normal(locs[z], 0.5), DATA[0, 0])


def of_matrices(logits: Tensor) -> None:
    locs = normal((K, 2, D))
    with an.plate("data", N):
        z = an.sample("z", Categorical(logits=logits))
        vectors("x", locs[z], DATA[:N, None].expand(N, 2, D), 2)


def hidden_markov(logits: Tensor) -> None:
    moves = an.sample("moves", Independent(Dirichlet(torch.ones(K, K).double()), 1))
    locs, scale = normal((K, D)), an.sample("scale", Independent(LogNormal(ONES, 1.0), 1))
    z = torch.tensor(0)
    for t in markov(range(3)):
        probs = moves[z] if t else logits.softmax(-1)
        z = an.sample(f"z{t}", Categorical(probs))
        an.observe(f"x{t}", Independent(Normal(locs[z], scale[z][..., None]), 1), DATA[t])


def hidden_markov_in_a_plate(logits: Tensor) -> None:
    locs, p = normal((2, D)), logits.softmax(-1)[0]
    with an.plate("sequences", 2):
        z = torch.zeros(()).double()
        for t in markov(range(2)):
            z = coin(f"z{t}", p + 0.5 * z)
            vectors(f"x{t}", locs[z.long()], DATA[t : t + 2])


def several(logits: Tensor) -> None:
    locs = normal((2, K, D))
    with an.plate("data", N):
        a = coin("a", PI[1])
        z = an.sample("z", Categorical(logits=logits + a[..., None] * torch.arange(K)))
        vectors("x", locs[a.long(), z], DATA[:N])


def nested(logits: Tensor) -> None:
    locs, p = normal((2, D)), logits.softmax(-1)[0]
    with an.plate("outer", 2, dim=-2):
        a = coin("a", p)
        with an.plate("inner", 2, dim=-1):
            b = coin("b", 0.2 + 0.5 * a)
            vectors("x", locs[b.long()] + a[..., None], DATA[:2, None].expand(2, 2, D))


def of_components_in_a_plate(logits: Tensor) -> None:
    with an.plate("components", K):
        locs = an.sample("locs", MultivariateNormal(ZEROS[0], torch.eye(D).double()))
    with an.plate("data", N):
        z = an.sample("z", Categorical(logits=logits))
        an.observe("x", MultivariateNormal(locs[z], torch.eye(D).double()), DATA[:N])


def of_a_lifted_parameter(logits: Tensor) -> None:
    with an.ParamStore(), lift(Normal(torch.zeros(()).double(), 1.0)):
        mixture(centers=lambda: an.param("locs", ZEROS))(logits)


def observed() -> Tensor:
    return an.observe("locs", Independent(Normal(ZEROS, 1.0), 2), DATA)


def named() -> Tensor:
    return an.deterministic("locs", 2 * normal((K, D), "w"))


Z: Places = {"z": (K, (N,))}
PROGRAMS: dict[str, tuple[Run, Places, int]] = {
    "indexed": (mixture(), Z, -2),
    "indexed from the left": (mixture(lambda locs, z: locs[z, :]), Z, -2),
    "one-hot": (mixture(lambda locs, z: one_hot(z, K).double() @ locs), Z, -2),
    "einsum": (
        mixture(lambda locs, z: torch.einsum("...k,kd->...d", one_hot(z, K).double(), locs)),
        Z,
        -2,
    ),
    "selected": (
        mixture(lambda locs, z: locs.index_select(0, z.reshape(-1)).reshape(*z.shape, D)),
        Z,
        -2,
    ),
    "embedded": (mixture(lambda locs, z: torch.nn.functional.embedding(z, locs)), Z, -2),
    "gathered": (mixture(gathered), Z, -2),
    "where": (mixture(where), Z, -2),
    "a vector of logits": (of_a_vector_site, {"z": (K, ())}, -1),
    "matrices": (of_matrices, Z, -2),
    "a chain": (hidden_markov, {f"z{t}": (K, ()) for t in range(3)}, -1),
    "chains": (hidden_markov_in_a_plate, {f"z{t}": (2, (2,)) for t in range(2)}, -2),
    "several": (several, {"a": (2, (N,)), "z": (K, (N,))}, -2),
    "nested plates": (nested, {"a": (2, (2, 1)), "b": (2, (2, 2))}, -3),
    "components in a plate": (of_components_in_a_plate, Z, -2),
    "observed": (mixture(centers=observed), Z, -2),
    "lifted": (of_a_lifted_parameter, Z, -2),
    "tracked": (mixture(centers=lambda: an.track(DATA, "locs")), Z, -2),
    "named": (
        mixture(lambda locs, z: an.deterministic("mean", locs[z], event_dim=1), named),
        Z,
        -2,
    ),
}


def joint_values(places: Places) -> Iterator[dict[str, Tensor]]:
    cells = [
        (name, at) for name in places for at in itertools.product(*map(range, places[name][1]))
    ]
    for joint in itertools.product(*(range(places[name][0]) for name, _ in cells)):
        values = {name: torch.zeros(places[name][1], dtype=torch.long) for name in places}
        for (name, at), value in zip(cells, joint, strict=True):
            values[name][at] = value
        yield values


def by_runs(program: Run, places: Places, drawn: an.Trace, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-marginal, and the probabilities of the first site's values, [K, *batch]."""
    fixed = {node.name: node.value for node in drawn.stochastic_nodes if not node.is_enumerated}
    fns = {name: drawn[name].fn for name in places}
    first = next(iter(places))
    weights, hits = list[Tensor](), list[Tensor]()
    for values in joint_values(places):
        typed = {
            name: value if isinstance(fns[name], Categorical) else value.double()
            for name, value in values.items()
        }
        with an.record() as trace, substitute({**fixed, **typed}):
            program(logits)
        weights.append(an.untrack(trace.log_prob_sum()))
        hits.append(torch.stack([values[first] == k for k in range(places[first][0])]))
    logs = torch.stack(weights)
    total = logs.logsumexp(0)
    return total, torch.einsum("r,r...->...", (logs - total).exp(), torch.stack(hits).double())


@pytest.mark.parametrize("further", [0, 1, None])
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_event_is_no_dimension_of_values_wherever_the_values_begin(
    name: str, further: int | None
) -> None:
    program, places, boundary = PROGRAMS[name]
    logits = PI.log().requires_grad_()
    block = enumeration() if further is None else enumeration(first_dim=boundary - further)
    with an.record() as trace, block:
        program(logits)
    total, posterior = by_runs(program, places, trace, logits)
    found = an.untrack(an.infer.log_marginal(trace))
    torch.testing.assert_close(found, total)
    torch.testing.assert_close(
        torch.autograd.grad(found, logits, retain_graph=True),
        torch.autograd.grad(total, logits, retain_graph=True),
    )
    first = next(iter(places))
    ours = an.untrack(an.infer.marginals(trace)[first]).exp()
    torch.testing.assert_close(ours.reshape(posterior.shape), posterior)
    draws = an.infer.sample_posterior(trace, 5)
    assert {n: draws[n].shape for n in places} == {n: (5, *places[n][1]) for n in places}


EVENTS = [
    Independent(Normal(ZEROS, 1.0), 2),
    Independent(MultivariateNormal(ZEROS, torch.eye(D).double()), 1),
    Normal(ZEROS, 1.0),  # repetitions that no plate claims, and no values either
]


@pytest.mark.parametrize("fn", EVENTS, ids=["two", "one and one", "a batch"])
def test_what_is_drawn_before_the_block_has_one_value(fn: Distribution) -> None:
    with an.record() as trace:
        locs = an.sample("locs", fn)
        with enumeration(first_dim=-2), an.plate("data", N):
            z = an.sample("z", Categorical(PI))
            vectors("x", locs[z], DATA[:N])
    each = Normal(an.untrack(locs), 0.5).log_prob(DATA[:N, None]).sum(-1) + PI.log()
    expected = each.logsumexp(-1).sum() + trace["locs"].log_prob.sum()
    torch.testing.assert_close(an.untrack(an.infer.log_marginal(trace)), expected)


def test_the_bound_of_an_enumerated_guide_beside_events_is_exact() -> None:
    logits = torch.tensor([[0.1, 0.7, -0.3], [1.0, 0.0, 0.2]]).double().requires_grad_()

    def guide() -> None:
        an.sample("locs", Independent(Normal(ZEROS + 0.1, 0.7), 2))
        with an.plate("data", N):
            an.sample("z", Categorical(logits=logits))

    def model() -> None:
        mixture()(PI.log())

    torch.manual_seed(0)
    with enumeration(first_dim=-2):
        bound = an.infer.elbo(model, guide)
    bound.surrogate.backward()
    gradient, logits.grad = logits.grad, None
    torch.manual_seed(0)
    with an.record() as trace:
        guide()
    locs = an.untrack(trace["locs"].value)
    q = logits.softmax(-1)
    each = PI.log() + Normal(locs, 0.5).log_prob(DATA[:N, None]).sum(-1) - q.log()
    prior = Normal(0.0, 1.0).log_prob(locs).sum() - Normal(0.1, 0.7).log_prob(locs).sum()
    expected = (q * each).sum() + prior
    (-expected).backward()
    torch.testing.assert_close(bound.value, expected.detach())
    torch.testing.assert_close(gradient, logits.grad)

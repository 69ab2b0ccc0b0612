"""Draws without a gradient: sites wherever they have parameters, whichever function draws."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.distributions as dist
from torch import Tensor, nn
from torch.nn import functional

import ancestral as an
from ancestral.provenance.algebra.alignment import LOST
from ancestral.trace.graph.find_plates import kept

Fn = Callable[[Tensor], dist.Distribution]

CALLS: dict[str, tuple[Callable[[Tensor], Tensor], Fn]] = {
    "torch.multinomial": (
        lambda p: torch.multinomial(p, 1),
        lambda p: dist.Categorical(p[None]),
    ),
    "several of multinomial": (
        lambda p: torch.multinomial(p.expand(3, 2), 2, replacement=True),
        lambda p: dist.Categorical(p.expand(3, 2, 2)),
    ),
    "torch.bernoulli": (torch.bernoulli, dist.Bernoulli),
    "Tensor.bernoulli": (lambda p: p.bernoulli(), dist.Bernoulli),
    "Tensor.bernoulli_": (lambda p: torch.empty(2).bernoulli_(p), dist.Bernoulli),
    "torch.normal of a mean": (lambda p: torch.normal(p, 2.0), lambda p: dist.Normal(p, 2.0)),
    "torch.normal of a scale": (lambda p: torch.normal(1.0, p), lambda p: dist.Normal(1.0, p)),
    "torch.normal of both": (lambda p: torch.normal(p, p), lambda p: dist.Normal(p, p)),
    "torch.poisson": (torch.poisson, dist.Poisson),
    "torch.binomial": (
        lambda p: torch.binomial(torch.full((2,), 3.0), p),
        lambda p: dist.Binomial(torch.full((2,), 3.0), p),
    ),
    "Bernoulli.sample": (lambda p: dist.Bernoulli(p).sample(), dist.Bernoulli),
    "Categorical.sample": (lambda p: dist.Categorical(p).sample(), dist.Categorical),
    "Normal.rsample": (lambda p: dist.Normal(p, 1.0).rsample(), lambda p: dist.Normal(p, 1.0)),
    "Independent": (
        lambda p: dist.Independent(dist.Normal(p, 1.0), 1).sample(),
        lambda p: dist.Independent(dist.Normal(p, 1.0), 1),
    ),
}
MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "with gradients": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


# Torch says of a view that is made under no_grad that it requires a gradient; it lets none through.
COMPUTED: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": Tensor.detach,
    "computed": lambda weight: weight * 1,
    "a view": lambda weight: weight.view(2),
    "a view of a view": lambda weight: weight.expand(3, 2)[1],
}
UNLEARNED = [(m, c) for m in MODES for c in COMPUTED if m != "with gradients" or c == "constant"]


@pytest.mark.parametrize(("mode", "computed"), UNLEARNED)
@pytest.mark.parametrize("name", CALLS)
def test_a_draw_with_parameters_is_a_site_where_no_gradient_reaches_them(
    name: str, mode: str, computed: str
) -> None:
    call, distribution = CALLS[name]
    weight = nn.Parameter(torch.tensor([0.3, 0.7]))
    with an.record() as trace:
        with MODES[mode]():
            first = call(COMPUTED[computed](weight))
            second = call(0.2 + 0.1 * (first.float() > 0.5).sum() * torch.ones(2))
        loss = second.float().sum() * 2
    a, b = trace.values()
    assert [type(node.fn) for node in (a, b)] == [type(distribution(weight))] * 2
    assert (an.provenance_of(first), an.provenance_of(second)) == ({a.name}, {b.name})  # type: ignore[comparison-overlap]
    assert not a.is_learned
    assert b.parents == {a.name}
    torch.testing.assert_close(a.log_prob, distribution(weight.detach()).log_prob(a.value))
    assert [v.name for v in trace.graph.vertices] == [a.name, b.name]
    assert trace.graph.parents(b.name) == {a.name}
    named = ", ".join(rf"'{node.name}' \(.*gradient.py:{node.location.line}\)" for node in (a, b))
    with pytest.raises(an.errors.LossError, match=rf"{named} are constants"):
        an.backward(loss)
    assert weight.grad is None


def test_a_parameter_that_has_a_gradient_counts_beside_one_that_has_none() -> None:
    loc, scale = (torch.tensor([0.3, 0.7], requires_grad=True) for _ in range(2))
    with an.record() as trace:
        with torch.no_grad():
            z = dist.Normal(loc, scale.view(2)).sample()
            y = dist.Normal(z + scale.view(1, 2), loc.expand(2)).sample()
        loss = (z * y).sum()
    assert [node.is_learned for node in trace.values()] == [True, False]
    an.backward(loss, credit=an.estimators.total_cost)
    density = dist.Normal(loc, scale.detach()).log_prob(trace["z"].value).sum()
    by_hand = torch.autograd.grad(density * an.untrack(loss), loc)[0]
    torch.testing.assert_close(loc.grad, by_hand)
    assert scale.grad is None


NOISE: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda p: functional.dropout(p, 0.5),
    "a layer of dropout": lambda p: nn.Dropout(0.5)(p),
    "dropout of channels": lambda p: functional.dropout1d(p.expand(1, 3, 2), 0.5),
    "attention with dropout": lambda p: functional.scaled_dot_product_attention(
        p.expand(1, 3, 2), p.expand(1, 3, 2), p.expand(1, 3, 2), dropout_p=0.5
    ),
    "bernoulli_ of a number": lambda p: torch.empty(2).bernoulli_(0.5),
    "rand": lambda p: torch.rand(2),
    "rand_like": torch.rand_like,
    "randn": lambda p: torch.randn(2),
    "randint": lambda p: torch.randint(3, (2,)),
    "randperm": lambda p: torch.randperm(3),
    "normal_": lambda p: torch.empty(2).normal_(1.0, 2.0),
    "uniform_": lambda p: torch.empty(2).uniform_(1.0, 2.0),
    "exponential_": lambda p: torch.empty(2).exponential_(2.0),
    "geometric_": lambda p: torch.empty(2).geometric_(0.5),
    "gumbel_softmax": functional.gumbel_softmax,
    "rrelu": lambda p: functional.rrelu(p, training=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NOISE)
def test_randomness_without_parameters_is_no_site(name: str, mode: str) -> None:
    p = torch.tensor([0.3, 0.7])
    with an.record() as trace, MODES[mode]():
        value = NOISE[name](p)
    assert not trace
    assert type(value) is Tensor


class Decoder(nn.Module):
    """A causal language model of 5 words: what it says next depends on all words so far."""

    def __init__(self, size: int = 4, words: int = 5) -> None:
        super().__init__()
        self.words = nn.Embedding(words, size)
        self.positions = nn.Embedding(16, size)
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True)
        self.head = nn.Linear(size, words)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of the word after each of [batch, time], [batch, time, words]."""
        length = ids.shape[1]
        h = self.words(ids) + self.positions(torch.arange(length))
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        h = h + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        logits: Tensor = self.head(h)
        return logits

    @torch.no_grad()
    def generate(self, ids: Tensor, steps: int, *, top_k: int | None = None) -> Tensor:
        """Return the words, and those that are drawn after them."""
        for _ in range(steps):
            logits = self(ids)[:, -1]
            if top_k is not None:
                least = logits.topk(top_k).values[:, -1:]
                logits = logits.masked_fill(logits < least, -torch.inf)
            word = torch.multinomial(logits.softmax(-1), num_samples=1)
            ids = torch.cat([ids, word], dim=1)
        return ids


@pytest.mark.parametrize("top_k", [None, 3])
def test_the_trace_and_the_graph_of_a_generated_text_are_whole(top_k: int | None) -> None:
    torch.manual_seed(0)
    model, start = Decoder().eval(), torch.tensor([[0], [1], [2]])
    with an.record() as trace:
        words = model.generate(start, 4, top_k=top_k)
    names = ["word", "word_1", "word_2", "word_3"]
    assert list(trace) == names
    assert an.provenance_of(words) == set(names)
    # Each word depends on those before it in its own text, and on no other text.
    found = {(e.parent, e.child, kept(e.alignment)) for e in trace.graph.edges}
    by_text = (0, LOST)
    assert found == {(a, b, by_text) for i, b in enumerate(names) for a in names[:i]}
    (texts,) = (plate for plate in trace.plates if plate.size == 3)
    assert texts.dims == tuple((name, 0) for name in names)
    assert not trace.escapes
    # The densities are those of the model, given the words before.
    plain = an.untrack(words)
    if top_k is None:
        by_hand = model(plain[:, :-1]).log_softmax(-1).gather(-1, plain[:, 1:, None])
        found_densities = torch.cat([node.log_prob for node in trace.values()], 1)
        torch.testing.assert_close(found_densities, by_hand[..., 0])
    assert torch.equal(torch.cat([node.value for node in trace.values()], 1), plain[:, 1:])


def test_a_gradient_of_a_generated_text_says_that_no_draw_of_it_has_a_score() -> None:
    model = Decoder()
    with an.record():
        loss = model.generate(torch.zeros(3, 1, dtype=torch.long), 5).float().sum()
    with pytest.raises(
        an.errors.LossError, match=r"'word' \(.*\), 'word_1'.* and 2 more .*no_grad.*an.rescore"
    ):
        an.backward(loss)


def test_what_depends_on_draws_without_a_score_is_learned_all_the_same() -> None:
    model, judge = Decoder(), nn.Linear(4, 1)
    with an.record():
        words = model.generate(torch.zeros(3, 1, dtype=torch.long), 3).float()
        loss = judge(words).square().sum()
    an.backward(loss)
    by_hand = torch.autograd.grad(judge(an.untrack(words)).square().sum(), judge.weight)[0]
    torch.testing.assert_close(judge.weight.grad, by_hand)
    assert all(weight.grad is None for weight in model.parameters())

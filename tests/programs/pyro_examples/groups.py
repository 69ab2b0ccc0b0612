"""Programs of groups: hidden Markov models, a mixture, topics of documents, layers of gammas."""

# mypy: disable-error-code="no-any-return"

from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor
from torch.distributions import constraints

from programs.in_pyro import poutine, pyro
from programs.pyro_examples.example import Example, digits, example


def tunes() -> tuple[Tensor, Tensor]:
    """Return keys that are down, [sequences, steps, keys], and how long each sequence is."""
    torch.manual_seed(1)
    down = (torch.rand(5, 6, 4) > 0.6).to(torch.get_default_dtype())
    return down, torch.tensor([6, 6, 4, 2, 5])


def chances(states: int, keys: int) -> tuple[Tensor, Tensor]:
    """Return the chances of the next state, and of each key, which are learned."""
    with pyro.plate("states", states):
        move = pyro.sample("move", dist.Dirichlet(0.9 * torch.eye(states) + 0.1).to_event(0))
        press = pyro.sample("press", dist.Beta(2.0, 4.0).expand([keys]).to_event(1))
    return move, press


def hidden(name: str) -> Any:
    return pyro.infer.config_enumerate(AutoDelta(poutine.block(MODELS[name], hide_fn=is_local)))


def is_local(site: Any) -> bool:
    return site["name"].split("_")[0] in ("state", "other", "key", "x", "assigned", "word")


def hmm_model(x: Tensor, lengths: Tensor) -> None:
    """Run a chain of hidden states, each of which tells which keys are likely."""
    move, press = chances(3, x.shape[-1])
    keys = pyro.plate("keys", x.shape[-1], dim=-1)
    with pyro.plate("tunes", len(x), dim=-2):
        state: Any = 0
        for t in pyro.markov(range(x.shape[1])):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                state = pyro.sample(
                    f"state_{t}", dist.Categorical(move[state]), infer={"enumerate": "parallel"}
                )
                with keys as index:
                    chance = press[state.squeeze(-1)] if state.dim() else press[state]
                    pyro.sample(f"key_{t}", dist.Bernoulli(chance[..., index]), obs=x[:, t])


def factorial_model(x: Tensor, lengths: Tensor) -> None:
    """Run two chains of hidden states beside each other."""
    move, press = chances(4, x.shape[-1])
    weigh = torch.arange(2.0)
    keys = pyro.plate("keys", x.shape[-1], dim=-1)
    marked = {"enumerate": "parallel"}
    with pyro.plate("tunes", len(x), dim=-2):
        state: Any = 0
        other: Any = 0
        for t in pyro.markov(range(x.shape[1])):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                logits = weigh * move[state, 0].unsqueeze(-1)
                state = pyro.sample(f"state_{t}", dist.Categorical(logits=logits), infer=marked)
                logits = weigh * move[other, 1].unsqueeze(-1)
                other = pyro.sample(f"other_{t}", dist.Categorical(logits=logits), infer=marked)
                with keys:
                    chance = press[:, :][(2 * state + other).squeeze(-1)]
                    pyro.sample(f"key_{t}", dist.Bernoulli(chance), obs=x[:, t])


def mixture_model(x: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(3)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 3):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("cases", len(x)):
        assigned = pyro.sample(
            "assigned", dist.Categorical(weights), infer={"enumerate": "parallel"}
        )
        pyro.sample("x", dist.Normal(locs[assigned], scale), obs=x)


MODELS: dict[str, Any] = {
    "hmm": hmm_model,
    "factorial": factorial_model,
    "mixture": mixture_model,
}
PLACES = torch.tensor([-3.0, -2.6, 0.1, 4.0, 4.4, 3.8, 0.3, -3.2])


@example
def hmm() -> Example:
    """The states are summed over; the chances are points (AutoDelta)."""
    return Example(hmm_model, hidden("hmm"), tunes(), nesting=2)


@example
def factorial_hmm() -> Example:
    return Example(factorial_model, hidden("factorial"), tunes(), nesting=2)


@example
def hmm_drawn() -> Example:
    """The states are drawn, by a guide that has a table for each."""

    def model(x: Tensor) -> None:
        move, press = torch.eye(3) * 2 + 0.3, torch.linspace(0.2, 0.8, 3)
        state: Any = 0
        with pyro.plate("tunes", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                state = pyro.sample(f"state_{t}", dist.Categorical(move[state]))
                pyro.sample(f"key_{t}", dist.Bernoulli(press[state]), obs=x[:, t, 0])

    def guide(x: Tensor) -> None:
        logits = pyro.param("logits", torch.zeros(x.shape[1], len(x), 3))
        with pyro.plate("tunes", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                pyro.sample(f"state_{t}", dist.Categorical(logits=logits[t]))

    return Example(model, guide, tunes()[:1])


@example
def mixture() -> Example:
    """Clusters of points; the assignments are summed over."""
    return Example(mixture_model, hidden("mixture"), (PLACES,), nesting=1)


@example
def mixture_drawn() -> Example:
    """The assignments are drawn."""
    points = AutoDelta(poutine.block(mixture_model, hide_fn=is_local))

    def guide(x: Tensor) -> None:
        points(x)
        logits = pyro.param("logits", torch.zeros(len(x), 3))
        with pyro.plate("cases", len(x)):
            pyro.sample("assigned", dist.Categorical(logits=logits))

    return Example(
        poutine.infer_config(mixture_model, lambda _: {"enumerate": None}), guide, (PLACES,)
    )


@example
def lda() -> Example:
    """Topics of documents, each word of one topic, over which is summed; Blei et al. (2003)."""
    topics, terms, documents, words = 3, 10, 6, 7
    torch.manual_seed(1)
    found = torch.randint(0, terms, (words, documents))
    network = torch.nn.Linear(terms, topics)

    def model(found: Tensor) -> None:
        with pyro.plate("topics", topics):
            weights = pyro.sample("weights", dist.Gamma(1.0 / topics, 1.0))
            share = pyro.sample("share", dist.Dirichlet(torch.ones(terms) / terms))
        with pyro.plate("documents", documents):
            mix = pyro.sample("mix", dist.Dirichlet(weights))
            with pyro.plate("words", words):
                topic = pyro.sample(
                    "word_topic", dist.Categorical(mix), infer={"enumerate": "parallel"}
                )
                pyro.sample("words_seen", dist.Categorical(share[topic]), obs=found)

    def guide(found: Tensor) -> None:
        pyro.module("network", network)
        positive, simplex = constraints.positive, constraints.simplex
        weights = pyro.param("q_weights", lambda: torch.ones(topics), constraint=positive)
        share = pyro.param("q_share", lambda: torch.full((topics, terms), 0.1), constraint=simplex)
        with pyro.plate("topics", topics):
            pyro.sample("weights", dist.Gamma(weights, 1.0))
            pyro.sample("share", dist.Delta(share, event_dim=1))
        counts = torch.zeros(documents, terms)
        counts = counts.scatter_add(1, found.t(), torch.ones(documents, words))
        with pyro.plate("documents", documents):
            pyro.sample("mix", dist.Delta(network(counts).softmax(-1), event_dim=1))

    return Example(model, guide, (found,), nesting=2)


@example
def sparse_gamma_def() -> Example:
    """A deep exponential family of three layers of gammas; Ranganath et al. (2015)."""
    x, sizes = digits(12)[0], (5, 4, 3)
    outputs = (*sizes[1:], x.shape[1])

    def model(x: Tensor) -> None:
        upper: Any = None
        images = pyro.plate("images", len(x))
        for n, (size, out) in enumerate(zip(sizes, outputs, strict=True)):
            with pyro.plate(f"w_{n}_plate", size * out):
                w = pyro.sample(f"w_{n}", dist.Gamma(0.3, 0.1)).reshape(size, out)
            with images:
                rate = torch.full((size,), 0.3) if upper is None else 0.3 / upper
                shape = dist.Gamma(0.3, rate).to_event(1)
                z = pyro.sample(f"z_{n}", shape)
            upper = z @ w
        with images:
            pyro.sample("x", dist.Poisson(upper).to_event(1), obs=x)

    def gamma(name: str, *shape: int) -> Any:
        """Return a gamma of learned shape and mean."""
        alpha = pyro.param(f"alpha_{name}", lambda: torch.full(shape, 0.5))
        mean = pyro.param(f"mean_{name}", lambda: torch.full(shape, 0.1))
        alpha, mean = (torch.nn.functional.softplus(each) for each in (alpha, mean))
        return dist.Gamma(alpha, alpha / mean)

    def guide(x: Tensor) -> None:
        images = pyro.plate("images", len(x))
        for n, (size, out) in enumerate(zip(sizes, outputs, strict=True)):
            with pyro.plate(f"w_{n}_plate", size * out):
                pyro.sample(f"w_{n}", gamma(f"w_{n}", size * out))
            with images:
                pyro.sample(f"z_{n}", gamma(f"z_{n}", len(x), size).to_event(1))

    return Example(model, guide, (x,))

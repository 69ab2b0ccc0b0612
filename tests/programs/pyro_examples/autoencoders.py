"""Autoencoders of digits: plain, deep in time, with some labels, and one that looks at objects."""

# mypy: disable-error-code="no-any-return"

from itertools import pairwise
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn

from programs.in_pyro import pyro
from programs.pyro_examples.example import Example, digits, example


def layers(*sizes: int) -> nn.Sequential:
    pairs = pairwise(sizes)
    parts = [part for n, m in pairs for part in (nn.Linear(n, m), nn.Softplus())]
    return nn.Sequential(*parts[:-1])


def gaussian(code: Tensor) -> Any:
    """Return the distribution of an event whose mean and log scale a network gives, [..., 2 n]."""
    loc, log_scale = code.chunk(2, -1)
    return dist.Normal(loc, (log_scale / 2).exp()).to_event(1)


def standard(size: int) -> Any:
    return dist.Normal(torch.zeros(size), 1.0).to_event(1)


def beside(*parts: Tensor) -> Tensor:
    """Return features beside each other; sites that are enumerated have more dimensions."""
    batch = torch.broadcast_shapes(*[part.shape[:-1] for part in parts])
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in parts], -1)


@example
def vae() -> Example:
    """Kingma and Welling (2014)."""
    encoder, decoder, x = layers(64, 20, 8), layers(4, 20, 64), digits(32)[0]

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", standard(4))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("images", len(x)):
            pyro.sample("z", gaussian(encoder(x)))

    return Example(model, guide, (x,))


def with_some_labels() -> Example:
    """Return the second model of Kingma et al. (2014), with labels of a half of the digits."""
    x, labels = digits(32)
    encoder, decoder, classifier = layers(74, 20, 8), layers(14, 20, 64), layers(64, 20, 10)
    known = F.one_hot(labels[:16], 10).to(x.dtype)

    def model(name: str, x: Tensor, y: Tensor | None) -> None:
        with pyro.plate(name, len(x)):
            z = pyro.sample(f"z_{name}", standard(4))
            y = pyro.sample(f"y_{name}", dist.OneHotCategorical(torch.full((10,), 0.1)), obs=y)
            logits = decoder(beside(z, y))
            pyro.sample(f"x_{name}", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(name: str, x: Tensor, y: Tensor | None) -> None:
        with pyro.plate(name, len(x)):
            if y is None:
                y = pyro.sample(f"y_{name}", dist.OneHotCategorical(logits=classifier(x)))
            pyro.sample(f"z_{name}", gaussian(encoder(beside(x, y))))

    def both(program: Any, nets: dict[str, nn.Module]) -> Any:
        def run(x: Tensor, known: Tensor) -> None:
            for name, net in nets.items():
                pyro.module(name, net)
            program("labelled", x[:16], known)
            program("unlabelled", x[16:], None)

        return run

    nets: dict[str, nn.Module] = {"encoder": encoder, "classifier": classifier}
    return Example(both(model, {"decoder": decoder}), both(guide, nets), (x, known))


@example
def semi_supervised_vae() -> Example:
    """The labels that are not known are drawn."""
    return with_some_labels()


@example
def semi_supervised_vae_summed() -> Example:
    """They are summed over."""
    return with_some_labels().summed(1)


@example
def dmm() -> Example:
    """A deep Markov model of sequences that differ in length; Krishnan et al. (2017)."""
    steps, keys, size = 8, 12, 4
    emit, move, combine = layers(size, 10, keys), layers(size, 10, 2 * size), nn.Linear(size, 8)
    rnn, read = nn.RNN(keys, 8, batch_first=True), nn.Linear(8, 2 * size)
    nets = {"emit": emit, "move": move}, {"combine": combine, "rnn": rnn, "read": read}
    x = (torch.rand(6, steps, keys) > 0.7).to(torch.get_default_dtype())
    lengths = torch.tensor([8, 8, 5, 3, 8, 6])

    def model(x: Tensor, lengths: Tensor, annealing: float) -> None:
        for name, net in nets[0].items():
            pyro.module(name, net)
        z = pyro.param("z_0", torch.zeros(size))
        with pyro.plate("sequences", len(x)):
            for t in range(steps):
                with pyro.poutine.mask(mask=t < lengths):
                    with pyro.poutine.scale(scale=annealing):
                        z = pyro.sample(f"z_{t + 1}", gaussian(move(z)))
                    fn = dist.Bernoulli(logits=emit(z)).to_event(1)
                    pyro.sample(f"x_{t + 1}", fn, obs=x[:, t])

    def guide(x: Tensor, lengths: Tensor, annealing: float) -> None:
        for name, net in nets[1].items():
            pyro.module(name, net)
        states = rnn(x.flip(1))[0].flip(1)
        z = pyro.param("z_q_0", torch.zeros(size))
        with pyro.plate("sequences", len(x)):
            for t in range(steps):
                with pyro.poutine.mask(mask=t < lengths), pyro.poutine.scale(scale=annealing):
                    hidden = (combine(z).tanh() + states[:, t]) / 2
                    z = pyro.sample(f"z_{t + 1}", gaussian(read(hidden)))

    return Example(model, guide, (x, lengths, 0.4))


@example
def air() -> Example:
    """Attend, infer, repeat: up to two objects in a picture; Eslami et al. (2016).

    Whether there is one more is drawn, with a network for its baseline.
    """
    pictures, width, small = 8, 12, 8
    x = torch.zeros(pictures, width, width)
    for n, digit in enumerate(digits(pictures)[0].view(-1, small, small)):
        x[n, n % 4 : n % 4 + small, n % 3 : n % 3 + small] = digit
    see, look = layers(width * width + 1, 30, 7), layers(small * small, 20, 10)
    paint, predict = layers(5, 20, small * small), layers(width * width + 1, 20, 1)
    nets = {"see": see, "look": look, "predict": predict}

    def placed(where: Tensor, image: Tensor, size: int, is_inverse: bool) -> Tensor:
        """Return what is seen where a scale and a shift say, [*batch, size, size]."""
        scale, shift = 1.5 + where[..., :1].tanh() / 2, where[..., 1:]
        if is_inverse:
            scale, shift = 1 / scale, -shift / scale
        eye = torch.eye(2) * scale[..., None]
        grid = F.affine_grid(
            torch.cat([eye, shift[..., None]], -1), [len(where), 1, size, size], False
        )
        return F.grid_sample(image[:, None], grid, align_corners=False)[:, 0]

    def model(x: Tensor) -> None:
        pyro.module("paint", paint)
        with pyro.plate("pictures", len(x)):
            canvas, is_there = torch.zeros_like(x), torch.ones(len(x), 1)
            for t in range(2):
                prior = dist.Bernoulli(0.5 * is_there).to_event(1)
                is_there = pyro.sample(f"is_there_{t}", prior)
                shapes = dist.Normal(torch.zeros(len(x), 3), 1.0), dist.Normal(0.0, 1.0)
                where = pyro.sample(f"where_{t}", shapes[0].mask(is_there).to_event(1))
                code = shapes[1].expand([len(x), 5]).mask(is_there).to_event(1)
                what = pyro.sample(f"what_{t}", code)
                drawn = paint(what).sigmoid().view(-1, small, small)
                canvas = canvas + placed(where, drawn, width, False) * is_there[..., None]
            pyro.sample("x", dist.Normal(canvas, 0.3).to_event(2), obs=x)

    def guide(x: Tensor) -> None:
        for name, net in nets.items():
            pyro.module(name, net)
        with pyro.plate("pictures", len(x)):
            is_there = torch.ones(len(x), 1)
            for t in range(2):
                seen = beside(x.flatten(1), torch.full((len(x), 1), float(t)))
                code = see(seen)
                expected = predict(beside(x.flatten(1), is_there.detach())).squeeze(-1)
                is_there = pyro.sample(
                    f"is_there_{t}",
                    dist.Bernoulli(code[:, :1].sigmoid() * is_there).to_event(1),
                    infer={"baseline": {"baseline_value": expected}},
                )
                fn = dist.Normal(code[:, 1:4], (code[:, 4:] / 2 - 1).exp())
                where = pyro.sample(f"where_{t}", fn.mask(is_there).to_event(1))
                loc, scale = look(placed(where, x, small, True).flatten(1)).chunk(2, -1)
                fn = dist.Normal(loc, scale.exp())
                pyro.sample(f"what_{t}", fn.mask(is_there).to_event(1))

    return Example(model, guide, (x,))

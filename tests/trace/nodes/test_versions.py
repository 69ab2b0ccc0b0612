"""Versions: a density is that of the draw, or there is none."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal

import ancestral as an
from ancestral.trace.nodes.node import ModifiedParameterError


def density_of(program: Callable[[], object], site: str = "z") -> Callable[[], Tensor]:
    """Return what asks for the density of a site after its program has run."""

    def ask() -> Tensor:
        with an.record() as trace:
            program()
        return trace[site].log_prob

    return ask


def reparameterized_value() -> None:
    z = an.sample("z", Normal(torch.zeros(2), 1.0))
    z += 10.0


def view_of_a_value() -> None:
    an.sample("z", Normal(torch.zeros(2), 1.0))[0] = 10.0


def data() -> None:
    buffer = torch.zeros(2)
    an.sample("z", Normal(torch.zeros(2), 1.0), obs=buffer)
    buffer.fill_(5.0)


def value_of_a_handler() -> None:
    with an.handlers.condition({"z": torch.zeros(2)}):
        reparameterized_value()


def plain_parameter() -> None:
    loc = torch.zeros(2)
    an.sample("z", Normal(loc, 1.0))
    loc.fill_(5.0)


def computed_parameter() -> None:
    loc = torch.zeros(2, requires_grad=True) * 2
    an.sample("z", Normal(loc, 1.0))
    torch.relu_(loc.add_(1.0))


@pytest.mark.parametrize(
    "program",
    [
        *(reparameterized_value, view_of_a_value, data, value_of_a_handler, plain_parameter),
        computed_parameter,
    ],
)
def test_what_was_written_into_since_has_no_density_any_more(program: Callable[[], None]) -> None:
    with pytest.raises(ModifiedParameterError, match=r"'z' \(.*clone what is written into"):
        density_of(program)()


def test_a_value_that_shares_no_memory_keeps_its_density() -> None:
    def program() -> None:
        z = an.sample("z", Bernoulli(torch.full((2,), 0.5)))  # the trace has a copy
        z += 10.0

    def outside() -> None:
        with torch.inference_mode():
            observed = torch.zeros(2)
        an.sample("z", Normal(torch.zeros(2), 1.0), obs=observed)

    torch.testing.assert_close(density_of(program)(), torch.full((2,), 0.5).log())
    torch.testing.assert_close(density_of(outside)(), Normal(0.0, 1.0).log_prob(torch.zeros(2)))


def test_a_score_of_a_value_that_was_written_into_is_refused() -> None:
    loc = torch.zeros(3, requires_grad=True)
    with an.record():
        z = Normal(loc, 1.0).rsample()
        z += 10.0
        loss = (z > 10.3).float().sum()  # a step: the score function is needed, at the draw
    with pytest.raises(ModifiedParameterError, match=r"'z' \(.*z = z \+ 1 for z \+= 1"):
        an.backward(loss)
    with an.record():
        z = Normal(loc, 1.0).rsample()
        z += 10.0
        loss = z.square().sum()  # a pathwise gradient asks for no density
    an.backward(loss)
    torch.testing.assert_close(loc.grad, 2 * z.detach())


def test_a_value_that_was_written_into_is_not_replayed() -> None:
    with an.record() as trace:
        reparameterized_value()
    with pytest.raises(ModifiedParameterError), an.handlers.replay(trace):
        reparameterized_value()


def leaf() -> nn.Parameter:
    return nn.Parameter(torch.tensor([0.3, -0.2]))


OTHER = torch.tensor([1.3, 0.8])


def set_whole(p: Tensor) -> None:
    with torch.no_grad():
        p.set_(OTHER.clone())  # type: ignore[call-overload]


def swap(p: Tensor) -> None:
    """As an average of weights does for an evaluation."""
    average = p.detach() * 0.9
    p.data, average = average, p.data


def write_by_numpy(p: Tensor) -> None:
    p.detach().numpy()[0] = 2.0


def load(p: Tensor) -> None:
    module = nn.Module()
    module.p = p
    module.load_state_dict({"p": OTHER})


class OldOptimizer(torch.optim.Optimizer):
    """Steps by `.data`, as many outside of torch do."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(torch.ones_like(p), alpha=-group["lr"])


WRITES: dict[str, Callable[[Tensor], object]] = {
    "data.add_": lambda p: p.data.add_(1.0),
    "an element of data": lambda p: p.data.__setitem__(0, 5.0),
    "data =": lambda p: setattr(p, "data", OTHER),
    "data.copy_": lambda p: p.data.copy_(OTHER),
    "set_": set_whole,
    "a swap": swap,
    "a vector": lambda p: nn.utils.vector_to_parameters(OTHER, [p]),
    "a detached alias": lambda p: p.detach().copy_(OTHER),
    "numpy": write_by_numpy,
    "a state that is loaded": load,
    "an old optimizer": lambda p: OldOptimizer([p], {"lr": 0.1}).step(),
}
DISTRIBUTIONS: dict[str, Callable[[Tensor], Distribution]] = {
    "logits": lambda p: Bernoulli(logits=p),
    "probs": lambda p: Bernoulli(probs=p.abs()),
    "a view": lambda p: Bernoulli(logits=p[:]),
    "an element": lambda p: Bernoulli(logits=p[0]),
    "an expanded one": lambda p: Bernoulli(logits=p).expand([3, 2]),
    "an event": lambda p: Independent(Bernoulli(logits=p), 1),
    "normalized logits": lambda p: Categorical(logits=p),
    "normalized probs": lambda p: Categorical(probs=p.abs()),
    "a linear function": lambda p: Bernoulli(logits=2 * p),
    "a product": lambda p: Bernoulli(logits=p * p),
}
# An array of numpy is compared when the block ends: before, its writes are not followed.
CASES = [
    (write, is_within)
    for write in WRITES
    for is_within in (False, True)
    if not (is_within and write == "numpy")
]


def gradient(
    distribution: Callable[[Tensor], Distribution],
    write: Callable[[Tensor], object],
    is_within: bool,
    p: nn.Parameter,
) -> Tensor:
    torch.manual_seed(0)
    with an.record():
        z = distribution(p).sample()
        loss = ((z - 0.3) ** 2).sum()
        if is_within:
            write(p)
    if not is_within:
        write(p)
    an.backward(loss)
    assert p.grad is not None
    return p.grad


@pytest.mark.parametrize(("write", "is_within"), CASES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_score_is_that_of_the_parameters_of_the_draw_or_refused(
    write: str, is_within: bool, distribution: str
) -> None:
    right = gradient(DISTRIBUTIONS[distribution], lambda _: None, False, leaf())
    found, refusal = None, ""
    try:
        found = gradient(DISTRIBUTIONS[distribution], WRITES[write], is_within, leaf())
    except ModifiedParameterError as error:
        refusal = str(error)
    except RuntimeError as error:  # torch's own, of what it has saved
        refusal = f"{error} {error.__notes__[0]}"
    if found is None:
        assert re.search(r"'z' \(.*test_versions.py:\d+\)", refusal)
        assert re.search(r"written into in place|modified by an inplace operation", refusal)
    else:
        torch.testing.assert_close(found, right)
        assert distribution in ("a linear function", "a view", "an element", "an expanded one")


def test_what_torch_raises_names_the_sites_in_program_order() -> None:
    word = nn.Embedding(3, 3)
    with an.record() as trace:
        ids = torch.zeros(2, 7, dtype=torch.long)
        for step in range(6):
            seen = word(ids[:, : step + 1]).sum(1)  # which torch saves, and the next line changes
            ids[:, step + 1] = Categorical(logits=seen).sample()
        loss = ids.sum(1).double().mean()
    with pytest.raises(RuntimeError, match="modified by an inplace operation") as raised:
        an.backward(loss)
    assert re.findall(r"'(\w+)' \(", raised.value.__notes__[0]) == list(trace)


def step_by_data(net: nn.Module) -> None:
    OldOptimizer(net.parameters(), {"lr": 0.1}).step()


def average(net: nn.Module) -> None:
    for p in net.parameters():
        swap(p)


def from_a_vector(net: nn.Module) -> None:
    count = sum(p.numel() for p in net.parameters())
    nn.utils.vector_to_parameters(torch.full((count,), 0.1), net.parameters())


def load_another(net: nn.Module) -> None:
    net.load_state_dict({name: p + 1.0 for name, p in net.state_dict().items()})


@pytest.mark.parametrize("write", [step_by_data, average, from_a_vector, load_another])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_step_on_a_network_between_the_draw_and_its_gradient_is_refused(
    write: Callable[[nn.Module], None], depth: int
) -> None:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(2, 2), nn.Tanh())]
    net = nn.Sequential(*layers)
    x = torch.ones(2, requires_grad=True)  # so that the gradient needs all weights
    with an.record():
        z = Bernoulli(logits=net(x)).sample()
    write(net)
    with pytest.raises(ModifiedParameterError, match=r"'z' .*what that is computed from"):
        an.backward(z.sum())


def test_a_large_parameter_is_compared_too() -> None:
    p = nn.Parameter(torch.zeros(300, 200))
    with an.record():
        loss = Bernoulli(logits=p.T).sample().sum()
    p.data.mul_(0.9).sub_(1e-3)
    with pytest.raises(ModifiedParameterError):
        an.backward(loss)


def test_what_is_written_and_put_back_is_what_it_was() -> None:
    p = leaf()
    with an.record():
        loss = Bernoulli(logits=p).sample().sum()
    before = p.data.clone()
    p.data.add_(1.0)
    p.data.copy_(before)
    an.backward(loss)
    assert p.grad is not None


def test_data_is_torchs_own_after_a_recording() -> None:
    with an.record():
        assert "data" in vars(Tensor)
        p = leaf()
        assert (type(p.data), p.data.requires_grad) == (Tensor, False)
        p.data = OTHER
        assert torch.equal(p, OTHER)
    assert getattr(Tensor, "data") is vars(torch._C.TensorBase)["data"]  # noqa: B009
    assert "data" not in vars(Tensor)

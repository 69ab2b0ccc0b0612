"""Modules that keep state: what one call wrote, a later one reads."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Bernoulli

from programs.control.register import TABLE, coin, coins, control, num, roll, rows

state = control(escapes=False)


def fixed(module: nn.Module) -> nn.Module:
    """Give a module known weights in float64, which nothing learns."""
    module.double().requires_grad_(False)
    for number, weight in enumerate(module.parameters()):
        weight.data = torch.arange(weight.numel()).double().add(number + 0.3).sin().view_as(weight)
    return module


@state
def running_statistics(theta: Tensor) -> Tensor:
    """The second call reads what the first one has averaged."""
    norm = fixed(nn.BatchNorm1d(1, momentum=0.5))
    norm(coins(theta[0], 3).unsqueeze(1))
    norm.eval()
    return norm(TABLE.reshape(4, 1)).square().sum() * theta[1]


@state
def running_statistics_of_a_function(theta: Tensor) -> Tensor:
    mean, var = torch.zeros(1).double(), torch.ones(1).double()
    F.batch_norm(coins(theta[0], 3).unsqueeze(1), mean, var, training=True, momentum=0.5)
    return (mean + var.sqrt()).sum() * theta[1]


@state
def running_statistics_of_instances(theta: Tensor) -> Tensor:
    norm = fixed(nn.InstanceNorm1d(1, momentum=0.5, track_running_stats=True))
    norm(coins(theta[0], 3).reshape(1, 1, 3))
    assert isinstance(norm.running_mean, Tensor)
    return norm.running_mean.sum() * theta[1]


@state
def a_recurrent_cache(theta: Tensor) -> Tensor:
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = fixed(nn.GRUCell(1, 2))
            self.hidden = torch.zeros(1, 2, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            self.hidden = self.cell(x.reshape(1, 1), self.hidden)
            return self.hidden.sum()

    agent = Agent()
    loss = theta[1] * 0.3
    for k in range(2):
        loss = loss + agent(coin(theta[k])) * (k + 1)
    return loss


@state
def a_buffer_that_counts(theta: Tensor) -> Tensor:
    class Counter(nn.Module):
        count: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros((), dtype=torch.float64))

        def forward(self, z: Tensor) -> Tensor:
            self.count += z
            return self.count**2

    counter = Counter()
    return counter(coin(theta[0])) + counter(coin(theta[1])) * theta[1]


@state
def a_state_dict(theta: Tensor) -> Tensor:
    class Memory(nn.Module):
        kept: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.zeros(2, dtype=torch.float64))

    first, second = Memory(), Memory()
    first.kept.copy_(coin(theta))
    second.load_state_dict(first.state_dict())
    return second.kept @ theta


@state
def an_embedding(theta: Tensor) -> Tensor:
    table = fixed(nn.Embedding(3, 2))
    return table(roll(theta)).sum() * theta[1]


rows(
    state,
    {
        "an_embedding_of_a_function": lambda theta: (
            F.embedding(roll(theta), TABLE[:3].reshape(3, 1)).sum() * theta[1]
        ),
        "a_lookup_that_is_learned": lambda theta: F.embedding(
            coin(theta).long(), theta.reshape(2, 1)
        ).prod(),
        "gates_of_experts": lambda theta: (
            F.one_hot(roll(theta), 3).double()
            @ torch.stack([theta[1].tanh(), theta[0] ** 2, num(0.7)])
        ),
    },
)


@state
def a_renormalized_embedding(theta: Tensor) -> Tensor:
    """Looking a row up shortens it in place."""
    table = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
    F.embedding(roll(theta), table, max_norm=1.0)
    return table.sum() * theta[1]


@state
def a_bag_of_embeddings(theta: Tensor) -> Tensor:
    rows = coins(theta[0], 2).long().reshape(1, 2)
    return F.embedding_bag(rows, TABLE.reshape(4, 1), mode="sum").sum() * theta[1]


@state
def a_renormalized_bag_of_embeddings(theta: Tensor) -> Tensor:
    table = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
    F.embedding_bag(roll(theta).reshape(1, 1), table, mode="sum", max_norm=1.0)
    return table.sum() * theta[1]


@control()
def one_of_several_modules(theta: Tensor) -> Tensor:
    experts = nn.ModuleList([nn.Tanh(), nn.Softplus(), nn.Sigmoid()])
    return experts[int(roll(theta))](theta[1])


@control()
def a_module_by_name(theta: Tensor) -> Tensor:
    experts = nn.ModuleDict({"0": nn.Tanh(), "1": nn.Softplus()})
    return experts[str(int(coin(theta[0])))](theta[1])


@control()
def a_mode_chosen_by_a_draw(theta: Tensor) -> Tensor:
    norm = fixed(nn.BatchNorm1d(1))
    norm.train(bool(coin(theta[0])))
    return norm(TABLE.reshape(4, 1)).square().sum() * theta[1] + norm(TABLE.reshape(4, 1)).sum()


@state
def a_hook(theta: Tensor) -> Tensor:
    kept: list[Tensor] = []
    layer = fixed(nn.Linear(2, 1))
    layer.register_forward_hook(lambda module, args, result: kept.append(result))
    layer(coin(theta))
    return kept[0].sum() * theta[1]


@state
def a_module_in_place(theta: Tensor) -> Tensor:
    x = coin(theta) - 0.4
    alias = x[:1]
    nn.ReLU(inplace=True)(x)
    return alias.sum() * theta[1]


@control(escapes=False)
def a_running_average_in_a_draw(theta: Tensor) -> Tensor:
    average = torch.zeros(1, dtype=torch.float64)
    average.mul_(0.5).add_(coin(theta[:1]))
    return Bernoulli(logits=average[0] * theta[1]).sample() * 1.6


@state
def a_weight_norm_by_power_iteration(theta: Tensor) -> Tensor:
    u = torch.ones(2, dtype=torch.float64)
    w = torch.diag(coin(theta) + 1)
    with torch.no_grad():
        F.normalize(w @ u, dim=0, out=u)
    return u @ theta

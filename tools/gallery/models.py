"""Models: one of each package that samples, with the credit that one gives by hand.

A run returns its loss and, for each of its draws in turn, the log-probability that one keeps for
the estimator by hand and the costs that each example is credited with: its own, from then on.
"""

# mypy: ignore-errors
# The packages are installed in environments of the gallery alone, and most are not typed.

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal

BATCH, STEPS = 8, 5


class Outcome(NamedTuple):
    """What a run returns, and what one keeps of it to write the estimator by hand.

    `log_probs` return those of a draw, [elements, ...], `credits` has the costs of each example,
    [batch], and `spread` gives those of each element, [elements].
    """

    loss: Tensor
    log_probs: Sequence[Callable[[], Tensor]]
    credits: Sequence[Tensor]
    spread: Callable[[Tensor], Tensor] = lambda credit: credit


class Model(NamedTuple):
    """What has the parameters, a run, the packages whose reads only check or log, and how often.

    `draws` is the number of runs that the variance is taken from.
    """

    module: nn.Module
    run: Callable[[], Outcome]
    trust: tuple[str, ...] = ()
    draws: int = 100


def to_go(costs: Sequence[Tensor]) -> list[Tensor]:
    """Return for each time the costs from then on, [batch]."""
    return list(torch.stack(list(costs)).flip(0).cumsum(0).flip(0))


def rollout(act: Callable[[Tensor], tuple[Tensor, Callable[[], Tensor]]]) -> Outcome:
    """Roll a policy out in a batch of environments; `act` draws actions, and says their density."""
    state = torch.linspace(-1, 1, BATCH * 3).reshape(BATCH, 3)
    costs, log_probs = [], []
    for _ in range(STEPS):
        action, log_prob = act(state)
        state = torch.tanh(state.roll(1, -1) * 0.8 + 0.3 * action.to(state)[:, None])
        costs.append(state.square().sum(-1) / BATCH)
        log_probs.append(log_prob)
    return Outcome(torch.stack(costs).sum(), log_probs, to_go(costs))


def autoregressive(next_logits: Callable[[Tensor], Tensor]) -> Outcome:
    """Draw tokens one by one, and judge each sequence as it stands."""
    tokens, costs, log_probs = torch.zeros(BATCH, 1, dtype=torch.long), [], []
    for _ in range(STEPS):
        q = Categorical(logits=next_logits(tokens))
        token = q.sample()
        tokens = torch.cat([tokens, token[:, None]], 1)
        costs.append((tokens.float().mean(1) - 3).square() / BATCH)
        log_probs.append(partial(q.log_prob, token))
    return Outcome(torch.stack(costs).sum(), log_probs, to_go(costs))


def latent(net: nn.Module, cost: Callable[[Tensor, Tensor], Tensor]) -> Outcome:
    """Draw bits for each example, and judge the example under what they say of it."""
    x = torch.linspace(-2, 2, BATCH * 2).reshape(BATCH, 2)
    q = Bernoulli(logits=net(x))
    z = q.sample()
    costs = cost(x, z) / BATCH
    return Outcome(costs.sum(), [partial(q.log_prob, z)], [costs])


def zuko() -> Model:
    """Return the model of this package."""
    import zuko

    net, flow = nn.Linear(2, 3), zuko.flows.MAF(features=2, context=3, hidden_features=(16,))
    return Model(net, lambda: latent(net, lambda x, z: -flow(z).log_prob(x)))


def normflows() -> Model:
    """Return the model of this package."""
    import normflows as nf

    flows = [nf.flows.AffineCouplingBlock(nf.nets.MLP([1, 8, 2])), nf.flows.Permute(2)]
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(2), flows)
    net = nn.Linear(2, 2)
    return Model(net, lambda: latent(net, lambda x, z: -model.log_prob(x + z)))


def torch_geometric() -> Model:
    """Return the model of this package."""
    from torch_geometric.data import Batch, Data
    from torch_geometric.nn import GCNConv, global_mean_pool

    edges = torch.tensor([[0, 1, 2, 3, 1], [1, 2, 3, 0, 3]])
    graphs = Batch.from_data_list([Data(torch.randn(4, 3), edges) for _ in range(BATCH)])
    net, conv = nn.Linear(3, 1), GCNConv(3, 2)

    def run() -> Outcome:
        q = Bernoulli(logits=net(graphs.x))
        keep = q.sample()
        hidden = conv(graphs.x * keep, graphs.edge_index).tanh()
        costs = global_mean_pool(hidden, graphs.batch).square().sum(1) / BATCH
        log_prob = partial(q.log_prob, keep)
        return Outcome(costs.sum(), [log_prob], [costs], lambda credit: credit[graphs.batch])

    return Model(net, run)


def x_transformers() -> Model:
    """Return the model of this package."""
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=16, depth=1, heads=2)
    model = TransformerWrapper(num_tokens=7, max_seq_len=STEPS + 1, attn_layers=layers)
    return Model(model, lambda: autoregressive(lambda tokens: model(tokens)[:, -1]))


def transformers() -> Model:
    """Return the model of this package."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": STEPS + 1, "vocab_size": 7}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    return Model(model, lambda: autoregressive(lambda tokens: model(tokens).logits[:, -1]))


def torch_struct() -> Model:
    """Return the model of this package."""
    import torch_struct as ts

    net = nn.Linear(2, 4 * 3 * 3)

    def run() -> Outcome:
        x = torch.linspace(-2, 2, BATCH * 2).reshape(BATCH, 2)
        chain = ts.LinearChainCRF(net(x).reshape(BATCH, 4, 3, 3))
        z = chain.sample((1,))[0]
        costs = (z * torch.arange(3.0)).flatten(1).sum(1).sub(4).square() / BATCH
        return Outcome(costs.sum(), [partial(chain.log_prob, z)], [costs])

    return Model(net, run)


def botorch() -> Model:
    """Return the model of this package."""
    from botorch.test_functions import Branin

    branin, net = Branin(), nn.Linear(2, 2 * 5)

    def run() -> Outcome:
        x = torch.linspace(-2, 2, BATCH * 2).reshape(BATCH, 2)
        q = Categorical(logits=net(x).reshape(BATCH, 2, 5))
        z = q.sample()
        costs = branin(z * 2.5) / 100 / BATCH
        return Outcome(costs.sum(), [partial(q.log_prob, z)], [costs])

    return Model(net, run)


def diffusers() -> Model:
    """Return the model of this package."""
    from diffusers import DDIMScheduler, UNet2DModel

    sizes = {"sample_size": 4, "in_channels": 1, "out_channels": 1, "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    model = UNet2DModel(
        block_out_channels=(8,), norm_num_groups=2, add_attention=False, **sizes, **blocks
    )
    scheduler = DDIMScheduler(num_train_timesteps=20)
    scheduler.set_timesteps(3)

    def run() -> Outcome:
        x, log_probs = torch.linspace(-1, 1, BATCH * 16).reshape(BATCH, 1, 4, 4), []
        for t in scheduler.timesteps:
            q = Normal(scheduler.step(model(x, t).sample, t, x).prev_sample, 0.3)
            x = q.sample()
            log_probs.append(partial(q.log_prob, x))
        costs = (x - 0.5).square().mean((1, 2, 3)) / BATCH
        return Outcome(costs.sum(), log_probs, [costs] * 3)

    return Model(model, run)


def torchrl() -> Model:
    """Return the model of this package."""
    from torchrl.modules import MLP, OneHotCategorical

    net = MLP(in_features=3, out_features=4, num_cells=[16])

    def act(state: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        q = OneHotCategorical(logits=net(state))
        action = q.sample()
        return action.argmax(-1), partial(q.log_prob, action)

    return Model(net, lambda: rollout(act))


def stable_baselines3() -> Model:
    """Return the model of this package."""
    import gymnasium as gym
    from stable_baselines3.common.policies import ActorCriticPolicy

    space = gym.spaces.Box(-1, 1, (3,))
    policy = ActorCriticPolicy(space, gym.spaces.Discrete(3), lambda _: 1e-3)

    def act(state: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        q = policy.get_distribution(state)  # the policy's own, which the next step changes
        action = q.get_actions()
        return action, partial(q.distribution.log_prob, action)

    return Model(policy, lambda: rollout(act))


def pfrl() -> Model:
    """Return the model of this package."""
    import pfrl

    policy = nn.Sequential(nn.Linear(3, 4), pfrl.policies.SoftmaxCategoricalHead())

    def act(state: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        q = policy(state)
        action = q.sample()
        return action, partial(q.log_prob, action)

    return Model(policy, lambda: rollout(act))


def tianshou() -> Model:
    """Return the model of this package."""
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor

    net = Net(state_shape=3, hidden_sizes=[16])
    actor = DiscreteActor(preprocess_net=net, action_shape=4, softmax_output=False)

    def act(state: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        q = Categorical(logits=actor(state)[0])
        action = q.sample()
        return action, partial(q.log_prob, action)

    return Model(actor, lambda: rollout(act))


def rl4co() -> Model:
    """Return the model of this package."""
    from rl4co.envs import TSPEnv
    from rl4co.models import AttentionModelPolicy

    env = TSPEnv(generator_params={"num_loc": 5})
    policy = AttentionModelPolicy(env_name=env.name, embed_dim=16, num_heads=2,
                                  num_encoder_layers=1)  # fmt: skip
    start = env.reset(batch_size=[BATCH])

    def run() -> Outcome:
        out = policy(start.clone(), env, phase="train", decode_type="sampling")
        costs = -out["reward"] / BATCH
        return Outcome(costs.sum(), [lambda: out["log_likelihood"]], [costs])

    return Model(policy, run, trust=("rl4co",), draws=40)


def gluonts() -> Model:
    """Return the model of this package."""
    from gluonts.torch.distributions import NegativeBinomialOutput

    output, cell = NegativeBinomialOutput(), nn.GRUCell(1, 8)
    model = nn.ModuleDict({"cell": cell, "args": output.get_args_proj(8)})
    scale = torch.linspace(1, 2, BATCH)

    def run() -> Outcome:
        y, hidden, costs, log_probs = torch.ones(BATCH, 1), torch.zeros(BATCH, 8), [], []
        for t in range(STEPS):
            hidden = cell(y / scale[:, None], hidden)
            q = output.distribution(model["args"](hidden), scale=scale)
            y = q.sample()[:, None]
            costs.append((y[:, 0] - t).abs() / BATCH)
            log_probs.append(partial(q.log_prob, y[:, 0]))
        return Outcome(torch.stack(costs).sum(), log_probs, to_go(costs))

    return Model(model, run)


def pytorch_forecasting() -> Model:
    """Return the model of this package."""
    from pytorch_forecasting.metrics import NegativeBinomialDistributionLoss

    loss, cell, head = NegativeBinomialDistributionLoss(), nn.GRUCell(1, 8), nn.Linear(8, 2)
    model = nn.ModuleDict({"cell": cell, "head": head})

    def run() -> Outcome:
        y, hidden, costs, log_probs = torch.ones(BATCH, 1), torch.zeros(BATCH, 8), [], []
        for t in range(STEPS):
            hidden = cell(y, hidden)
            q = loss.map_x_to_distribution(nn.functional.softplus(head(hidden))[:, None])
            y = q.sample()
            costs.append((y[:, 0] - t).abs() / BATCH)
            log_probs.append(partial(q.log_prob, y))
        return Outcome(torch.stack(costs).sum(), log_probs, to_go(costs))

    return Model(model, run)


MODELS: dict[str, Callable[[], Model]] = {
    make.__name__: make
    for make in (
        zuko,
        normflows,
        torch_geometric,
        x_transformers,
        transformers,
        torch_struct,
        botorch,
        diffusers,
        torchrl,
        stable_baselines3,
        pfrl,
        tianshou,
        rl4co,
        gluonts,
        pytorch_forecasting,
    )
}

"""Attention, recurrence, bags, dropout: each operand in turn against brute force."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn

from ancestral.provenance.algebra.alignment import LOST, Alignment
from ancestral.provenance.algebra.claims import claimed
from ancestral.provenance.tensor.tensor import provenance, track
from perturbation import changed, dense, differs, leaves, reachable, seeded, spread

Call = Callable[[Tensor], Any]

B, T, S, E, H = 2, 3, 4, 6, 2


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads(*batch: int, length: int = T, features: int = 5) -> Tensor:
    return numbers(*batch, length, features, seed=length + features)


Q, K, V = heads(B, H), heads(B, H, length=S), heads(B, H, length=S, features=7)
sdpa: Any = F.scaled_dot_product_attention  # typed in parts
KERNEL: Any = torch._native_multi_head_attention

# What is called, the shape of the operand that is tracked, and what each result keeps of it.
ATTENTION: dict[str, tuple[Call, tuple[int, ...], Sequence[tuple[int, ...]]]] = {
    "the query": (lambda x: sdpa(x, K, V), (B, H, T, 5), [(0, 1, 2, LOST)]),
    "the keys": (lambda x: sdpa(Q, x, V), (B, H, S, 5), [(0, 1, LOST, LOST)]),
    "the values": (lambda x: sdpa(Q, K, x), (B, H, S, 7), [(0, 1, LOST, 3)]),
    "all three": (lambda x: sdpa(x, x, x), (B, H, S, 5), [(0, 1, LOST, LOST)]),
    "a causal query": (lambda x: sdpa(x, x * 1, V, is_causal=True), (B, H, S, 5), [(0, 1, -1, -1)]),
    "by name": (lambda x: sdpa(query=x, key=K, value=V), (B, H, T, 5), [(0, 1, 2, LOST)]),
    "with dropout": (lambda x: sdpa(x, K, V, dropout_p=0.4), (B, H, T, 5), [(0, 1, 2, LOST)]),
    "a query of fewer dimensions": (lambda x: sdpa(x, K, V), (H, T, 5), [(LOST, 0, 1, LOST)]),
    "values of one example": (lambda x: sdpa(Q, K, x), (1, H, S, 7), [(LOST, 1, LOST, 3)]),
    "values of fewer heads": (
        lambda x: sdpa(heads(B, 4), x[..., :5], x, enable_gqa=True),
        (B, H, S, 7),
        [(0, LOST, LOST, LOST)],
    ),
    "a mask": (lambda x: sdpa(Q, K, V, attn_mask=x), (T, S), [(LOST, LOST, 0, LOST)]),
    "a mask of each head": (
        lambda x: sdpa(Q, K, V, attn_mask=x),
        (B, H, T, S),
        [(0, 1, 2, LOST)],
    ),
    "a mask of each example": (
        lambda x: sdpa(Q, K, V, attn_mask=x > -0.7),
        (B, 1, T, S),
        [(0, LOST, 2, LOST)],
    ),
    "a query that masks": (
        lambda x: sdpa(x, x.flip(2), V, attn_mask=x),
        (B, H, S, S),
        [(0, 1, LOST, LOST)],
    ),
    "without a batch": (lambda x: sdpa(x, K[0, 0], V[0, 0]), (T, 5), [(0, LOST)]),
}


def multi_head(*, batch_first: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    return nn.MultiheadAttention(E, H, batch_first=batch_first, **options).double()


def queried(x: Tensor, **options: Any) -> Any:
    return multi_head()(x, numbers(S, B, E), numbers(S, B, E, seed=2), **options)


def masked(**options: Any) -> Any:
    """Attend with a query that is tracked too, without which torch opens the function up."""
    query = track(numbers(T, B, E), "the query")
    return multi_head()(query, numbers(S, B, E, seed=2), numbers(S, B, E, seed=3), **options)


def weights(x: Tensor, name: str) -> Any:
    module, q = multi_head(), numbers(T, B, E)
    return torch.func.functional_call(module, {name: x}, (q, q, q))


def native(x: Tensor, *rest: Any, **options: Any) -> Any:
    m = multi_head()
    given: Any = (m.in_proj_weight, m.in_proj_bias, m.out_proj.weight, m.out_proj.bias)
    with torch.no_grad():
        return KERNEL(x, *rest, E, H, *given, **options)


def encoder(*, batch_first: bool = True, **options: Any) -> Any:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(E, H, 8, batch_first=batch_first, **options).double()


def fused(x: Tensor) -> Any:
    layer = encoder()
    attn = layer.self_attn
    with torch.no_grad():
        return torch._transformer_encoder_layer_fwd(
            *(x, E, H, attn.in_proj_weight, attn.in_proj_bias),
            *(attn.out_proj.weight, attn.out_proj.bias, True, False, 1e-5),
            *(layer.norm1.weight, layer.norm1.bias, layer.norm2.weight, layer.norm2.bias),
            *(layer.linear1.weight, layer.linear1.bias, layer.linear2.weight, layer.linear2.bias),
        )


CAUSAL = nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64)
OF_QUERY = [(0, 1, LOST), (1, 0, LOST)]
OF_KEYS = [(LOST, 1, LOST), (1, LOST, LOST)]
MULTI_HEAD: dict[str, tuple[Call, tuple[int, ...], Sequence[tuple[int, ...]]]] = {
    "the query": (queried, (T, B, E), OF_QUERY),
    "the query without weights": (
        lambda x: queried(x, need_weights=False),
        (T, B, E),
        [(0, 1, -1)],
    ),
    "the weights of each head": (
        lambda x: queried(x, average_attn_weights=False),
        (T, B, E),
        [(0, 1, LOST), (1, LOST, 0, LOST)],
    ),
    "the keys": (
        lambda x: multi_head()(numbers(T, B, E), x, numbers(S, B, E)),
        (S, B, E),
        OF_KEYS,
    ),
    "the values": (
        lambda x: multi_head()(numbers(T, B, E), numbers(S, B, E), x)[0],
        (S, B, E),
        OF_KEYS[:1],
    ),
    "all three": (lambda x: multi_head()(x, x, x), (T, B, E), OF_KEYS),
    "results of one shape": (
        lambda x: multi_head()(x, numbers(E, S, E), numbers(E, S, E)),
        (S, S, E),
        OF_QUERY,
    ),
    "the batch first": (
        lambda x: multi_head(batch_first=True)(x, numbers(B, S, E), numbers(B, S, E)),
        (B, T, E),
        [(0, 1, LOST), (0, 1, LOST)],
    ),
    "no batch": (
        lambda x: multi_head()(x, numbers(S, E), numbers(S, E)),
        (T, E),
        [(0, LOST), (0, LOST)],
    ),
    "padding": (
        lambda x: masked(key_padding_mask=(x > 0) & (torch.arange(S) > 0)),
        (B, S),
        [(LOST, 0, LOST), (0, LOST, LOST)],
    ),
    "a mask": (lambda x: masked(attn_mask=x), (T, S), [(0, LOST, LOST), (LOST, 0, LOST)]),
    "a mask of each head": (
        lambda x: masked(attn_mask=x),
        (B * H, T, S),
        [(1, LOST, LOST), (LOST, 1, LOST)],
    ),
    "weights of the projections": (
        lambda x: weights(x, "in_proj_weight"),
        (3 * E, E),
        [(LOST,) * 3] * 2,
    ),
    "the query as a bias": (
        lambda x: F.multi_head_attention_forward(
            *(x, numbers(S, 1, E), numbers(S, 1, E), E, 1, numbers(3 * E, E), None, x, x, False),
            *(0.0, numbers(E, E), None),
            attn_mask=numbers(1, S),
        )[0],
        (1, 1, E),
        [(LOST, LOST, LOST)],
    ),
    "the fused kernel": (
        lambda x: native(x, x, x),
        (B, T, E),
        [(0, LOST, LOST), (0, LOST, LOST)],
    ),
    "the query of the fused kernel": (
        lambda x: native(x, numbers(B, S, E), numbers(B, S, E, seed=2), average_attn_weights=False),
        (B, S, E),
        [(0, 1, LOST), (0, LOST, 1, LOST)],
    ),
    "an encoder": (lambda x: encoder()(x), (B, T, E), [(0, LOST, LOST)]),
    "an encoder of other order": (
        lambda x: encoder(batch_first=False, norm_first=True)(x, is_causal=True, src_mask=CAUSAL),
        (T, B, E),
        [(LOST, 1, LOST)],
    ),
    "an encoder in use": (lambda x: encoder().eval()(x), (B, T, E), [(0, LOST, LOST)]),
    "the fused encoder": (fused, (B, T, E), [(0, LOST, LOST)]),
}

FIRST, SECOND = (0, LOST, LOST), (LOST, 1, LOST)


def layer(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(nn, kind)(E, 5, **options).double()


def packed(x: Tensor) -> Any:
    sequence = nn.utils.rnn.pack_padded_sequence(numbers(T, B, E), torch.tensor([T, 2]))
    return layer("GRU")(sequence, x)[1]


RECURRENT: dict[str, tuple[Call, tuple[int, ...], Sequence[tuple[int, ...]]]] = {
    **{
        f"{kind}, steps first": (
            lambda x, kind=kind: layer(kind)(x),  # type: ignore[misc]
            (T, B, E),
            [SECOND] * (3 if kind == "LSTM" else 2),
        )
        for kind in ("LSTM", "GRU", "RNN")
    },
    **{
        f"{kind}, batch first": (
            lambda x, kind=kind: layer(kind, batch_first=True, num_layers=2, bidirectional=True)(x),  # type: ignore[misc]
            (B, T, E),
            [(0, LOST, LOST), *[(LOST, 0, LOST)] * (2 if kind == "LSTM" else 1)],
        )
        for kind in ("LSTM", "GRU", "RNN")
    },
    "projected": (lambda x: layer("LSTM", proj_size=2)(x), (T, B, E), [SECOND] * 3),
    "of relu": (lambda x: layer("RNN", nonlinearity="relu")(x), (T, B, E), [SECOND] * 2),
    "with dropout": (
        lambda x: layer("GRU", num_layers=2, dropout=0.5)(x),
        (T, B, E),
        [SECOND] * 2,
    ),
    "without a batch": (lambda x: layer("GRU")(x), (T, E), [(LOST, LOST)] * 2),
    "the state": (lambda x: layer("GRU")(numbers(T, B, E), x), (1, B, 5), [SECOND] * 2),
    "the state, batch first": (
        lambda x: layer("GRU", batch_first=True)(numbers(B, T, E), x),
        (1, B, 5),
        [(1, LOST, LOST), SECOND],
    ),
    "the memory": (
        lambda x: layer("LSTM")(numbers(T, B, E), (numbers(1, B, 5), x)),
        (1, B, 5),
        [SECOND] * 3,
    ),
    "the state of packed sequences": (
        packed,
        (1, B, 5),
        [SECOND],
    ),
    "the weights": (
        lambda x: torch.func.functional_call(
            layer("GRU"), {"weight_ih_l0": x}, (numbers(T, B, E),)
        ),
        (15, E),
        [(LOST,) * 3] * 2,
    ),
    "the input as a weight": (
        lambda x: torch.rnn_tanh(x, x[:1], [x[0], x[0]], False, 1, 0.0, False, False, True),
        (5, 5, 5),
        [(LOST,) * 3] * 2,
    ),
    "of packed data by name": (
        lambda x: torch.gru(
            data=x,
            batch_sizes=torch.tensor([2, 2, 1]),
            hx=numbers(1, B, E),
            params=[numbers(18, E), numbers(18, E)],
            has_biases=False,
            num_layers=1,
            dropout=0.0,
            train=False,
            bidirectional=False,
        ),
        (5, E),
        [(LOST, LOST), (LOST,) * 3],
    ),
    "the input of a cell": (lambda x: layer("GRUCell")(x), (B, E), [(0, LOST)]),
    "the state of a cell": (
        lambda x: layer("RNNCell", nonlinearity="relu")(numbers(B, E), x),
        (B, 5),
        [(0, LOST)],
    ),
    "the state of a cell with memory": (
        lambda x: layer("LSTMCell")(numbers(B, E), (x, numbers(B, 5))),
        (B, 5),
        [(0, LOST)] * 2,
    ),
    "the memory of a cell": (
        lambda x: layer("LSTMCell")(numbers(B, E), (numbers(B, 5), x)),
        (B, 5),
        [(0, 1)] * 2,
    ),
}

TABLE, INDEX = numbers(5, 3), torch.tensor([[0, 2, 4], [1, 1, 3]])
OTHERS: dict[str, tuple[Call, tuple[int, ...], Sequence[tuple[int, ...]]]] = {
    **{
        f"a bag, {mode}": (
            lambda x, mode=mode: F.embedding_bag(x.argsort(1), TABLE, mode=mode),  # type: ignore[misc]
            (4, 5),
            [(0, LOST)],
        )
        for mode in ("sum", "mean", "max")
    },
    "the weights of a bag": (
        lambda x: F.embedding_bag(INDEX, TABLE, mode="sum", per_sample_weights=x),
        (2, 3),
        [(0, LOST)],
    ),
    "the table of a bag": (lambda x: F.embedding_bag(INDEX, x), (5, 3), [(LOST, LOST)]),
    "a bag at offsets": (
        lambda x: F.embedding_bag(
            INDEX.flatten(), TABLE, torch.tensor([0, 4]), mode="sum", per_sample_weights=x
        ),
        (6,),
        [(LOST, LOST)],
    ),
    "bilinear": (
        lambda x: F.bilinear(x, numbers(T, B, 3), numbers(4, E, 3)),
        (T, B, E),
        [(0, 1, LOST)],
    ),
    "bilinear twice": (lambda x: F.bilinear(x, x, numbers(4, E, E)), (B, E), [(0, LOST)]),
    "the weight of bilinear": (
        lambda x: F.bilinear(numbers(B, 3), numbers(B, 2), x, x[:, 0, 0]),
        (4, 3, 2),
        [(LOST, 0)],
    ),
    **{
        name: (
            lambda x, name=name: getattr(F, name)(x, 0.4, True),  # type: ignore[misc]
            (2, 3, *(4,) * rank),
            [tuple(range(2 + rank))],
        )
        for name, rank in {
            "dropout": 1,
            "alpha_dropout": 1,
            "feature_alpha_dropout": 2,
            "dropout1d": 1,
            "dropout2d": 2,
            "dropout3d": 3,
        }.items()
    },
    "native_dropout": (
        lambda x: torch.native_dropout(x, 0.4, True),
        (2, 3),
        [(0, 1), (0, 1)],
    ),
    "feature_dropout": (lambda x: torch.feature_dropout(x, 0.4, True), (2, 3, 4), [(0, 1, 2)]),
    "a written dropout": (
        lambda x: F.alpha_dropout(x * 1, 0.4, True, inplace=True),
        (2, 3),
        [(0, 1)],
    ),
}
CALLS = {
    f"{family}: {name}": made
    for family, calls in {
        "attention": ATTENTION,
        "multi-head": MULTI_HEAD,
        "recurrent": RECURRENT,
        "others": OTHERS,
    }.items()
    for name, made in calls.items()
}


def alignment_of(tensor: Tensor, name: str) -> Alignment:
    known = provenance(tensor)
    assert known is not None
    (found,) = (claims for source, claims in claimed(known).items() if source.name == name)
    (alignment,) = found
    return alignment


@pytest.mark.filterwarnings("ignore")  # of torch: dropout of features without a batch
@pytest.mark.parametrize("name", CALLS)
def test_a_layer_keeps_what_it_says_and_claims_no_more(name: str) -> None:
    call, shape, kept = CALLS[name]
    x = numbers(*shape, seed=9)
    plain, tracked = seeded(call, x), seeded(call, track(x, "x"))
    found: list[Alignment] = []
    for (_, expected), (_, leaf) in zip(leaves(plain), leaves(tracked), strict=True):
        torch.testing.assert_close(dense(leaf), dense(expected))
        found.append(alignment_of(leaf, "x"))
    assert found == [Alignment(dims) for dims in kept]
    for place in spread(x, 30):
        other = seeded(call, changed(x, place))
        region = torch.zeros(shape, dtype=torch.bool)
        region[place] = True
        for alignment, (_, before), (_, after) in zip(
            found, leaves(plain), leaves(other), strict=True
        ):
            moves = differs(before, after)
            assert not bool((moves & ~reachable([alignment], region, tuple(moves.shape))).any())

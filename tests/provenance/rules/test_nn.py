"""Attention, recurrence, bags, dropout: each operand in turn against brute force."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn

from ancestral.provenance.algebra.alignment import LOST, Alignment
from ancestral.provenance.algebra.source_alignments import claimed
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

Rows = dict[str, Call]
"""What is called, by the shape of the operand that is tracked and what each result keeps of it."""
SIZES = {"B": B, "T": T, "S": S, "E": E, "H": H, "P": 3 * E, "R": 15}

ATTENTION: Rows = {
    "the query: BHT5 -> 012_": lambda x: sdpa(x, K, V),
    "the keys: BHS5 -> 01__": lambda x: sdpa(Q, x, V),
    "the values: BHS7 -> 01_3": lambda x: sdpa(Q, K, x),
    "all three: BHS5 -> 01__": lambda x: sdpa(x, x, x),
    "a causal query: BHS5 -> 01__": lambda x: sdpa(x, x * 1, V, is_causal=True),
    "by name: BHT5 -> 012_": lambda x: sdpa(query=x, key=K, value=V),
    "with dropout: BHT5 -> 012_": lambda x: sdpa(x, K, V, dropout_p=0.4),
    "a query of fewer dimensions: HT5 -> _01_": lambda x: sdpa(x, K, V),
    "values of one example: 1HS7 -> _1_3": lambda x: sdpa(Q, K, x),
    "values of fewer heads: BHS7 -> 0___": lambda x: sdpa(
        heads(B, 4), x[..., :5], x, enable_gqa=True
    ),
    "a mask: TS -> __0_": lambda x: sdpa(Q, K, V, attn_mask=x),
    "a mask of each head: BHTS -> 012_": lambda x: sdpa(Q, K, V, attn_mask=x),
    "a mask of each example: B1TS -> 0_2_": lambda x: sdpa(Q, K, V, attn_mask=x > -0.7),
    "a query that masks: BHSS -> 01__": lambda x: sdpa(x, x.flip(2), V, attn_mask=x),
    "without a batch: T5 -> 0_": lambda x: sdpa(x, K[0, 0], V[0, 0]),
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
MULTI_HEAD: Rows = {
    "the query: TBE -> 01_ 10_": queried,
    "the query without weights: TBE -> 01_": lambda x: queried(x, need_weights=False),
    "the weights of each head: TBE -> 01_ 1_0_": lambda x: queried(x, average_attn_weights=False),
    "the keys: SBE -> _1_ 1__": lambda x: multi_head()(numbers(T, B, E), x, numbers(S, B, E)),
    "the values: SBE -> _1_": lambda x: multi_head()(numbers(T, B, E), numbers(S, B, E), x)[0],
    "all three: TBE -> _1_ 1__": lambda x: multi_head()(x, x, x),
    "results of one shape: SSE -> 01_ 10_": lambda x: multi_head()(
        x, numbers(E, S, E), numbers(E, S, E)
    ),
    "the batch first: BTE -> 01_ 01_": lambda x: multi_head(batch_first=True)(
        x, numbers(B, S, E), numbers(B, S, E)
    ),
    "no batch: TE -> 0_ 0_": lambda x: multi_head()(x, numbers(S, E), numbers(S, E)),
    "padding: BS -> _0_ 0__": lambda x: masked(key_padding_mask=(x > 0) & (torch.arange(S) > 0)),
    "a mask: TS -> 0__ _0_": lambda x: masked(attn_mask=x),
    "a mask of each head: 4TS -> 1__ _1_": lambda x: masked(attn_mask=x),
    "weights of the projections: PE -> ___ ___": lambda x: weights(x, "in_proj_weight"),
    "the query as a bias: 11E -> ___": lambda x: F.multi_head_attention_forward(
        *(x, numbers(S, 1, E), numbers(S, 1, E), E, 1, numbers(3 * E, E), None, x, x, False),
        *(0.0, numbers(E, E), None),
        attn_mask=numbers(1, S),
    )[0],
    "the fused kernel: BTE -> 0__ 0__": lambda x: native(x, x, x),
    "the query of the fused kernel: BSE -> 01_ 0_1_": lambda x: native(
        x, numbers(B, S, E), numbers(B, S, E, seed=2), average_attn_weights=False
    ),
    "an encoder: BTE -> 0__": lambda x: encoder()(x),
    "an encoder of other order: TBE -> _1_": lambda x: encoder(batch_first=False, norm_first=True)(
        x, is_causal=True, src_mask=CAUSAL
    ),
    "an encoder in use: BTE -> 0__": lambda x: encoder().eval()(x),
    "the fused encoder: BTE -> 0__": fused,
}

KINDS = ("LSTM", "GRU", "RNN")


def layer(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(nn, kind)(E, 5, **options).double()


def run(kind: str, x: Tensor) -> Any:
    return layer(kind)(x)


def deep(kind: str, x: Tensor) -> Any:
    return layer(kind, batch_first=True, num_layers=2, bidirectional=True)(x)


def packed(x: Tensor) -> Any:
    sequence = nn.utils.rnn.pack_padded_sequence(numbers(T, B, E), torch.tensor([T, 2]))
    return layer("GRU")(sequence, x)[1]


RECURRENT: Rows = {
    **{f"{kind}: TBE -> _1_ _1_{' _1_' * (kind == 'LSTM')}": partial(run, kind) for kind in KINDS},
    **{
        f"{kind}, batch first: BTE -> 0__ _0_{' _0_' * (kind == 'LSTM')}": partial(deep, kind)
        for kind in KINDS
    },
    "projected: TBE -> _1_ _1_ _1_": lambda x: layer("LSTM", proj_size=2)(x),
    "of relu: TBE -> _1_ _1_": lambda x: layer("RNN", nonlinearity="relu")(x),
    "with dropout: TBE -> _1_ _1_": lambda x: layer("GRU", num_layers=2, dropout=0.5)(x),
    "without a batch: TE -> __ __": lambda x: layer("GRU")(x),
    "the state: 1B5 -> _1_ _1_": lambda x: layer("GRU")(numbers(T, B, E), x),
    "the state, batch first: 1B5 -> 1__ _1_": lambda x: layer("GRU", batch_first=True)(
        numbers(B, T, E), x
    ),
    "the memory: 1B5 -> _1_ _1_ _1_": lambda x: layer("LSTM")(
        numbers(T, B, E), (numbers(1, B, 5), x)
    ),
    "the state of packed sequences: 1B5 -> _1_": packed,
    "the weights: RE -> ___ ___": lambda x: torch.func.functional_call(
        layer("GRU"), {"weight_ih_l0": x}, (numbers(T, B, E),)
    ),
    "the input as a weight: 555 -> ___ ___": lambda x: torch.rnn_tanh(
        x, x[:1], [x[0], x[0]], False, 1, 0.0, False, False, True
    ),
    "of packed data by name: 5E -> __ ___": lambda x: torch.gru(
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
    "the input of a cell: BE -> 0_": lambda x: layer("GRUCell")(x),
    "the state of a cell: B5 -> 0_": lambda x: layer("RNNCell", nonlinearity="relu")(
        numbers(B, E), x
    ),
    "the state of a cell with memory: B5 -> 0_ 0_": lambda x: layer("LSTMCell")(
        numbers(B, E), (x, numbers(B, 5))
    ),
    "the memory of a cell: B5 -> 01 01": lambda x: layer("LSTMCell")(
        numbers(B, E), (numbers(B, 5), x)
    ),
}


def bag(mode: str, x: Tensor) -> Any:
    return F.embedding_bag(x.argsort(1), TABLE, mode=mode)


def dropped(name: str, x: Tensor) -> Any:
    return getattr(F, name)(x, 0.4, True)


TABLE, INDEX = numbers(5, 3), torch.tensor([[0, 2, 4], [1, 1, 3]])
OTHERS: Rows = {
    **{f"a bag, {mode}: 45 -> 0_": partial(bag, mode) for mode in ("sum", "mean", "max")},
    "the weights of a bag: 23 -> 0_": lambda x: F.embedding_bag(
        INDEX, TABLE, mode="sum", per_sample_weights=x
    ),
    "the table of a bag: 53 -> __": lambda x: F.embedding_bag(INDEX, x),
    "a bag at offsets: 6 -> __": lambda x: F.embedding_bag(
        INDEX.flatten(), TABLE, torch.tensor([0, 4]), mode="sum", per_sample_weights=x
    ),
    "bilinear: TBE -> 01_": lambda x: F.bilinear(x, numbers(T, B, 3), numbers(4, E, 3)),
    "bilinear twice: BE -> 0_": lambda x: F.bilinear(x, x, numbers(4, E, E)),
    "the weight of bilinear: 432 -> _0": lambda x: F.bilinear(
        numbers(B, 3), numbers(B, 2), x, x[:, 0, 0]
    ),
    **{
        f"{name}: {shape}": partial(dropped, name)
        for shape, names in {
            "234 -> 012": ("dropout", "alpha_dropout", "dropout1d"),
            "2344 -> 0123": ("feature_alpha_dropout", "dropout2d"),
            "23444 -> 01234": ("dropout3d",),
        }.items()
        for name in names
    },
    "native_dropout: 23 -> 01 01": lambda x: torch.native_dropout(x, 0.4, True),
    "feature_dropout: 234 -> 012": lambda x: torch.feature_dropout(x, 0.4, True),
    "a written dropout: 23 -> 01": lambda x: F.alpha_dropout(x * 1, 0.4, True, inplace=True),
}
CALLS = {
    f"{family}: {name}": call
    for family, calls in zip(
        ("attention", "multi-head", "recurrent", "others"),
        (ATTENTION, MULTI_HEAD, RECURRENT, OTHERS),
        strict=True,
    )
    for name, call in calls.items()
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
    call, (sizes, kept) = CALLS[name], name.rpartition(": ")[2].split(" -> ")
    shape = tuple(SIZES.get(letter) or int(letter) for letter in sizes)
    x = numbers(*shape, seed=9)
    plain, tracked = seeded(call, x), seeded(call, track(x, "x"))
    found: list[Alignment] = []
    for (_, expected), (_, leaf) in zip(leaves(plain), leaves(tracked), strict=True):
        torch.testing.assert_close(dense(leaf), dense(expected))
        found.append(alignment_of(leaf, "x"))
    assert found == [
        Alignment(tuple(LOST if d == "_" else int(d) for d in dims.strip(".")))
        for dims in kept.split()
    ]
    for place in spread(x, 30):
        other = seeded(call, changed(x, place))
        region = torch.zeros(shape, dtype=torch.bool)
        region[place] = True
        for alignment, (_, before), (_, after) in zip(
            found, leaves(plain), leaves(other), strict=True
        ):
            moves = differs(before, after)
            assert not bool((moves & ~reachable([alignment], region, tuple(moves.shape))).any())

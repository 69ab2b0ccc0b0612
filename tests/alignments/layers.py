"""Layers that torch runs as one op: attention, recurrence, dropout."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from alignments.case import Case

_generator = torch.Generator().manual_seed(0)
M, N = torch.rand(2, 3, 3, generator=_generator, dtype=torch.float64)
V, W = torch.rand(2, 3, generator=_generator, dtype=torch.float64)
PROJECTIONS: tuple[Any, ...] = (torch.cat([M, M.T, N]), torch.cat([V, W, V]), N.T.contiguous(), W)
GATES = torch.cat([M, M.T, N, N.T])


def heads(query: Tensor, key: Tensor, value: Tensor) -> Any:
    """Attend in the layout that modules use: the batch is the second dimension."""
    attend: Any = F.multi_head_attention_forward
    into, out = PROJECTIONS[:2], PROJECTIONS[2:]
    return attend(query, key, value, 3, 1, *into, None, None, False, 0.0, *out)


def native_heads(query: Tensor, key: Tensor, value: Tensor) -> Any:
    return torch._native_multi_head_attention(query, key, value, 3, 1, *PROJECTIONS)


def encoder(x: Tensor) -> Any:
    run: Any = torch._transformer_encoder_layer_fwd
    return run(x, 3, 1, *PROJECTIONS, False, False, 1e-5, V, W, V, W, M, V, N, W)


def rnn(x: Tensor, state: Tensor) -> Any:
    run: Any = torch.rnn_tanh
    return run(x, state, [M, N, V, W], True, 1, 0.0, False, False, True)


def cell(x: Tensor, h: Tensor, c: Tensor) -> Any:
    return torch.lstm_cell(x, (h, c), GATES, GATES)


LAYERS = [
    Case("attention", F.scaled_dot_product_attention, "bqd bkd bke", "bq_ b__ b_e"),
    Case("multi_head", heads, "qbe kbe kbe", "qb_ _b_ _b_", {"e": 3}),
    Case("native_multi_head", native_heads, "ble ble ble", "bl_ b__ b__", {"e": 3}),
    Case("encoder", encoder, "ble", "b__", {"e": 3}),
    Case("recurrent", rnn, "ble ube", "b__ b__", {"e": 3, "u": 1}),
    Case("cell", cell, "be be be", "b_ b_ be", {"e": 3}),
    Case("dropped", lambda x: F.alpha_dropout(x, 0.5, True), "bn", "bn"),
]

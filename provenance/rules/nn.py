"""Rules of the layers that torch runs as one op: attention, recurrence, dropout.

Batch dimensions survive. A layer with several results is given the number of the result before its
arguments (`numbered`), since their shapes may be the same.

>>> from torch import ones
>>> q, k, v = ones(5, 2, 3, 4), ones(5, 2, 6, 4), ones(5, 2, 6, 7)
>>> [dims for _, dims in attention((5, 2, 3, 7), (q, k, v), {})]
[(0, 1, 2, -1), (0, 1, -1, -1), (0, 1, -1, 3)]
"""

from collections import Counter
from collections.abc import Iterable

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Dims, Shape
from ancestral.provenance.linear.loss_functions import loss
from ancestral.provenance.rules.op import (
    Op,
    Pair,
    Signature,
    Written,
    besides_first,
    identity,
    numbered,
    rank_of,
)
from ancestral.provenance.rules.pointwise import pointwise
from ancestral.provenance.tensor.arguments import Args, Kwargs, argument, tensors_in


def attention(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Each query has its own result, made of all keys and values; features come from values.

    Batch dimensions meet at the right; those that are repeated have other sizes.
    """
    rank = len(shape)
    query, key, value, mask = (
        argument(args, kwargs, place, name)
        for place, name in enumerate(("query", "key", "value", "attn_mask"))
    )
    found: list[Pair] = [
        (query, (*_to_the_right(query, rank)[:-1], LOST)),
        (key, (*_to_the_right(key, rank)[:-2], LOST, LOST)),
        (value, (*_to_the_right(value, rank)[:-2], LOST, rank_of(value) - 1)),
    ]
    if mask is not None and 2 <= rank_of(mask) <= rank:
        found.append((mask, (*_to_the_right(mask, rank)[:-1], LOST)))
    return _and_others(found, shape, args, kwargs)


def _to_the_right(x: Tensor, rank: int) -> Dims:
    return (LOST,) * (rank - rank_of(x)) + tuple(range(rank_of(x)))


def _and_others(found: list[Pair], shape: Shape, args: Args, kwargs: Kwargs) -> list[Pair]:
    """Add what else is among the arguments, also tensors that stand at a known place."""
    known = Counter(id(tensor) for tensor, _ in found)
    for tensor in tensors_in(args, kwargs):
        known[id(tensor)] -= 1
        if known[id(tensor)] < 0:
            found.append((tensor, (LOST,) * len(shape)))
    return found


def multi_head(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Attention with the batch in dimension 1 of the operands, and first in the weights."""
    number, *args = args
    if type(number) is not int:
        return None  # written into tensors that were given
    query, key, value = (
        argument(args, kwargs, place, name) for place, name in enumerate(("query", "key", "value"))
    )
    padding = argument(args, kwargs, 14, "key_padding_mask")
    mask = argument(args, kwargs, 16, "attn_mask")
    is_batched = rank_of(query) == 3
    if number == 0:  # [length, batch, features]
        of_length, of_batch = (0, 1) if is_batched else (0, LOST)
    else:  # [batch, heads, length, length of the keys], without the heads where they are averaged
        of_length, of_batch = len(shape) - 2, 0 if is_batched else LOST
    found: list[Pair] = [
        (query, _placed(shape, {of_length: 0, of_batch: 1})),
        *((x, _placed(shape, {of_batch: 1})) for x in (key, value)),
    ]
    if padding is not None and rank_of(padding) == 2:
        found.append((padding, _placed(shape, {of_batch: 0})))
    if mask is not None:  # [length, length of the keys], perhaps for each example and head
        found.append((mask, _placed(shape, {of_length: rank_of(mask) - 2})))
    return _and_others(found, shape, args, kwargs)


def _placed(shape: Shape, places: dict[int, int]) -> Dims:
    """Return an alignment of these dimensions of the result with those of an operand."""
    return tuple(places.get(d, LOST) for d in range(len(shape)))


def native_multi_head(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Attention in one kernel: the batch is first in all operands and results."""
    number, *args = args
    if type(number) is not int:
        return None  # written into tensors that were given
    query, key, value = (
        argument(args, kwargs, place, name) for place, name in enumerate(("query", "key", "value"))
    )
    of_length = 1 if number == 0 else len(shape) - 2
    found: list[Pair] = [
        (query, _placed(shape, {0: 0, of_length: 1})),
        *((x, _placed(shape, {0: 0})) for x in (key, value)),
    ]
    return _and_others(found, shape, args, kwargs)


def encoder(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """A layer of an encoder in one kernel, [batch, length, features]."""
    found: list[Pair] = [(argument(args, kwargs, 0, "src"), _placed(shape, {0: 0}))]
    return _and_others(found, shape, args, kwargs)


def recurrent(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Steps and features are mixed; the batch is in dimension 1 of all states.

    In packed sequences the steps of all examples stand in one dimension, where they are lost.
    """
    number, *args = args
    if type(number) is not int:
        return None  # written into tensors that were given
    second = argument(args, kwargs, 1, "batch_sizes", "hx")
    is_packed = "data" in kwargs or (isinstance(second, Tensor) and rank_of(second) == 1)
    if is_packed and number == 0:
        return None
    of_input = 0 if not is_packed and argument(args, kwargs, 8, "batch_first") else 1
    of_batch = of_input if number == 0 else 1
    states = argument(args, kwargs, 2, "hx") if is_packed else second
    found: list[Pair] = [(state, _placed(shape, {of_batch: 1})) for state in tensors_in(states)]
    if not is_packed:
        found.append((argument(args, kwargs, 0, "input"), _placed(shape, {of_batch: of_input})))
    return _and_others(found, shape, args, kwargs)


def cell(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """One step of a recurrence: the memory of an LSTM keeps its elements apart, states do not."""
    x, state = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "hx")
    mixed = (*range(len(shape) - 1), LOST)
    found: list[Pair] = [(x, mixed)]
    if isinstance(state, Tensor):
        found.append((state, mixed))
    else:
        hidden, memory = state
        found += [(hidden, mixed), (memory, tuple(range(len(shape))))]
    return _and_others(found, shape, args, kwargs)


def dropped(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element: what is dropped is noise, drawn for the shape alone."""
    return pointwise(shape, args[:1], {})


def lengths_apart(index: int, args: Args) -> Args:
    """Return the second argument for the second result, the sizes of the batch or the lengths."""
    return args[1:2] if index == 1 else args


def elementwise_loss(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element, with broadcasting, unless the elements are summed."""
    return pointwise(shape, args, kwargs)


def gaussian_loss(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element, where a variance without the last dimension stands for all along it."""
    x, variance = args[0], argument(args, kwargs, 2, "var")
    pairs = pointwise(shape, (x, argument(args, kwargs, 1, "target")), {})
    if pairs is None or not isinstance(variance, Tensor):
        return pairs  # reduced, or with a variance that is a number
    is_short = tuple(variance.shape) == tuple(x.shape[:-1]) != tuple(x.shape)
    short: Pair = (variance, (*range(rank_of(variance)), LOST))
    return [*pairs, *([short] if is_short else pointwise(shape, (variance,), {}) or ())]


def class_loss(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Losses over the classes in dimension 1, one for each example and place."""
    x, target = args[0], argument(args, kwargs, 1, "target")
    if rank_of(x) != len(shape) + 1:
        return None  # reduced
    kept = tuple(range(rank_of(x)))
    kept = kept[:1] + kept[2:] if rank_of(x) > 1 else ()
    return [(x, kept), (target, kept if rank_of(target) == rank_of(x) else identity(len(shape)))]


def ctc_loss(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """One loss for each example, which is dimension 1 of the input, after time."""
    names = enumerate(("log_probs", "targets", "input_lengths", "target_lengths"))
    x, targets, *lengths = (argument(args, kwargs, position, name) for position, name in names)
    if len(shape) != 1 or rank_of(x) != 3:
        return None  # reduced, or a single example
    rows: list[Pair] = [(targets, (0,))] if rank_of(targets) == 2 else []
    return [(x, (1,)), *rows, *((t, (0,)) for t in lengths if isinstance(t, Tensor))]


OPS = (
    Op("scaled_dot_product_attention", attention),
    Op("multi_head_attention_forward", multi_head, operands=numbered),
    Op("_native_multi_head_attention", native_multi_head, operands=numbered),
    Op("_transformer_encoder_layer_fwd", encoder),
    Op("lstm gru rnn_tanh rnn_relu", recurrent, operands=numbered),
    Op("VF._pack_padded_sequence", escapes=besides_first, operands=lengths_apart),
    Op("VF._pad_packed_sequence", operands=lengths_apart),
    Op("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", cell),
    Op(
        """
        alpha_dropout dropout1d dropout2d dropout3d feature_alpha_dropout feature_dropout
        native_dropout
        """,
        dropped,
    ),
    Op(
        """
        binary_cross_entropy binary_cross_entropy_with_logits hinge_embedding_loss huber_loss
        kl_div l1_loss margin_ranking_loss mse_loss poisson_nll_loss smooth_l1_loss
        soft_margin_loss
        """,
        elementwise_loss,
        loss,
    ),
    Op("gaussian_nll_loss", gaussian_loss, loss),
    Op("cross_entropy nll_loss", class_loss, loss),
    Op("nn.cross_entropy_loss nn.nll_loss2d nn.nll_loss_nd", class_loss),
    Op("ctc_loss", ctc_loss),
    Op("cosine_embedding_loss", Signature("x1(d) x2(d) target() -> ()"), loss),
    Op("triplet_margin_loss", Signature("anchor(d) positive(d) negative(d) -> ()"), loss),
    Op("multilabel_margin_loss", Signature("input(c) target(c) -> ()")),
    Op("multilabel_soft_margin_loss", Signature("input(c) target(c) -> ()"), loss),
    Op("multi_margin_loss", Signature("input(c) target() -> ()"), loss),
    Op(
        "_fused_adam_ _fused_adamw_",
        written=Written(
            ((1, "grads"), (2, "exp_avgs"), (3, "exp_avg_sqs"), (4, "max_exp_avg_sqs"))
        ),
    ),
    Op("_fused_sgd_", written=Written(((1, "grads"), (2, "momentum_buffer_list")))),
    Op("_fused_adagrad_", written=Written(((1, "grads"), (2, "state_sums"), (3, "state_steps")))),
    Op("_amp_foreach_non_finite_check_and_unscale_", written=Written(((1, "found_inf"),))),
    Op("_amp_update_scale_", written=Written(((1, "growth_tracker"),))),
)

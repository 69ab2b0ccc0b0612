"""The layers of torch.nn: calls of each, or the reason why there is none."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Case(NamedTuple):
    """A layer, an input of it, and how it is called."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (4, 3, 6)
    call: Callable[[Any, Tensor], Any] = lambda layer, x: layer(x)
    positive: bool = False  # the input is squeezed into (0, 1)
    classes: int = 0  # the input is an index below this
    escapes: bool = False


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int = 3) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(2))


def signs(*shape: int) -> Tensor:
    return labels(*shape, classes=2) * 2.0 - 1


def case(name: str, *args: Any, **keywords: Any) -> Case:
    """Return a case of a layer that takes one input, of shape [4, 3, 6]."""
    return Case(lambda: getattr(nn, name)(*args, **keywords))


def of(name: str, shape: tuple[int, ...], *args: Any, **keywords: Any) -> Case:
    """Return a case of a layer that takes one input of this shape."""
    return Case(lambda: getattr(nn, name)(*args, **keywords), shape)


def loss(name: str, other: Callable[[], Tensor], *args: Any, **keywords: Any) -> list[Case]:
    """Return a case of a loss of a tracked input for each reduction."""
    return [
        Case(
            lambda kind=kind: getattr(nn, name)(*args, reduction=kind, **keywords),  # type: ignore[misc]
            (4, 3),
            lambda layer, x: layer(x, other()),
        )
        for kind in ("none", "mean", "sum")
    ]


def target(
    name: str, first: Callable[[], Tensor], positive: bool = False, classes: int = 0
) -> Case:
    """Return a case of a loss of a tracked target."""
    shape = (4,) if classes else (4, 3)
    call = lambda layer, x: layer(first(), x)  # noqa: E731
    return Case(lambda: getattr(nn, name)(), shape, call, positive, classes)


def pooled(name: str, rank: int, *args: Any, **keywords: Any) -> Case:
    """Return a case of a layer of images of this rank."""
    return of(name, (2, 3, 6, 5, 4)[: rank + 2], *args, **keywords)


def unpooled(rank: int) -> Case:
    def call(layer: Any, x: Tensor) -> Any:
        pool = getattr(nn, f"MaxPool{rank}d")(2, return_indices=True)
        return layer(*pool(x))

    return Case(lambda: getattr(nn, f"MaxUnpool{rank}d")(2), (2, 2, *(4,) * rank), call)


def sequences(name: str) -> list[Case]:
    """Return cases of a recurrent layer."""

    def packed(layer: Any, x: Tensor) -> Any:
        lengths = torch.tensor([5, 4, 2, 1])
        out, state = layer(pack_padded_sequence(x, lengths, batch_first=True))
        return out, state, pad_packed_sequence(out, batch_first=True)

    def unsorted(layer: Any, x: Tensor) -> Any:
        pack = pack_padded_sequence(x, torch.tensor([2, 5, 1, 4]), True, enforce_sorted=False)
        out, state = layer(pack)
        return out, state, pad_packed_sequence(out, batch_first=True)

    def state(layer: Any, x: Tensor) -> Any:
        h = x[:, :, 0].reshape(1, 4, 5).contiguous()
        return layer(numbers(4, 5, 3), (h, h * 0) if name == "LSTM" else h)

    def make(**more: Any) -> Callable[[], nn.Module]:
        return lambda: getattr(nn, name)(3, 5, batch_first=True, **more)

    return [
        Case(make(), (4, 5, 3)),
        Case(make(num_layers=2, dropout=0.3, bidirectional=True), (4, 5, 3)),
        Case(make(), (5, 3)),
        Case(make(), (4, 5, 3), packed),
        Case(make(), (4, 5, 3), unsorted),
        Case(make(), (4, 5, 3), state),
    ]


def after(layer: Any, x: Tensor) -> Any:
    """Return the result, and what the layer gives later for a constant in evaluation."""
    result = layer(x)
    training = layer.training
    layer.eval()
    later = layer(torch.ones_like(x, requires_grad=False).detach())
    layer.train(training)
    return result, later


def norm(name: str, rank: int, *args: Any, **keywords: Any) -> Case:
    made = pooled(name, rank, *args, **keywords)
    return made._replace(call=after)


def norms(name: str, rank: int, *args: Any) -> list[Case]:
    return [
        norm(name, rank, *args, track_running_stats=True),
        norm(name, rank, *args, track_running_stats=True, momentum=None),
        norm(name, rank, *args, track_running_stats=False, affine=True),
    ]


def attended(layer: Any, x: Tensor) -> Any:
    return layer(x, x, x), layer(numbers(4, 3, 6), x, numbers(4, 3, 6), need_weights=False)


def masked(layer: Any, x: Tensor) -> Any:
    """Attend with a tracked mask, alone: queries, keys and values are constants."""
    q = numbers(4, 3, 6)
    return layer(q, q, q, attn_mask=x[:3, :, 0].reshape(3, 3))


def squares(shape: tuple[int, ...], inner: Callable[[Any, Tensor], Any]) -> Callable[..., Any]:
    return lambda layer, x: inner(layer, x.reshape(shape))


def bag(mode: str, how: str) -> Case:
    def call(layer: Any, x: Tensor) -> Any:
        if how == "offsets":
            return layer(x.flatten(), torch.tensor([0, 3, 7]))
        if how == "weights":
            return layer(labels(4, 3, classes=7), per_sample_weights=x)
        return layer(x)

    make = lambda: nn.EmbeddingBag(7, 4, mode=mode)  # noqa: E731
    if how == "weights":
        return Case(make, (4, 3), call)
    return Case(make, (4, 3), call, classes=7)


def decoder(layer: Any, x: Tensor) -> Any:
    return layer(x, numbers(4, 2, 6)), layer(numbers(4, 2, 6), x)


def container(layer: Any, x: Tensor) -> Any:
    return layer.a(x) + layer.b(x)


REASONS = {
    "Module": "has no forward",
    "Container": "is Module under its old name",
    "ParameterDict": "holds parameters and has no forward",
    "ParameterList": "holds parameters and has no forward",
    "RNNCellBase": "has no forward: GRUCell, LSTMCell and RNNCell are",
    "RNNBase": "is what RNN, GRU and LSTM share: takes the mode's name",
    "SyncBatchNorm": "runs on GPUs of a process group only",
    "DataParallel": "copies a module to several GPUs",
}

_IMAGES = {
    f"{kind}{rank}d": [pooled(f"{kind}{rank}d", rank, *args)]
    for rank in (1, 2, 3)
    for kind, args in {
        "AdaptiveAvgPool": (2,),
        "AvgPool": (2,),
        "LPPool": (2, 2),
        "CircularPad": (1,),
        "ConstantPad": (1, 0.5),
        "ReflectionPad": (1,),
        "ReplicationPad": (1,),
        "ZeroPad": (1,),
        "LazyConv": (2, 3),
        "LazyConvTranspose": (2, 3),
        "Dropout": (),
    }.items()
}
_PAIRS = {
    f"{kind}MaxPool{rank}d": [
        pooled(f"{kind}MaxPool{rank}d", rank, 2),
        pooled(f"{kind}MaxPool{rank}d", rank, 2, return_indices=True),
    ]
    for rank in (1, 2, 3)
    for kind in ("", "Adaptive")
}
_CONVOLUTIONS = {
    f"Conv{kind}{rank}d": [
        pooled(f"Conv{kind}{rank}d", rank, 3, 2, 2),
        Case(
            lambda kind=kind, rank=rank: getattr(nn, f"Conv{kind}{rank}d")(2, 2, 2),  # type: ignore[misc]
            (2, 6, 5, 4)[: rank + 1],
        ),
        *(
            [pooled(f"Conv{rank}d", rank, 3, 3, 3, padding=1, padding_mode="circular", groups=3)]
            if not kind
            else []
        ),
    ]
    for rank in (1, 2, 3)
    for kind in ("", "Transpose")
}
_NORMS = {
    f"{lazy}{kind}{rank}d": norms(f"{lazy}{kind}{rank}d", rank, *(() if lazy else (3,)))
    for rank in (1, 2, 3)
    for kind in ("BatchNorm", "InstanceNorm")
    for lazy in ("", "Lazy")
}
_UNPOOLED = {f"MaxUnpool{rank}d": [unpooled(rank)] for rank in (1, 2, 3)}
_POINTWISE = {
    name: [case(name)]
    for name in """AlphaDropout CELU Dropout ELU FeatureAlphaDropout GELU Hardshrink Hardsigmoid
    Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish PReLU RReLU ReLU ReLU6 SELU SiLU Sigmoid
    Softplus Softshrink Softsign Tanh Tanhshrink Flatten""".split()
}
_IN_PLACE = {
    name: [case(name, inplace=True)._replace(call=lambda layer, x: layer(x * 1))]
    for name in "CELU Dropout ELU Hardswish Hardtanh LeakyReLU Mish RReLU ReLU SELU SiLU".split()
}
_RECURRENT = {name: sequences(name) for name in ("GRU", "LSTM", "RNN")}

LAYERS: dict[str, list[Case]] = {
    **_IMAGES,
    **_PAIRS,
    **_CONVOLUTIONS,
    **_NORMS,
    **_UNPOOLED,
    **_POINTWISE,
    **_RECURRENT,
    "AdaptiveLogSoftmaxWithLoss": [
        Case(
            lambda: nn.AdaptiveLogSoftmaxWithLoss(6, 8, [2, 5]),
            (4, 6),
            lambda layer, x: (layer(x, labels(4, classes=8)), layer.log_prob(x), layer.predict(x)),
            escapes=True,
        ),
        Case(
            lambda: nn.AdaptiveLogSoftmaxWithLoss(6, 8, [2, 5]),
            (4,),
            lambda layer, x: layer(numbers(4, 6), x),
            classes=8,
            escapes=True,
        ),
    ],
    "BCELoss": [
        *(
            c._replace(positive=True)
            for c in loss("BCELoss", lambda: labels(4, 3, classes=2) * 1.0)
        ),
        target("BCELoss", lambda: numbers(4, 3).sigmoid(), positive=True),
    ],
    "BCEWithLogitsLoss": [
        *loss("BCEWithLogitsLoss", lambda: labels(4, 3, classes=2) * 1.0),
        target("BCEWithLogitsLoss", lambda: numbers(4, 3)),
    ],
    "Bilinear": [
        of("Bilinear", (4, 3), 3, 3, 2)._replace(
            call=lambda layer, x: (layer(x, numbers(4, 3)), layer(numbers(4, 3), x))
        )
    ],
    "CTCLoss": [
        Case(
            lambda kind=kind: nn.CTCLoss(reduction=kind),  # type: ignore[misc]
            (6, 2, 5),
            lambda layer, x: layer(
                x.log_softmax(-1),
                labels(2, 3, classes=4) + 1,
                torch.tensor([6, 5]),
                torch.tensor([3, 2]),
            ),
        )
        for kind in ("none", "mean")
    ],
    "ChannelShuffle": [of("ChannelShuffle", (2, 4, 3, 3), 2)],
    "CosineEmbeddingLoss": [
        Case(nn.CosineEmbeddingLoss, (4, 3), lambda layer, x: layer(x, numbers(4, 3), signs(4)))
    ],
    "CosineSimilarity": [
        case("CosineSimilarity")._replace(call=lambda layer, x: layer(x, numbers(4, 3, 6)))
    ],
    "CrossEntropyLoss": [
        *loss("CrossEntropyLoss", lambda: labels(4)),
        *loss("CrossEntropyLoss", lambda: numbers(4, 3).softmax(1), label_smoothing=0.1),
        target("CrossEntropyLoss", lambda: numbers(4, 3), classes=3),
    ],
    "CrossMapLRN2d": [pooled("CrossMapLRN2d", 2, 2)],
    "Embedding": [
        Case(lambda: nn.Embedding(7, 4), (4, 3), classes=7),
        Case(lambda: nn.Embedding(7, 4, padding_idx=1, scale_grad_by_freq=True), (4,), classes=7),
    ],
    "EmbeddingBag": [
        bag(mode, how) for mode in ("sum", "mean", "max") for how in ("rows", "offsets")
    ]
    + [bag("sum", "weights")],
    "Fold": [of("Fold", (2, 12, 12), (4, 5), (2, 2))],
    "FractionalMaxPool2d": [of("FractionalMaxPool2d", (2, 2, 6, 6), 2, output_size=3)],
    "FractionalMaxPool3d": [of("FractionalMaxPool3d", (2, 2, 4, 4, 4), 2, output_size=2)],
    "GLU": [case("GLU")],
    "GRUCell": [
        Case(lambda: nn.GRUCell(3, 5), (4, 3)),
        Case(lambda: nn.GRUCell(3, 3), (4, 3), lambda layer, x: layer(numbers(4, 3), x)),
    ],
    "GaussianNLLLoss": [
        Case(
            lambda: nn.GaussianNLLLoss(full=True),
            (4, 3),
            lambda layer, x: layer(x, numbers(4, 3), torch.ones(4, 3)),
        ),
        Case(
            nn.GaussianNLLLoss,
            (4, 3),
            lambda layer, x: layer(numbers(4, 3), numbers(4, 3), x),
            positive=True,
        ),
    ],
    "GroupNorm": [of("GroupNorm", (2, 4, 5), 2, 4)],
    "HingeEmbeddingLoss": [*loss("HingeEmbeddingLoss", lambda: signs(4, 3))],
    "HuberLoss": [
        *loss("HuberLoss", lambda: numbers(4, 3)),
        target("HuberLoss", lambda: numbers(4, 3)),
    ],
    "KLDivLoss": [
        *loss("KLDivLoss", lambda: numbers(4, 3).softmax(1)),
        *loss("KLDivLoss", lambda: numbers(4, 3), log_target=True),
        target("KLDivLoss", lambda: numbers(4, 3), positive=True),
    ],
    "L1Loss": [*loss("L1Loss", lambda: numbers(4, 3)), target("L1Loss", lambda: numbers(4, 3))],
    "LSTMCell": [
        Case(lambda: nn.LSTMCell(3, 5), (4, 3)),
        Case(lambda: nn.LSTMCell(3, 3), (4, 3), lambda layer, x: layer(numbers(4, 3), (x, x))),
    ],
    "LayerNorm": [case("LayerNorm", 6), case("LayerNorm", (3, 6))],
    "LazyLinear": [case("LazyLinear", 2)],
    "Linear": [case("Linear", 6, 2), of("Linear", (6,), 6, 2, bias=False)],
    "LinearCrossEntropyLoss": [
        Case(
            lambda: nn.LinearCrossEntropyLoss(3, 5),
            (4, 3),
            lambda layer, x: layer(x, labels(4, classes=5)),
        )
    ],
    "LocalResponseNorm": [pooled("LocalResponseNorm", 2, 2)],
    "LogSoftmax": [case("LogSoftmax", dim=1)],
    "MSELoss": [*loss("MSELoss", lambda: numbers(4, 3)), target("MSELoss", lambda: numbers(4, 3))],
    "MarginRankingLoss": [
        Case(nn.MarginRankingLoss, (4,), lambda layer, x: layer(x, numbers(4) - 2, signs(4)))
    ],
    "ModuleDict": [
        Case(lambda: nn.ModuleDict({"a": nn.Linear(6, 2), "b": nn.Linear(6, 2)}), call=container)
    ],
    "ModuleList": [
        Case(
            lambda: nn.ModuleList([nn.Linear(6, 2)]),
            call=lambda layer, x: [inner(x) for inner in layer],
        )
    ],
    "MultiLabelMarginLoss": [
        *loss("MultiLabelMarginLoss", lambda: torch.tensor([[0, 2, -1], [1, -1, 0]] * 2))
    ],
    "MultiLabelSoftMarginLoss": [
        *loss("MultiLabelSoftMarginLoss", lambda: labels(4, 3, classes=2) * 1.0)
    ],
    "MultiMarginLoss": [*loss("MultiMarginLoss", lambda: labels(4))],
    "MultiheadAttention": [
        case("MultiheadAttention", 6, 2, batch_first=True)._replace(call=attended),
        case("MultiheadAttention", 6, 2, batch_first=True)._replace(call=masked),
        case("MultiheadAttention", 6, 2, add_bias_kv=True, add_zero_attn=True)._replace(
            call=attended
        ),
    ],
    "NLLLoss": [
        *loss("NLLLoss", lambda: labels(4)),
        target("NLLLoss", lambda: numbers(4, 3), classes=3),
    ],
    "NLLLoss2d": [
        Case(lambda: nn.NLLLoss(), (2, 3, 4, 4), lambda layer, x: layer(x, labels(2, 4, 4)))
    ],
    "PairwiseDistance": [
        case("PairwiseDistance")._replace(call=lambda layer, x: layer(x, numbers(4, 3, 6)))
    ],
    "PixelShuffle": [of("PixelShuffle", (2, 4, 3, 3), 2)],
    "PixelUnshuffle": [of("PixelUnshuffle", (2, 1, 4, 4), 2)],
    "PoissonNLLLoss": [
        *loss("PoissonNLLLoss", lambda: labels(4, 3) * 1.0, full=True),
        target("PoissonNLLLoss", lambda: numbers(4, 3), positive=True),
    ],
    "RMSNorm": [case("RMSNorm", 6)],
    "RNNCell": [Case(lambda: nn.RNNCell(3, 5, nonlinearity="relu"), (4, 3))],
    "Sequential": [Case(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)))],
    "SmoothL1Loss": [
        *loss("SmoothL1Loss", lambda: numbers(4, 3)),
        target("SmoothL1Loss", lambda: numbers(4, 3)),
    ],
    "SoftMarginLoss": [*loss("SoftMarginLoss", lambda: signs(4, 3))],
    "Softmax": [case("Softmax", dim=1)],
    "Softmax2d": [pooled("Softmax2d", 2)],
    "Softmin": [case("Softmin", dim=-1)],
    "Threshold": [case("Threshold", 0.1, 2.0), case("Threshold", 0.1, 2.0)],
    "Transformer": [
        Case(lambda: nn.Transformer(6, 2, 1, 1, 8, batch_first=True), (4, 3, 6), decoder)
    ],
    "TransformerDecoder": [
        case(
            "TransformerDecoder", nn.TransformerDecoderLayer(6, 2, 8, batch_first=True), 1
        )._replace(call=decoder)
    ],
    "TransformerDecoderLayer": [
        case("TransformerDecoderLayer", 6, 2, 8, batch_first=True, norm_first=True)._replace(
            call=decoder
        )
    ],
    "TransformerEncoder": [
        Case(
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2),
            call=call,
        )
        for call in (
            lambda layer, x: layer(x),
            # The fused kernel fills what is masked with zeros.
            lambda layer, x: layer(
                x, src_key_padding_mask=torch.tensor([[False, False, True]] * 4)
            )[:, :2],
        )
    ],
    "TransformerEncoderLayer": [
        case("TransformerEncoderLayer", 6, 2, 8, batch_first=True),
        case("TransformerEncoderLayer", 6, 2, 8, batch_first=True, activation="gelu"),
        case("TransformerEncoderLayer", 6, 2, 8)._replace(
            call=lambda layer, x: layer(x, is_causal=True, src_mask=torch.ones(4, 4).triu(1).bool())
        ),
    ],
    "TripletMarginLoss": [
        Case(
            nn.TripletMarginLoss,
            (4, 3),
            lambda layer, x: layer(x, numbers(4, 3), numbers(4, 3, seed=4)),
        )
    ],
    "TripletMarginWithDistanceLoss": [
        Case(
            lambda: nn.TripletMarginWithDistanceLoss(swap=True),
            (4, 3),
            lambda layer, x: layer(numbers(4, 3), x, numbers(4, 3, seed=4)),
        )
    ],
    "Unflatten": [case("Unflatten", 2, (2, 3))],
    "Unfold": [pooled("Unfold", 2, 2)],
    "Upsample": [
        pooled("Upsample", 2, scale_factor=2, mode=mode)
        for mode in ("nearest", "bilinear", "bicubic")
    ]
    + [pooled("Upsample", 1, size=9, mode="linear")],
    "UpsamplingBilinear2d": [pooled("UpsamplingBilinear2d", 2, 8)],
    "UpsamplingNearest2d": [pooled("UpsamplingNearest2d", 2, 8)],
}
for _name, _cases in _IN_PLACE.items():
    LAYERS[_name] = LAYERS[_name] + _cases

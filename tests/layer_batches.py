"""Which layers of torch.nn keep the batch: all but those with a reason here.

A case is named as in `layers.LAYERS`, by the layer and its number there.
"""

from collections.abc import Mapping

BATCH_SECOND = {
    *(("CTCLoss", 0), ("CTCLoss", 1)),
    *(("MultiheadAttention", 2), ("TransformerEncoderLayer", 2)),
}
"""The cases whose batch is not the first dimension of the input, but the second."""

# The layer, and the numbers of the cases.
LOST_BATCHES: dict[str, str] = {
    "the examples are summed": """
        BCELoss:1,2,3 BCEWithLogitsLoss:1,2,3 CTCLoss:1 CosineEmbeddingLoss:0
        CrossEntropyLoss:1,2,4,5,6 GaussianNLLLoss:0,1 HingeEmbeddingLoss:1,2 HuberLoss:1,2,3
        KLDivLoss:1,2,4,5,6 L1Loss:1,2,3 LinearCrossEntropyLoss:0 MSELoss:1,2,3
        MarginRankingLoss:0 MultiLabelMarginLoss:1,2 MultiLabelSoftMarginLoss:1,2
        MultiMarginLoss:1,2 NLLLoss:1,2,3 NLLLoss2d:0 PoissonNLLLoss:1,2,3 SmoothL1Loss:1,2,3
        SoftMarginLoss:1,2 TripletMarginLoss:0 TripletMarginWithDistanceLoss:0
    """,
    "the input has no batch": """
        Conv1d:1 ConvTranspose1d:1 Conv2d:1 ConvTranspose2d:1 Conv3d:1 ConvTranspose3d:1 GRU:2
        LSTM:2 RNN:2 Linear:1
    """,
    "the steps of packed sequences stand in one dimension": """
        GRU:3,4 LSTM:3,4 RNN:3,4
    """,
    "bags that begin at offsets take a flat input": """
        EmbeddingBag:1,3,5
    """,
    "Python chooses by the values": """
        AdaptiveLogSoftmaxWithLoss:0,1
    """,
    "the op has no rule of alignment": """
        AdaptiveAvgPool1d:0 AvgPool1d:0 LPPool1d:0 AdaptiveAvgPool2d:0 AvgPool2d:0 LPPool2d:0
        AdaptiveAvgPool3d:0 AvgPool3d:0 LPPool3d:0 MaxPool1d:0,1 AdaptiveMaxPool1d:0,1
        MaxPool2d:0,1 AdaptiveMaxPool2d:0,1 MaxPool3d:0,1 AdaptiveMaxPool3d:0,1
        BatchNorm1d:0,1,2 LazyBatchNorm1d:0,1,2 InstanceNorm1d:0,1,2 LazyInstanceNorm1d:0,1,2
        BatchNorm2d:0,1,2 LazyBatchNorm2d:0,1,2 InstanceNorm2d:0,1,2 LazyInstanceNorm2d:0,1,2
        BatchNorm3d:0,1,2 LazyBatchNorm3d:0,1,2 InstanceNorm3d:0,1,2 LazyInstanceNorm3d:0,1,2
        MaxUnpool1d:0 MaxUnpool2d:0 MaxUnpool3d:0 PReLU:0 CTCLoss:0 ChannelShuffle:0
        CrossMapLRN2d:0 Fold:0 FractionalMaxPool2d:0 FractionalMaxPool3d:0 GroupNorm:0
        LocalResponseNorm:0 MultiLabelMarginLoss:0 MultiLabelSoftMarginLoss:0
        MultiMarginLoss:0 PairwiseDistance:0 PixelShuffle:0 PixelUnshuffle:0 Unfold:0
        Upsample:0,1,2,3 UpsamplingBilinear2d:0 UpsamplingNearest2d:0
    """,
}
IN_TRAINING: dict[str, str] = {
    "how much noise is taken depends on the elements before": """
        RReLU:0,1
    """,
}


def cases(reasons: Mapping[str, str]) -> dict[tuple[str, int], str]:
    """Return the reason of each case that has one."""
    return {
        (name, int(number)): reason
        for reason, listed in reasons.items()
        for name, numbers in (item.split(":") for item in listed.split())
        for number in numbers.split(",")
    }

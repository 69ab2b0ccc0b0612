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
        AdaptiveLogSoftmaxWithLoss:1
    """,
    "examples are normalized together, whenever no statistics run": """
        BatchNorm1d:2 LazyBatchNorm1d:2 BatchNorm2d:2 LazyBatchNorm2d:2 BatchNorm3d:2
        LazyBatchNorm3d:2
    """,
    "what an autograd.Function does is untracked": """
        CrossMapLRN2d:0
    """,
}
IN_TRAINING: dict[str, str] = {
    "examples are normalized together": """
        BatchNorm1d:0,1 LazyBatchNorm1d:0,1 BatchNorm2d:0,1 LazyBatchNorm2d:0,1 BatchNorm3d:0,1
        LazyBatchNorm3d:0,1
    """,
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

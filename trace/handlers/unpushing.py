"""Transform reparameterization: a transformed site, drawn before the transforms."""

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Independent, TransformedDistribution

from ancestral.trace.handlers.reparam import ReparamError, Strategy
from ancestral.trace.nodes.distribution_params import factorized
from ancestral.trace.program.primitives import sample
from ancestral.trace.recording.message import Message


@dataclass(frozen=True)
class Transform(Strategy):
    """Draw x = f(y) from a `TransformedDistribution` as its base ``{name}_base``, y.

        y ~ q,  x = f(y),  log q(y) = log p(x) + log |det df/dy|

    It takes subclasses too, such as LogNormal, HalfCauchy and Gumbel, and an `Independent` of them.
    """

    def __call__(self, message: Message) -> Tensor:
        """Draw the auxiliary site, and return the value that it makes."""
        assert message.fn is not None
        fn = factorized(message.fn)
        if not isinstance(fn, TransformedDistribution):
            expected = "a TransformedDistribution, or an Independent of one"
            raise ReparamError(message, fn, "Transform", expected)
        event_dims = len(message.fn.event_shape) - len(fn.event_shape)
        base = fn.base_dist
        value = sample(
            f"{message.name}_base",
            Independent(base, event_dims) if event_dims else base,
            infer=message.infer,
        )
        for transform in fn.transforms:
            value = transform(value)
        return value

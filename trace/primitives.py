"""Primitives: what a program says of itself, beyond what is found."""

from torch import Tensor

from ancestral.trace.record import current, declare


def cost(name: str, value: Tensor) -> Tensor:
    """Declare a cost, a term of the objective whose expected sum is differentiated, and return it.

    `Trace.backward` sums the declared costs. A value of Python that escapes from the recording
    later does not blur this term. Outside a recording nothing happens.

    Args:
        name: the name of the cost in the trace.
        value: the cost of each independent case, of any shape; its elements are summed.

    Raises:
        TypeError: if `value` is no tensor.
        DuplicateNameError: if the recording knows the name.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"cost {name!r} is a {type(value).__name__}; expected a torch.Tensor, whose "
            "provenance says which draws it depends on"
        )
    if current() is not None:
        declare(name, value)
    return value

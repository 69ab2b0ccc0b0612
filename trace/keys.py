"""The dispatch key under which draws, numbers and constructors are met while a thread records."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ancestral.provenance.torch_internals import (
    DispatchKeySet,
    ExcludeDispatchKeyGuard,
    parse_dispatch_key,
)

# A dispatch key that torch keeps free for tests of the dispatcher: above autograd, in nobody's way.
KEY_NAME = "TESTING_ONLY_GenericMode"
KEY: Any = parse_dispatch_key(KEY_NAME)


unmet: Callable[[], Any] = partial(ExcludeDispatchKeyGuard, DispatchKeySet(KEY))
"""Returns a block within which neither draws nor numbers are met in the dispatcher."""

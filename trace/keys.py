"""The dispatch key under which draws, numbers and constructors are met while a thread records."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

# A dispatch key that torch keeps free for tests of the dispatcher: above autograd, in nobody's way.
KEY_NAME = "TESTING_ONLY_GenericMode"
KEY: Any = torch._C._parse_dispatch_key(KEY_NAME)


unmet: Callable[[], Any] = partial(torch._C._ExcludeDispatchKeyGuard, torch._C.DispatchKeySet(KEY))
"""Returns a block within which neither draws nor numbers are met in the dispatcher."""

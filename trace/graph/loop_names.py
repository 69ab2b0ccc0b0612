"""Loop names: what the draws of one loop are called, ``z``, ``z_1``, ``z_2`` ..."""

import re

_COUNTER = re.compile(r"(?<![\W\d_])[\W\d_]*\d[\W_]*$")
"""The suffix of a repeat of a loop: the end of ``z_1``, ``z[3]``, ``z_2_0`` or ``z7``."""


def stem(name: str) -> str:
    """Return a name without its counter.

    >>> stem("z"), stem("z_12"), stem("z[3]"), stem("layer1.z_0_1"), stem("7")
    ('z', 'z', 'z', 'layer1.z', '7')
    """
    return _COUNTER.sub("", name) or name

"""Names of Pyro: advice where its users type another name than ours.

Keywords that are none of ours go on to the programs. One of Pyro's would fail there, at a line that
has nothing to do with it, or be taken in by a program's ``**kwargs`` and do nothing.

>>> refuse("elbo", [lambda x: None], {"num_particles": 3}, {"num_particles": "say particles="})
Traceback (most recent call last):
TypeError: elbo takes no num_particles=, which is a name of Pyro: say particles=
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

_OF_PARTICLES = "say particles=, how many draws of the guide are averaged"
PARTICLES = {
    "num_particles": _OF_PARTICLES,
    "num_samples": _OF_PARTICLES,
    "vectorize_particles": "say vectorized=, whether all particles run at once",
}
SAMPLES = dict.fromkeys(("num_samples", "num_particles"), "say samples=, how many runs there are")
PREDICTIVE = {
    **SAMPLES,
    "posterior_samples": "say posterior=, the values that the runs start from",
    "parallel": "say vectorized=; by default runs are made at once where that is right",
    "return_sites": "take the sites that you want from the dictionary that a call returns",
}
CHAINS = {"num_chains": "say chains=, how many chains the samples are"}


def refuse(
    verb: str,
    programs: Iterable[Callable[..., Any] | None],
    keywords: Mapping[str, Any],
    names: Mapping[str, str],
) -> None:
    """Raise a TypeError for a name of Pyro, unless a program has a parameter of that name.

    Args:
        verb: what was called.
        programs: what the keywords go on to.
        keywords: those that are none of ours.
        names: what to say instead of each name.
    """
    for name in keywords.keys() & names.keys():
        if not any(_takes(program, name) for program in programs if program is not None):
            raise TypeError(f"{verb} takes no {name}=, which is a name of Pyro: {names[name]}")


def _takes(program: Callable[..., Any], name: str) -> bool:
    """Return whether a program has a parameter of this name, not only a place for any."""
    function = program.forward if isinstance(program, nn.Module) else program
    try:
        found = inspect.signature(function).parameters.get(name)
    except (TypeError, ValueError):  # a builtin, of which nothing is known
        return True
    return found is not None and found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)

"""Each patch of a recording is needed: without it, some program comes out otherwise.

They are those of the interceptors, so that a new one asks for a separate program.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from mutations import blind_to_numbers, healthy, naming, outcome
from programs.control.register import CONTROL

from ancestral.provenance.dispatch import torch_function
from ancestral.trace.context.patch import Group, Lasting, Patch
from ancestral.trace.context.switch import restore_torch, switch
from ancestral.trace.intercept import autograd, functorch

pytestmark = pytest.mark.filterwarnings("ignore")  # of what runs without its patch


_BEGINS = "torch._functorch.eager_transforms._func_increment_nesting"
_ENDS = "torch._functorch.eager_transforms._func_decrement_nesting"


@dataclass(frozen=True)
class Patched:
    """An attribute of torch that is replaced while a recording is open."""

    owner: Any
    name: str
    kind: str

    def __str__(self) -> str:
        return f"{getattr(self.owner, '__name__', self.owner)}.{self.name}"

    @property
    def is_factory(self) -> bool:
        """Whether it makes tensors of numbers."""
        made = ("new", "new_tensor", "new_full", *functorch._FACTORIES.split())
        return self.kind == "FunctionTransforms" and self.name in made

    @property
    def pattern(self) -> str:
        """What the programs say that come by."""
        if str(self) in (_BEGINS, _ENDS):
            return "functionalize"
        return SPOKEN.get(str(self), self.name)


# What a program says instead of the name of the attribute.
SPOKEN = {
    "ScriptFunction.__call__": "_scripted",
    "ScriptMethod.__call__": r"jit\.script",
    "NestedTensor.__new__": "nested_tensor_from_jagged",
    "NestedTensor.__torch_function__": "nested_tensor_from_jagged",
    "MaskedTensor.__new__": "masked_tensor",
    "Thread.start": "threading",
    "ThreadPoolExecutor.submit": "_POOL",
    "Bernoulli.sample": "coin",
    "Categorical.sample": "roll",
    "Binomial.sample": "Binomial",
    "Function.apply": "_Drawn",
    "saved_tensors_hooks.__init__": "saved_tensors_hooks",
    "torch.autograd._engine_run_backward": "autograd",
    "Tensor.register_hook": "register_hook",
    "Module._get_backward_hooks": "register_full_backward_hook",
    "Module._get_backward_pre_hooks": "register_full_backward_pre_hook",
    "torch._functorch.apis.vmap_impl": "vmap",
    "torch._functorch.eager_transforms.grad_and_value_impl": r"func\.grad",
    "torch._functorch.eager_transforms._vjp_with_argnums": "vjp",
    "torch._functorch.eager_transforms._jvp_with_argnums": "jvp",
    "torch._functorch.eager_transforms._wrap_all_tensors_to_functional": "functionalize",
    "torch._functorch.eager_transforms.lazy_dynamo_disallow": "linearize",
    "torch.jit._trace._trace_impl": r"jit\.trace",
    "torch._C._freeze_module": r"jit\.freeze",
    "UntypedStorage.clone": r"storage\.clone",
    "UntypedStorage.data_ptr": r"storage\.data_ptr",
    "ScriptModule.save": r"jit\.save",
    "Tensor.__new__": r"Passive\(",
    "Tensor._make_subclass": r"Tagged\(",
    "Tensor.__init_subclass__": "Late",
    "Careless.__torch_function__": "Careless",
}
# Other patches that see the same values afterwards, and are undone as well; what begins must
# end.
BEHIND = {
    _BEGINS: (_ENDS,),
    _ENDS: (_BEGINS,),
    "torch.nested.nested_tensor_from_jagged": ("NestedTensor.",),
    "torch.nested.narrow": ("NestedTensor.",),
    "torch.nested.masked_select": ("NestedTensor.",),
    "NestedTensor.__new__": ("torch.nested.", "NestedTensor.__torch_function__"),
}
# What runs twice, or is compiled, where the oracle does without the library: what tests it.
ELSEWHERE = {
    "CheckpointFunction.apply": "tests/provenance/rules/test_functions.py",
    "_CheckpointFrame.__init__": "tests/provenance/rules/test_functions.py",
    "HigherOrderOperator.__call__": "tests/trace/intercept/test_opaque.py",
    "torch._ops._compute_keyset": "tests/trace/intercept/test_opaque.py",
    # Work for threads that are older, and for processes.
    **dict.fromkeys(
        (
            "BaseProcess.start",
            "ProcessPoolExecutor.submit",
            "Executor.__init_subclass__",
            "Pool.apply_async",
            "Pool._map_async",
            "Pool.imap",
            "Pool.imap_unordered",
        ),
        "tests/trace/intercept/test_processes.py",
    ),
    **dict.fromkeys(
        (
            "Handle._run",
            *(f"torch.{name}" for name in "bernoulli binomial multinomial normal poisson".split()),
            *(f"Tensor.{name}" for name in "bernoulli bernoulli_ multinomial".split()),
        ),
        "tests/trace/intercept/test_threads.py",
    ),
    # What is noticed there is warned of, and no gradient is another.
    **dict.fromkeys(
        ("Tensor.detach", "torch.detach"), "tests/estimators/gradient/test_straight_through.py"
    ),
    # What processes share, with other ranks.
    "DistributedDataParallel._post_forward": "tests/estimators/compiled/test_parallel.py",
    # Hooks after accumulation are those of leaves, which a pass looks for by itself.
    "Tensor.register_post_accumulate_grad_hook": "a second line of defence",
}
ENUMERATED = ("Bernoulli.sample", "Categorical.sample", "Binomial.sample")


_OTHERS = ("tests.", "test_", "pyro.", "joblib.")


def patched_attributes() -> list[Patched]:
    """Return every patch; of the distributions, those of the draws that an oracle enumerates."""
    found = [
        Patched(patch.owner, patch.name, type(each).__name__)
        for each in switch.interceptors
        for patch in (*each.patches(), *each.found())
    ]
    return [
        patched
        for patched in found
        if _is_here(patched)
        # Classes that other tests define, or libraries that they import.
        and not getattr(patched.owner, "__module__", "torch").startswith(_OTHERS)
    ]


def _is_here(patched: Patched) -> bool:
    if patched.kind in ("Distributions", "Batches"):
        return str(patched) in ENUMERATED
    return str(patched) not in ELSEWHERE


def _order(patched: Patched) -> tuple[str, str]:
    return str(patched), str(getattr(patched.owner, "__module__", ""))


PATCHED = sorted(patched_attributes(), key=_order)  # the same in each process that runs tests


def close(patched: Patched, patch: pytest.MonkeyPatch) -> None:
    """Undo a patch, and those that see the same values."""
    shut = (str(patched), *BEHIND.get(str(patched), ()))
    real = switch.replace

    def others(patches: Iterable[Patch]) -> Iterator[Patch]:
        for each in patches:
            named = f"{getattr(each.owner, '__name__', each.owner)}.{each.name}"
            if not any(named == one or (one[-1] == "." and named.startswith(one)) for one in shut):
                yield each

    restore_torch()
    staying = [group.of(others(group.patches)) for group in switch._staying]
    patch.setattr(switch, "_staying", staying)
    patch.setattr(switch, "_swapped", Lasting(others(switch._swapped.patches)))
    patch.setattr(switch, "replace", lambda group: real(Group(others(group.patches))))
    patch.setattr(switch, "_lay_out", lambda *_: None)  # what is found by each recording
    switch.look_anew()
    if patched.is_factory:  # numbers are met in the dispatcher as well
        blind_to_numbers(patch)
        patch.setattr(torch_function, "escape", lambda *_, **__: None)
    if patched.name == "register_hook":
        patch.setattr(autograd, "_hooks_of", lambda nodes: contextlib.nullcontext())


def candidates(patched: Patched) -> list[str]:
    """Return the programs that use what is patched, and are right with the patch."""
    named = naming(patched.pattern)
    if patched.is_factory:
        named = [n for n in named if n not in CONTROL or not CONTROL[n].escapes]
    return [name for name in named[:MOST] if healthy(name) != "biased"]


MOST = 40


@pytest.mark.parametrize("patched", PATCHED, ids=str)
def test_without_a_patch_some_program_comes_out_otherwise(patched: Patched) -> None:
    found = candidates(patched)
    assert found, "no program that is right uses this attribute: write one"
    with pytest.MonkeyPatch.context() as patch:
        close(patched, patch)
        changed = next((name for name in found if outcome(name) != healthy(name)), None)
        restore_torch()
    assert changed is not None, f"none of {found} notices"

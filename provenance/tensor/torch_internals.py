"""Private names of torch: all that the library uses of torch besides its public interface.

They are there, and do what the library needs, in the versions from `FIRST` to `LAST`. One that is
missing is named when the library is imported. Names of ops in the tables of rules are not
listed here: an op whose name a version does not know is one without a rule, which keeps every
source.
"""

# ruff: noqa: F401  # what others import from here
# pyright: reportPrivateUsage=false
import functools
import re
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

FIRST, LAST = (2, 10), (2, 15)
"""The first and the last version of torch with which `make test-torch` passed."""


class TorchVersionWarning(UserWarning):
    """The library was not tried with this version of torch."""


_SPAN = f"{FIRST[0]}.{FIRST[1]} to {LAST[0]}.{LAST[1]}"


def _is_tried(version: str) -> bool:
    """Return whether the library was tried with a version of torch, whatever its last number."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and FIRST <= (int(numbers[1]), int(numbers[2])) <= LAST


def _door(owner: Any, name: str) -> tuple[Any, str]:
    """Return where something stands that recordings replace."""
    getattr(owner, name)
    return owner, name


if not _is_tried(torch.__version__):
    warnings.warn(
        TorchVersionWarning(
            f"ancestral was tried with torch {_SPAN}, and this is torch {torch.__version__}, where "
            "a dependency could be lost without notice: install one of those"
        ),
        stacklevel=1,
    )
try:
    from torch import _VF as VF
    from torch import _ops
    from torch import _standard_gamma_grad as standard_gamma_grad
    from torch._C import (
        BufferDict,
        DisableTorchFunction,
        DispatchKey,
        DispatchKeySet,
        ModuleDict,
        ParameterDict,
        ScriptFunction,
        ScriptMethod,
        ScriptModule,
    )
    from torch._C import _current_graph_task_id as current_graph_task_id
    from torch._C import _disabled_torch_function_impl as disabled_torch_function_impl
    from torch._C import _DisableTorchDispatch as DisableTorchDispatch
    from torch._C import _dispatch_tls_set_dispatch_key_included as include_dispatch_key
    from torch._C import _EnableTorchFunction as EnableTorchFunction
    from torch._C import _ExcludeDispatchKeyGuard as ExcludeDispatchKeyGuard
    from torch._C import _functorch as functorch
    from torch._C import _has_storage as has_storage
    from torch._C import _is_alias_of as is_alias_of  # type: ignore[attr-defined]
    from torch._C import _is_torch_function_enabled as is_torch_function_enabled
    from torch._C import _len_torch_function_stack as len_torch_function_stack
    from torch._C import _nn as nn_functions
    from torch._C import _parse_dispatch_key as parse_dispatch_key
    from torch._C import _pop_torch_function_stack as pop_torch_function_stack
    from torch._C import _push_on_torch_function_stack as push_on_torch_function_stack
    from torch._C import _set_grad_enabled as set_grad_enabled
    from torch._C import _storage_Use_Count as storage_use_count
    from torch._functorch import apis, eager_transforms
    from torch._functorch import vmap as _vmap
    from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
    from torch.autograd import forward_ad
    from torch.cuda import _is_in_bad_fork as is_in_bad_fork
    from torch.distributions import (
        Bernoulli,
        Distribution,
        LowRankMultivariateNormal,
        MultivariateNormal,
        Transform,
        kl,
    )
    from torch.distributions.transforms import _InverseTransform as InverseTransform
    from torch.jit import _trace
    from torch.nested._internal.nested_tensor import NestedTensor
    from torch.nn.utils._named_member_accessor import NamedMemberAccessor
    from torch.nn.utils.stateless import _functional_call as functional_call
    from torch.utils import _python_dispatch, checkpoint
    from torch.utils._device import _device_constructors as device_constructors
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import (
        tree_flatten,
        tree_flatten_with_path,
        tree_leaves,
        tree_map,
        tree_unflatten,
    )

    CheckpointFrame = checkpoint._CheckpointFrame
    KL_REGISTRY = kl._KL_REGISTRY
    pop_top_mode: Any = _python_dispatch._pop_mode
    push_mode: Any = _python_dispatch._push_mode
    disable_current_modes: Any = _python_dispatch._disable_current_modes
    current_dispatch_mode: Any = _python_dispatch._get_current_dispatch_mode

    is_functorch_wrapped_tensor: Callable[[Tensor], bool] = functorch.is_functorch_wrapped_tensor
    get_unwrapped: Callable[[Tensor], Tensor] = functorch.get_unwrapped
    is_batchedtensor: Callable[[Tensor], bool] = functorch.is_batchedtensor
    maybe_get_level: Callable[[Tensor], int] = functorch.maybe_get_level
    peek_interpreter_stack: Callable[[], Any] = functorch.peek_interpreter_stack
    maybe_current_level: Callable[[], int | None] = functorch.maybe_current_level
    broadcast_to_and_flatten: Any = vars(_vmap)["_broadcast_to_and_flatten"]
    name_of_mapped: Any = _vmap._get_name

    # In C: the compiler itself takes a second to import.
    eval_frame: Any = torch._C._dynamo.eval_frame
    FrameAction: Any = eval_frame._FrameAction
    FrameExecStrategy: Any = eval_frame._FrameExecStrategy

    # Attributes of tensors as torch has them, past the class that overrides them.
    detach: Callable[[Tensor], Tensor] = vars(torch._C.TensorBase)["detach"]
    DATA_ATTRIBUTES: dict[str, Any] = {
        name: vars(torch._C.TensorBase)[name] for name in ("data", "real", "imag")
    }
    read_base: Any = vars(torch._C.TensorBase)["_base"].__get__
    read_device: Any = vars(torch._C.TensorBase)["device"].__get__
    read_history: Any = vars(torch._C.TensorBase)["grad_fn"].__get__
    read_version: Any = vars(torch._C.TensorBase)["_version"].__get__

    is_all_true: Callable[[Tensor], Tensor] = torch._is_all_true

    # What recordings replace while they are open.
    BACKWARD = _door(torch.autograd, "_engine_run_backward")
    BACKWARD_HOOKS = tuple(
        _door(nn.Module, name) for name in ("_get_backward_hooks", "_get_backward_pre_hooks")
    )
    COMPUTE_KEYSET = _door(_ops, "_compute_keyset")
    DISPATCH_KL = _door(kl, "_dispatch_kl")
    KL_MEMOIZE = _door(kl, "_KL_MEMOIZE")
    FREEZE_MODULE = _door(torch._C, "_freeze_module")
    FUNCTIONALIZE_BEGIN = _door(eager_transforms, "_func_increment_nesting")
    FUNCTIONALIZE_END = _door(eager_transforms, "_func_decrement_nesting")
    MAKE_FX = _door(eager_transforms, "lazy_dynamo_disallow")
    TO_DLPACK = tuple(_door(torch._C, name) for name in ("_to_dlpack", "_to_dlpack_versioned"))
    TRANSFORMS = {
        "grad": _door(eager_transforms, "grad_and_value_impl"),
        "vjp": _door(eager_transforms, "_vjp_with_argnums"),
        "jvp": _door(eager_transforms, "_jvp_with_argnums"),
        "functionalize": _door(eager_transforms, "_wrap_all_tensors_to_functional"),
        "torch.jit.trace": _door(_trace, "_trace_impl"),
    }
    VMAP = _door(apis, "vmap_impl")

    # By number, the hooks of all modules.
    GLOBAL_HOOKS: tuple[dict[int, Any], ...] = tuple(
        vars(nn.modules.module)[f"_global_{name}_hooks"]
        for name in ("forward", "forward_pre", "backward", "backward_pre")
    )

    # What a parallel module does before and after its module.
    AROUND_PARALLEL = "_pre_forward", "_post_forward"
    for _name in AROUND_PARALLEL:
        getattr(nn.parallel.DistributedDataParallel, _name)
    active_parallel: Callable[[], Any]
    active_parallel = nn.parallel.DistributedDataParallel._get_active_ddp_module

    # What is read, or found by its name, where it is needed.
    _one = torch.ones(1, 1, device="cpu")
    _read: list[tuple[Any, str]] = [
        (Tensor, "_backward_hooks _base _is_view _post_accumulate_grad_hooks _version"),
        (torch.UntypedStorage, "_cdata"),
        (torch.ops.aten, "_local_scalar_dense"),
        (torch.ops.aten.alias.default, "_overloadname _schema"),
        (nn.Module(), "_buffers _modules _parameters"),
        (Distribution, "_extended_shape _validate_sample"),
        (Bernoulli(_one, validate_args=False), "_batch_shape _event_shape _param"),
        (
            MultivariateNormal(_one[0], scale_tril=_one, validate_args=False),
            "_unbroadcasted_scale_tril",
        ),
        (
            LowRankMultivariateNormal(_one[0], _one, _one[0], validate_args=False),
            "_unbroadcasted_cov_diag _unbroadcasted_cov_factor",
        ),
        (Transform(cache_size=1), "_cached_x_y _inv"),
        (forward_ad, "_current_level"),
        (ScriptModule, "_get_method _type"),
        (VF, "_pack_padded_sequence _pad_packed_sequence"),
        (torch._C, "_is_tracing"),
        (torch.fx._symbolic_trace, "is_fx_symbolic_tracing"),
        (eval_frame, "set_eval_frame"),
    ]
    for _owner, _names in _read:
        for _name in _names.split():
            getattr(_owner, _name)
except (AttributeError, ImportError, KeyError, RuntimeError) as error:
    raise ImportError(
        f"ancestral was tried with torch {_SPAN}, and cannot run with torch {torch.__version__}, "
        f"which lacks a private name that it needs ({error}): install one of those"
    ) from error


class Compiler(NamedTuple):
    """What the library needs of torch's compiler, which takes a second or two to import.

    `limit_hit` is what it raises where a function was compiled too often. `boxed` marks a compiled
    graph that takes its arguments as one list.
    """

    callbacks: Any
    config: Any
    limit_hit: type[BaseException]
    aot_autograd: Callable[..., Any]
    partition: Callable[..., Any]
    boxed: Callable[..., Any]
    make_fx: Callable[..., Any]


@contextmanager
def checks_kept() -> Generator[None]:
    """Leave the user's setting of the checks of distributions, which torch's compiler switches off.

    It does so where it is first used; a function that the user compiles later does so still.
    """
    from torch._dynamo.eval_frame import TorchPatcher

    checks: Any = Distribution
    before = checks._validate_args
    yield
    if checks._validate_args is not before:
        checks._validate_args = before
        TorchPatcher.patch.cache_clear()


@functools.cache
def compiler() -> Compiler:
    """Import torch's compiler."""
    from torch._dynamo import callback, config, exc
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch.fx.experimental.proxy_tensor import make_fx

    return Compiler(
        callback.callback_handler,
        config,
        exc.FailOnRecompileLimitHit,
        aot_autograd,
        min_cut_rematerialization_partition,
        make_boxed_func,
        make_fx,
    )


@functools.cache
def call_before_compiling(function: Callable[[], None]) -> None:
    """Call a function, from now on, whenever the compiler begins to read code.

    It has callbacks for that, which `torch.compiler.reset` forgets.
    """
    from torch._dynamo.callback import callback_handler

    run = callback_handler.run_start_callbacks

    def called(*args: Any) -> None:
        function()
        run(*args)

    vars(callback_handler)["run_start_callbacks"] = called


def kept_code(
    function: Callable[..., Any],
) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]:
    """Return what runs the code that the compiler has made of a function, where its guards hold.

    Nothing is compiled: where no guards hold, the function runs as it is, and so it does where
    torch would run it so, or raise. What torch puts around it prepares the compiler to read, which
    takes as long as a short step. What is returned takes the first argument, the others, and those
    by name.
    """
    from torch._dynamo import eval_frame as module

    is_traced, is_followed = torch._C._is_tracing, torch.fx._symbolic_trace.is_fx_symbolic_tracing
    switch = eval_frame.set_eval_frame

    def run(first: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_traced() or is_followed() or module._stance.stance == "force_eager":
            return function(first, *args, **kwargs)
        before = switch(False)  # look for code, and make none
        try:
            return function(first, *args, **kwargs)
        finally:
            switch(before)

    return run


def eager_stance() -> tuple[tuple[Any, str], Any]:
    """Import the compiler; return the place of its stance, and the stance to compile nothing.

    `torch.compiler.set_stance` takes ten times as long, and knows of no stance that others set.
    """
    from torch._dynamo import eval_frame

    return (eval_frame, "_stance"), eval_frame.DynamoStance("force_eager")


class Inductor(NamedTuple):
    """What the library needs of inductor."""

    compile_fx: Callable[..., Any]
    compile_inner: Callable[..., Any]
    mode_options: Callable[..., Any]


@functools.cache
def inductor() -> Inductor:
    """Import inductor, which uses parts of torch that torch has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch._inductor import list_mode_options
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    return Inductor(compile_fx, compile_fx_inner, list_mode_options)


def fake_mode_of(values: Iterable[Any]) -> Any:
    """Return the mode of tensors without data, None where there is none among the values."""
    from torch._subclasses.fake_tensor import FakeTensor

    return next((each.fake_mode for each in values if isinstance(each, FakeTensor)), None)


def read_from_values(parts: Iterable[Any]) -> set[Any]:
    """Return what stands in tensors without data for sizes, and numbers, of unknown values."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    kinds = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)
    return set().union(*(free_unbacked_symbols(each) for each in parts if isinstance(each, kinds)))


def no_source(placeholder: Any) -> None:
    """Note that an argument of a captured graph is none that the compiler has read."""
    placeholder._dynamo_source = None


def own_copy(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Return a captured graph that may be changed, with what the compiler has noted on it."""
    graph, copies = torch.fx.Graph(), dict[torch.fx.Node, torch.fx.Node]()
    for node in module.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if hasattr(node, "_dynamo_source"):
            vars(copies[node])["_dynamo_source"] = node._dynamo_source
    copy = torch.fx.GraphModule(module, graph)
    copy.meta = dict(module.meta)
    for name in ("_param_name_to_source", "_source_to_user_stacks"):
        if hasattr(module, name):
            setattr(copy, name, getattr(module, name))
    return copy


def runs_ahead(tensor: Tensor) -> bool:
    """Return whether the device of a tensor computes while Python goes on: to read it is to wait.

    >>> runs_ahead(torch.zeros(2)), runs_ahead(torch.zeros(2, device="meta"))
    (False, False)
    """
    return tensor.device.type not in _TOGETHER


_TOGETHER = frozenset({"cpu", "meta"})

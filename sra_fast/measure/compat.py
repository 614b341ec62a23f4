"""Private names of torch, transformers and accelerate that this project reads, one function each.

Nobody promises to keep these names. Each function says which one it reads and in which versions it
was seen. Where a name is gone it raises :class:`ChangedLibraryError`, which names the versions.
Names that an object has only sometimes (a wrapper's, a hook's) cannot be told from names that are
gone, so ``tests/measure/test_compat.py`` tries every function on the installed versions.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments
    from transformers.trainer_callback import CallbackHandler

SEEN = {"torch": "2.11 to 2.13", "transformers": "5.17 to 5.23", "accelerate": "1.13 to 1.15"}
"""The versions in which the names were seen, by package."""

_TrainerClass = TypeVar("_TrainerClass", bound="type[Trainer]")


class ChangedLibraryError(RuntimeError):
    """A private name that this project reads is gone from a library; the message names both."""


def attn_implementation(config: PreTrainedConfig) -> str | None:
    """Return the name of the attention implementation that a configuration asks for.

    Reads ``PreTrainedConfig._attn_implementation``, seen in transformers 5.17 to 5.23.
    """
    name: str | None = _private(config, "_attn_implementation", "transformers")
    return name


def stored_attn_implementation(config: PreTrainedConfig) -> str | None:
    """Return the attention implementation of one configuration as it stores it, None if unset.

    Reads ``PreTrainedConfig._attn_implementation_internal``, seen in transformers 5.17 to 5.23.
    """
    name: str | None = _private(config, "_attn_implementation_internal", "transformers")
    return name


def store_attn_implementation(config: PreTrainedConfig, name: str | None) -> None:
    """Set the attention implementation of one configuration and of none below it.

    Sets ``PreTrainedConfig._attn_implementation_internal``, seen in transformers 5.17 to 5.23.
    """
    _private(config, "_attn_implementation_internal", "transformers")
    config._attn_implementation_internal = name


def follows_attention_interface(model: PreTrainedModel) -> bool:
    """Return whether a model's layers look their attention up in ``AttentionInterface``.

    Calls ``PreTrainedModel._can_set_attn_implementation``, seen in transformers 5.17 to 5.23.
    """
    return bool(_private(model, "_can_set_attn_implementation", "transformers")())


def is_stateful(model: PreTrainedModel) -> bool:
    """Return whether transformers says that layers of a model carry a state along the sequence.

    Reads ``PreTrainedModel._is_stateful``, seen in transformers 5.17 to 5.23.
    """
    return bool(_private(model, "_is_stateful", "transformers"))


def recorded_attentions(model: PreTrainedModel) -> list[Any]:
    """Return the classes or specifications of a model's modules that give attention maps.

    Reads ``PreTrainedModel._can_record_outputs``, seen in transformers 5.17 to 5.23.
    """
    recorded = _private(model, "_can_record_outputs", "transformers") or {}
    found = recorded.get("attentions") or []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def is_compiled_in_place(module: nn.Module) -> bool:
    """Return whether ``module.compile()`` was called on a module.

    Reads ``nn.Module._compiled_call_impl``, seen in torch 2.11 to 2.13.
    """
    return _private(module, "_compiled_call_impl", "torch") is not None


def inside_compiled(model: nn.Module) -> nn.Module | None:
    """Return the module that ``torch.compile`` wrapped into this one, None if it did not.

    Reads ``OptimizedModule._orig_mod``, seen in torch 2.11 to 2.13.
    """
    return _wrapped(model, "OptimizedModule", "_orig_mod")


def inside_fsdp(model: nn.Module) -> nn.Module | None:
    """Return the module that ``FullyShardedDataParallel`` wraps, None if this is no such wrapper.

    Reads ``FullyShardedDataParallel._fsdp_wrapped_module``, seen in torch 2.11 to 2.13.
    """
    return _wrapped(model, "FullyShardedDataParallel", "_fsdp_wrapped_module")


def forward_pre_hooks(module: nn.Module) -> list[Any]:
    """Return the hooks that run before a module's forward pass, in their order.

    Reads ``nn.Module._forward_pre_hooks``, seen in torch 2.11 to 2.13.
    """
    return list(_private(module, "_forward_pre_hooks", "torch").values())


def submodules(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the modules directly inside a module by name, with None where one was taken out.

    Reads ``nn.Module._modules``, seen in torch 2.11 to 2.13.
    """
    return dict(_private(module, "_modules", "torch"))


def runs_context_parallel() -> bool:
    """Return whether torch's ``context_parallel`` is in force now.

    It puts functions of its own among those that attend over ``DTensor``. Reads ``custom_ops`` of
    the module below and ``DTensor._op_dispatcher._custom_op_handlers``, seen in torch 2.11 to 2.13.
    """
    module = sys.modules.get("torch.distributed.tensor.experimental._context_parallel._attention")
    if module is None:  # nobody can have entered it
        return False
    from torch.distributed.tensor import DTensor

    dispatcher = _private(DTensor, "_op_dispatcher", "torch")
    handlers = _private(dispatcher, "_custom_op_handlers", "torch")
    ops = _private(module, "custom_ops", "torch")
    return any(handlers.get(op) is handler for op, handler in ops.items())


def sharding_mesh(module: Any) -> Any | None:
    """Return the mesh over which ``fully_shard`` keeps a module's parameters; None without any.

    Its last dimension is that along which they are gathered. Reads ``mesh_info`` of the groups of
    parameters, seen in torch 2.11 to 2.13.
    """
    for group in _parameter_groups(module):
        return _private(group, "mesh_info", "torch").mesh
    return None


def is_gathered(module: Any) -> bool:
    """Return whether a module that ``fully_shard`` was applied to holds whole parameters now.

    Reads ``is_unsharded`` of the groups of parameters, seen in torch 2.11 to 2.13.
    """
    return any(_private(group, "is_unsharded", "torch") for group in _parameter_groups(module))


def begin_sharded(root: Any) -> None:
    """Let the outermost module that ``fully_shard`` was applied to prepare the ones inside it.

    Its first call would do so, and they could not be called before. Calls ``_lazy_init`` of its
    state, seen in torch 2.11 to 2.13.
    """
    _private(_private(root, "_get_fsdp_state", "torch")(), "_lazy_init", "torch")()


def end_sharded(module: Any) -> None:
    """Put a module that ``fully_shard`` was applied to between two calls, if one was broken off.

    Sets ``_training_state`` of its state and groups of parameters, and ``iter_forward_root`` of
    what states share, seen in torch 2.11 to 2.13.
    """
    state = _private(module, "_get_fsdp_state", "torch")()
    idle = type(_private(state, "_training_state", "torch")).IDLE
    state._training_state = idle
    _private(state, "_state_ctx", "torch").iter_forward_root = None
    getattr(state, "_modules_to_run_forward", set()).clear()
    for group in _parameter_groups(module):
        _private(group, "_training_state", "torch")
        group._training_state = idle


def _parameter_groups(module: Any) -> list[Any]:
    """Return the groups in which ``fully_shard`` gathers a module's parameters.

    Reads ``_fsdp_param_groups`` of its state, or ``_fsdp_param_group`` where there is one alone,
    seen in torch 2.11 to 2.13.
    """
    state = _private(module, "_get_fsdp_state", "torch")()
    several = getattr(state, "_fsdp_param_groups", None)
    if several is not None:
        return list(several)
    one = _private(state, "_fsdp_param_group", "torch")
    return [] if one is None else [one]


def tensor_parallel_size(model: PreTrainedModel) -> int:
    """Return over how many processes transformers split a model's tensors, 1 if it did not.

    Reads ``PreTrainedModel._tp_size``, seen in transformers 5.17 to 5.23.
    """
    return int(_private(model, "_tp_size", "transformers") or 1)


def pipeline_stages(model: PreTrainedModel) -> int:
    """Return over how many processes transformers split a model's layers, 1 if it did not.

    Reads ``_pp_stage``, which models have that it split, seen in transformers 5.17 to 5.23.
    """
    return int(getattr(getattr(model, "_pp_stage", None), "pp_size", 1))


def initialise_again(model: PreTrainedModel) -> None:
    """Let transformers initialise everything in a model that it may, as it does after loading.

    Weights on the device meta stay there. Sets ``nn.Module._is_hf_initialized``, by which
    transformers skips what is done, seen in transformers 5.17 to 5.23.
    """
    for module in model.modules():
        module._is_hf_initialized = False
    model.initialize_weights()


def convolution_class() -> type[nn.Module]:
    """Return the class that all convolutions of torch are made from.

    Reads ``torch.nn.modules.conv._ConvNd``, seen in torch 2.11 to 2.13.
    """
    found: type[nn.Module] = _private(nn.modules.conv, "_ConvNd", "torch")
    return found


def batch_norm_class() -> type[nn.Module]:
    """Return the class that all batch normalisations of torch are made from.

    Reads ``torch.nn.modules.batchnorm._BatchNorm``, seen in torch 2.11 to 2.13.
    """
    found: type[nn.Module] = _private(nn.modules.batchnorm, "_BatchNorm", "torch")
    return found


def is_in_backward() -> bool:
    """Return whether a backward pass is running on this thread, which may recompute a forward.

    Reads ``torch._C._current_graph_task_id``, seen in torch 2.11 to 2.13.
    """
    return bool(_private(torch._C, "_current_graph_task_id", "torch")() != -1)


def writes_into(tensor: torch.Tensor) -> int | None:
    """Return how often a tensor was written into in place; None for one that does not count it.

    Reads ``Tensor._version``, seen in torch 2.11 to 2.13, which tensors of inference mode lack.
    """
    return None if tensor.is_inference() else int(_private(tensor, "_version", "torch"))


def accelerate_hooks(module: nn.Module) -> list[Any]:
    """Return the hooks of accelerate around a module's forward pass, a sequence's parts included.

    Reads ``_hf_hook``, which modules have that accelerate hooked, seen in accelerate 1.13 to 1.15.
    """
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else [hook, *getattr(hook, "hooks", ())]


def calling_handler() -> CallbackHandler | None:
    """Return the handler that is calling a trainer's callbacks now, None outside of their events.

    Events do not say whose they are, so this looks for the handler among the callers. It reads the
    local variable ``self`` of ``CallbackHandler.call_event``, seen in transformers 5.17 to 5.23.
    """
    from transformers.trainer_callback import CallbackHandler

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back
    return None


def use_one_gpu(arguments: TrainingArguments) -> None:
    """Keep a trainer in one process from spreading a batch over several GPUs.

    Sets ``TrainingArguments._n_gpu``, seen in transformers 5.17 to 5.23.
    """
    visible = arguments.n_gpu
    _private(arguments, "_n_gpu", "transformers")
    arguments._n_gpu = min(1, visible)


def prepared_inputs(trainer: Trainer, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a batch as a trainer hands it to its model: on the model's device.

    Calls ``Trainer._prepare_inputs``, seen in transformers 5.17 to 5.23.
    """
    prepared: dict[str, Any] = _private(trainer, "_prepare_inputs", "transformers")(inputs)
    return prepared


def checks_gradient_norm(trainer_class: _TrainerClass) -> _TrainerClass:
    """Make a trainer call its own ``check_gradient_norm(norm)`` before each optimizer step.

    Decorates a subclass of ``Trainer``. Overrides ``Trainer._get_grad_norm``, seen in transformers
    5.17 to 5.23.
    """
    _private(trainer_class, "_get_grad_norm", "transformers")
    owner: Any = trainer_class

    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        norm = super(owner, self)._get_grad_norm(*args, **kwargs)
        self.check_gradient_norm(norm)
        return norm

    owner._get_grad_norm = checked
    return trainer_class


def _wrapped(model: nn.Module, class_name: str, name: str) -> nn.Module | None:
    """Return the module inside a wrapper of torch, None if the model is no such wrapper.

    Importing the wrapper's class takes seconds, so it is known by name.
    """
    if all(base.__name__ != class_name for base in type(model).__mro__):
        return None
    inner: nn.Module = _private(model, name, "torch")
    return inner


def _private(owner: Any, name: str, package: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        kind = owner.__name__ if hasattr(owner, "__name__") else type(owner).__name__
        raise ChangedLibraryError(
            f"{kind} has no {name} in {package} {importlib.metadata.version(package)}; sra_fast "
            f"reads it and has seen it in {package} {SEEN[package]}: install one of these"
        ) from None

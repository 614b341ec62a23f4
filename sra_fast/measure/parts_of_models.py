"""Tell whether this process holds some of a model's layers, or of the tokens, rather than all.

A part would pass for the whole: its masses are exact, of the layers or tokens that are there. How a
model is split is read from what a split leaves behind. The number of layers says nothing, since a
pruned model is a whole one.

Heads that are split are gathered (:mod:`sra_fast.measure.split_heads`). What ``fully_shard``,
FullyShardedDataParallel and DistributedDataParallel hold is the whole when a layer runs.
"""

from __future__ import annotations

import sys

from torch import distributed, nn
from transformers import PreTrainedModel

from sra_fast.measure import compat
from sra_fast.measure.split_heads import distributed_tensor_class
from sra_fast.measure.unserved import UnservedModelError

_WAY_OUT = (
    "score a model of which each process holds all layers, on whole sequences (tp_plan='auto' and "
    "fully_shard share its weights among processes, device_map='auto' among the GPUs of one)"
)


def missing_part(model: PreTrainedModel, decoder: PreTrainedModel) -> str | None:
    """Return what this process holds only a part of and the way out, or None if it can be served.

    Args:
        model: the model of transformers.
        decoder: the part of it that is run.
    """
    found, kind = _pipeline_stage(model, decoder), distributed_tensor_class()
    told = kind is not None and any(isinstance(one, kind) for one in model.parameters())
    if found is None and not told and (size := compat.tensor_parallel_size(model)) > 1:
        found = (
            f"it is tensor-parallel over {size} processes in a way that its parameters do not tell "
            "(none is a DTensor)"
        )
    if found is None and compat.runs_context_parallel():
        found = _SPLIT_SEQUENCES
    return None if found is None else f"{found}; {_WAY_OUT}"


def missing_tokens() -> str | None:
    """Return why a call made now would see parts of its sequences, and the way out, or None.

    Unlike the rest this changes from call to call: a trainer splits its batches itself.
    """
    if compat.runs_context_parallel():
        return f"{_SPLIT_SEQUENCES}; {_WAY_OUT}"
    if (size := _sequence_parallel_size()) > 1:
        return (
            f"accelerate's sequence parallelism is on (sp_size={size}): each process is given a "
            f"part of every sequence; {_WAY_OUT}"
        )
    return None


def refuse_first_fsdp(model: nn.Module) -> None:
    """Refuse a model under FullyShardedDataParallel (FSDP1), whose decoder cannot run by itself.

    Raises:
        UnservedModelError: it is one.
    """
    if "torch.distributed.fsdp" not in sys.modules:  # nobody can have wrapped it
        return
    if any(compat.inside_fsdp(module) is not None for module in model.modules()):
        raise UnservedModelError(
            f"{type(model).__name__} cannot be run by itself: FullyShardedDataParallel (FSDP1) "
            "shards its parameters; shard them by torch's fully_shard (FSDP2) instead, or measure "
            "your own calls of the model with sra_fast.monitor"
        )


def is_under_deepspeed(model: nn.Module) -> bool:
    """Return whether DeepSpeed's ZeRO 3 keeps a model's parameters in several processes."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


_SPLIT_SEQUENCES = (
    "torch's context parallelism is on (context_parallel): this process holds a part of every "
    "sequence, and no token would see the keys of the others"
)


def _pipeline_stage(model: PreTrainedModel, decoder: PreTrainedModel) -> str | None:
    """Return what shows that this is a stage of a pipeline, or None.

    transformers marks a stage. torch.distributed.pipelining wants the user to take out what another
    stage holds: None or an identity in place of the embeddings, the final norm, or the layers
    before and after a block that stays. Pruned models may look like that, too, but do not run in
    several processes with their first or last layers gone.
    """
    if (stages := compat.pipeline_stages(model)) > 1:
        return f"it is split over a pipeline of {stages} processes, of which each holds some layers"
    if not _among_several_processes():
        return None
    for name, module in compat.submodules(decoder).items():
        if _is_gone(module):
            return f"it is a stage of a pipeline: {name} is {_kind(module)}"
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            layers = compat.submodules(module)
            gone = [_is_gone(layer) for layer in layers.values()]
            if any(gone) and (gone[0] or gone[-1]) and _in_one_block(gone):
                at, layer = next((at, layer) for at, layer in layers.items() if _is_gone(layer))
                return (
                    f"it is a stage of a pipeline: {sum(gone)} of its {len(gone)} {name} are not "
                    f"here ({name}.{at} is {_kind(layer)})"
                )
    return None


def _is_gone(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)


def _kind(module: nn.Module | None) -> str:
    return "None" if module is None else f"a {type(module).__name__}"


def _in_one_block(gone: list[bool]) -> bool:
    """Return whether the layers that are left follow one another."""
    left = [at for at, is_gone in enumerate(gone) if not is_gone]
    return not left or left[-1] - left[0] + 1 == len(left)


def _among_several_processes() -> bool:
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def _sequence_parallel_size() -> int:
    """Return over how many processes accelerate splits sequences, 1 if it does not."""
    state = sys.modules.get("accelerate.state")
    if state is None or not state.is_initialized():
        return 1
    parallelism = getattr(state.AcceleratorState(), "parallelism_config", None)
    return int(getattr(parallelism, "sp_size", None) or 1)

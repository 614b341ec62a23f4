"""Tell whether this process holds a part of a model, or of the sequences, rather than the whole.

A part would pass for the whole: its masses are exact, of the heads, layers or tokens that are
there. How a model is split is read from where its parameters are placed and from what a split
leaves behind. Counts of layers or heads say nothing, since a pruned model is a whole one.

What FullyShardedDataParallel (also ``fully_shard``) and DistributedDataParallel hold is the whole
when a layer runs, and is no part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import distributed, nn
from transformers import PreTrainedModel

from sra_fast.measure import compat

_WAY_OUT = (
    "score a model that one process holds whole, on whole sequences (device_map='auto' spreads a "
    "model over the GPUs of one process; FSDP and DDP may share it among several)"
)


def missing_part(top: nn.Module, model: PreTrainedModel, decoder: PreTrainedModel) -> str | None:
    """Return what this process holds only a part of and the way out, or None if it holds all.

    Args:
        top: the model as the user holds it.
        model: the model of transformers inside it.
        decoder: the part of that one that is run.
    """
    found = (
        _split_heads(top, model, decoder)
        or _pipeline_stage(model, decoder)
        or (_SPLIT_SEQUENCES if compat.runs_context_parallel() else None)
    )
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


def is_shared(model: nn.Module) -> bool:
    """Return whether processes keep a model's parameters together, and run it in step."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return any(
        type(parameter).__name__ == "DTensor" or hasattr(parameter, "ds_id")  # DeepSpeed's ZeRO 3
        for parameter in model.parameters()
    ) or (fsdp is not None and any(isinstance(m, fsdp.FSDPModule) for m in model.modules()))


_SPLIT_SEQUENCES = (
    "torch's context parallelism is on (context_parallel): this process holds a part of every "
    "sequence, and no token would see the keys of the others"
)


def _split_heads(top: nn.Module, model: PreTrainedModel, decoder: PreTrainedModel) -> str | None:
    """Return how the parameters are split by tensor parallelism (or that of experts), or None."""
    if (size := compat.tensor_parallel_size(model)) > 1:
        return f"it is tensor-parallel over {size} processes, of which each holds some heads only"
    for name, parameter in _split_parameters(top, decoder):
        mesh = parameter.device_mesh.mesh_dim_names
        over = f"the mesh {', '.join(mesh)}" if mesh else "a device mesh"
        return (
            f"it is tensor-parallel: {name} is split over {over} as {parameter.placements}, so "
            "this process holds some heads only"
        )
    return None


def _split_parameters(top: nn.Module, decoder: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the DTensors of a model that stay split while it runs, with their names.

    ``fully_shard`` splits along one dimension of a mesh and gathers along it before a module runs.
    """
    tensors = sys.modules.get("torch.distributed.tensor")
    if tensors is None:  # nobody can have made one
        return
    gathered: set[int] = set()
    if (fsdp := sys.modules.get("torch.distributed.fsdp")) is not None:
        for module in top.modules():
            if isinstance(module, fsdp.FSDPModule):
                gathered |= {id(parameter) for parameter in module.parameters()}
    for name, parameter in decoder.named_parameters():
        if isinstance(parameter, tensors.DTensor):
            split = [
                size
                for size, placement in zip(
                    parameter.device_mesh.shape, parameter.placements, strict=True
                )
                if not placement.is_replicate()
            ]
            if (len(split) > 1) if id(parameter) in gathered else any(size > 1 for size in split):
                yield name, parameter


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

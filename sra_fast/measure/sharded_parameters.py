"""Run the decoder of a model whose parameters ``fully_shard`` (FSDP2) keeps in several processes.

A sharded module gathers its parameters when it is called, and lets them go when its call returns.
Scoring calls the decoder, so the modules above it are not called, and a forward pass that ends
after its last mass does not return from the last layer. Inside :func:`gathered` the former hold
their parameters, and after it every module is as it was found: sharded, and between two calls.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn

from sra_fast.measure import compat


def sharded_modules(model: nn.Module) -> list[Any]:
    """Return the modules of a model that ``fully_shard`` was applied to, outer ones first."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not distributed.is_initialized():  # nobody can have applied it
        return []
    return [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]


def managed_dimensions(model: nn.Module) -> dict[int, int]:
    """Return along how many dimensions of its mesh each sharded parameter is gathered, by its id.

    A parameter that is gathered now is split along none of them.
    """
    found: dict[int, int] = {}
    for module in reversed(sharded_modules(model)):  # inner ones first: they own their parameters
        mesh = compat.sharding_mesh(module)
        now = 0 if mesh is None or compat.is_gathered(module) else int(mesh.ndim)
        for parameter in module.parameters():
            found.setdefault(id(parameter), now)
    return found


def sharding_group(model: nn.Module) -> Any | None:
    """Return the group of processes that keep a model's parameters together; None if none do."""
    for module in sharded_modules(model):
        mesh = compat.sharding_mesh(module)
        if mesh is not None and mesh.get_group(mesh.ndim - 1).size() > 1:
            return mesh.get_group(mesh.ndim - 1)
    return None


def sharding_device(model: nn.Module) -> torch.device:
    """Return the kind of device between which a model's parameters are gathered."""
    meshes = (compat.sharding_mesh(module) for module in sharded_modules(model))
    return torch.device(next((mesh.device_type for mesh in meshes if mesh is not None), "cpu"))


@contextmanager
def gathered(top: nn.Module, decoder: nn.Module) -> Iterator[None]:
    """Let ``decoder`` be called inside the block, in every process alike; leave it as it was.

    Args:
        top: the model as the user holds it.
        decoder: the part of it that is called.
    """
    modules = sharded_modules(top)
    inside = {id(module) for module in decoder.modules()}
    held = {id(module) for module in modules if compat.is_gathered(module)}
    roots = _outermost(modules)
    for root in roots:
        compat.begin_sharded(root)
    try:
        for module in modules:
            if id(module) not in inside:
                module.unshard()
        yield
    finally:
        for module in modules:
            compat.end_sharded(module)
            if id(module) not in held:
                module.reshard()


def _outermost(modules: list[Any]) -> list[Any]:
    """Return the modules that are inside none of the others."""
    inner = {id(part) for module in modules for part in module.modules() if part is not module}
    return [module for module in modules if id(module) not in inner]

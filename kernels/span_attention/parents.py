"""Say which calls may have segments with a parent: beginnings that several sequences share."""

from __future__ import annotations

import torch

ON_CPU = ("auto", "lse", "lse:cpu_flash", "lse:blocks")
"""The backends that serve segments with a parent on a CPU; "reference" does so everywhere."""

WAY_OUT = 'give every sequence whole, or use backend="reference"'


def unserved(backend: str, device: torch.device, grad: bool) -> str | None:
    """Return why a backend does not serve segments with a parent on a device, or None if it does.

    Args:
        backend: the backend that is asked for.
        device: where the queries and keys are.
        grad: whether a gradient is wanted.
    """
    if backend == "reference":
        return None
    if backend not in ON_CPU:
        return f"backend {backend!r} takes whole sequences only"
    if device.type != "cpu":
        return f"the kernels on {device.type} take whole sequences only"
    return "its merge of two sets of keys has no gradient" if grad else None

"""Make the settings that hold for the whole suite."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here asks a hub

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():  # read when the kernels are imported
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)  # the models are tiny, and several workers share the cores


@pytest.fixture
def unwritten_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill empty tensors with NaN, so that no unwritten output of a kernel passes for a zero."""
    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (Tensor, "new_empty"),
    ):
        made = getattr(owner, name)

        def poisoned(*args: Any, _made: Any = made, **kwargs: Any) -> Tensor:
            tensor: Tensor = _made(*args, **kwargs)
            if tensor.is_floating_point():
                with torch.no_grad():  # torch 2.11 makes an empty leaf that requires a gradient
                    tensor.fill_(torch.nan)
            return tensor

        monkeypatch.setattr(owner, name, poisoned)

"""Make the settings that hold for the whole suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here asks a hub

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():  # read when the kernels are imported
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)  # the models are tiny, and several workers share the cores


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-family",
        action="store_true",
        help="Score a tiny model of every family of transformers instead of a sample of them, and "
        "2,000 conversations by ray instead of 100.",
    )


@pytest.fixture
def unwritten_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill empty tensors with NaN, so that no unwritten output of a kernel passes for a zero."""
    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (Tensor, "new_empty"),
        (Tensor, "new_empty_strided"),
    ):
        made = getattr(owner, name)

        def poisoned(*args: Any, _made: Any = made, **kwargs: Any) -> Tensor:
            tensor: Tensor = _made(*args, **kwargs)
            if tensor.is_floating_point():
                with torch.no_grad():  # torch 2.11 makes an empty leaf that requires a gradient
                    tensor.fill_(torch.nan)
            return tensor

        monkeypatch.setattr(owner, name, poisoned)


@pytest.fixture
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after a test whatever it registers."""
    from sra_fast import backends, definitions

    for registry in (backends._OWN, definitions._OWN):
        monkeypatch.setattr(registry, "_things", {})


@pytest.fixture
def installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_names: None
) -> Callable[..., None]:
    """Installs a package of one module ``theirs`` with the given code and entry points."""

    def install(code: str, **points: str) -> None:
        site = tmp_path / "site"
        info = site / "theirs-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "theirs.py").write_text(code)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        lines = (f"[sra_fast.{group}]\n{entries}\n" for group, entries in points.items())
        (info / "entry_points.txt").write_text("".join(lines))
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, "theirs", raising=False)

    return install

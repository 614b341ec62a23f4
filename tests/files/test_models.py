"""Models by name: what tells one model from another of its name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaConfig

from sra_fast.files.models import DeviceError, ModelSource, choose_device

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_model_of_the_hub_is_known_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--someone--tiny"
    snapshot = cached / "snapshots" / COMMIT
    LlamaConfig(num_hidden_layers=1).save_pretrained(snapshot)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = ModelSource("someone/tiny", "someone/tiny").fingerprint()
    assert found["weights"] == COMMIT
    assert found["base"] is None


def test_a_device_that_is_not_there_is_no_model_that_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no CUDA device") as refused:
        choose_device("cuda")
    assert refused.value.arguments == ("device",)
    assert choose_device("auto") == "cpu"

"""The checkpoints of a training run: which are whole, and what one says of the run.

``Trainer`` writes ``checkpoint-N`` file by file and ``trainer_state.json`` last, so a run that was
killed while it saved leaves a folder that can be told. What cannot be read any more (a full disk, a
machine that lost power) counts the same.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

_STATE = "trainer_state.json"
_ADAPTER = "adapter_model.safetensors"
_ADAPTER_CONFIG = "adapter_config.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")
_ALONE = ("optimizer.pt", "scheduler.pt", "rng_state.pth")  # what one process writes


@dataclass(frozen=True)
class Checkpoint:
    """One folder.

    Attributes:
        folder: ``…/checkpoint-N``.
        step: N.
    """

    folder: Path
    step: int

    @property
    def name(self) -> str:
        """Its folder's."""
        return self.folder.name

    @property
    def adapter_files(self) -> tuple[Path, Path]:
        """Weights (safetensors) and configuration of the adapter."""
        return self.folder / _ADAPTER, self.folder / _ADAPTER_CONFIG

    @cached_property
    def state(self) -> dict[str, Any]:
        """The Trainer's: ``global_step``, ``max_steps``, ``epoch``, ``log_history``, …"""
        found: dict[str, Any] = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        return found

    @property
    def ends_the_run(self) -> bool:
        """Whether nothing is left to train after it."""
        return self.stopped_early or self.state["global_step"] >= self.state["max_steps"]

    @property
    def stopped_early(self) -> bool:
        """Whether the run ended here, before its last step."""
        control = self.state.get("stateful_callbacks", {}).get("TrainerControl", {})
        stopped = bool(control.get("args", {}).get("should_training_stop"))
        return stopped and bool(self.state["global_step"] < self.state["max_steps"])

    def why_incomplete(self) -> str | None:
        """What is missing or cannot be read; None if it is whole."""
        from safetensors import SafetensorError, safe_open

        try:
            if not isinstance(self.state["global_step"], int):
                return f"{_STATE} holds no step"
        except FileNotFoundError:
            return f"it has no {_STATE}, which is written last"
        except (OSError, ValueError, KeyError, TypeError):
            return f"its {_STATE} cannot be read"
        for file in self.adapter_files:
            if not file.is_file():
                return f"it has no {file.name}"
        try:
            with safe_open(self.adapter_files[0], "pt") as adapter:
                for name in adapter.keys():  # noqa: SIM118
                    if not bool(adapter.get_tensor(name).isfinite().all()):
                        return f"its adapter is NaN or infinite in {name}"
                json.loads(self.adapter_files[1].read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError):
            return "its adapter cannot be read"
        several = any(self.folder.glob("rng_state_*.pth")) or any(self.folder.glob("optimizer_*"))
        missing = [name for name in _ALONE if not several and not (self.folder / name).is_file()]
        if missing:
            return f"it has no {missing[0]}"
        for file in sorted(self.folder.glob("*.pt*")):
            if not zipfile.is_zipfile(file):
                return f"its {file.name} cannot be read"
        return None


def checkpoints(run: Path) -> list[Checkpoint]:
    """Those in a run's folder, whole or not, the newest first."""
    found = [(_FOLDER.fullmatch(path.name), path) for path in run.glob("checkpoint-*")]
    named = [Checkpoint(path, int(name[1])) for name, path in found if name and path.is_dir()]
    return sorted(named, key=lambda checkpoint: -checkpoint.step)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest that is whole, or None."""
    return next((one for one in checkpoints(run) if one.why_incomplete() is None), None)


def remove_incomplete(run: Path) -> list[str]:
    """Removes what is newer than the newest whole checkpoint; one sentence for each."""
    removed = []
    for one in checkpoints(run):
        reason = one.why_incomplete()
        if reason is None:
            break
        shutil.rmtree(one.folder)
        removed.append(f"{one.name} is incomplete ({reason}) and was removed")
    return removed


def chosen_checkpoint(last: Checkpoint) -> Checkpoint:
    """The one with the lowest evaluation loss, or the last where there was no evaluation."""
    step = last.state.get("best_global_step")
    if step is None or step == last.step:
        return last
    return Checkpoint(last.folder.parent / f"checkpoint-{step}", step)

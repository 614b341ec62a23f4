"""Find the checkpoints of a training run that are whole, and read the state of the run from one.

``Trainer`` writes ``checkpoint-N`` file by file and ``trainer_state.json`` last, so the folder of a
run that was killed while it saved shows that it is incomplete. A checkpoint with files that cannot
be read (after a full disk or a power failure) counts as incomplete too.
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
_ALONE = ("optimizer.pt", "scheduler.pt", "rng_state.pth")  # files of a run in one process


@dataclass(frozen=True)
class Checkpoint:
    """The folder of one checkpoint.

    Attributes:
        folder: the folder ``…/checkpoint-N``.
        step: the number N of optimizer steps that were done when it was written.
    """

    folder: Path
    step: int

    @property
    def name(self) -> str:
        """Return the name of the folder, ``checkpoint-N``."""
        return self.folder.name

    @property
    def adapter_files(self) -> tuple[Path, Path]:
        """Return the paths of the adapter's weights (safetensors) and of its configuration."""
        return self.folder / _ADAPTER, self.folder / _ADAPTER_CONFIG

    @cached_property
    def state(self) -> dict[str, Any]:
        """Return the state of the run that ``Trainer`` wrote into the checkpoint."""
        found: dict[str, Any] = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        return found

    @property
    def ends_the_run(self) -> bool:
        """Tell whether nothing is left to train after this checkpoint."""
        return self.stopped_early or self.state["global_step"] >= self.state["max_steps"]

    @property
    def stopped_early(self) -> bool:
        """Tell whether the run ended at this checkpoint, before its last step."""
        control = self.state.get("stateful_callbacks", {}).get("TrainerControl", {})
        stopped = bool(control.get("args", {}).get("should_training_stop"))
        return stopped and bool(self.state["global_step"] < self.state["max_steps"])

    def why_incomplete(self) -> str | None:
        """Return what is missing or cannot be read, in words; None if the checkpoint is whole."""
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
    """Return the checkpoints in a run's folder, whole or not, the newest first.

    Args:
        run: the folder of the run.
    """
    found = [(_FOLDER.fullmatch(path.name), path) for path in run.glob("checkpoint-*")]
    named = [Checkpoint(path, int(name[1])) for name, path in found if name and path.is_dir()]
    return sorted(named, key=lambda checkpoint: -checkpoint.step)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None if there is none.

    Args:
        run: the folder of the run.
    """
    return next((one for one in checkpoints(run) if one.why_incomplete() is None), None)


def remove_incomplete(run: Path) -> list[str]:
    """Remove the checkpoints that are newer than the newest whole one.

    Args:
        run: the folder of the run.

    Returns:
        One sentence for each checkpoint that was removed, with the reason.
    """
    removed = []
    for one in checkpoints(run):
        reason = one.why_incomplete()
        if reason is None:
            break
        shutil.rmtree(one.folder)
        removed.append(f"{one.name} is incomplete ({reason}) and was removed")
    return removed


def chosen_checkpoint(last: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the lowest evaluation loss, or the last if none was evaluated.

    Args:
        last: the last checkpoint of the run.
    """
    step = last.state.get("best_global_step")
    if step is None or step == last.step:
        return last
    return Checkpoint(last.folder.parent / f"checkpoint-{step}", step)

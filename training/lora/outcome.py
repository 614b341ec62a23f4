"""Write what a training run leaves: the adapter of its best checkpoint, curves and a result."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sra_fast.files.models import ModelSource
from sra_fast.files.run_folder import RunFolder, RunFolderError
from sra_fast.tools import launched_processes
from sra_fast.tools.atomic import write_json

from ..data.trained_on import read_trained_on, write_trained_on
from ..sra.history import NAME as HISTORY
from .adapter import save_adapter, save_merged
from .checkpoints import Checkpoint, checkpoints, chosen_checkpoint
from .curves import CURVES, write_curves
from .settings import TrainingConfig, settings_of
from .train_data import RunData

ADAPTER = "adapter"
MERGED = "merged"
RESULT = "result.json"
RESULT_FILES = (ADAPTER, HISTORY, CURVES, RESULT, MERGED)
"""What a run leaves beside its checkpoints; the last of these only if it is asked for."""

_MEASURED = ("eval_loss", "eval_sra", "eval_log_sra")


def damaged_results(folder: RunFolder) -> list[str]:
    """Return the files of a finished run that are missing or not as they were written.

    Checkpoints count only where a result is damaged, and must be made again from them: a finished
    run needs them no more. A folder that holds another run has none of this one's.

    Args:
        folder: the folder of the run.
    """
    try:
        damaged = folder.damaged()
    except RunFolderError:
        return []
    results = [name for name in damaged if name.partition("/")[0] in RESULT_FILES]
    return damaged if results else []


def remove_damaged(out: Path, damaged: Sequence[str]) -> list[str]:
    """Remove what is damaged in a finished run, so that it is made again from what is whole.

    A damaged checkpoint is removed with all later ones, and the run is trained on from the one
    before. The history of SRA is written in training alone: if it is damaged, all checkpoints go.

    Args:
        out: the folder of the run.
        damaged: what :func:`damaged_results` returned.

    Returns:
        One sentence for each damaged result, and for each checkpoint that is removed.
    """
    first = {name.partition("/")[0] for name in damaged}
    steps = [one.step for one in checkpoints(out) if one.name in first]
    earliest = 0 if HISTORY in first else min(steps, default=math.inf)
    removed = [one for one in checkpoints(out) if one.step >= earliest]
    for one in removed:
        shutil.rmtree(one.folder)
    for name in first & {ADAPTER, MERGED}:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in first & {HISTORY, CURVES, RESULT}:
        (out / name).unlink(missing_ok=True)
    return [
        *(
            f"{out / name} is missing, or not as it was written, so it is made again"
            for name in damaged
            if name.partition("/")[0] in RESULT_FILES
        ),
        *(f"{one.folder} cannot be trained on from, so it is removed" for one in removed),
    ]


def write_outcome(
    source: ModelSource,
    config: TrainingConfig,
    last: Checkpoint,
    data: RunData,
    tokenizer: Any,
    *,
    merge: bool,
) -> dict[str, Any]:
    """Write the result files of a run that is trained to its end, beside its checkpoints.

    Args:
        source: the base model.
        config: the settings of the run.
        last: the last checkpoint of the run.
        data: the examples that the run trained on.
        tokenizer: the tokenizer of the model.
        merge: whether the base model is saved with the adapter in it, too.

    Returns:
        What ``result.json`` holds. ``before`` and ``after`` are ``loss``, ``sra`` and ``log_sra``
        on the evaluation data, of the base model and of the adapter; None without an evaluation.
        Losses are those of the language model in nats per token, without the penalty.

    Raises:
        LoRAError: the adapter cannot be merged.
        OSError: a file cannot be read or written.
    """
    out = last.folder.parent
    chosen = chosen_checkpoint(last)
    learnt = data.beginnings | read_trained_on(Path(source.place))  # the base may be a merged model
    parameters = save_adapter(chosen, tokenizer, out / ADAPTER)
    write_trained_on(out / ADAPTER, learnt)
    if merge:
        save_merged(source, out / ADAPTER, config.dtype, tokenizer, out / MERGED)
        write_trained_on(out / MERGED, learnt)
    log: list[dict[str, Any]] = last.state["log_history"]
    before, after = _evaluation(log, 0), _evaluation(log, chosen.step)
    notes = list(data.notes)
    if before is not None and after is not None and not _less(after["loss"], before["loss"]):
        notes.append(
            "no step has a lower held-out loss than the base model: train longer, or at another "
            "learning rate"
        )
    evaluated = data.evaluation is not None
    write_curves(log, out, chosen_step=chosen.step if evaluated else None)
    losses = [entry.get("lm_loss", entry["loss"]) for entry in log if "loss" in entry]
    result = {
        "command": "train",
        "out": str(out),
        "files": [*RESULT_FILES[:-1], *([MERGED] if merge else [])],
        "model": source.name,
        "template": data.template.name,
        "definition": "paper",
        "examples": {
            "train": len(data.training),
            "eval": len(data.evaluation) if evaluated else 0,
        },
        "notes": notes,
        "adapter_parameters": parameters,
        "steps": last.step,
        "epochs": last.state["epoch"],
        "stopped_early": last.stopped_early,
        "chosen_step": chosen.step,
        "first_loss": _finite(losses[0]) if losses else None,
        "last_loss": _finite(losses[-1]) if losses else None,
        "before": before,
        "after": after,
        "settings": _settings(config),
    }
    write_json(out / RESULT, result)
    return result


def _settings(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings that are no paths, as values of JSON."""
    kept = {
        name: value
        for name, value in settings_of(config).items()
        if name not in ("eval_data", "template", "strategies")
    }
    settings: dict[str, Any] = json.loads(
        json.dumps({**kept, "processes": launched_processes.count()})
    )
    return settings


def _less(one: float | None, other: float | None) -> bool:
    """Return whether both values are known and the first is smaller than the second."""
    return one is not None and other is not None and one < other


def _finite(value: float | None) -> float | None:
    """Return the value, or None where JSON cannot say it, such as the logarithm of an SRA of 0."""
    return value if value is not None and math.isfinite(value) else None


def _evaluation(log: list[dict[str, Any]], step: int) -> dict[str, float | None] | None:
    """Return loss and SRA of the evaluation at a step; None if there was none."""
    for entry in log:
        if entry["step"] == step and "eval_loss" in entry:
            return {name.removeprefix("eval_"): _finite(entry.get(name)) for name in _MEASURED}
    return None

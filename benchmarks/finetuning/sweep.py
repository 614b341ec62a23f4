"""Fine-tune once per weight of SRA in the loss, and score the held-out conversations after it."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy

import sra_fast
from sra_fast.chat.conversations import read_conversations
from sra_fast.files.models import ModelSource, find_model
from sra_fast.tools.atomic import write_json
from sra_fast.tools.intervals import interval_of_sums
from sra_fast.training.lora.checkpoints import newest_checkpoint
from sra_fast.training.lora.settings import TrainingConfig
from sra_fast.training.lora.train import TrainingRun, train

CONFIG = TrainingConfig(
    rank=16,
    batch_size=4,
    accumulation=2,
    epochs=1.0,
    learning_rate=5e-4,
    cycles=1,
    eval_steps=10,
    max_length=1024,
    dtype="float32",
)
"""The paper's settings, except for what two cores cannot do in minutes."""

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class WeightOutcome:
    """The outcome of the training run with one weight.

    Attributes:
        weight: the weight of SRA in the loss.
        seconds: the duration of the run; None for one that went on from a checkpoint.
        result: the content of ``result.json``.
        log: what was logged, entry by entry.
        rescored: the mean SRA of the held-out replies by ``sra_fast.score``, with the adapter that
            the run kept, loaded anew.
        scores: the SRA of each held-out reply, in the file's order.
    """

    weight: float
    seconds: float | None
    result: dict[str, Any]
    log: list[dict[str, Any]]
    rescored: float
    scores: list[float]

    @property
    def difference(self) -> float:
        """Return the relative difference of the rescored mean from the callback's logged one."""
        logged: float = self.result["after"]["sra"]
        return abs(self.rescored - logged) / logged


def run_weight(
    weight: float, config: TrainingConfig, model: str, training: Path, held_out: Path, folder: Path
) -> WeightOutcome:
    """Train with one weight, or read what an earlier call left in ``folder``."""
    recorded = folder / OUTCOME
    source = find_model(model)
    settings = replace(config, sra_weight=weight, eval_data=str(held_out))
    begun = folder.exists()
    start = time.perf_counter()
    result = train(
        TrainingRun(
            data=training,
            source=source,
            out=folder,
            config=settings,
            device="cpu",
            on_log=_progress,
        )
    )
    seconds = None if begun else round(time.perf_counter() - start, 1)
    if recorded.exists():
        return WeightOutcome(**json.loads(recorded.read_text(encoding="utf-8")))
    del result["out"]
    scores = _rescored(folder / "adapter", held_out, settings)
    last = newest_checkpoint(folder)
    assert last is not None  # the training has ended, so there is one
    outcome = WeightOutcome(
        weight=weight,
        seconds=seconds,
        result=result,
        log=[_rounded(entry) for entry in last.state["log_history"]],
        rescored=math.fsum(scores) / len(scores),
        scores=scores,
    )
    write_json(recorded, asdict(outcome))
    return outcome


def ratio_interval(
    scores: Sequence[float], base: Sequence[float], dialogues: Sequence[str]
) -> tuple[float | None, float | None]:
    """Return the 95% interval of mean(scores) / mean(base), over whole dialogues."""
    columns = numpy.stack([scores, base], axis=1)
    return interval_of_sums(columns, lambda sums: sums[:, 0] / sums[:, 1], dialogues, scale="log")[
        :2
    ]


def dialogues_of(held_out: Path) -> list[str]:
    """Return the dialogue of each conversation of a file."""
    return [str(conversation.dialogue) for conversation in read_conversations(held_out)]


def _rescored(adapter: Path, held_out: Path, config: TrainingConfig) -> list[float]:
    source = ModelSource(adapter.name, str(adapter))
    batch = sra_fast.encode(
        source.tokenizer(), read_conversations(held_out), config.template, turns="last"
    )
    scores: list[float] = sra_fast.score(source.load(config.dtype, "cpu"), batch).sra.tolist()
    return scores


def _progress(step: int, last: int, logs: Mapping[str, Any]) -> None:
    if "eval_loss" in logs:
        print(
            f"  step {step} of {last}: held-out loss {logs['eval_loss']:.4f}, "
            f"SRA {logs['eval_sra']:.3e}",
            file=sys.stderr,
            flush=True,
        )


def _rounded(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a log entry without times, with numbers of six digits."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in entry.items()
        if not name.endswith(("runtime", "per_second"))
    }

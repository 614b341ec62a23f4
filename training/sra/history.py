"""``sra_history.jsonl``: what the callback logged, one line per step, beside the checkpoints.

Each line is a JSON object: ``step``, ``epoch``, ``split`` ("train", or the prefix of an evaluation:
"eval"), ``definition``, ``n`` (responses), ``sra``, ``log_sra`` (null for an SRA of 0),
``strategies`` (``{name: {"sra", "n"}}``), and the mean mass on the span of every layer and head,
``mass [L][H]``, with the L ``layers``.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from sra_fast.names import Definition
from sra_fast.tools.atomic import write_text

from .means import Means

NAME = "sra_history.jsonl"

_DIGITS = 7  # float32 has no more


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a history, given its file or the folder it lies in.

    A last line that was cut short when a run was killed is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: another line is no JSON object with a step.
    """
    file = Path(path) / NAME if Path(path).is_dir() else Path(path)
    lines = []
    for number, text in enumerate(file.read_bytes().splitlines(keepends=True), start=1):
        line = _parsed(text)
        if line is None and not text.endswith(b"\n"):
            break
        if line is None:
            raise ValueError(f"{file}, line {number}: no line of an SRA history: {text[:60]!r}")
        lines.append(line)
    return lines


class History:
    """Writes the file of one training run."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / NAME

    def begin(self, step: int) -> None:
        """Keeps the lines of a run up to the step that it goes on from; none if that is 0.

        Raises:
            OSError, ValueError: as :func:`read_history`.
        """
        kept = []
        if step and self.path.exists():
            kept = [line for line in read_history(self.path) if line["step"] <= step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(map(_text, kept)))

    def append(
        self, step: int, epoch: float | None, split: str, definition: Definition, means: Means
    ) -> None:
        """Adds one line, on the disk when this returns."""
        line = {
            "step": step,
            "epoch": epoch,
            "split": split,
            "definition": definition,
            "n": means.n,
            "sra": means.sra,
            "log_sra": means.log_sra if math.isfinite(means.log_sra) else None,
            "strategies": {
                name: {"sra": mean, "n": count} for name, (mean, count) in means.strategies.items()
            },
            "layers": list(means.layers),
            "mass": [
                [float(f"{value:.{_DIGITS}g}") for value in heads] for heads in means.mass.tolist()
            ],
        }
        with self.path.open("ab") as file:
            file.write(_text(line).encode())
            file.flush()
            os.fsync(file.fileno())


def _text(line: dict[str, Any]) -> str:
    # A NaN is written as it is: a training that goes wrong shows it, and does not end of it.
    return json.dumps(line, ensure_ascii=False) + "\n"


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None

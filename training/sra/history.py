"""Write and read ``sra_history.jsonl``: what the callback logged, one line per step.

It lies beside the checkpoints. Each line is a JSON object: ``step``, ``epoch``, ``split`` ("train",
or the prefix of an evaluation: "eval"), ``definition``, ``n`` (responses), ``sra``, ``log_sra``
(null for an SRA of 0), ``strategies`` (``{name: {"sra", "n"}}``), and the mean mass on the span of
every layer and head, ``span_mass [L][H]``, with the L ``layers``. (``mass`` in earlier versions; a
column ``mass`` of other tables is the score under the definition of that name.)
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sra_fast.files.appended_lines import append_line, json_line, whole_lines
from sra_fast.tools.atomic import write_text

from .means import ResponseMeans

NAME = "sra_history.jsonl"

_MASSES, _OLD_MASSES = "span_mass", "mass"  # earlier versions wrote the masses under the second
_DIGITS = 7  # significant digits of a mass; float32 has no more


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """Read the lines of a history, given its file or the folder in which it lies.

    A last line that was cut short when a run was killed is left out. A mean SRA that is undefined
    stands there as ``NaN``, unlike in the JSON of results. What earlier versions called ``mass`` is
    ``span_mass``.

    Raises:
        OSError: the file cannot be read.
        ValueError: another line is no JSON object with a step.
    """
    file = Path(path) / NAME if Path(path).is_dir() else Path(path)
    lines = []
    for number, text in enumerate(whole_lines(file), start=1):
        line = _parsed(text)
        if line is None:
            raise ValueError(
                f"{file}, line {number}: no line of an SRA history: {text[:60]!r}; take the line "
                "out of the file, or restore the file"
            )
        lines.append(line)
    return lines


class History:
    """The SRA history of one training run, which is written line by line."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / NAME

    def begin(self, step: int) -> None:
        """Keep the lines of an earlier run up to ``step``, from which this one continues.

        If that is 0, no line is kept.

        Raises:
            OSError, ValueError: as :func:`read_history`.
        """
        kept = []
        if step and self.path.exists():
            kept = [line for line in read_history(self.path) if line["step"] <= step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Not write_json_lines, which refuses the NaN of an undefined mean.
        write_text(self.path, "".join(map(json_line, kept)))

    def append(
        self,
        step: int,
        epoch: float | None,
        split: str,
        definition: str,
        means: ResponseMeans,
    ) -> None:
        """Add one line to the history; it is on the disk when this returns.

        Args:
            step: number of optimizer steps done.
            epoch: passes over the training data done, a fraction.
            split: "train", or the prefix of an evaluation.
            definition: the definition of SRA that ``means`` are of.
            means: the means to write.
        """
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
            _MASSES: [
                [float(f"{value:.{_DIGITS}g}") for value in heads] for heads in means.mass.tolist()
            ],
        }
        append_line(self.path, line)


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return None
    return {_MASSES if name == _OLD_MASSES else name: value for name, value in line.items()}

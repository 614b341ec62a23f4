"""The finished responses of an evaluation, one record each, and their file.

The run's folder keeps records with their texts. Everything that leaves it, reports and results, is
computed from records and has no text in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.tools.atomic import write_json_lines


class RecordError(ValueError):
    """A record cannot be what it says; names the place and the field."""


@dataclass(frozen=True)
class Record:
    """One response.

    Attributes:
        row: of Table 1, e.g. "standard", "c1_hf", "fine-tuned".
        item: id of the conversation.
        dialogue: what resampling draws; items cut from one dialogue share it.
        strategy: asked for.
        turn: number of the supporter's turn, from 1.
        language: None where the conversation says nothing about it.
        predicted: by the classifier.
        probability: the classifier's, of the strategy asked for.
        sra: by definition; NaN where it is undefined.
        lookback: mass on the span / (mass on the span + mass on the response so far), or NaN.
        tokens: of the response.
        finished: the model ended it; False if the limit did.
        perplexity: of the response under the base model.
        text: the response; never part of a report.

    Raises:
        RecordError: a number is out of range.
    """

    row: str
    item: str
    dialogue: str
    strategy: str
    turn: int
    language: str | None
    predicted: str
    probability: float
    sra: Mapping[str, float]
    lookback: float
    tokens: int
    finished: bool
    perplexity: float | None
    text: str

    def __post_init__(self) -> None:
        where = f"row {self.row!r}, item {self.item!r}"
        rules: tuple[tuple[str, bool, str], ...] = (
            ("turn", self.turn >= 1, "from 1 on"),
            ("tokens", self.tokens >= 0, "from 0 on"),
            ("probability", 0 <= self.probability <= 1, "in [0, 1]"),
            ("lookback", math.isnan(self.lookback) or 0 <= self.lookback <= 1, "NaN or in [0, 1]"),
            (
                "perplexity",
                self.perplexity is None or (self.perplexity > 0 and math.isfinite(self.perplexity)),
                "None or a finite number above 0",
            ),
        )
        for name, holds, rule in rules:
            if not holds:
                raise RecordError(f"{where}: {name} must be {rule}, found {getattr(self, name)}")
        for name, value in self.sra.items():
            if not (math.isnan(value) or (0 <= value < math.inf)):
                raise RecordError(
                    f"{where}: sra[{name!r}] must be NaN or finite from 0 on, found {value}"
                )

    @property
    def adherent(self) -> bool:
        """The classifier finds the strategy that was asked for."""
        return self.predicted == self.strategy


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes an object a line; NaN becomes null."""
    write_json_lines(path, map(_plain, records))


def _plain(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(record, name) for name in Record.__dataclass_fields__}
    found["sra"] = {name: _null_if_nan(value) for name, value in record.sra.items()}
    found["lookback"] = _null_if_nan(record.lookback)
    return found


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value

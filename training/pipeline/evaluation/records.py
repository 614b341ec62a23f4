"""Records of the replies of an evaluation, one for each, and the file they are written to.

The folder of a run keeps records with their texts. Reports and results are computed from records
and contain no text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.tools.atomic import write_json_lines


class RecordError(ValueError):
    """Raised when a field of a record is out of range; names the record and the field."""


@dataclass(frozen=True)
class Record:
    """One reply of an evaluation and what was measured of it; the names are those of the file.

    Attributes:
        row: the name of the condition, such as "standard", "c1_hf" or "fine-tuned".
        item: the id of the conversation that was answered.
        dialogue: the id of the dialogue the conversation was cut from; intervals count dialogues.
        strategy: the strategy that the reply was asked to follow.
        turn: the number of the reply among the assistant messages of its conversation, from 1.
        language: the language of the conversation, or None where it is not known.
        predicted: the strategy that the classifier names; empty for an empty reply.
        probability: the probability that the classifier gives to the strategy asked for.
        sra: SRA by each definition, by its name; NaN where it is undefined.
        lookback: mass on the span / (mass on the span + mass on the response so far), or NaN.
        tokens: how many tokens the response has.
        finished: True if the model ended the reply, False if the limit of tokens did.
        perplexity: the perplexity of the reply under the base model, or None if not measured.
        text: the reply; never part of a report.

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
        where = f"condition {self.row!r}, item {self.item!r}"
        rules: tuple[tuple[str, bool, str], ...] = (
            ("turn", self.turn >= 1, "at least 1"),
            ("tokens", self.tokens >= 0, "at least 0"),
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
                    f"{where}: sra[{name!r}] must be NaN or finite and at least 0, found {value}"
                )

    @property
    def adherent(self) -> bool:
        """Tell whether the classifier names the strategy that was asked for."""
        return self.predicted == self.strategy


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSONL, one object a line, with null for NaN.

    Raises:
        OSError: the file cannot be written.
    """
    write_json_lines(path, map(_plain, records))


def _plain(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(record, name) for name in Record.__dataclass_fields__}
    found["sra"] = {name: _null_if_nan(value) for name, value in record.sra.items()}
    found["lookback"] = _null_if_nan(record.lookback)
    return found


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value

"""The finished responses of an evaluation, one record each, and their file.

The run's folder keeps records with their texts. Everything that leaves it, reports and results, is
computed from records and has no text in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.files import replaced_atomically
from sra_fast.strict_json import read_json_lines


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


_TEXTS = ("row", "item", "dialogue", "strategy", "predicted")
_FIELDS = frozenset(Record.__dataclass_fields__)


def write_records(path: Path, records: Iterable[Record], *, with_text: bool) -> None:
    """Writes an object a line; NaN becomes null.

    Args:
        with_text: False leaves the responses out, for files that leave the run's folder.
    """
    with (
        replaced_atomically(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        for record in records:
            line = record_to_json(record, with_text=with_text)
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def read_records(path: Path) -> list[Record]:
    """Reads what :func:`write_records` wrote; a record without its text has "".

    Raises:
        RecordError: a line is something else; names file, line and field.
        OSError: the file cannot be read.
    """
    return [
        record_from_json(value, where) for where, value in read_json_lines(path, raises=RecordError)
    ]


def record_to_json(record: Record, *, with_text: bool) -> dict[str, Any]:
    """One record as JSON can say it."""
    found: dict[str, Any] = {name: getattr(record, name) for name in Record.__dataclass_fields__}
    found["sra"] = {name: _null_if_nan(value) for name, value in record.sra.items()}
    found["lookback"] = _null_if_nan(record.lookback)
    if not with_text:
        del found["text"]
    return found


def record_from_json(value: object, where: str) -> Record:
    """The record of :func:`record_to_json`.

    Raises:
        RecordError: a field is missing, unknown, or of another type; the message begins with where.
    """
    if not isinstance(value, dict):
        raise RecordError(f"{where}: expected an object, found {type(value).__name__}")
    fields: dict[str, Any] = {"text": "", **value}
    if fields.keys() != _FIELDS:
        wrong = ", ".join(sorted(fields.keys() ^ _FIELDS))
        raise RecordError(f"{where}: missing or unknown fields: {wrong}; evaluate anew")
    if not isinstance(fields["sra"], dict):
        raise RecordError(f"{where}: sra must be an object, found {fields['sra']!r:.60}")
    for name in (*_TEXTS, "text"):
        _check(isinstance(fields[name], str), where, name, "a text", fields[name])
    for name in ("turn", "tokens"):
        _check(type(fields[name]) is int, where, name, "a whole number", fields[name])
    _check(
        isinstance(fields["finished"], bool), where, "finished", "true or false", fields["finished"]
    )
    language = fields["language"]
    _check(language is None or isinstance(language, str), where, "language", "a text", language)
    perplexity = fields["perplexity"]
    try:
        return Record(
            **fields
            | {
                "probability": _number(fields["probability"], f"{where}: probability"),
                "lookback": _number_or_nan(fields["lookback"], f"{where}: lookback"),
                "perplexity": None
                if perplexity is None
                else _number(perplexity, f"{where}: perplexity"),
                "sra": {
                    name: _number_or_nan(one, f"{where}: sra[{name!r}]")
                    for name, one in fields["sra"].items()
                },
            }
        )
    except RecordError as error:
        message = str(error)
        raise RecordError(message if message.startswith(where) else f"{where}: {error}") from error


def _check(holds: bool, where: str, name: str, rule: str, found: object) -> None:
    if not holds:
        raise RecordError(f"{where}: {name} must be {rule}, found {found!r:.60}")


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RecordError(f"{what} must be a finite number, found {value!r:.60}")
    return float(value)


def _number_or_nan(value: object, what: str) -> float:
    return math.nan if value is None else _number(value, what)


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value

"""Read the SRA of each reply from the files that ``sra-fast score`` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sra_fast.files.provenance import file_sha256
from sra_fast.tools.strict_json import decode_utf8, parse_json
from sra_fast.tools.suggestions import did_you_mean

from ..items import Item
from .errors import AnnotationError
from .rating_tables import number_of, read_table

_SCORES, _RUN = "scores.jsonl", "run.json"
_ID, _OLD_ID = "conversation_id", "conversation"  # earlier versions wrote the id under the second
_FIELDS = ("turn", "strategy", "definition", "sra")


def read_scores(path: Path, items: Sequence[Item], scored: Path) -> tuple[list[float | None], str]:
    """Read the SRA of each item's reply, and the name of its definition.

    Args:
        path: the folder that scoring wrote, its ``scores.jsonl``, or a CSV file with the same
            columns. Which file was scored is known, and checked, only if a ``run.json`` is there.
        items: the items whose replies were scored.
        scored: the file of conversations that must have been scored.

    Returns:
        The SRA of each item's reply, ``[n]``, None where the file gives no value; and the name of
        the definition.

    Raises:
        AnnotationError: the file is no such table, has scores by several definitions, or lacks an
            item's reply; or the scores belong to another file than ``scored``.
        OSError: the file cannot be read.
    """
    file = path / _SCORES if path.is_dir() else path
    if path.is_dir() or file.name == _SCORES:
        _check_scored(file.parent, scored, required=path.is_dir())
    scores: dict[tuple[str, str], tuple[str, Mapping[str, object]]] = {}
    definitions: dict[str, str] = {}
    for where, row in read_table(file, _FIELDS):
        identity = row.get(_ID, row.get(_OLD_ID))
        if identity is None:
            raise AnnotationError(f"{where}: column {_ID!r} is missing; say whose reply it is")
        place = (str(identity), str(row["turn"]))
        if place in scores:
            raise AnnotationError(
                f"{where}: conversation {place[0]!r}, turn {place[1]} is also in {scores[place][0]}"
            )
        scores[place] = (where, row)
        definitions.setdefault(str(row["definition"]), where)
    if len(definitions) != 1:
        raise AnnotationError(
            f"{file.name}: scores by several definitions ({', '.join(sorted(definitions))}); score "
            "by one"
        )
    values: list[float | None] = []
    for item in items:
        found = scores.get((item.id, str(item.turn)))
        if found is None:
            near = did_you_mean(item.id, (name for name, _ in scores))
            raise AnnotationError(
                f"{file.name}: no score of item {item.id!r}, turn {item.turn}{near}; score the "
                "very file that is compared"
            )
        where, row = found
        if row["strategy"] != item.strategy:
            raise AnnotationError(
                f"{where}: item {item.id!r} was scored for strategy {row['strategy']!r}, and the "
                f"conversations name {item.strategy!r}; score the very file that is compared"
            )
        value = number_of(row["sra"], f"{where}: column 'sra'")
        values.append(value)
    return values, next(iter(definitions))


def _check_scored(folder: Path, scored: Path, *, required: bool) -> None:
    """Check that ``run.json``, which names the file that was scored, names this very file.

    Raises:
        AnnotationError: it names another file, or is missing although it is required.
    """
    run = folder / _RUN
    if not run.exists():
        if required:
            raise AnnotationError(
                f"{folder}: holds no {_RUN}, so it is unknown which file was scored; give a folder "
                "that scoring wrote, or the table itself"
            )
        return
    record = parse_json(
        decode_utf8(run.read_bytes(), str(run), raises=AnnotationError),
        str(run),
        raises=AnnotationError,
    )
    settings = record.get("settings") if isinstance(record, dict) else None
    digest = settings.get("input_sha256") if isinstance(settings, dict) else None
    if digest is None:
        raise AnnotationError(
            f"{run}: was not written by scoring; give the folder that scoring wrote"
        )
    if digest != file_sha256(scored):
        raise AnnotationError(
            f"{folder}: its scores do not belong to {scored.name} as it is now; check that the "
            f"scores of the two systems are not swapped, or score {scored.name} again",
            "sra_a",
            "sra_b",
        )


def same_definition(one: str, other: str) -> str:
    """Check that both systems were scored by the same definition, and return its name.

    Args:
        one: the name of the definition for the first system.
        other: the name of the definition for the second system.

    Raises:
        AnnotationError: the two definitions differ.
    """
    if one != other:
        raise AnnotationError(
            f"one system was scored by the definition {one!r} and the other by {other!r}; score "
            "both by the same"
        )
    return one

"""The SRA of each reply, from what ``sra-fast score --out DIR`` wrote."""

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
_FIELDS = ("conversation", "turn", "strategy", "definition", "sra")


def read_scores(path: Path, items: Sequence[Item], scored: Path) -> tuple[list[float | None], str]:
    """The score of each item's reply, and the definition that all are of.

    Args:
        path: the folder, its scores.jsonl, or a CSV of the same columns. Only where a run.json lies
            beside them is it known which file they are of.
        items: the items.
        scored: the file of conversations that must have been scored.

    Returns:
        ``[n]`` scores, None where the file has none for that reply; and the definition's name.

    Raises:
        AnnotationError: the file is no such table, is of another definition from row to row, or
            lacks an item's reply; or the scores are of another file than ``scored``.
        OSError: the file cannot be read.
    """
    file = path / _SCORES if path.is_dir() else path
    if path.is_dir() or file.name == _SCORES:
        _check_scored(file.parent, scored, required=path.is_dir())
    scores: dict[tuple[str, str], tuple[str, Mapping[str, object]]] = {}
    definitions: dict[str, str] = {}
    for where, row in read_table(file, _FIELDS):
        place = (str(row["conversation"]), str(row["turn"]))
        if place in scores:
            raise AnnotationError(
                f"{where}: conversation {place[0]!r}, turn {place[1]} is also in {scores[place][0]}"
            )
        scores[place] = (where, row)
        definitions.setdefault(str(row["definition"]), where)
    if len(definitions) != 1:
        raise AnnotationError(
            f"{file.name}: scores of several definitions ({', '.join(sorted(definitions))}); "
            "score with one"
        )
    values: list[float | None] = []
    for item in items:
        found = scores.get((item.id, str(item.turn)))
        if found is None:
            near = did_you_mean(item.id, (name for name, _ in scores))
            raise AnnotationError(
                f"{file.name}: no score of item {item.id!r}, reply {item.turn}{near}; score the "
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
    """Whether run.json, where ``sra-fast score`` notes what it scored, names this very file."""
    run = folder / _RUN
    if not run.exists():
        if required:
            raise AnnotationError(
                f"{folder}: holds no {_RUN}, so nothing tells which file its scores are of; give a "
                "folder that scoring wrote, or the table itself"
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
        raise AnnotationError(f"{run}: is not that of scoring; give the folder that scoring wrote")
    if digest != file_sha256(scored):
        raise AnnotationError(
            f"{folder}: its scores are not of {scored.name} as it is now; if the two systems' "
            f"scores are not the wrong way round, score {scored.name} again",
            "sra_a",
            "sra_b",
        )


def same_definition(one: str, other: str) -> str:
    """The definition of both.

    Raises:
        AnnotationError: there are two.
    """
    if one != other:
        raise AnnotationError(
            f"the scores of one system are of definition {one!r}, those of the other of {other!r}; "
            "score both with one"
        )
    return one

"""Read a result to look at from a file, or from the folder of a scoring run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sra_fast.files.score_file import TOKENIZER
from sra_fast.files.score_folder import MASSES, SHARDS
from sra_fast.files.score_tables import SCORES_JSONL
from sra_fast.files.shard import shards_in
from sra_fast.report.viewer.viewed_conversation import ViewError
from sra_fast.result import SRAResult
from sra_fast.tools.strict_json import read_json_lines

_ID, _OLD_ID = "conversation_id", "conversation"  # earlier versions wrote the id under the second


@dataclass(frozen=True, eq=False)
class ReadResult:
    """A result that was read, and what its folder says of it.

    Attributes:
        result: the result.
        titles: the id of each conversation by its number, as far as ids are known.
        labels: the strategy of each response; None if it was read from a file.
        tokenizer: the folder of the tokenizer that made its tokens; None if there is none.
    """

    result: SRAResult
    titles: dict[int, str]
    labels: list[str] | None
    tokenizer: Path | None = None


def read_result(path: str | Path) -> ReadResult:
    """Read the result in a file that ``SRAResult.save`` wrote, or in the folder of a scoring run.

    Raises:
        ViewError: the folder holds no finished run, or its table is of other responses.
        ValueError: the file is not a saved result.
        OSError: there is no such file or folder, or it cannot be read.
    """
    place = Path(path)
    if not place.is_dir():
        result = SRAResult.load(place)
        return ReadResult(result, _titles(result, result.conversation_ids), None)
    if not (place / MASSES).is_file():
        raise ViewError(f"{place}: {_why_none(place)}")
    result = SRAResult.load(place / MASSES)
    rows = [
        row
        for _, row in read_json_lines(place / SCORES_JSONL, raises=ViewError)
        if isinstance(row, dict)
    ]
    if len(rows) != len(result):
        raise ViewError(
            f"{place}: {SCORES_JSONL} has {len(rows)} lines, and {MASSES} {len(result)} responses; "
            "run the scoring again, which writes what is damaged anew"
        )
    for number, row in enumerate(rows, 1):
        row.setdefault(_ID, row.get(_OLD_ID))
        lost = [name for name in (_ID, "strategy") if row.get(name) is None]
        if lost:
            raise ViewError(
                f"{place / SCORES_JSONL} line {number} has no {' and no '.join(lost)}; run "
                "the scoring again, which writes what is damaged anew"
            )
    titles = _titles(result, [str(row[_ID]) for row in rows])
    tokenizer = place / TOKENIZER
    labels = [str(row["strategy"]) for row in rows]
    return ReadResult(result, titles, labels, tokenizer if tokenizer.is_dir() else None)


def _titles(result: SRAResult, ids: Sequence[str | None]) -> dict[int, str]:
    """Return the id of each conversation by its number, from those of the responses."""
    numbers = result.conversation.tolist() if ids else []
    named = zip(numbers, ids, strict=True)
    return {number: identity for number, identity in named if identity is not None}


def _why_none(folder: Path) -> str:
    """Return why a folder holds no result, and what to give in its place."""
    if shards_in(folder):
        return "the shards of this run are not merged; score those that are missing, and merge them"
    if (folder / SHARDS).is_dir():
        return "the run is not finished; continue it first"
    inside = sorted(str(one.parent.relative_to(folder)) for one in folder.glob(f"*/*/{MASSES}"))
    if inside:
        return f"this folder holds several results; give one of those in {', '.join(inside)}"
    return f"this folder holds no {MASSES}; give the folder of a scoring run, or a saved result"

"""Merge the shards of a run, once all are finished, into the folder of the run that they are of.

The masses and tables are those of the run without shards, byte for byte: the same batches, in the
order of their numbers. The folders of the shards are removed at the end, as a run's batches are.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.files.numbered_batches import BatchParts, part_file
from sra_fast.files.run_folder import FolderBusyError, changed_files, locked
from sra_fast.files.run_record import RUN, RunFolderError, RunRecord, read_record, setting_apart
from sra_fast.files.score_file import TOKENIZER
from sra_fast.files.score_folder import MASSES, ScoreFolder
from sra_fast.files.score_tables import SCORES_JSONL, SCORES_PARQUET, ScoreRow, write_tables
from sra_fast.files.shard import Shard, numbers_text, shards_in
from sra_fast.files.shard_folder import BATCHES, SHARD, of_whole, recorded_shard
from sra_fast.result import SRAResult
from sra_fast.tools.counted import counted
from sra_fast.tools.strict_json import read_json_lines

_PATIENCE = 20.0  # seconds in which a process that has just finished a shard leaves its folder
_PAUSE = 0.2  # seconds between two looks for shards that nobody has begun
_KIND = "score"


@dataclass(frozen=True)
class MergedRun:
    """A run whose shards are merged.

    Attributes:
        result: the scores and masses of all responses.
        rows: what the tables say of each response, in the order of the conversations.
        settings: everything the scores depend on.
        shards: how many shards were merged now; 0 if the folder held the whole run already.
    """

    result: SRAResult
    rows: list[ScoreRow]
    settings: Mapping[str, Any]
    shards: int


def merge_shards(folder: Path) -> MergedRun:
    """Merge the shards in the folder of a run; where that is done already, read it.

    Nothing is changed before all shards are there, finished and alike.

    Args:
        folder: the folder of the run, in which those of its shards lie.

    Raises:
        RunFolderError: a shard is missing, not finished, damaged or of other settings, or another
            process works in the folder.
        OSError: a file cannot be read or written.
    """
    shards = shards_in(folder)
    begun = bool(shards) or (folder / RUN).exists()  # other folders lie there for another purpose
    recorded = read_record(folder, [one.folder for one in shards]) if begun else None
    if recorded is not None and recorded.finished:
        _check_merged(folder, recorded)
        whole = _run_folder(folder, recorded.settings, shards)
        with whole.opened():  # removes what is left of the shards
            return _read_merged(whole)
    if not shards:
        state = "holds no shards" if recorded is None else "holds a run without shards"
        raise RunFolderError(
            f"{folder} {state} (looked for folders such as {Shard(1, 2).folder} in "
            f"{_place(folder)}); give the folder that the shards were scored into",
            "folder",
        )
    first = _alike(folder, shards)
    whole = _run_folder(folder, of_whole(first), shards)
    with whole.opened(), ExitStack() as held:
        if whole.is_finished():  # by another process, just now
            return _read_merged(whole)
        for shard in shards:
            held.enter_context(locked(folder / shard.folder, patience=_PATIENCE))
        found = _read_shards(folder, shards, int(first.settings[SHARD]["batches"]))
        rows = [row for _, of_batch in found for row in of_batch]
        if (tokenizer := _tokenizer(folder, first, shards)) is not None:
            shutil.copytree(tokenizer, folder / TOKENIZER, dirs_exist_ok=True)
        result = whole.assemble(
            [result for result, _ in found],
            lambda _: write_tables(folder, rows),
            (SCORES_JSONL, SCORES_PARQUET),
        )
    return MergedRun(result, rows, whole.settings, len(shards))


def merge_if_last(folder: Path, shard: Shard, patience: float = 60.0) -> MergedRun | None:
    """Merge the shards of a run if all of them are finished, for the process that finished last.

    Nobody waits for a shard that is still scored: whoever finishes it comes here, too.

    Args:
        folder: the folder of the run.
        shard: the shard that this process has finished.
        patience: for how many seconds to wait for shards that nobody has begun.

    Returns:
        The merged run; None if other shards are still worked on, or another process merges them.

    Raises:
        RunFolderError: as :func:`merge_shards`.
    """
    end = time.monotonic() + patience
    try:
        while True:
            there = shards_in(folder)
            records = [recorded_shard(folder, one) for one in there]
            if shard not in there or any(one is None or not one.finished for one in records):
                return None
            if len(there) >= shard.of or time.monotonic() >= end:
                merged = merge_shards(folder)
                return merged if merged.shards else None
            time.sleep(_PAUSE)
    except FolderBusyError:
        return None
    except (RunFolderError, OSError):
        # The folders of shards vanish while another process, which has merged them, removes them.
        recorded = read_record(folder, [one.folder for one in shards_in(folder)])
        if recorded is not None and recorded.finished:
            return None
        raise


def _run_folder(folder: Path, settings: Mapping[str, Any], shards: Sequence[Shard]) -> ScoreFolder:
    return ScoreFolder(folder, settings, [one.folder for one in shards])


def _check_merged(folder: Path, recorded: RunRecord) -> None:
    """Refuse a finished run that holds no scores, or of which a file is damaged.

    Raises:
        RunFolderError: it is one of these.
    """
    kind = recorded.settings.get("kind")
    if kind != _KIND:
        raise RunFolderError(
            f"{folder} holds a run of kind {kind!r}, which has no shards; give the folder that the "
            "shards were scored into",
            "folder",
        )
    if damaged := changed_files(folder, recorded.digests):
        raise RunFolderError(
            f"{folder / damaged[0]} is missing, or not as it was written, and the shards that it "
            "was merged from are gone; score the file into this folder again, without shards"
        )


def _read_merged(whole: ScoreFolder) -> MergedRun:
    result = SRAResult.load(whole.path / MASSES)
    return MergedRun(result, _rows(whole.path / SCORES_JSONL, len(result)), whole.settings, 0)


def _alike(folder: Path, shards: Sequence[Shard]) -> RunRecord:
    """Return the record of a shard, after a check that all are there, finished and of one run.

    Raises:
        RunFolderError: they are not.
    """
    of = {one.of for one in shards}
    if len(of) > 1:
        named = " and ".join(
            f"of {n} ({', '.join(one.folder for one in shards if one.of == n)})" for n in sorted(of)
        )
        raise RunFolderError(
            f"{folder} holds shards {named}; move those of one of these runs to another folder, or "
            "delete them"
        )
    records = {one: recorded_shard(folder, one) for one in shards}
    known = [(one, record) for one, record in records.items() if record is not None]
    for one, record in known[1:]:
        apart = setting_apart(
            _without_number(known[0][1].settings), _without_number(record.settings)
        )
        if apart is not None:
            name, before, now = apart
            raise RunFolderError(
                f"{folder} holds shards of different runs: the setting {name!r} is {before} in "
                f"{known[0][0].folder} and {now} in {one.folder}; score one of them again with the "
                "settings, versions and code of the other, after deleting its folder"
            )
    total = next(iter(of))
    missing = set(range(1, total + 1)) - {one.number for one, _ in known}
    unfinished = [one for one, record in known if not record.finished]
    if missing or unfinished:
        raise RunFolderError(_what_lacks(folder, total, missing, unfinished))
    return known[0][1]


def _without_number(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, SHARD: {**settings[SHARD], "number": None}}


def _what_lacks(folder: Path, total: int, missing: set[int], unfinished: Sequence[Shard]) -> str:
    """Return which shards of a run are missing or unfinished, and the way out."""
    said, ways = [], []
    if missing:
        there = numbers_text(set(range(1, total + 1)) - missing)
        which = f"{numbers_text(missing)} of {total}"
        said.append(
            f"{f'shard {which} is' if len(missing) == 1 else f'shards {which} are'} missing in "
            f"{_place(folder)}, which holds {there or 'none'}"
        )
        ways.append(
            "score those that are missing; if they were scored on other machines, that folder is "
            "not shared with them, so bring the folders of their shards into it"
        )
    for one in unfinished:
        parts = folder / one.folder / BATCHES
        done = len(list(parts.glob(f"*{BatchParts.SUFFIX}")))
        said.append(f"shard {one} is not finished ({counted(done, 'batch', 'batches')} done)")
    if unfinished:
        ways.append("give the command of an unfinished shard again, which continues it")
    return f"{'; '.join(said)}; {'; '.join(ways)}"


def _place(folder: Path) -> str:
    return f"{folder.resolve()} on host {socket.gethostname()}"


def _read_shards(
    folder: Path, shards: Sequence[Shard], batches: int
) -> list[tuple[SRAResult, list[ScoreRow]]]:
    """Return result and table rows of each batch of a run, in the order of their numbers.

    Raises:
        RunFolderError: a file of a shard is missing, or not as it was finished.
    """
    every = dict.fromkeys(range(batches))
    found: dict[int, tuple[SRAResult, list[ScoreRow]]] = {}
    for shard in shards:
        place = folder / shard.folder
        recorded = read_record(place)
        wanted = {f"{BATCHES}/{part_file(number)}": number for number in shard.dealt(every)}
        digests = {} if recorded is None else recorded.digests
        lost = [name for name in (*wanted, SCORES_JSONL) if name not in digests]
        if damaged := [*lost, *changed_files(place, digests)]:
            raise RunFolderError(
                f"{place / damaged[0]} is missing, or not as it was written; give the command of "
                f"shard {shard} again, which makes it again"
            )
        results = {number: SRAResult.load(place / name) for name, number in wanted.items()}
        rows = _rows(place / SCORES_JSONL, sum(map(len, results.values())))
        for number, result in results.items():
            found[number] = result, rows[: len(result)]
            rows = rows[len(result) :]
    return [found[number] for number in every]


def _rows(file: Path, count: int) -> list[ScoreRow]:
    """Return the lines of a table, which are as many as the responses."""
    rows = [row for _, row in read_json_lines(file, raises=RunFolderError) if isinstance(row, dict)]
    if len(rows) != count:
        raise RunFolderError(
            f"{file} has {counted(len(rows), 'line')} for {counted(count, 'response')}; score it "
            "again"
        )
    return rows


def _tokenizer(folder: Path, recorded: RunRecord, shards: Sequence[Shard]) -> Path | None:
    """Return the tokenizer that a shard of a run with profiles keeps; None without profiles.

    Raises:
        RunFolderError: no shard keeps one.
    """
    if recorded.settings.get("profile") is None:
        return None
    for one in shards:
        if (folder / one.folder / TOKENIZER).is_dir():
            return folder / one.folder / TOKENIZER
    raise RunFolderError(
        f"{folder}: no shard keeps the tokenizer that its profiles need; give the command of one "
        "shard again"
    )

"""Folders of shards: each holds some of the batches of a run, which are merged once all are there.

A shard has a folder of its own in that of the run, with its own lock, so that several work side by
side, in one process each, on one machine or on many that share the folder.

    shard-3-of-8/run.json       the run's settings and which shard this is; "finished", with digests
    shard-3-of-8/batches/00010.safetensors    the batches of this shard, by their numbers in the run
    shard-3-of-8/scores.jsonl   what the run's tables say of the responses of these batches
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sra_fast.files.numbered_batches import Batch, BatchParts, ScoreBatches, part_file
from sra_fast.files.run_folder import RunFolder
from sra_fast.files.run_record import RUN, RunFolderError, RunRecord, read_record, setting_apart
from sra_fast.files.score_tables import SCORES_JSONL, ScoreRow
from sra_fast.files.shard import Shard, shards_in
from sra_fast.result import SRAResult
from sra_fast.tools.atomic import write_json_lines

BATCHES = "batches"
"""The folder of the batches in that of a shard."""

SHARD = "shard"
"""The setting that says which shard a folder holds, and how many batches the whole run has."""

_logger = logging.getLogger(__name__)


class ShardFolder(RunFolder):
    """A run folder that holds the scores of one shard of a run.

    Args:
        whole: the folder of the run; that of the shard lies in it.
        settings: everything the scores of the run depend on, as JSON can say it.
        shard: which shard it is.
        batches: how many batches the whole run has.
    """

    def __init__(
        self, whole: Path, settings: Mapping[str, Any], shard: Shard, batches: int
    ) -> None:
        mark = {"number": shard.number, "of": shard.of, "batches": batches}
        super().__init__(whole / shard.folder, {**settings, SHARD: mark})
        self._whole, self._shard = whole, shard
        self._parts = BatchParts(self.path / BATCHES)

    def check(self) -> None:
        """Check that the folder is free or holds this very shard, and fits those beside it.

        Raises:
            RunFolderError: it holds something else, or a shard beside it is of another run.
        """
        super().check()
        for other in shards_in(self._whole):
            if other.of != self._shard.of:
                raise RunFolderError(
                    f"{self._whole} holds shards of {other.of} ({other.folder}), and this is shard "
                    f"{self._shard}; give another folder, or delete those",
                    "out",
                )
            beside = recorded_shard(self._whole, other)
            if beside is None or other == self._shard:
                continue
            apart = setting_apart(of_whole(beside), of_whole_settings(self.settings))
            if apart is not None:
                name, before, now = apart
                raise RunFolderError(
                    f"{self._whole} holds shards of another run: in {other.folder} the setting "
                    f"{name!r} is {before}, and now it is {now}; give another folder, or delete "
                    "those shards",
                    "out",
                )

    def is_whole(self) -> bool:
        """Return whether this very shard was finished here, and all its files are as they were."""
        return self.is_finished() and not self.damaged()

    def complete(
        self,
        numbered: Mapping[int, Batch],
        score_batches: ScoreBatches,
        rows_of: Callable[[SRAResult, Batch], list[ScoreRow]],
        on_progress: Callable[[int], None] = lambda tokens: None,
    ) -> list[ScoreRow]:
        """Score those batches of the shard that are not scored yet, and finish it.

        What is missing or damaged in a finished shard is said, and made again.

        Args:
            numbered: the shard's batches, by their numbers in the run.
            score_batches: what scores the batches that are not there yet.
            rows_of: returns what the tables say of the results of a batch.
            on_progress: called with the number of tokens of each batch that is done or was.

        Returns:
            What the tables say of the responses of the shard, one batch after another.

        Raises:
            RunFolderError: the folder holds something else, or another process works in it.
        """
        with self.opened():
            for name in self.damaged():
                file = self.path / name
                _logger.warning("%s is missing, or not as it was written; it is made again", file)
                file.unlink(missing_ok=True)  # a changed number could still be read
            for leftover in (self.path / BATCHES).glob(".*.tmp"):  # killed while it wrote these
                leftover.unlink(missing_ok=True)
            results = self._parts.complete(numbered, score_batches, on_progress)
            rows = [
                row for number, each in results.items() for row in rows_of(each, numbered[number])
            ]
            write_json_lines(self.path / SCORES_JSONL, rows)
            self.finish([*(f"{BATCHES}/{part_file(number)}" for number in results), SCORES_JSONL])
        return rows


def recorded_shard(whole: Path, shard: Shard) -> RunRecord | None:
    """Return what a shard in the folder of a run says of itself, or None if it says nothing yet.

    Raises:
        RunFolderError: its folder holds something else.
    """
    folder = whole / shard.folder
    recorded = read_record(folder)
    if recorded is None:
        return None
    mark = recorded.settings.get(SHARD)
    of_this = isinstance(mark, dict) and (
        type(mark.get("batches")) is int
        and (mark.get("number"), mark.get("of")) == (shard.number, shard.of)
    )
    if not of_this:
        raise RunFolderError(
            f"{folder / RUN} is not that of shard {shard}; delete {folder}, and score that shard "
            "again",
            "out",
        )
    return recorded


def of_whole(recorded: RunRecord) -> dict[str, Any]:
    """Return the settings of the run that a shard is of."""
    return of_whole_settings(recorded.settings)


def of_whole_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run from those of one of its shards."""
    return {name: value for name, value in settings.items() if name != SHARD}

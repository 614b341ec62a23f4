"""Run folders of scores: masses that are measured batch by batch.

A run is cut into batches in an order that depends on its settings alone, and each finished one is
kept, so that what was killed is continued in the same batches: the end is the same, bit for bit.

    run.json             the settings; "finished" once everything below is there, with its digests
    shards/00007.safetensors    while it runs: the batches done so far
    layers/              while it runs layer by layer: how far the batch is that is being scored
    masses.safetensors   all of them together (SRAResult.load reads it)
    …                    tables that the caller writes from it
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sra_fast.chat.encoding import EncodedPrompt
from sra_fast.files.kept_parts import KeptParts
from sra_fast.files.numbered_batches import BatchParts, ScoreBatches, batches, token_count
from sra_fast.files.run_folder import RunFolder
from sra_fast.result import SRAResult

SHARDS = "shards"
LAYERS = "layers"

_logger = logging.getLogger(__name__)

_WHOLE, _SUFFIX = "masses", ".safetensors"
MASSES = f"{_WHOLE}{_SUFFIX}"


class ScoreFolder(RunFolder):
    """A run folder that holds the scores of prompts.

    Args:
        path: the folder, which is made when the run begins, with its parents.
        settings: everything the scores depend on, as JSON can say it.
        shards: names of the folders in it that hold the run's batches until they are merged.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], shards: Sequence[str] = ()) -> None:
        super().__init__(path, settings, temporary=(SHARDS, LAYERS, *shards), beside=shards)
        self._whole = KeptParts(
            path, _SUFFIX, SRAResult.load, lambda file, result: result.save(file)
        )
        self._parts = BatchParts(path / SHARDS)

    def result(self) -> SRAResult | None:
        """Return the results if this very run was finished here and they are whole, else None.

        Raises:
            RunFolderError: the folder holds something else.
        """
        if not self.is_finished() or MASSES in self.damaged():
            return None
        return self._whole.get(_WHOLE)

    def complete(
        self,
        prompts: Sequence[EncodedPrompt],
        batch_tokens: int,
        score_batches: ScoreBatches,
        write_tables: Callable[[SRAResult], None] = lambda result: None,
        on_progress: Callable[[int], None] = lambda tokens: None,
        tables: Sequence[str] = (),
    ) -> SRAResult:
        """Score what is not scored yet and write the files; a finished run is read.

        What is missing or damaged in a finished run is said, and made again.

        Args:
            prompts: all of them, in order.
            batch_tokens: most tokens of a batch, or one prompt if that is longer.
            score_batches: what scores the batches that are not there yet, in this process
                (:func:`~sra_fast.files.numbered_batches.one_by_one`) or elsewhere.
            write_tables: called with all results before the run counts as finished, and again where
                it was finished before: tables follow from the masses, whatever became of them.
            on_progress: called with the number of tokens of each batch that is done or was.
            tables: names of the files that ``write_tables`` writes.

        Raises:
            RunFolderError: the folder holds something else, or another process works in it.
        """
        with self.opened():
            for name in self.damaged():
                _logger.warning(
                    "%s is missing, or not as it was written; it is made again", self.path / name
                )
            whole = self.result()
            if whole is not None:
                on_progress(token_count(prompts))
                write_tables(whole)
                self.finish([MASSES, *tables])
                return whole
            numbered = dict(enumerate(batches(prompts, batch_tokens)))
            results = self._parts.complete(numbered, score_batches, on_progress)
            return self.assemble(list(results.values()), write_tables, tables)

    def assemble(
        self,
        results: Sequence[SRAResult],
        write_tables: Callable[[SRAResult], None] = lambda result: None,
        tables: Sequence[str] = (),
    ) -> SRAResult:
        """Put the results of all batches together and finish the run; call it inside `opened`.

        Args:
            results: the results of the batches, in the order of their numbers.
            write_tables, tables: as those of :meth:`complete`.

        Returns:
            All results as one.
        """
        whole = SRAResult.concatenate(results)
        self._whole.put(_WHOLE, whole)
        write_tables(whole)
        self.finish([MASSES, *tables])
        return whole

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
from functools import partial
from pathlib import Path
from typing import Any

from sra_fast.chat.encoding import EncodedPrompt
from sra_fast.files.kept_parts import KeptParts, part_name
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
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(path, settings, temporary=(SHARDS, LAYERS))
        self._whole, self._shards = _results(path), _results(path / SHARDS)

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
        score_batch: Callable[[Sequence[EncodedPrompt]], SRAResult],
        write_tables: Callable[[SRAResult], None] = lambda result: None,
        on_progress: Callable[[int], None] = lambda tokens: None,
        tables: Sequence[str] = (),
    ) -> SRAResult:
        """Score what is not scored yet and write the files; a finished run is read.

        What is missing or damaged in a finished run is said, and made again.

        Args:
            prompts: all of them, in order.
            batch_tokens: most tokens of a batch, or one prompt if that is longer.
            score_batch: prompts to results, in order.
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
                on_progress(sum(len(prompt.input_ids) for prompt in prompts))
                write_tables(whole)
                self.finish([MASSES, *tables])
                return whole
            results = []
            for number, batch in enumerate(batches(prompts, batch_tokens)):
                results.append(
                    self._shards.get_or_compute(
                        part_name(number), partial(_answers, batch), partial(score_batch, batch)
                    )
                )
                on_progress(sum(len(prompt.input_ids) for prompt in batch))
            whole = SRAResult.concatenate(results)
            self._whole.put(_WHOLE, whole)
            write_tables(whole)
            self.finish([MASSES, *tables])
        return whole


def batches(prompts: Sequence[EncodedPrompt], tokens: int) -> list[list[EncodedPrompt]]:
    """Cut prompts, in order, into batches of at most ``tokens`` tokens and at least one prompt."""
    found: list[list[EncodedPrompt]] = []
    room = 0
    for prompt in prompts:
        length = len(prompt.input_ids)
        if not found or length > room:
            found.append([])
            room = tokens
        found[-1].append(prompt)
        room -= length
    return found


def _results(folder: Path) -> KeptParts[SRAResult]:
    return KeptParts(folder, _SUFFIX, SRAResult.load, lambda path, result: result.save(path))


def _answers(batch: Sequence[EncodedPrompt], result: SRAResult) -> bool:
    """Return whether a result is that of the responses of a batch, in order."""
    wanted = [(prompt.conversation, turn) for prompt in batch for turn in prompt.turns]
    return list(zip(result.conversation.tolist(), result.turn.tolist(), strict=True)) == wanted

"""Cut prompts into numbered batches, and keep the result of each in a file of its number.

The batches follow from the prompts and the most tokens of a batch alone. So whoever scores them, in
whatever order, in one process or in many, the result of a number is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sra_fast.chat.encoding import EncodedPrompt
from sra_fast.files.kept_parts import KeptParts, part_name
from sra_fast.result import SRAResult
from sra_fast.tools.filled_groups import filled_groups

Batch = Sequence[EncodedPrompt]
ScoreBatches = Callable[[Mapping[int, Batch]], Iterable[tuple[int, SRAResult]]]
"""Scores batches by number, and gives each result with its number as it is done, in any order."""


def batches(prompts: Sequence[EncodedPrompt], tokens: int) -> list[list[EncodedPrompt]]:
    """Cut prompts, in order, into batches of at most ``tokens`` tokens and at least one prompt.

    The number of a batch is its place in the list.
    """
    return filled_groups(prompts, lambda prompt: len(prompt.input_ids), tokens)


def token_count(prompts: Iterable[EncodedPrompt]) -> int:
    """Return the number of tokens of all prompts together."""
    return sum(len(prompt.input_ids) for prompt in prompts)


def one_by_one(score_batch: Callable[[Batch], SRAResult]) -> ScoreBatches:
    """Return what scores batches one after another in this process.

    Args:
        score_batch: turns the prompts of a batch into results, in order.
    """

    def score(missing: Mapping[int, Batch]) -> Iterable[tuple[int, SRAResult]]:
        return ((number, score_batch(batch)) for number, batch in missing.items())

    return score


class BatchParts:
    """The results of numbered batches, a file each, in a folder.

    Args:
        folder: where the files lie; made when the first is written.
    """

    SUFFIX = ".safetensors"

    def __init__(self, folder: Path) -> None:
        self._parts = KeptParts(folder, self.SUFFIX, SRAResult.load, _save)

    def get(self, number: int, batch: Batch) -> SRAResult | None:
        """Return the result of a batch, or None if it is not there or is not that of this batch."""
        part = self._parts.get(part_name(number))
        return _named(batch, part) if part is not None and _answers(batch, part) else None

    def put(self, number: int, result: SRAResult) -> None:
        """Store the result of a batch, whole or not at all."""
        self._parts.put(part_name(number), result)

    def complete(
        self,
        numbered: Mapping[int, Batch],
        score_batches: ScoreBatches,
        on_progress: Callable[[int], None] = lambda tokens: None,
    ) -> dict[int, SRAResult]:
        """Return the result of each batch, and have those scored that are not there yet.

        Args:
            numbered: the batches by number.
            score_batches: what scores those that are missing; each result is stored as it comes.
            on_progress: called with the number of tokens of each batch that is done or was.

        Returns:
            The results by number, in the order of the numbers.

        Raises:
            RuntimeError: ``score_batches`` ended without the results of all.
        """
        done: dict[int, SRAResult] = {}
        missing: dict[int, Batch] = {}
        for number, batch in sorted(numbered.items()):
            part = self.get(number, batch)
            if part is None:
                missing[number] = batch
                continue
            done[number] = part
            on_progress(token_count(batch))
        for number, result in score_batches(missing) if missing else ():
            self.put(number, result)
            done[number] = result
            on_progress(token_count(missing[number]))
        if lost := sorted(missing.keys() - done.keys()):
            raise RuntimeError(f"the batches {lost} were not scored, and nothing said why")
        return dict(sorted(done.items()))


def part_file(number: int) -> str:
    """Return the name of the file that holds the result of the batch with a number."""
    return f"{part_name(number)}{BatchParts.SUFFIX}"


def _save(path: Path, result: SRAResult) -> None:
    result.save(path)


def _named(batch: Batch, part: SRAResult) -> SRAResult:
    """Return a result with the ids and metadata of its batch, which earlier versions left out."""
    if part.conversation_ids:
        return part
    prompts = [prompt for prompt in batch for _ in prompt.turns]
    ids = tuple(prompt.conversation_id for prompt in prompts)
    meta = tuple(prompt.meta for prompt in prompts)
    return replace(
        part,
        conversation_ids=ids if any(one is not None for one in ids) else (),
        meta=meta if any(meta) else (),
    )


def _answers(batch: Batch, result: SRAResult) -> bool:
    """Return whether a result is that of the responses of a batch, in order."""
    wanted = [(prompt.conversation, turn) for prompt in batch for turn in prompt.turns]
    return list(zip(result.conversation.tolist(), result.turn.tolist(), strict=True)) == wanted

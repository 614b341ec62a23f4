"""Replies to many prompts in batches, each kept as soon as it is there.

Batches are cut in an order that depends on the prompts alone. Each finished one is a file that
appears whole or not at all; what is missing after a crash is generated again, from the same random
numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sra_fast.runs import write_text
from sra_fast.training.generation.cleaning import clean_reply
from sra_fast.training.generation.prompts import GenerationPrompt, encode_prompts
from sra_fast.training.generation.sampling import Sampling, item_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sra_fast.training.endpoint import Endpoint

BATCH = 32


@dataclass(frozen=True)
class Reply:
    """A reply to one prompt.

    Attributes:
        item: the prompt's.
        text: cleaned; empty if the model said nothing.
        raw: as it came.
        tokens: number of new tokens.
        finished: False where it was cut at ``max_new_tokens``.
    """

    item: str
    text: str
    raw: str
    tokens: int
    finished: bool


class Replier(Protocol):
    """Whoever replies to prompts."""

    def plan(self, prompts: Sequence[GenerationPrompt]) -> list[list[int]]:
        """Batches, as indices of prompts."""

    def reply(self, prompts: Sequence[GenerationPrompt]) -> list[Reply]:
        """Replies to one batch."""


class LocalReplier:
    """A model of transformers.

    Args:
        model, tokenizer: of it.
        sampling: how tokens are drawn.
        batch: most prompts of a forward pass.
        share: whether common beginnings are computed once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        *,
        batch: int = BATCH,
        share: bool = True,
    ) -> None:
        from sra_fast.training.generation.local import LocalModel

        self._tokenizer: Any = tokenizer
        self._batch = batch
        self._model = LocalModel(model, tokenizer, sampling, share=share)

    def plan(self, prompts: Sequence[GenerationPrompt]) -> list[list[int]]:
        """Groups stay together; groups of like length share a batch."""
        encoded = encode_prompts(self._tokenizer, prompts)
        return batches([p.group for p in prompts], [len(ids) for ids in encoded], self._batch)

    def reply(self, prompts: Sequence[GenerationPrompt]) -> list[Reply]:
        """Replies to one batch."""
        encoded = encode_prompts(self._tokenizer, prompts)
        items, groups = [p.item for p in prompts], [p.group for p in prompts]
        replies = []
        for item, new in zip(items, self._model.reply(items, encoded, groups), strict=True):
            raw = self._tokenizer.decode(new.tokens, skip_special_tokens=True)
            replies.append(Reply(item, clean_reply(raw), raw, len(new.tokens), new.finished))
        return replies


class EndpointReplier:
    """A model behind an OpenAI-compatible endpoint; each item's seed goes with its request."""

    def __init__(self, endpoint: Endpoint, sampling: Sampling, *, batch: int = BATCH) -> None:
        self._endpoint, self._sampling, self._batch = endpoint, sampling, batch

    def plan(self, prompts: Sequence[GenerationPrompt]) -> list[list[int]]:
        """In their order."""
        everything = range(len(prompts))
        return [list(everything[at : at + self._batch]) for at in everything[:: self._batch]]

    def reply(self, prompts: Sequence[GenerationPrompt]) -> list[Reply]:
        """Requests of one batch run side by side.

        Raises:
            EndpointError: one of them failed for good.
        """
        replies: dict[str, Reply] = {}
        for prompt, outcome in self._endpoint.each(prompts, self._one):
            if not isinstance(outcome, Reply):
                raise outcome
            replies[prompt.item] = outcome
        return [replies[prompt.item] for prompt in prompts]

    def _one(self, prompt: GenerationPrompt) -> Reply:
        sampling = self._sampling
        answer = self._endpoint.chat(
            prompt.messages,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=item_seed(sampling.seed, prompt.item) % 2**31,
        )
        used = int(answer.usage.get("completion_tokens", 0))
        text = clean_reply(answer.text)
        return Reply(prompt.item, text, answer.text, used, answer.finish_reason != "length")


def batches(groups: Sequence[str], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Indices of at most ``most`` prompts each: whole groups by length, cut where a batch is full.

    Longest first, so that what does not fit in memory is known at once.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    in_order = sorted(members.values(), key=lambda group: -max(lengths[i] for i in group))
    rows = [index for group in in_order for index in group]
    return [rows[at : at + most] for at in range(0, len(rows), most)]


def complete(
    replier: Replier,
    prompts: Sequence[GenerationPrompt],
    folder: Path,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Reply]:
    """Replies to all prompts; those that an earlier call left in ``folder`` are read.

    Args:
        replier: who replies.
        prompts: with items that differ.
        folder: for the batches' files; of these prompts and this replier alone.
        on_progress: called with the number of replies of each batch that is done or was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replies: dict[str, Reply] = {}
    for number, batch in enumerate(replier.plan(prompts)):
        file = folder / f"{number:05d}.jsonl"
        wanted = [prompts[index] for index in batch]
        done = _read(file, wanted)
        if done is None:
            done = replier.reply(wanted)
            lines = (json.dumps(asdict(reply), ensure_ascii=False) for reply in done)
            write_text(file, "".join(f"{line}\n" for line in lines))
        replies.update({reply.item: reply for reply in done})
        on_progress(len(done))
    return replies


def _read(file: Path, wanted: Iterable[GenerationPrompt]) -> list[Reply] | None:
    """What a batch's file holds; None if it is not there or of other prompts."""
    try:
        found = [Reply(**entry) for entry in _entries(file)]
    except (OSError, ValueError, TypeError):
        return None
    same = [reply.item for reply in found] == [prompt.item for prompt in wanted]
    return found if same else None


def _entries(file: Path) -> Iterator[Mapping[str, Any]]:
    for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
        yield json.loads(line)

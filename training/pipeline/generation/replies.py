"""Replies to many prompts in batches, each kept as soon as it is there.

Batches are cut in an order that depends on the prompts alone. Each finished one is a file that
appears whole or not at all; what is missing after a crash is generated again, from the same random
numbers. An endpoint may leave gaps in a batch; the next call asks for those alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sra_fast.chat.encoding import control_tokens
from sra_fast.files.kept_parts import KeptParts
from sra_fast.tools.atomic import write_json_lines
from sra_fast.tools.strict_json import read_json_lines

from .cleaning import clean_reply
from .generation_prompts import (
    GenerationPrompt,
    encode_prompts,
)
from .sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 32

_NAMED = 3  # reasons of failures in an error


class UnansweredError(ValueError):
    """Prompts of a batch got no reply.

    Attributes:
        replies: to the batch's other prompts, in order.
        reasons: one of each prompt that failed.
        for_all: there is no sense in asking for more now.
    """

    def __init__(self, replies: Sequence[Reply], reasons: Sequence[str], *, for_all: bool) -> None:
        super().__init__("; ".join(reasons[:_NAMED]))
        self.replies, self.reasons, self.for_all = list(replies), list(reasons), for_all


class IncompleteError(ValueError):
    """Some prompts have no reply; the message says how many, why, and how to go on.

    Attributes:
        replies: item to reply, of the others.
        given_up: prompts were left unasked.
    """

    def __init__(
        self, replies: Mapping[str, Reply], wanted: int, failures: Counter[str], *, given_up: bool
    ) -> None:
        reasons = [f"{count} × {reason}" for reason, count in failures.most_common(_NAMED)]
        more = f"; and {len(failures) - _NAMED} more reasons" if len(failures) > _NAMED else ""
        super().__init__(
            f"{wanted - len(replies)} of {wanted} prompts have no reply; what is done is kept, and "
            f"the same command asks for the others. Requests failed: {'; '.join(reasons)}{more}"
        )
        self.replies, self.given_up = dict(replies), given_up


@dataclass(frozen=True)
class Reply:
    """A reply to one prompt.

    Attributes:
        item: the prompt's.
        text: cleaned; empty if the model said nothing.
        raw: as it came.
        tokens: number of new tokens; 0 if an endpoint does not count them.
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
        """Replies to one batch.

        Raises:
            UnansweredError: some of them failed for good.
        """


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
        from .local import LocalModel

        self._tokenizer: Any = tokenizer
        self._controls = control_tokens(tokenizer)
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
            text = clean_reply(_without(self._controls, raw))
            replies.append(Reply(item, text, raw, len(new.tokens), new.finished))
        return replies


def _without(tokens: Sequence[str], text: str) -> str:
    """Control tokens that a model spelt out letter by letter would be read as such in a chat."""
    while any(token in text for token in tokens):
        for token in tokens:
            text = text.replace(token, "")
    return text


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

    Raises:
        IncompleteError: prompts failed for good. The batches behind them were done all the same,
            unless it has ``given_up``.
    """
    parts = KeptParts(folder, ".jsonl", _read_replies, _write_replies)
    kept = {reply.item: reply for part in parts.all() for reply in part}
    replies: dict[str, Reply] = {}
    failures: Counter[str] = Counter()
    given_up = False
    for batch in replier.plan(prompts):
        wanted = [prompts[index] for index in batch]
        missing = [prompt for prompt in wanted if prompt.item not in kept]
        if missing:
            try:
                found = replier.reply(missing)
            except UnansweredError as error:
                found, given_up = error.replies, error.for_all
                failures.update(error.reasons)
            if found:
                parts.append(found)
            kept.update({reply.item: reply for reply in found})
        done = {prompt.item: kept[prompt.item] for prompt in wanted if prompt.item in kept}
        replies.update(done)
        on_progress(len(done))
        if given_up:
            break
    if failures:
        raise IncompleteError(replies, len(prompts), failures, given_up=given_up)
    return replies


def _write_replies(path: Path, replies: Sequence[Reply]) -> None:
    write_json_lines(path, map(asdict, replies))


def _read_replies(path: Path) -> Sequence[Reply]:
    replies = []
    for where, entry in read_json_lines(path, raises=ValueError):
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise ValueError(f"{where} is no reply")
        replies.append(Reply(**entry))
    return replies

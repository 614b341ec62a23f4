"""Generate replies to many prompts in batches, and save each batch as soon as it is done.

The batches depend on the prompts alone. Each finished batch is a file that appears whole or not at
all; what is missing after a crash is generated again, from the same random numbers. An endpoint may
leave prompts of a batch without a reply; the next call asks for those alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sra_fast.chat.chat_template import read_chat_template
from sra_fast.chat.thoughts import Thoughts, reply_start
from sra_fast.files.kept_parts import KeptParts
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.atomic import write_json_lines
from sra_fast.tools.strict_json import read_json_lines

from .cleaning import clean_reply
from .generation_prompts import (
    GenerationPrompt,
    tokenized_prompts,
)
from .sampling import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 32
"""The most prompts of a batch, unless told otherwise."""

_NAMED = 3  # the most reasons that an error names; it counts the others


class UnansweredError(ArgumentError):
    """Raised when prompts of a batch got no reply; the message gives the reasons.

    Args:
        replies: the attribute of that name.
        reasons: the attribute of that name.
        arguments: names of arguments that were at fault.
        for_all: the attribute of that name.

    Attributes:
        replies: the replies to the other prompts of the batch, in order.
        reasons: why each prompt that has no reply failed.
        for_all: whether further requests would fail as well, so that the run should stop.
    """

    def __init__(
        self, replies: Sequence[Reply], reasons: Sequence[str], *arguments: str, for_all: bool
    ) -> None:
        super().__init__("; ".join(reasons[:_NAMED]), *arguments)
        self.replies, self.reasons, self.for_all = list(replies), list(reasons), for_all


class MissingRepliesError(ArgumentError):
    """Raised when prompts have no reply; the message says how many, why, and how to go on.

    Args:
        replies: the attribute of that name.
        wanted: the number of all prompts.
        failures: how many prompts failed for each reason.
        arguments: names of arguments that were at fault.
        given_up: the attribute of that name.

    Attributes:
        replies: the replies that are there, by the name of their item.
        given_up: whether the run stopped before it had asked for every reply.
    """

    def __init__(
        self,
        replies: Mapping[str, Reply],
        wanted: int,
        failures: Counter[str],
        *arguments: str,
        given_up: bool,
    ) -> None:
        reasons = [f"{count} × {reason}" for reason, count in failures.most_common(_NAMED)]
        more = f"; and {len(failures) - _NAMED} more reasons" if len(failures) > _NAMED else ""
        super().__init__(
            f"{wanted - len(replies)} of {wanted} prompts have no reply; what is done is kept, and "
            f"the same command asks for the others. Requests failed: {'; '.join(reasons)}{more}",
            *arguments,
        )
        self.replies, self.given_up = dict(replies), given_up


@dataclass(frozen=True)
class Reply:
    """The reply to one prompt.

    Attributes:
        item: the name of the prompt.
        text: the reply, cleaned; empty if the model said nothing.
        raw: what the model wrote, before it was cleaned.
        tokens: the number of new tokens; 0 if an endpoint does not count them.
        finished: whether the model ended the reply; False if it was cut at ``max_new_tokens``.
    """

    item: str
    text: str
    raw: str
    tokens: int
    finished: bool


class Replier(Protocol):
    """A thing that generates replies: a local model or an endpoint."""

    def plan(self, prompts: Sequence[GenerationPrompt]) -> list[list[int]]:
        """Return the batches, each as a list of indices into ``prompts``."""

    def reply(self, prompts: Sequence[GenerationPrompt]) -> list[Reply]:
        """Return the replies to one batch of prompts, in their order.

        Raises:
            UnansweredError: some of the prompts failed for good.
        """


class LocalReplier:
    """A replier that runs a model of transformers on this machine.

    Args:
        model: the model, on the device where it runs.
        tokenizer: the tokenizer of the model.
        sampling: how tokens are drawn.
        batch: the most prompts of a forward pass.
        share: whether the common beginning of a group's prompts is computed once.
        thoughts, now: the arguments of those names of :func:`sra_fast.encode`. A thought before a
            reply is taken off.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        *,
        batch: int = BATCH,
        share: bool = True,
        thoughts: Thoughts | None = None,
        now: datetime | None = None,
    ) -> None:
        from .local import LocalModel

        self._tokenizer: Any = tokenizer
        self._template = read_chat_template(tokenizer, thoughts=thoughts, now=now)
        self._batch = batch
        self._model = LocalModel(model, tokenizer, sampling, share=share)

    def plan(self, prompts: Sequence[GenerationPrompt]) -> list[list[int]]:
        """Return batches of indices into ``prompts``: groups of similar length share a batch."""
        encoded = tokenized_prompts(self._template, prompts)
        return batches([p.group for p in prompts], [len(ids) for ids in encoded], self._batch)

    def reply(self, prompts: Sequence[GenerationPrompt]) -> list[Reply]:
        """Return the replies to one batch of prompts, in their order."""
        encoded = tokenized_prompts(self._template, prompts)
        items, groups = [p.item for p in prompts], [p.group for p in prompts]
        replies = []
        for item, new in zip(items, self._model.reply(items, encoded, groups), strict=True):
            raw = self._tokenizer.decode(new.tokens, skip_special_tokens=True)
            text = clean_reply(_without(self._template.control_tokens, self._reply(new.tokens)))
            replies.append(Reply(item, text, raw, len(new.tokens), new.finished))
        return replies

    def _reply(self, tokens: Sequence[int]) -> str:
        """Return the text of new tokens without the thoughts at its beginning."""
        pairs = self._template.thoughts
        # The tags of a thought may be control tokens.
        controls = any(tag in self._template.control_tokens for pair in pairs for tag in pair)
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=not controls)
        return text[reply_start(text, pairs) :]


def _without(tokens: Sequence[str], text: str) -> str:
    """Return the text without any of the given tokens.

    A model may spell out a control token letter by letter; a chat template would take it for one.
    """
    while any(token in text for token in tokens):
        for token in tokens:
            text = text.replace(token, "")
    return text


def batches(groups: Sequence[str], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Cut prompts into batches: group after group by length, cut wherever a batch is full.

    The longest come first, so that a batch that does not fit in memory fails at once.

    Args:
        groups: the group of each prompt.
        lengths: the number of tokens of each prompt.
        most: the most prompts of a batch.

    Returns:
        The batches, each as a list of indices of prompts.
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
    """Return the replies to all prompts by item; those of an earlier call are read from files.

    Args:
        replier: what generates the replies.
        prompts: the prompts, each with an item of its own.
        folder: where the files of the batches go; it belongs to these prompts and this replier.
        on_progress: called with the number of replies of each batch, new or read from its file.

    Raises:
        MissingRepliesError: prompts failed for good. The batches after them were done all the
            same, unless its ``given_up`` is True.
    """
    parts = KeptParts(folder, ".jsonl", _read_replies, _write_replies)
    kept = {reply.item: reply for part in parts.all() for reply in part}
    replies: dict[str, Reply] = {}
    failures: Counter[str] = Counter()
    arguments: dict[str, None] = {}
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
                arguments.update(dict.fromkeys(error.arguments))
            if found:
                parts.append(found)
            kept.update({reply.item: reply for reply in found})
        done = {prompt.item: kept[prompt.item] for prompt in wanted if prompt.item in kept}
        replies.update(done)
        on_progress(len(done))
        if given_up:
            break
    if failures:
        raise MissingRepliesError(replies, len(prompts), failures, *arguments, given_up=given_up)
    return replies


def _write_replies(path: Path, replies: Sequence[Reply]) -> None:
    write_json_lines(path, map(asdict, replies))


def _read_replies(path: Path) -> Sequence[Reply]:
    replies = []
    for where, entry in read_json_lines(path, raises=ValueError):
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise ValueError(
                f"{where} holds no reply of an earlier run; restore or delete this file"
            )
        replies.append(Reply(**entry))
    return replies

"""Turn a conversation into a training example: encode it, label its last reply, fit its length.

Only the last reply has a loss: the conversation's ``response``, or else its last assistant
message; everything after it is left out. Encoding is ``sra_fast.encode``'s, so that prompts, marks
and errors are those of scoring.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import torch

from sra_fast.chat.conversations import Conversation
from sra_fast.chat.encoding import EncodedPrompt, encode_prompts
from sra_fast.chat.templates import PromptTemplate
from sra_fast.chat.thoughts import Thoughts
from sra_fast.measure.watching import IGNORED_LABEL
from sra_fast.names import TooLong
from sra_fast.tools.argument_error import ArgumentError

_BLOCK = 64  # conversations that are tokenised at once
_NAMED = 5  # the most conversations that a message names; it counts the others


class TrainingDataError(ArgumentError):
    """Raised when conversations cannot be trained on; the message names them and the way out."""


@dataclass(frozen=True)
class LengthReport:
    """How many conversations the length limit dropped or cut, and which.

    Attributes:
        max_length: the limit in tokens.
        conversations: number of conversations read.
        dropped: names of the conversations that were left out.
        cut: names of the conversations that lost their oldest turns.
    """

    max_length: int
    conversations: int
    dropped: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each thing that the limit did; none if every conversation fitted."""
        done = {"were left out": self.dropped, "lost their oldest turns": self.cut}
        return tuple(
            f"{len(names)} of {self.conversations} conversations are longer than "
            f"{self.max_length} tokens and {what}: {_listed(names)}"
            for what, names in done.items()
            if names
        )


@dataclass(frozen=True)
class Encoded:
    """What became of one conversation: a training example, or one that is too long.

    Attributes:
        label: what messages call the conversation.
        tokens: its length in tokens, after any cut.
        example: the columns of its example, masks and tokens as arrays; None if it is too long.
        was_cut: whether its oldest turns were left out.
    """

    label: str
    tokens: int
    example: dict[str, Any] | None
    was_cut: bool


@dataclass(frozen=True)
class ExampleEncoder:
    """An encoder that turns conversations into training examples.

    The fields are the arguments of ``training_examples``. It travels to the workers of a data
    loader, so its parts must be picklable.
    """

    tokenizer: Any
    template: PromptTemplate
    strategies: dict[str, str] | None
    max_length: int
    too_long: TooLong
    thoughts: Thoughts | None = None
    now: datetime | None = None

    def encoded(self, conversations: Iterable[Conversation]) -> Iterator[Encoded]:
        """Encode conversations one by one, in order, reading ahead no further than a block.

        Raises:
            ConversationError: a strategy is unknown.
            EncodingError: the chat template drops the strategy or alters a text.
            TrainingDataError: the chat template puts nothing after a reply.
        """
        added = self.tokenizer.added_tokens_decoder.items()
        control = torch.tensor([i for i, token in added if token.special], dtype=torch.int64)
        remaining = iter(conversations)
        while block := [_up_to_the_last_reply(c) for c in itertools.islice(remaining, _BLOCK)]:
            for whole, prompt in zip(block, self._prompts(block), strict=True):
                kept = whole
                if len(prompt.input_ids) > self.max_length and self.too_long == "cut_oldest_turns":
                    kept, prompt = self._cut(whole, prompt)
                tokens = len(prompt.input_ids)
                fits = tokens <= self.max_length
                example = _example(kept, prompt, control) if fits else None
                yield Encoded(whole.label, tokens, example, kept is not whole)

    def refusal(self, refused: Sequence[Encoded], among: int | None = None) -> TrainingDataError:
        """Return the error for conversations that are too long.

        Args:
            refused: the conversations that are too long.
            among: how many conversations there are, if that is known.
        """
        ways = {
            "error": "raise max_length, or choose too_long 'drop' or 'cut_oldest_turns'",
            "drop": "raise max_length",
            "cut_oldest_turns": "raise max_length, or choose too_long 'drop' to leave them out",
        }[self.too_long]
        cut = self.too_long == "cut_oldest_turns"
        shortened = " even without any turn before the last user message" if cut else ""
        found = f"{len(refused)} of {among} conversations are"
        if among is None:
            found = "a conversation is"
        return TrainingDataError(
            f"{found} longer than {self.max_length} tokens{shortened}: "
            f"{_listed([one.label for one in refused])} (the longest has "
            f"{max(one.tokens for one in refused)}); {ways}",
            *(("max_length",) if self.too_long == "drop" else ("max_length", "too_long")),
        )

    def _prompts(self, conversations: Sequence[Conversation]) -> list[EncodedPrompt]:
        return encode_prompts(
            self.tokenizer,
            conversations,
            self.template,
            strategies=self.strategies,
            turns="last",
            thoughts=self.thoughts,
            now=self.now,
        )

    def _cut(
        self, whole: Conversation, prompt: EncodedPrompt
    ) -> tuple[Conversation, EncodedPrompt]:
        """Leave out as few of the oldest turns as make the conversation fit, or all if none do.

        What remains begins with a user message, as most chat templates want it.
        """
        messages = whole.messages
        starts = [i for i, message in enumerate(messages) if i > 0 and message.role == "user"]
        best = whole, prompt
        low, high = 0, len(starts)
        while low < high:
            middle = (low + high) // 2
            kept = replace(whole, messages=messages[starts[middle] :])
            (shorter,) = self._prompts([kept])
            fits = len(shorter.input_ids) <= self.max_length
            if fits or middle == len(starts) - 1:
                best = kept, shorter
            low, high = (low, middle) if fits else (middle + 1, high)
        return best


def _example(
    conversation: Conversation, prompt: EncodedPrompt, control: torch.Tensor
) -> dict[str, Any]:
    ids, reply = prompt.input_ids, prompt.response_mask > 0
    end = int(reply.nonzero()[-1]) + 1
    if end == len(ids):
        raise TrainingDataError(
            f"{conversation.label}: the chat template puts nothing after the last reply, so a "
            "model would never learn to stop; set a tokenizer.chat_template that ends an "
            "assistant's message, with the end-of-turn token for example"
        )
    # Generation stops at the end-of-turn token: what the template writes after it, a line break
    # for example, is never the model's to say. Some models end a reply and a turn with two tokens.
    ends = torch.isin(ids[end:], control)
    stop = len(ids)
    if ends.any():
        first = int(ends.int().argmax())
        stop = end + first + int(ends[first:].int().cumprod(0).sum())
    labelled = reply.clone()
    labelled[end:stop] = True
    return {
        "input_ids": ids.int().numpy(),
        "labels": torch.where(labelled, ids, IGNORED_LABEL).int().numpy(),
        "strategy_mask": prompt.strategy_mask.numpy(),
        "response_mask": reply.numpy(),
        "length": len(ids),
        "strategy": conversation.strategy,
        "conversation": conversation.id,
        "dialogue": conversation.dialogue or conversation.id,
    }


def _up_to_the_last_reply(conversation: Conversation) -> Conversation:
    """Return a conversation that ends with its last reply, given as ``response``."""
    if conversation.response is not None:
        return conversation
    return conversation.with_last_reply(conversation.last_reply[1])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more

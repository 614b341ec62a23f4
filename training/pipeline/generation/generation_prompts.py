"""Prompts that end where a reply begins, exactly as scoring will read them with the reply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sra_fast.chat.chat_text import takes_system_message, write_chat
from sra_fast.chat.conversations import Conversation
from sra_fast.chat.encoding import check_tokenizer, control_tokens
from sra_fast.chat.templates import Prompt, PromptTemplate, render_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "\u2026"  # stands for the reply that is yet to come


@dataclass(frozen=True)
class GenerationPrompt:
    """A prompt to reply to.

    Attributes:
        item: names it; its random numbers come from that.
        group: of items whose prompts begin alike.
        prompt: its messages, the last of which is to be replaced by the reply.
    """

    item: str
    group: str
    prompt: Prompt

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat endpoints take them, without the reply."""
        return [
            {"role": message.role, "content": message.content}
            for message in self.prompt.messages[:-1]
        ]


def generation_prompts(
    conversations: Iterable[Conversation],
    template: PromptTemplate,
    strategies: Mapping[str, str] | None = None,
) -> list[GenerationPrompt]:
    """One prompt for the last reply of each conversation, which itself is not read.

    Raises:
        ConversationError: a strategy is not among ``strategies``.
    """
    made = []
    for conversation in conversations:
        opened = conversation.with_last_reply(PLACEHOLDER)
        (prompt,) = render_prompts(opened, template, strategies, turns="last")
        group = f"{opened.dialogue or opened.id}/{len(opened.messages)}"
        made.append(GenerationPrompt(conversation.id, group, prompt))
    return made


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[GenerationPrompt]
) -> list[Tensor]:
    """Token ids ``[T]`` int64 of each prompt, up to where the reply begins.

    Raises:
        EncodingError: as :func:`sra_fast.encode`.
    """
    check_tokenizer(tokenizer)
    takes_system = takes_system_message(tokenizer)
    control = control_tokens(tokenizer)
    texts = []
    for prompt in prompts:
        written = write_chat(tokenizer, prompt.prompt, takes_system, control)
        begin = next(start for part, start, _ in written.spans if part.turn is not None)
        texts.append(written.text[:begin])
    encoded = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, padding=False, verbose=False
    )
    return [torch.tensor(ids, dtype=torch.int64) for ids in encoded["input_ids"]]

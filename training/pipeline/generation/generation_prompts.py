"""Make prompts that end where a reply begins.

Their text is exactly what scoring will read in front of the reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sra_fast.chat.chat_template import ChatTemplate
from sra_fast.chat.chat_text import write_chat
from sra_fast.chat.conversations import Conversation
from sra_fast.chat.templates import Prompt, PromptTemplate, render_prompts
from sra_fast.chat.thoughts import Thoughts

PLACEHOLDER = "\u2026"  # stands for the reply that is yet to come


@dataclass(frozen=True)
class GenerationPrompt:
    """One prompt to which a reply is generated.

    Attributes:
        item: the name of the prompt, from which its random numbers come.
        group: the name of its group: prompts of one group begin alike.
        prompt: the messages; the last of them is a placeholder for the reply.
    """

    item: str
    group: str
    prompt: Prompt

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return the messages before the reply, as ``{"role": ..., "content": ...}``."""
        return [
            {"role": message.role, "content": message.content}
            for message in self.prompt.messages[:-1]
        ]


def generation_prompts(
    conversations: Iterable[Conversation],
    template: PromptTemplate,
    strategies: Mapping[str, str] | None = None,
    thoughts: Sequence[Thoughts] = (),
) -> list[GenerationPrompt]:
    """Make a prompt for the last reply of each conversation; the reply itself is not read.

    Args:
        conversations: the conversations, one prompt each.
        template: the prompt template that turns a conversation into messages.
        strategies: names and descriptions of the strategies; None for those of the library.
        thoughts: pairs of tags around a thought before a reply; older replies that become history
            stand there without it.

    Raises:
        ConversationError: the strategy of a conversation is not among ``strategies``.
    """
    made = []
    for conversation in conversations:
        opened = conversation.with_last_reply(PLACEHOLDER)
        (prompt,) = render_prompts(opened, template, strategies, turns="last", thoughts=thoughts)
        group = f"{opened.dialogue or opened.id}/{len(opened.messages)}"
        made.append(GenerationPrompt(conversation.id, group, prompt))
    return made


def tokenized_prompts(template: ChatTemplate, prompts: Sequence[GenerationPrompt]) -> list[Tensor]:
    """Return the token ids of each prompt up to where the reply begins, ``[T]`` int64.

    Args:
        template: the chat template of the model's tokenizer.
        prompts: the prompts to encode.

    Raises:
        EncodingError: a prompt cannot be used, for the same reasons as in
            :func:`sra_fast.encode`.
    """
    texts = []
    for prompt in prompts:
        written = write_chat(template, prompt.prompt)
        begin = next(start for part, start, _ in written.spans if part.turn is not None)
        texts.append(written.text[:begin])
    encoded = template.tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, padding=False, verbose=False
    )
    return [torch.tensor(ids, dtype=torch.int64) for ids in encoded["input_ids"]]

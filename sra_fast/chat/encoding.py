"""Turn conversations into tokens, with the tokens of the strategy and of every reply marked.

A prompt is written by the tokenizer's chat template, with known ranges of characters (see
:mod:`~sra_fast.chat.chat_text`), and tokenised once. The tokenizer's offsets tell the tokens of a
range (:mod:`~sra_fast.chat.token_marks`). Token ids are never searched.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import torch

from sra_fast.chat.chat_template import EncodingError, read_chat_template
from sra_fast.chat.conversations import Conversation, as_conversations
from sra_fast.chat.templates import PromptTemplate, get_template, render_prompts
from sra_fast.chat.thoughts import Thoughts
from sra_fast.chat.token_marks import mark_tokens
from sra_fast.chat.turn_layout import check_layout, write_turns
from sra_fast.chat.written_sources import number_sources
from sra_fast.names import SourceUnit, TurnLayout, Turns
from sra_fast.tools.counted import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_logger = logging.getLogger(__name__)

# Offsets are Python tuples, which take much memory; tokenising in blocks bounds their number.
_PROMPTS_PER_CALL = 128


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt as T tokens without padding, and which of them belong to the strategy or a reply.

    Attributes:
        input_ids: ``[T]`` int64, the tokens.
        strategy_mask: ``[T]`` bool, True at the tokens of the quoted strategy name.
        response_mask: ``[T]`` int32, k = 1, 2, ... at the tokens of the k-th scored reply, else 0.
        conversation: index of the conversation among those given.
        turns: the number of each scored reply among the assistant messages, from 1.
        source_ids: ``[T]`` int32, k at the tokens of the k-th source, else 0; None if no sources
            were asked for.
        source_names: what the sources are called, such as "message 0 (system)".
        layouts: how each scored reply and what stands before it are laid out: "as_generated", as
            when it was the last message, or "as_written", as the chat template writes it once
            others follow.
        conversation_id: the id of the conversation; None if it is not known.
        meta: what else is known of the conversation.
    """

    input_ids: torch.Tensor
    strategy_mask: torch.Tensor
    response_mask: torch.Tensor
    conversation: int
    turns: tuple[int, ...]
    layouts: tuple[TurnLayout, ...]
    source_ids: torch.Tensor | None = None
    source_names: tuple[str, ...] = ()
    conversation_id: str | None = None
    meta: Mapping[str, object] = field(default_factory=dict)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Iterable[Mapping[str, object] | Conversation],
    template: str | PromptTemplate = "standard",
    *,
    strategies: Mapping[str, str] | None = None,
    turns: Turns = "all",
    layout: TurnLayout = "as_generated",
    thoughts: Thoughts | None = None,
    now: datetime | None = None,
    padding_side: Literal["left", "right"] = "right",
    sources: SourceUnit | None = None,
) -> dict[str, Any]:
    """Turn conversations into one padded batch of tensors for ``sra_fast.score``.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        conversations: records (see ``sra_fast.chat.conversations``) or ``Conversation`` objects.
        template: name of one of the seven prompt templates, or a ``PromptTemplate``.
        strategies: mapping of strategy names to descriptions; the library's 23 if None.
        turns: "all" to score every reply, "last" to score the last one of each conversation.
        layout: how earlier turns are laid out where the chat template writes them differently once
            others follow. "as_generated" gives such a turn a row of its own, in which it is the
            last; "as_written" leaves all turns in one row, as they are written there.
        thoughts: the opening and the closing tag of a thought, such as ``("<think>", "</think>")``.
            A reply is what follows a thought at the beginning of an assistant message; without
            one, it is the whole message. None for the tags that the chat template itself takes
            thoughts away by, if it does.
        now: the date and time that a chat template with a date writes; this moment if None.
        padding_side: on which side of a row the padding goes.
        sources: "messages" to number the prompt's messages, all but the scored replies, as sources
            whose attention a profile tells (``profile`` of :func:`sra_fast.score`); "sentences" or
            "documents" to number those in the messages, as :func:`sra_fast.mark` does.

    Returns:
        ``input_ids`` and ``attention_mask`` ``[B, T]`` int64, ``strategy_mask`` ``[B, T]`` bool,
        ``response_mask`` ``[B, T]`` int32 (k at the tokens of the batch row's k-th reply, else 0),
        ``conversation`` ``[B]`` int64 (index into ``conversations``), ``turns`` ``[B, K]`` int64
        (turn of the k-th reply, -1 where there are fewer than K), and ``as_written`` ``[B, K]``
        bool (whether the k-th reply is laid out unlike when it was the last); with ``sources`` also
        ``source_ids`` ``[B, T]`` int32 and ``source_names``, a list of each row's names. The lists
        ``conversation_ids`` and, if a conversation has any, ``meta`` hold the id and the metadata
        of each row's conversation, for the result. With
        ``standard`` a row of the batch is a conversation, or a part of it that ``layout`` asks for;
        with the other templates it is one reply and its prompt.

    Raises:
        TypeError: ``strategies`` is not a mapping.
        ValueError: ``layout`` or ``thoughts`` is none of the values above.
        ConversationError: a conversation is malformed or its strategy unknown.
        PromptTemplateError: the template is unknown.
        EncodingError: the tokenizer cannot be used, or it or its chat template drops, doubles or
            alters a text that attention is measured on; or there are no such ``sources``.
    """
    encoded = encode_prompts(
        tokenizer,
        conversations,
        template,
        strategies=strategies,
        turns=turns,
        layout=layout,
        thoughts=thoughts,
        now=now,
        sources=sources,
    )
    if not encoded:
        raise EncodingError("there is no conversation to encode; give at least one")
    return collate(encoded, padding_token(tokenizer), padding_side)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Iterable[Mapping[str, object] | Conversation],
    template: str | PromptTemplate = "standard",
    *,
    strategies: Mapping[str, str] | None = None,
    turns: Turns = "all",
    layout: TurnLayout = "as_generated",
    thoughts: Thoughts | None = None,
    now: datetime | None = None,
    sources: SourceUnit | None = None,
) -> list[EncodedPrompt]:
    """Turn conversations into prompts without padding, in the order of the conversations.

    Arguments and errors are those of :func:`encode`.
    """
    check_layout(layout)
    chosen = get_template(template)
    chat = read_chat_template(tokenizer, thoughts=thoughts, now=now)
    given = list(as_conversations(conversations))
    prompts = [
        (index, prompt)
        for index, conversation in enumerate(given)
        for prompt in render_prompts(
            conversation, chosen, strategies, turns=turns, thoughts=chat.thoughts
        )
    ]
    labelled = (
        (index, prompt.conversation.label, written)
        for index, prompt in prompts
        for written in write_turns(chat, prompt, layout)
    )
    encoded: list[EncodedPrompt] = []
    while block := list(itertools.islice(labelled, _PROMPTS_PER_CALL)):
        # The chat template has written the control tokens already; a second BOS would be wrong.
        tokens = tokenizer(
            [written.text.text for _, _, written in block],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            padding=False,
            truncation=False,
            verbose=False,
        )
        columns = zip(block, tokens["input_ids"], tokens["offset_mapping"], strict=True)
        for (index, label, written), ids, offsets in columns:
            strategy, responses = mark_tokens(tokenizer, written.text, ids, offsets, label)
            numbered, names = (
                (None, ())
                if sources is None
                else number_sources(written.text, offsets, sources, label)
            )
            encoded.append(
                EncodedPrompt(
                    input_ids=torch.tensor(ids, dtype=torch.int64),
                    strategy_mask=strategy,
                    response_mask=responses,
                    conversation=index,
                    turns=written.turns,
                    layouts=written.layouts,
                    source_ids=numbered,
                    source_names=names,
                    conversation_id=given[index].id,
                    meta=given[index].meta,
                )
            )
    if len(encoded) > len(prompts):
        _logger.info(
            "the chat template writes earlier turns differently once others follow, so %s "
            "became %d",
            counted(len(prompts), "prompt"),
            len(encoded),
        )
    return encoded


def collate(
    prompts: Sequence[EncodedPrompt],
    pad_token_id: int,
    padding_side: Literal["left", "right"] = "right",
) -> dict[str, Any]:
    """Pad encoded prompts into one batch of tensors, in the form that ``encode`` returns.

    Args:
        prompts: what becomes the rows of the batch, in order.
        pad_token_id: the token to pad with.
        padding_side: on which side of a row the padding goes.

    Raises:
        ValueError: ``padding_side`` is neither "left" nor "right".
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', found {padding_side!r}")
    rows = len(prompts)
    width = max((len(prompt.input_ids) for prompt in prompts), default=0)
    replies = max((len(prompt.turns) for prompt in prompts), default=0)
    batch: dict[str, Any] = {
        "input_ids": torch.full((rows, width), pad_token_id, dtype=torch.int64),
        "attention_mask": torch.zeros((rows, width), dtype=torch.int64),
        "strategy_mask": torch.zeros((rows, width), dtype=torch.bool),
        "response_mask": torch.zeros((rows, width), dtype=torch.int32),
        "conversation": torch.tensor([p.conversation for p in prompts], dtype=torch.int64),
        "turns": torch.full((rows, replies), -1, dtype=torch.int64),
        "as_written": torch.zeros((rows, replies), dtype=torch.bool),
    }
    if any(prompt.conversation_id is not None for prompt in prompts):
        batch["conversation_ids"] = [prompt.conversation_id for prompt in prompts]
    if any(prompt.meta for prompt in prompts):
        batch["meta"] = [dict(prompt.meta) for prompt in prompts]
    if any(prompt.source_ids is not None for prompt in prompts):
        batch["source_ids"] = torch.zeros((rows, width), dtype=torch.int32)
        batch["source_names"] = [prompt.source_names for prompt in prompts]
    for row, prompt in enumerate(prompts):
        length = len(prompt.input_ids)
        here = slice(0, length) if padding_side == "right" else slice(width - length, width)
        batch["input_ids"][row, here] = prompt.input_ids
        batch["attention_mask"][row, here] = 1
        batch["strategy_mask"][row, here] = prompt.strategy_mask
        batch["response_mask"][row, here] = prompt.response_mask
        if prompt.source_ids is not None:
            batch["source_ids"][row, here] = prompt.source_ids
        batch["turns"][row, : len(prompt.turns)] = torch.tensor(prompt.turns, dtype=torch.int64)
        for k, layout in enumerate(prompt.layouts):
            batch["as_written"][row, k] = layout == "as_written"
    return batch


def padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token id to pad with: the padding token's, else the end of text's, else 0.

    Padding is masked, so any id will do.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0

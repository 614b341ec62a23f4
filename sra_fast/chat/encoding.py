"""Turn conversations into tokens, with the tokens of the strategy and of every reply marked.

A prompt is written by the tokenizer's chat template, with known ranges of characters (see
``sra_fast.chat.chat_text``). It is tokenised once, and the tokenizer's offsets tell the tokens of a
range. Token ids are never searched.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from sra_fast.chat.chat_text import ChatText, EncodingError, takes_system_message, write_chat
from sra_fast.chat.conversations import Conversation, as_conversations
from sra_fast.chat.templates import Prompt, PromptTemplate, get_template, render_prompts
from sra_fast.names import Turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    """

    input_ids: torch.Tensor
    strategy_mask: torch.Tensor
    response_mask: torch.Tensor
    conversation: int
    turns: tuple[int, ...]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Iterable[Mapping[str, object] | Conversation],
    template: str | PromptTemplate = "standard",
    *,
    strategies: Mapping[str, str] | None = None,
    turns: Turns = "all",
    padding_side: Literal["left", "right"] = "right",
) -> dict[str, torch.Tensor]:
    """Turn conversations into one padded batch of tensors for ``sra_fast.score``.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        conversations: records (see ``sra_fast.chat.conversations``) or ``Conversation`` objects.
        template: name of one of the seven prompt templates, or a ``PromptTemplate``.
        strategies: mapping of strategy names to descriptions; the library's 23 if None.
        turns: "all" to score every reply, "last" to score the last one of each conversation.
        padding_side: on which side of a row the padding goes.

    Returns:
        ``input_ids`` and ``attention_mask`` ``[B, T]`` int64, ``strategy_mask`` ``[B, T]`` bool,
        ``response_mask`` ``[B, T]`` int32 (k at the tokens of the batch row's k-th reply, else 0),
        ``conversation`` ``[B]`` int64 (index into ``conversations``), and ``turns`` ``[B, K]``
        int64 (turn of the k-th reply, -1 where there are fewer than K). With ``standard`` a row of
        the batch is a conversation; with the other templates it is one reply and its prompt.

    Raises:
        TypeError: ``strategies`` is not a mapping.
        ConversationError: a conversation is malformed or its strategy unknown.
        PromptTemplateError: the template is unknown.
        EncodingError: the tokenizer cannot be used, or it or its chat template drops, doubles or
            alters a text that attention is measured on.
    """
    encoded = encode_prompts(tokenizer, conversations, template, strategies=strategies, turns=turns)
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
) -> list[EncodedPrompt]:
    """Turn conversations into prompts without padding, in the order of the conversations.

    Arguments and errors are those of :func:`encode`.
    """
    check_tokenizer(tokenizer)
    chosen = get_template(template)
    prompts = [
        (index, prompt)
        for index, conversation in enumerate(as_conversations(conversations))
        for prompt in render_prompts(conversation, chosen, strategies, turns=turns)
    ]
    takes_system = takes_system_message(tokenizer)
    control = control_tokens(tokenizer)
    encoded: list[EncodedPrompt] = []
    for begin in range(0, len(prompts), _PROMPTS_PER_CALL):
        block = prompts[begin : begin + _PROMPTS_PER_CALL]
        written = [write_chat(tokenizer, prompt, takes_system, control) for _, prompt in block]
        # The chat template has written the control tokens already; a second BOS would be wrong.
        tokens = tokenizer(
            [one.text for one in written],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            padding=False,
            truncation=False,
            verbose=False,
        )
        columns = zip(block, written, tokens["input_ids"], tokens["offset_mapping"], strict=True)
        for (index, prompt), one, ids, offsets in columns:
            encoded.append(_mark_tokens(tokenizer, one, ids, offsets, index, prompt))
    return encoded


def collate(
    prompts: Sequence[EncodedPrompt],
    pad_token_id: int,
    padding_side: Literal["left", "right"] = "right",
) -> dict[str, torch.Tensor]:
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
    batch = {
        "input_ids": torch.full((rows, width), pad_token_id, dtype=torch.int64),
        "attention_mask": torch.zeros((rows, width), dtype=torch.int64),
        "strategy_mask": torch.zeros((rows, width), dtype=torch.bool),
        "response_mask": torch.zeros((rows, width), dtype=torch.int32),
        "conversation": torch.tensor([p.conversation for p in prompts], dtype=torch.int64),
        "turns": torch.full((rows, replies), -1, dtype=torch.int64),
    }
    for row, prompt in enumerate(prompts):
        length = len(prompt.input_ids)
        here = slice(0, length) if padding_side == "right" else slice(width - length, width)
        batch["input_ids"][row, here] = prompt.input_ids
        batch["attention_mask"][row, here] = 1
        batch["strategy_mask"][row, here] = prompt.strategy_mask
        batch["response_mask"][row, here] = prompt.response_mask
        batch["turns"][row, : len(prompt.turns)] = torch.tensor(prompt.turns, dtype=torch.int64)
    return batch


def padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token id to pad with: the padding token's, else the end of text's, else 0.

    Padding is masked, so any id will do.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


# --- The tokenizer ---------------------------------------------------------------------------


def check_tokenizer(tokenizer: Any) -> None:
    """Check that a tokenizer can mark the parts of a conversation.

    Raises:
        EncodingError: it is no fast tokenizer with a chat template.
    """
    name = type(tokenizer).__name__
    if not callable(getattr(tokenizer, "apply_chat_template", None)):
        raise EncodingError(
            f"{name} is no tokenizer of transformers; give AutoTokenizer.from_pretrained(...)"
        )
    if not hasattr(tokenizer, "is_fast") and hasattr(tokenizer, "tokenizer"):
        raise EncodingError(f"{name} is a processor; give its tokenizer, processor.tokenizer")
    if not getattr(tokenizer, "is_fast", False):
        raise EncodingError(
            f"{name} is a slow tokenizer and cannot say which characters a token stands for; load "
            "the fast one with AutoTokenizer.from_pretrained(..., use_fast=True), or convert it "
            "once to a tokenizer.json"
        )
    if not getattr(tokenizer, "chat_template", None):
        raise EncodingError(
            f"{name} ({getattr(tokenizer, 'name_or_path', '') or 'unnamed'}) has no chat template; "
            "set tokenizer.chat_template to the model's, or pass your own prompts with their "
            "masks to sra_fast.score"
        )


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the texts that the tokenizer reads as a control token even inside a message."""
    added = tokenizer.added_tokens_decoder.values()
    return tuple(token.content for token in added if token.special and token.content)


# --- From text to tokens ---------------------------------------------------------------------


def _mark_tokens(
    tokenizer: Any,
    written: ChatText,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    conversation: int,
    prompt: Prompt,
) -> EncodedPrompt:
    label = prompt.conversation.label
    starts, ends = torch.tensor(offsets, dtype=torch.int64).reshape(-1, 2).unbind(1)
    lost = _lost_characters(written.text, starts, ends)
    if lost:
        raise EncodingError(f"{label}: {_explain_loss(tokenizer, written, lost)}")
    first, last = _labels(written, starts, ends)
    shared = (first != last).nonzero().flatten().tolist()
    if shared:
        raise EncodingError(
            f"{label}: token {shared[0]} stands for the end of one text and the beginning of "
            "another (the strategy and a reply, or two replies); use a chat template that puts "
            "something between the messages"
        )
    return EncodedPrompt(
        input_ids=torch.tensor(ids, dtype=torch.int64),
        strategy_mask=first < 0,
        response_mask=first.clamp(min=0),
        conversation=conversation,
        turns=prompt.turns,
    )


def _labels(
    written: ChatText, starts: torch.Tensor, ends: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what each token stands for: k for the k-th reply, -1 for the strategy, 0 for neither.

    There are two answers, ``[T]`` int32 each: one by the first measured character of a token, one
    by the last. A token with a measured character belongs to that character's part as a whole,
    with the blank in front that most tokenizers put into the same token.
    """
    length = len(written.text)
    label = torch.zeros(length + 1, dtype=torch.int32)
    replies = 0
    for part, start, end in written.spans:
        if part.is_strategy:
            label[start:end] = -1
        elif part.turn is not None:
            replies += 1
            label[start:end] = replies
    # The measured characters nearest to each position: from it on, and up to it. So all tokens are
    # looked up at once, however many replies there are.
    position = torch.arange(length + 1)
    measured = label != 0
    onward = torch.where(measured, position, length).flip(0).cummin(0).values.flip(0)
    upto = torch.where(measured, position, -1).cummax(0).values
    hit = onward[starts] < ends
    first = torch.where(hit, label[onward[starts]], 0)
    last = torch.where(hit, label[upto[ends - 1]], 0)
    return first, last


def _lost_characters(text: str, starts: torch.Tensor, ends: torch.Tensor) -> list[int]:
    """Return the positions of the characters, blanks apart, that no token stands for.

    The whole text is looked at, not only the measured parts: a tokenizer without a token for a
    character may leave it out and count on without it, and then every later offset is wrong.
    """
    change = torch.zeros(len(text) + 1, dtype=torch.int64)
    change.index_add_(0, starts, torch.ones_like(starts))
    change.index_add_(0, ends, -torch.ones_like(ends))
    covered = (change.cumsum(0)[: len(text)] > 0).tolist()
    lost: list[int] = []
    base = 0
    for here in (position for position, is_covered in enumerate(covered) if not is_covered):
        if here > 0 and covered[here - 1]:
            base = here - 1
        # A normaliser that composes ("e" and an accent become one) gives the token to the first
        # character alone; a character that vanishes in the one before it is not lost.
        if base < here and len(_composed(text[base : here + 1])) == len(_composed(text[base:here])):
            continue
        base = here
        if not text[here].isspace():
            lost.append(here)
    return lost


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _explain_loss(tokenizer: Any, written: ChatText, lost: Sequence[int]) -> str:
    for character in dict.fromkeys(written.text):
        alone = tokenizer(character, add_special_tokens=False, verbose=False)["input_ids"]
        if not alone and not character.isspace():
            at = [i for i, other in enumerate(written.text) if other == character]
            return (
                f"the tokenizer has no token for {character!r} (U+{ord(character):04X}) and drops "
                f"it from {_first_hit(written, at)}; take the character out of the text, or use a "
                "tokenizer that knows it"
            )
    return (
        f"the tokenizer truncates the prompt and drops {_first_hit(written, lost)}; use a "
        "tokenizer that does not truncate"
    )


def _first_hit(written: ChatText, positions: Sequence[int]) -> str:
    """Return the name of the first part of the text that holds one of the positions."""
    for part, start, end in written.spans:
        if any(start <= position < end for position in positions):
            return part.name
    return "the text that the chat template puts around the messages"

"""Find the tokens of the parts of a prompt, given the characters of each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sra_fast.chat.chat_template import EncodingError
from sra_fast.chat.chat_text import ChatText
from sra_fast.chat.lost_text import Loss, find_loss


def mark_tokens(
    tokenizer: Any,
    written: ChatText,
    ids: list[int],
    offsets: Sequence[tuple[int, int]],
    label: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mark the tokens of the strategy and of each scored reply.

    Every token from the first to the last one of a part belongs to it, also those that the
    tokenizer gives no characters: some give blanks none.

    Args:
        tokenizer: the fast tokenizer.
        written: the prompt, with the characters of each part.
        ids: the T tokens of the prompt.
        offsets: the range of characters that each token stands for.
        label: the name of the conversation in errors.

    Returns:
        The tokens of the strategy, ``[T]`` bool, and those of the replies, ``[T]`` int32: k = 1, 2,
        ... at the tokens of the k-th one, else 0.

    Raises:
        EncodingError: a character was lost, or a token belongs to two parts.
    """
    starts, ends = _checked_offsets(tokenizer, written, ids, offsets, label)
    first, last = _labels(written, _with_blanks(starts, ends), ends)
    shared = (first != last).nonzero().flatten().tolist()
    if shared:
        raise EncodingError(
            f"{label}: token {shared[0]} stands for the end of one text and the beginning of "
            "another (the strategy and a reply, or two replies); use a chat template that puts "
            "something between the messages"
        )
    marks = _without_holes(first)
    return marks < 0, marks.clamp(min=0)


def mark_ranges(
    tokenizer: Any,
    written: ChatText,
    ids: list[int],
    offsets: Sequence[tuple[int, int]],
    ranges: Sequence[Sequence[tuple[int, int]]],
    label: str,
) -> list[torch.Tensor]:
    """Mark the tokens of spans, each of which is made of ranges of characters and may overlap.

    Args:
        tokenizer: the fast tokenizer.
        written: the prompt.
        ids: the T tokens of the prompt.
        offsets: the range of characters that each token stands for.
        ranges: ``(start, end)`` of the ranges of each span, in characters of the prompt.
        label: what errors call the prompt.

    Returns:
        ``[T]`` bool for each span. Every token with a character of a range belongs to it as a
        whole, and so does every token between two of them.

    Raises:
        EncodingError: a character was lost, or no token stands for a range.
    """
    starts, ends = _checked_offsets(tokenizer, written, ids, offsets, label)
    starts = _with_blanks(starts, ends)
    masks = []
    for pieces in ranges:
        mask = torch.zeros(len(ids), dtype=torch.bool)
        for start, end in pieces:
            hit = ((starts < end) & (ends > start)).nonzero().flatten()
            if not len(hit):
                text = written.text[start:end]
                raise EncodingError(f"{label}: no token stands for {text[:40]!r}")
            mask[int(hit[0]) : int(hit[-1]) + 1] = True
        masks.append(mask)
    return masks


def mark_sources(
    written: ChatText,
    offsets: Sequence[tuple[int, int]],
    sources: Sequence[tuple[int, int, int]],
) -> torch.Tensor:
    """Return the number of the source that each token belongs to, ``[T]`` int32; 0 for none.

    A token that stands for characters of two sources belongs to the first of them.

    Args:
        written: the prompt.
        offsets: the range of characters that each of the T tokens stands for.
        sources: ``(number, start, end)`` of each piece of a source, in characters of the prompt;
            disjoint, numbers from 1.

    Raises:
        EncodingError: a source has no token left.
    """
    starts, ends = torch.tensor(offsets, dtype=torch.int64).reshape(-1, 2).unbind(1)
    label = torch.zeros(len(written.text) + 1, dtype=torch.int32)
    for piece, (_, start, end) in enumerate(sources, 1):
        label[start:end] = piece
    first, _ = _first_and_last(label, _with_blanks(starts, ends), ends)
    # By piece first: what stands between two pieces of one source belongs to neither.
    number_of = torch.tensor([0, *(number for number, _, _ in sources)], dtype=torch.int32)
    marks = number_of[_without_holes(first).long()]
    missing = sorted({number for number, _, _ in sources} - set(marks.unique().tolist()))
    if missing:
        start, end = next((s, e) for number, s, e in sources if number == missing[0])
        raise EncodingError(
            f"source {missing[0]} ({written.text[start:end][:40]!r}) shares its only token with "
            "the source before it; make one of the two"
        )
    return marks


def _checked_offsets(
    tokenizer: Any,
    written: ChatText,
    ids: list[int],
    offsets: Sequence[tuple[int, int]],
    label: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each token's characters start and end, ``[T]`` int64, if none was lost."""
    starts, ends = torch.tensor(offsets, dtype=torch.int64).reshape(-1, 2).unbind(1)
    loss = find_loss(tokenizer, written.text, ids, starts, ends)
    if loss is not None:
        raise EncodingError(f"{label}: {_explained(written, loss)}")
    return starts, ends


def _with_blanks(starts: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return the starts of tokens, where one without characters begins after the token before it.

    A tokenizer that trims its offsets gives a token of blanks an empty range behind them.
    """
    if not len(ends):
        return starts
    before = torch.cat([ends.new_zeros(1), ends[:-1]]).cummax(0).values
    return torch.where(starts == ends, torch.minimum(before, starts), starts)


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
    return _first_and_last(label, starts, ends)


def _first_and_last(
    label: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the label of each token's first and of its last labelled character, ``[T]`` int32.

    ``label`` is ``[characters + 1]`` int32, and 0 at characters without one.
    """
    length = len(label) - 1
    # The labelled characters nearest to each position: from it on, and up to it. So all tokens are
    # looked up at once, however many labels there are.
    position = torch.arange(length + 1)
    labelled = label != 0
    onward = torch.where(labelled, position, length).flip(0).cummin(0).values.flip(0)
    upto = torch.where(labelled, position, -1).cummax(0).values
    hit = onward[starts] < ends
    first = torch.where(hit, label[onward[starts]], 0)
    last = torch.where(hit, label[upto[ends - 1]], 0)
    return first, last


def _without_holes(label: torch.Tensor) -> torch.Tensor:
    """Return the labels with every token between two of one part given to that part."""
    if not len(label):
        return label
    position = torch.arange(len(label))
    marked = label != 0
    before = torch.where(marked, position, 0).cummax(0).values
    after = torch.where(marked, position, len(label) - 1).flip(0).cummin(0).values.flip(0)
    return torch.where(label[before] == label[after], label[before], label)


def _explained(written: ChatText, loss: Loss) -> str:
    where = _first_hit(written, loss.positions)
    if loss.character is None:
        return (
            f"the tokenizer truncates the prompt and drops {where}; use a tokenizer that does not "
            "truncate"
        )
    return (
        f"the tokenizer drops {loss.character!r} (U+{ord(loss.character):04X}) from {where}; take "
        "the character out of the text, or use a tokenizer that knows it"
    )


def _first_hit(written: ChatText, positions: Sequence[int]) -> str:
    """Return the name of the first part of the text that holds one of the positions."""
    for part, start, end in written.spans:
        if any(start <= position < end for position in positions):
            return part.name
    return "the text that the chat template puts around the messages"

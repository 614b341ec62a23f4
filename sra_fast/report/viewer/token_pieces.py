"""Cut a text into the pieces that its tokens are, so that together they are the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "\ufffd"  # what a part of a character is decoded to
_LONGEST = 16  # tokens that may begin and end inside characters, one after another


def pieces_of_text(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Return the piece of every token, by the offsets that a fast tokenizer gives.

    Of tokens that make a character together, whose offsets are the same, the first has it and the
    others are empty. What stands between two tokens belongs to the second; what follows the last
    one belongs to it.

    Args:
        text: the text that was tokenised.
        offsets: first character of each token and the one after the last.
    """
    pieces = []
    at = 0
    for _, end in offsets:
        pieces.append(text[at : max(at, end)])
        at = max(at, end)
    if pieces:
        pieces[-1] += text[at:]
    return tuple(pieces)


def pieces_of_ids(
    decode: Callable[[Sequence[int]], str], input_ids: Sequence[int]
) -> tuple[str, ...]:
    """Return the piece of every token, by decoding each together with the piece before it.

    Of tokens that make a character together, the first has it and the others are empty.

    Args:
        decode: returns the text of tokens, with special tokens and without any clean-up.
        input_ids: the tokens, in order.
    """
    pieces: list[str] = []
    ids = list(input_ids)
    whole = 0  # where the tokens of the piece before begin: some decode no part of a character
    while len(pieces) < len(ids):
        start = len(pieces)
        before = ids[
            max(whole, start - _LONGEST) : start
        ]  # some leave out a space that begins a text
        known = len(decode(before)) if before else 0
        found: list[str] = []
        for count in range(1, min(_LONGEST, len(ids) - start) + 1):
            found.append(decode([*before, *ids[start : start + count]])[known:])
            if _UNFINISHED not in found[-1]:
                piece = found[-1]
                break
        else:  # bytes that are no character, or the sign for these: each stands for itself
            count, piece = 1, found[0]
        if piece:
            whole = start
        pieces += [piece, *[""] * (count - 1)]
    return tuple(pieces)

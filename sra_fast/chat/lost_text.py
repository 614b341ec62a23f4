"""Find out what became of the characters of a prompt that no token stands for.

Some tokenizers leave out a character that they do not know, and count on as if it had not been
there, so that every later offset is wrong; some truncate. Others only write two characters as one,
or leave out blanks, and nothing is lost. Which of these it is, is told by tokenising again.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import torch

_AROUND = 8  # characters on either side that a character is tokenised with


@dataclass(frozen=True)
class Loss:
    """A character or an end of a text that a tokenizer lost.

    Attributes:
        positions: the characters of the text that are lost.
        character: the character that is dropped; None if the text is cut off.
    """

    positions: tuple[int, ...]
    character: str | None


def find_loss(
    tokenizer: Any, text: str, ids: list[int], starts: torch.Tensor, ends: torch.Tensor
) -> Loss | None:
    """Return what a tokenizer lost of a text, or None if its tokens stand for all of it.

    The whole text is looked at, not only the measured parts, as a character that is left out moves
    the offsets after it.

    Args:
        tokenizer: the fast tokenizer.
        text: the prompt.
        ids: the T tokens of the text.
        starts, ends: ``[T]`` int64, the range of characters that each token stands for.
    """
    change = torch.zeros(len(text) + 1, dtype=torch.int64)
    change.index_add_(0, starts, torch.ones_like(starts))
    change.index_add_(0, ends, -torch.ones_like(ends))
    covered = (change.cumsum(0)[: len(text)] > 0).tolist()
    bare = [i for i, is_covered in enumerate(covered) if not is_covered and not text[i].isspace()]
    if not bare:
        return None
    for character in dict.fromkeys(text):
        if _has_no_token(tokenizer, character):
            places = tuple(i for i, other in enumerate(text) if other == character)
            return Loss(places, character)
    kept: dict[tuple[str, int], bool] = {}  # the same come again and again, such as accents
    for start, end in _stretches(covered, bare):
        before, after = text[:start], text[end:]
        at_edge = not before.strip() or not after.strip()
        if (
            at_edge
            and _is_known(tokenizer, text[start:end])
            and _tokens(tokenizer, before + after) == ids
        ):
            return Loss(tuple(range(start, end)), None)
        for at in range(start, end):
            left, right = max(start - 1, at - _AROUND, 0), min(end, at + _AROUND) + 1
            around = text[left:right], at - left
            if around not in kept:
                kept[around] = _counts(tokenizer, *around)
            if not kept[around]:
                return Loss((at,), text[at])
    return None


def _is_known(tokenizer: Any, text: str) -> bool:
    """Return whether some of a text's tokens are no blanks; some tokenizers put one in front."""
    blanks = set(_tokens(tokenizer, " "))
    return bool(tokenizer.decode([t for t in _tokens(tokenizer, text) if t not in blanks]).strip())


def _stretches(covered: list[bool], bare: list[int]) -> list[tuple[int, int]]:
    """Return the ranges of characters without a token that begin and end with no blank."""
    found: list[tuple[int, int]] = []
    for at in bare:
        start, end = found[-1] if found else (0, 0)
        if found and not any(covered[end:at]):
            found[-1] = (start, at + 1)
        else:
            found.append((at, at + 1))
    return found


def _has_no_token(tokenizer: Any, character: str) -> bool:
    """Return whether a tokenizer that knows no token for a character leaves it out.

    A character that its normaliser takes out is another matter: the offsets are right then.
    """
    if character.isspace():
        return False
    ids = _tokens(tokenizer, character)
    if _is_known(tokenizer, character) or _tokens(tokenizer, character * 2) != ids:
        return False
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is None or bool(normalizer.normalize_str(character).strip())


def _counts(tokenizer: Any, around: str, at: int) -> bool:
    """Return whether a character has a share in the tokens of the text around it.

    An accent that is taken off its letter, or composed with it, is no character of its own.
    """
    without = around[:at] + around[at + 1 :]
    if around[at].isspace() or _tokens(tokenizer, around) != _tokens(tokenizer, without):
        return True
    return len(_composed(around[: at + 1])) == len(_composed(around[:at]))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)

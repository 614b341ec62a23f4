"""The pieces of tokens are their text, whatever the tokenizer cuts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sra_fast.report.viewer.token_pieces import pieces_of_ids, pieces_of_text

TEXTS = [
    "plain words",
    "试 眠れません",
    "👩‍👩‍👧 family",
    "مرحبا",
    "a\n\nb",
    "é ÿ",
    "\ufffd a\ufffd",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_a_character_belong_to_the_first_of_them(text: str) -> None:
    def decode(ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")

    pieces = pieces_of_ids(decode, list(text.encode()))
    assert len(pieces) == len(text.encode())
    assert "".join(pieces) == text
    assert all(len(piece) <= 1 for piece in pieces)


@pytest.mark.parametrize("text", [*TEXTS, "🙂🙂", "שלום עולם", "今天 天气"])
def test_bytes_that_are_decoded_as_a_run_or_not_at_all_are_characters_too(text: str) -> None:
    """Decoders with byte fallback give no character of a run of bytes that is not whole."""

    def decode(ids: Sequence[int]) -> str:
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(ids)

    assert "".join(pieces_of_ids(decode, list(text.encode()))) == text


def test_a_space_that_begins_a_text_alone_is_kept() -> None:
    words = [" a", " b", " c"]

    def decode(ids: Sequence[int]) -> str:
        return "".join(words[one] for one in ids).removeprefix(" ")

    assert pieces_of_ids(decode, [0, 1, 2]) == ("a", " b", " c")


def test_bytes_that_are_no_character_stand_for_themselves() -> None:
    def decode(ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")

    assert pieces_of_ids(decode, [97, 0xFF, 98]) == ("a", "\ufffd", "b")


@pytest.mark.parametrize(
    ("text", "offsets", "pieces"),
    [
        ("ab cd", [(0, 2), (2, 5)], ("ab", " cd")),
        ("ab cd", [(0, 2), (3, 5)], ("ab", " cd")),
        ("试a", [(0, 1), (0, 1), (0, 1), (1, 2)], ("试", "", "", "a")),
        ("ab  ", [(0, 2)], ("ab  ",)),
        ("ab", [(0, 0), (0, 2)], ("", "ab")),
        ("", [], ()),
    ],
)
def test_offsets_cut_the_text(
    text: str, offsets: list[tuple[int, int]], pieces: tuple[str, ...]
) -> None:
    assert pieces_of_text(text, offsets) == pieces

"""Test that numbers and their nouns agree."""

import pytest

from sra_fast.tools.counted import counted


@pytest.mark.parametrize(
    ("number", "nouns", "text"),
    [
        (0, ("reply", "replies"), "0 replies"),
        (1, ("reply", "replies"), "1 reply"),
        (1, ("dialogue",), "1 dialogue"),
        (2, ("dialogue",), "2 dialogues"),
        (1200, ("turn opens", "turns open"), "1,200 turns open"),
    ],
)
def test_one_is_singular(number: int, nouns: tuple[str, ...], text: str) -> None:
    assert counted(number, *nouns) == text

"""Sentences are where a reader sees them, and the attention on sources is a sum over tokens."""

from __future__ import annotations

import numpy
import pytest

import benchmarks.viewer.example_chats as examples
from sra_fast.report.viewer import ViewedConversation, ViewedTurn
from sra_fast.report.viewer.shown_sources import attention_on, messages, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two? Three!", ["One.", " Two?", " Three!"]),
        ("A line\nand\n\nanother.", ["A line\n", "and\n\n", "another."]),
        ("他很失望。你呢？好", ["他很失望。", "你呢？", "好"]),
        ("هل تسمع؟ نعم.", ["هل تسمع؟", " نعم."]),
        ('She said "Go." Then left', ['She said "Go."', " Then left"]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_sees_it(text: str, expected: list[str]) -> None:
    before = ("<s>", "user", "\n")
    tokens = (*before, *examples.pieces(text))
    turns = (ViewedTurn("user", 3, len(tokens)),)
    one = ViewedConversation("c", tokens, turns, ())
    found = ["".join(tokens[start:end]) for ((start, end),) in sentences(one)]
    assert found == expected


def test_sentences_cover_every_message_once() -> None:
    one = examples.conversation(examples.WORLD)
    covered = [token for ((start, end),) in sentences(one) for token in range(start, end)]
    assert covered == [t for turn in one.turns for t in range(turn.start, turn.end)]
    assert len(messages(one)) == len(one.turns)


def test_attention_on_sources_is_the_sum_over_their_tokens() -> None:
    rows = numpy.random.default_rng(0).random((3, 10)).astype(numpy.float32)
    sources = [[(0, 4)], [(4, 4)], [(2, 3), (7, 10)], [(9, 30)], [(20, 30)], []]
    sums = attention_on(rows, sources)
    exact = rows.astype(numpy.float64)
    for index, ranges in enumerate(sources):
        expected = sum((exact[:, a:b].sum(axis=1) for a, b in ranges), numpy.zeros(3))
        numpy.testing.assert_allclose(sums[:, index], expected, rtol=1e-12)


def test_ten_thousand_sources_of_one_token_are_the_profile() -> None:
    row = numpy.random.default_rng(0).random((1, 10_000)).astype(numpy.float32)
    sources = [[(token, token + 1)] for token in range(10_000)]
    assert (attention_on(row, sources) == row).all()

"""Test that the benchmark of planning prints a line for each number of replies."""

from __future__ import annotations

import pytest

from benchmarks.cpu import planning
from sra_fast.measure.spans import read_batch


def test_each_number_of_replies_has_a_line_with_every_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planning, "REPEATS", 2)
    assert planning.main(["512"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("512 tokens")
    assert len(lines) == len(planning.REPLIES)
    assert all(name in line for line in lines for name in planning.STEPS)


@pytest.mark.parametrize("replies", planning.REPLIES)
def test_the_conversation_has_as_many_replies_as_it_says(replies: int) -> None:
    (sequence,) = read_batch(planning.long_batch(4096, replies)).sequences
    assert len(sequence.responses) == replies
    assert int(sequence.spans.sum()) == 40

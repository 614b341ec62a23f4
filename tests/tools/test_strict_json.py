"""Test what is said of a file of JSON lines that is something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sra_fast.tools.strict_json import read_json_lines


@pytest.mark.parametrize(
    ("given", "way_out"),
    [
        ({}, "write each entry on a line of its own"),
        ({"instead_of_a_list": "convert the file"}, "convert the file"),
    ],
)
def test_a_list_is_refused_with_the_way_out_of_the_caller(
    given: dict[str, str], way_out: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('  [{"a": 1}]', encoding="utf-8")
    with pytest.raises(ValueError, match="one JSON list") as refused:
        read_json_lines(file, raises=ValueError, **given)
    message = "a.jsonl: this is one JSON list, not an object a line; "
    assert str(refused.value) == message + way_out


def test_lines_are_told_by_their_number_and_blank_ones_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": "x\u2028y"}\n\n2\n', encoding="utf-8")
    found = read_json_lines(file, raises=ValueError)
    assert found == [("a.jsonl line 1", {"a": "x\u2028y"}), ("a.jsonl line 3", 2)]

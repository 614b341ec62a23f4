"""Files that are whole or not there, and what JSON cannot say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sra_fast.tools.atomic import json_text, write_json, write_json_lines, write_text


def test_json_is_readable_and_ends_with_a_line_break(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Zuhören", "values": [1, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "name": "Zuhören",\n  "values": [\n    1,\n    null\n  ]\n}\n'
    write_json(tmp_path / "a.json", [1.5, 2], indent=None)
    assert (tmp_path / "a.json").read_text() == "[1.5, 2]\n" == json_text([1.5, 2], indent=None)


def test_json_lines_are_one_a_record(tmp_path: Path) -> None:
    records = [{"a": "x\ny"}, {"a": "–"}]
    write_json_lines(tmp_path / "a.jsonl", iter(records))
    data = (tmp_path / "a.jsonl").read_bytes()
    assert data.endswith(b"\n")
    assert [json.loads(line) for line in data.splitlines()] == records
    write_json_lines(tmp_path / "a.jsonl", [])
    assert (tmp_path / "a.jsonl").read_bytes() == b""


def test_what_json_does_not_know_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "before")
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "a.json", {"value": bad})
        with pytest.raises(ValueError, match="JSON"):
            write_json_lines(tmp_path / "a.json", [1, bad])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "before"

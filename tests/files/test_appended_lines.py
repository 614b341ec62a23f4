"""What a run keeps in lines: each is whole, and one that was cut is dropped."""

from __future__ import annotations

from pathlib import Path

from sra_fast.files.appended_lines import append_line, drop_cut_line, whole_lines


def test_a_cut_line_is_dropped_and_the_next_one_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"a": "ü"})
    with path.open("ab") as file:
        file.write(b'{"a": 1')
    assert whole_lines(path) == ['{"a": "ü"}'.encode()]
    drop_cut_line(path)
    append_line(path, {"a": 2})
    assert path.read_text(encoding="utf-8") == '{"a": "ü"}\n{"a": 2}\n'
    drop_cut_line(path)
    assert len(whole_lines(path)) == 2

"""What a run keeps in parts: each is whole, or it is computed again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sra_fast.files.kept_parts import KeptParts
from sra_fast.tools.atomic import write_text


def texts(folder: Path) -> KeptParts[list[str]]:
    """Lists of texts, in JSON."""
    return KeptParts(
        folder,
        ".json",
        lambda path: list(json.loads(path.read_text(encoding="utf-8"))["texts"]),
        lambda path, part: write_text(path, json.dumps({"texts": part})),
    )


def test_a_part_that_is_there_is_not_computed_again(tmp_path: Path) -> None:
    parts = texts(tmp_path / "deep" / "parts")
    assert parts.get("one") is None
    assert parts.get_or_compute("one", lambda part: True, lambda: ["a"]) == ["a"]
    assert parts.get_or_compute("one", lambda part: True, lambda: ["b"]) == ["a"]
    assert parts.get_or_compute("one", lambda part: part == ["c"], lambda: ["c"]) == ["c"]
    assert parts.get("one") == ["c"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"texts": 5}', b"\xff"])
def test_a_damaged_part_is_none_and_named_once(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "00000.json").write_bytes(content)
    parts = texts(tmp_path)
    assert parts.get("missing") is None
    assert not caplog.records
    assert parts.get("00000") is None
    assert parts.all() == []
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / '00000.json'} cannot be read (")
    parts.append(["a"])
    assert (tmp_path / "00000.json").read_bytes() == content
    assert parts.all() == [["a"]]


def test_appended_parts_come_in_their_order_after_those_that_are_there(tmp_path: Path) -> None:
    parts = texts(tmp_path)
    (tmp_path / ".00004.json.77.tmp").write_text("{")  # of a run that was killed
    for text in "abc":
        parts.append([text])
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        *("00000.json", "00001.json", "00002.json")
    ]
    assert parts.all() == [["a"], ["b"], ["c"]]

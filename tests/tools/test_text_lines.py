"""Lines of text come back with their numbers, from gzip too, and wrong encodings are told."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from sra_fast.tools.text_lines import text_lines

TEXT = "one\r\ntwo\u2028\x85 still two\nnaïve"
LINES = [(1, "one\r\n"), (2, "two\u2028\x85 still two\n"), (3, "naïve")]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_come_back_with_their_ends(tmp_path: Path, encoding: str, packed: bool) -> None:
    data = TEXT.encode(encoding)
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    assert list(text_lines(path, raises=ValueError)) == LINES


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (TEXT.encode("latin-1", "replace"), "a.txt line 2: byte 5 is not UTF-8"),
        (TEXT.encode("utf-16-le"), "a.txt line 1: holds zero bytes"),
        (TEXT.encode("utf-32"), "a.txt: this is UTF-32"),
        (TEXT.encode("utf-16")[:-1], "a.txt: the file begins as UTF-16 and is not"),
        (
            gzip.compress(TEXT.encode() * 99, mtime=0)[:40],
            "a.txt: the gzip file is damaged after line",
        ),
        (gzip.compress(TEXT.encode(), mtime=0)[:-8] + b"\0" * 8, "a.txt: the gzip file is damaged"),
    ],
)
def test_what_is_no_text_is_told_with_its_line(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.txt") as caught:
        list(text_lines(path, raises=ValueError))
    assert says in str(caught.value)


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    assert list(text_lines(tmp_path / "a.txt", raises=ValueError)) == []

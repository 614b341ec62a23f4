"""A page is whole, no larger than allowed, and says what it leaves out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

import benchmarks.viewer.example_chats as examples
from sra_fast.report.viewer import (
    PageTooLargeError,
    ViewedConversation,
    ViewedReply,
    ViewedTurn,
    ViewError,
    page_html,
    write_page,
)
from sra_fast.report.viewer.notebook_page import notebook_page

LARGE = examples.conversation(layers=24, heads=16)
SMALLEST = len(page_html([examples.conversation(layers=24, heads=16, kind="mean")]).encode())
WITH_LAYERS = len(page_html([examples.conversation(layers=24, heads=16, kind="layers")]).encode())
TOLD = 300  # bytes of what is said of it


def index_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="index">(.*?)</script>', page, re.S)
    assert found
    return dict(json.loads(found[1]))


def test_a_page_refers_to_nothing_outside_of_it() -> None:
    page = page_html([LARGE]).replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?:", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    ("max_bytes", "told", "layers", "heads"),
    [
        (30_000_000, None, 24, 16),
        (WITH_LAYERS + TOLD, "single heads are left out.", 24, 0),
        (
            (SMALLEST + WITH_LAYERS) // 2,
            r"single heads and \d+ of 24 layers are left out; kept are those at 0, .*23",
            5,
            0,
        ),
        (SMALLEST + TOLD, "single heads and single layers are left out", 0, 0),
    ],
)
def test_what_does_not_fit_is_left_out_and_told(
    tmp_path: Path, max_bytes: int, told: str | None, layers: int, heads: int
) -> None:
    file = tmp_path / "page.html"
    left_out = write_page([LARGE], file, max_bytes)
    assert file.stat().st_size <= max_bytes
    index = index_of(file.read_text(encoding="utf-8"))
    reply = index["conversations"][0]["replies"][0]
    assert index["leftOut"] == list(left_out)
    if told is None:
        assert left_out == ()
    else:
        assert re.search(told, left_out[0])
    assert reply["heads"] == heads
    assert (len(reply["kept"]) == layers) if layers in (0, 24) else (0 < len(reply["kept"]) < 24)


def test_no_more_layers_would_have_fit(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    a_layer = (WITH_LAYERS - SMALLEST) / 24
    for share in (0.2, 0.4, 0.6, 0.8):
        max_bytes = int(SMALLEST + share * (WITH_LAYERS - SMALLEST))
        write_page([LARGE], file, max_bytes)
        assert max_bytes - file.stat().st_size < 1.2 * a_layer


def test_a_page_that_is_too_large_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(PageTooLargeError, match=r"means .* take 0\.\d+ MB, and 0.05 MB are"):
        write_page([LARGE], tmp_path / "page.html", 50_000)
    assert list(tmp_path.iterdir()) == []


def test_a_page_without_replies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ViewError, match="no reply to show"):
        write_page([replace(LARGE, replies=())], tmp_path / "page.html")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_page([LARGE], tmp_path / "nowhere" / "page.html")
    with pytest.raises(IsADirectoryError, match="this is a folder"):
        write_page([LARGE], tmp_path)


GOOD = ViewedReply(3, 1, 3, numpy.array([0.5, 0.25, 0.25], dtype=numpy.float32))
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "four axes": ({"profile": numpy.zeros((1, 1, 1, 3))}, r"shape \[1, 1, 1, 3\], expected \[T\]"),
    "no token": ({"profile": numpy.zeros((2, 0))}, r"shape \[2, 0\]"),
    "too long": ({"profile": numpy.zeros(9)}, "of 9 tokens, and the prompt has 4"),
    "NaN": ({"profile": numpy.array([numpy.nan, 0])}, "NaN"),
    "negative": ({"profile": numpy.array([-0.1, 0])}, "less than 0"),
    "above one": ({"profile": numpy.array([0.9, 0.9])}, "sums to 1.8"),
    "reply outside": ({"end": 9}, "the reply has tokens 1 to 9"),
    "span outside": ({"spans": {"rules": ((2, 7),)}}, "span 'rules' has tokens 2 to 7"),
    "source backwards": ({"sources": {"doc": ((3, 1),)}}, "source 'doc' has tokens 3 to 1"),
    "heat": ({"heat": numpy.zeros(3)}, r"heat has the shape \[3\]"),
    "heat's heads": (
        {"profile": numpy.zeros((2, 3, 4)), "heat": numpy.zeros((2, 5))},
        "heat has 5 heads, the profile 3",
    ),
    "layers": (
        {"profile": numpy.zeros((2, 4)), "layer_scores": {"mass": numpy.zeros(3)}},
        "layer_scores\\['mass'\\] has 3, the profile has 2",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_numbers_that_do_not_fit_are_refused_by_name(name: str) -> None:
    change, message = WRONG[name]
    with pytest.raises(ViewError, match=f"c7, reply 3: .*{message}"):
        ViewedConversation("c7", ("a", "b", "c", "d"), (), (replace(GOOD, **change),))


def test_messages_that_overlap_are_refused() -> None:
    turns = (ViewedTurn("user", 0, 3), ViewedTurn("assistant", 2, 4))
    with pytest.raises(ViewError, match="the assistant message has tokens 2 to 4"):
        ViewedConversation("c7", ("a", "b", "c", "d"), turns, ())


def test_a_notebook_shows_the_page_in_a_closed_frame() -> None:
    shown = notebook_page([LARGE])
    frame = shown._repr_html_()
    assert frame.startswith('<iframe sandbox="allow-scripts"')
    assert shown.page == page_html([LARGE])
    assert frame.count('"') == 6  # the quotes of the page itself are escaped


def test_a_notebook_s_page_is_short_in_a_terminal_and_can_be_saved(tmp_path: Path) -> None:
    shown = notebook_page([LARGE])
    assert len(shown.page) > 10_000
    assert len(repr(shown)) < 100
    assert "MB" in repr(shown)
    assert ".save(" in str(shown)
    shown.save(tmp_path / "saved.html")
    write_page([LARGE], tmp_path / "written.html")
    assert (tmp_path / "saved.html").read_bytes() == (tmp_path / "written.html").read_bytes()
    with pytest.raises(FileNotFoundError, match="no folder"):
        shown.save(tmp_path / "nowhere" / "page.html")

"""Any text is shown as it is: code, scripts of the world, parts of characters, and long prompts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import benchmarks.viewer.example_chats as examples
import chromium
from sra_fast.report.viewer import ViewedConversation, ViewedReply, ViewedTurn, write_page

pytestmark = pytest.mark.browser

MOST_STYLED = 5000


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    with chromium.chromium_tab() as started:
        yield started


def opened(tab: Any, folder: Path, one: ViewedConversation) -> chromium.OpenedPage:
    write_page([one], folder / "page.html")
    return chromium.OpenedPage(tab, folder / "page.html")


def plain(tokens: tuple[str, ...], **more: Any) -> ViewedConversation:
    """Return a conversation that is one reply of these tokens, all attended to alike."""
    profile = numpy.full(len(tokens), 1 / len(tokens), dtype=numpy.float32)
    title = more.pop("title", "plain")
    role = more.pop("role", "assistant")
    reply = ViewedReply(1, 0, len(tokens), profile, **more)
    return ViewedConversation(title, tokens, (ViewedTurn(role, 0, len(tokens)),), (reply,))


HOSTILE = "</script><script>window.broken=1</script><!--<script><img src=x onerror=broken=1>&lt;"


def test_code_in_a_text_is_text(tab: Any, tmp_path: Path) -> None:
    one = plain(
        ("before ", HOSTILE, " after", "\u2028", "\x00\x1b[31m", "\ud83d", "{{}}"),
        title=HOSTILE,
        role=HOSTILE,
        label=HOSTILE,
        scores={HOSTILE: 0.5},
        spans={HOSTILE: ((0, 2),)},
        sources={HOSTILE: ((1, 2),)},
    )
    page = opened(tab, tmp_path, one)
    page.press("d")
    assert page.run("window.broken") is None
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.text(".chunk").startswith(f"before {HOSTILE} after")
    assert page.tab.title().startswith(HOSTILE)
    assert HOSTILE in page.text("#summary")
    assert HOSTILE in page.text("button.reply")
    assert page.hover(1)["spans"] == f"in {HOSTILE}"
    assert [p for p in page.problems if "Refused" in p or "Error" in p] == []


@pytest.mark.parametrize("piece", ["مرحبا", "今", "面", "מחשב", " sad", "眠", "👩‍👩‍👧"])
def test_the_token_under_the_pointer_is_found_in_any_script(
    tab: Any, tmp_path: Path, piece: str
) -> None:
    lines = (
        ("مرحبا", "،", " أشعر", "\n"),
        ("今", "天", "面", "试", "\n"),
        ("מחשב", " טוב", "\n"),
        ("very", " sad", "\n"),
        ("眠", "れ", "ません", "👩‍👩‍👧", "!"),
    )
    one = plain(tuple(itertools.chain(*lines)))
    page = opened(tab, tmp_path, one)
    token = one.tokens.index(piece)
    card = page.hover(token)
    assert card["place"] == f"token {token}"
    assert card["piece"] == f"“{piece}”"


def test_lines_have_the_direction_of_their_script(tab: Any, tmp_path: Path) -> None:
    page = opened(tab, tmp_path, plain(("مرحبا", "\n", "hello")))
    left = """(token) => {
      const chunk = modules.main.transcript.chunkOf(token);
      return modules.transcript.rectangle(chunk.range(token, token + 1)).left;
    }"""
    assert page.run(left, 0) > page.run(left, 2) + 200


def test_tokens_of_one_character_are_one(tab: Any, tmp_path: Path) -> None:
    one = plain(("a", "眠", "", "", "b", "e", "\u0301", "z"))
    page = opened(tab, tmp_path, one)
    card = page.hover(2)
    assert card["piece"] == "“眠”"
    assert card["place"] == "tokens 1 to 3"
    assert card["value"] == "attention ≈ 0.38 together"
    assert card["rank"] == "0.125 + 0.125 + 0.125"
    assert page.hover(6)["place"] == "tokens 5 to 6"
    assert page.hover(7)["place"] == "token 7"


def test_line_breaks_are_tokens_that_can_be_pointed_at(tab: Any, tmp_path: Path) -> None:
    page = opened(tab, tmp_path, plain(("a", "\n", "\n", "b\n\n", "c")))
    found = [page.hover(token)["piece"] for token in range(5)]
    assert found == ["“a”", "“↵”", "“↵”", "“b↵↵”", "“c”"]


def test_a_search_finds_what_is_far_away(tab: Any, tmp_path: Path) -> None:
    one = examples.long_conversation(20_000, turns=40)
    page = opened(tab, tmp_path, one)
    page.press("/")
    page.tab.keyboard.type("message 39")
    page.press("Enter")
    page.run("new Promise((done) => setTimeout(done, 200))")
    box = page.run("""() => {
      const [range] = CSS.highlights.get('current-hit');
      const { left, top, bottom } = modules.transcript.rectangle(range);
      return [range.startContainer.data.slice(range.startOffset, range.endOffset), top, bottom];
    }""")
    assert box[0] == "message 39"
    assert 100 < box[1] < box[2] < 860


def test_100_000_tokens_stay_light(tab: Any, tmp_path: Path) -> None:
    one = examples.long_conversation(100_000, turns=200)
    assert len(one.tokens) >= 100_000
    page = opened(tab, tmp_path, one)
    styled = """() => [...document.querySelectorAll('*')].filter(
      (e) => e.checkVisibility({ contentVisibilityAuto: true })).length"""
    for place in (0, 0.5, 0.85):
        page.run("(share) => scrollTo(0, share * document.documentElement.scrollHeight)", place)
        page.settle()
        assert page.run("document.querySelectorAll('*').length") < MOST_STYLED
        assert page.run(styled) < MOST_STYLED
        ranges = page.run("[...CSS.highlights.values()].reduce((n, h) => n + h.size, 0)")
        assert 0 < ranges < MOST_STYLED
    page.run("""async () => {
      for (let i = 0; i < 40; i += 1) {
        scrollBy(0, -innerHeight);
        await new Promise(requestAnimationFrame);
      }
    }""")
    page.settle()
    near = page.run("""[...modules.main.transcript.visible].filter(({ element }) => {
      const { top, bottom } = element.getBoundingClientRect();
      return top < innerHeight + 300 && bottom > -300;
    }).length""")
    assert page.run("modules.main.transcript.visible.size") == near > 0
    length = page.run(
        "[...document.querySelectorAll('.chunk')].reduce((n, c) => n + c.textContent.length, 0)"
    )
    text = "".join(one.tokens)
    assert length == len(text) + text.count("\n")
    assert page.problems == []


def test_what_was_left_out_is_said(tab: Any, tmp_path: Path) -> None:
    one = examples.conversation(layers=24, heads=16)
    said = write_page([one], tmp_path / "page.html", 120_000)
    page = chromium.OpenedPage(tab, tmp_path / "page.html")
    assert page.text("#left-out") == " ".join(said)
    assert "layers are left out" in page.text("#left-out")

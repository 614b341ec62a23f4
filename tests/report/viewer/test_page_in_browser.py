"""The page in a real browser: what is shown are the numbers given, and all of it can be picked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

import benchmarks.viewer.example_chats as examples
import chromium
from sra_fast.report.viewer import ViewedConversation, write_page
from sra_fast.report.viewer.notebook_page import notebook_page
from sra_fast.report.viewer.shown_sources import sentences

pytestmark = pytest.mark.browser

THESIS = examples.conversation()
WORLD = examples.conversation(examples.WORLD, title="world", kind="layers")
Open = Callable[..., chromium.OpenedPage]


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    with chromium.chromium_tab() as started:
        yield started


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with both conversations."""
    file = tmp_path_factory.mktemp("page") / "both.html"
    write_page([THESIS, WORLD], file)
    return file


@pytest.fixture
def open_page(tab: Any, both: Path, tmp_path: Path) -> Iterator[Open]:
    opened = []

    def show(*conversations: ViewedConversation, scheme: str = "light") -> chromium.OpenedPage:
        file = both
        if conversations:
            file = tmp_path / "page.html"
            write_page(conversations, file)
        opened.append(chromium.OpenedPage(tab, file, scheme))
        return opened[-1]

    yield show
    for page in opened:
        page.close()
        assert page.problems == []


def three(value: float) -> str:
    return f"{value:.2e}"


def as_number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_it_asks_the_network_for_nothing(open_page: Open) -> None:
    page = open_page()
    page.press("ArrowRight", "d", "t", "s", "?", "Escape")
    assert len(page.requests) == 1
    assert page.run("performance.getEntriesByType('resource').length") == 0


def test_the_text_is_that_of_the_tokens(open_page: Open) -> None:
    page = open_page()
    shown = page.run("[...document.querySelectorAll('.chunk')].map((c) => c.textContent).join('')")
    assert shown.replace("↵\n", "\n") == "".join(THESIS.tokens)
    roles = page.run(
        "[...document.querySelectorAll('.message h3')].map((h) => h.firstChild.textContent)"
    )
    assert [role.lower() for role in roles] == [turn.role for turn in THESIS.turns]


@pytest.mark.parametrize("one", [THESIS, WORLD], ids=["heads", "layers"])
def test_every_number_is_the_one_given_to_three_digits(
    open_page: Open, one: ViewedConversation
) -> None:
    page = open_page(one)
    shown = page.run("""() => {
      const { numbers } = modules.blocks;
      return modules.main.store.picked.reply.prompt.replies.map((reply) =>
        [-1, ...reply.kept].map((layer) =>
          [-1, ...Array(reply.heads).keys()].map((head) =>
            [...reply.attention(layer, head)].map((code) => modules.numbers.shown(numbers()[code])),
          ),
        ),
      );
    }""")
    for reply, by_layer in zip(one.replies, shown, strict=True):
        exact = reply.profile.astype(numpy.float64)
        exact = numpy.concatenate([exact.mean(axis=0, keepdims=True), exact])
        exact = exact[:, None] if exact.ndim == 2 else exact
        if reply.head_count:
            exact = numpy.concatenate([exact.mean(axis=1, keepdims=True), exact], axis=1)
        found = [[[three(as_number(v)) for v in row] for row in rows] for rows in by_layer]
        assert found == [[[three(v) for v in row] for row in rows] for rows in exact]


@pytest.mark.parametrize("token", [0, 9, 20, 40])
def test_pointing_at_a_token_shows_it(open_page: Open, token: int) -> None:
    page = open_page()
    page.press("ArrowRight", "ArrowRight")
    card = page.hover(token)
    values = THESIS.replies[2].profile.mean(axis=(0, 1), dtype=numpy.float64)
    assert card["piece"] == f"“{THESIS.tokens[token]}”"
    assert card["place"] == f"token {token}"
    assert three(as_number(card["value"].removeprefix("attention "))) == three(values[token])
    above = sum(float(three(value)) > float(three(values[token])) for value in values)
    assert card["rank"].startswith(f"{above} token")


def test_pointing_at_a_token_of_a_span_names_it(open_page: Open) -> None:
    page = open_page()
    assert page.hover(THESIS.tokens.index("Offer"))["spans"] == "in strategy, system"


def test_what_comes_after_the_reply_is_not_seen_by_it(open_page: Open) -> None:
    page = open_page()
    later = THESIS.turns[3].start
    assert page.hover(later)["value"] == "not seen by the reply"
    assert page.run("document.querySelectorAll('.turn.after').length") == 7


def test_the_keyboard_goes_through_tokens(open_page: Open) -> None:
    page = open_page()
    page.press(".", ".", ",")
    first = THESIS.replies[0].start
    assert page.text("#card .place") == f"token {first}"
    assert f"token {first}" in page.text("#spoken")


PICKS: dict[str, Callable[[chromium.OpenedPage], None]] = {
    "menu": lambda page: page.tab.select_option("#pick-reply", "2"),
    "text": lambda page: page.tab.click("button.reply >> nth=2"),
    "line": lambda page: page.tab.click("#line circle >> nth=2"),
    "keys": lambda page: page.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"),
}


@pytest.mark.parametrize("way", PICKS)
def test_a_reply_is_picked(open_page: Open, way: str) -> None:
    page = open_page()
    PICKS[way](page)
    assert page.text("#summary h2") == "Reply 3 · Offer Hope"
    pressed = page.run(
        "[...document.querySelectorAll('.reply')].map((b) => b.getAttribute('aria-pressed'))"
    )
    assert pressed == ["false", "false", "true", "false"]
    shown = [page.text(f"#summary dd >> nth={i}") for i in (0, 1)]
    assert [float(one) for one in shown] == [
        float(f"{score:.4g}") for score in THESIS.replies[2].scores.values()
    ]


@pytest.mark.parametrize("way", ["menu", "line", "keys"])
def test_a_reply_that_is_out_of_sight_is_scrolled_to(open_page: Open, way: str) -> None:
    page = open_page(examples.long_conversation(6_000, turns=40))
    place = """() => {
      const { reply } = modules.main.store.picked;
      const chunk = modules.main.transcript.chunkOf(reply.start);
      return modules.transcript.rectangle(chunk.range(reply.start, reply.start + 1)).top;
    }"""
    PICKS[way](page)
    page.tab.wait_for_function(f"() => ({place})() > 100 && ({place})() < 860")
    settled = page.run("new Promise((d) => setTimeout(() => d(scrollY), 100))")
    assert settled > 0
    page.press("s", "d")  # what leaves the reply as it is scrolls nowhere
    assert page.run("scrollY") == settled


@pytest.mark.parametrize("last", [True, False])
def test_of_what_is_heard_at_once_the_last_counts(open_page: Open, last: bool) -> None:
    page = open_page()
    seen = page.run(
        """(last) => {
          const { transcript } = modules.main;
          const [target] = document.querySelectorAll(".chunk");
          const chunk = transcript.byElement.get(target);
          transcript.seen([{ target, isIntersecting: last }]);
          const heard = [!last, last].map((isIntersecting) => ({ target, isIntersecting }));
          transcript.seen(heard);
          return transcript.visible.has(chunk);
        }""",
        last,
    )
    assert seen is last


def test_another_conversation_is_picked(open_page: Open) -> None:
    page = open_page()
    page.tab.select_option("#pick-title", "1")
    assert "مرحبا" in page.text("#transcript")
    assert not page.tab.is_visible("#pick-head")


def test_replies_in_prompts_of_their_own_are_one_conversation(open_page: Open) -> None:
    first = replace(THESIS, replies=THESIS.replies[:1])
    other = examples.conversation(examples.SMALL_TALK[1:], title=THESIS.title)
    second = replace(other, replies=(replace(other.replies[1], turn=7),))
    page = open_page(first, second)
    assert not page.tab.is_visible("#pick-title")
    assert page.run("document.querySelectorAll('#line circle').length") == 2
    assert "I keep putting" in page.text("#transcript")
    page.press("ArrowRight")
    assert page.text("#summary h2") == "Reply 7 · Offer Hope"
    assert "I keep putting" not in page.text("#transcript")


def test_another_definition_leaves_the_text_where_it_is(open_page: Open) -> None:
    page = open_page()
    before = page.text("button.reply >> nth=1")
    page.run("() => { document.querySelector('.chunk').mine = true; }")
    page.press("d")
    assert page.text("button.reply >> nth=1") != before
    score = THESIS.replies[1].scores["paper"]
    assert float(page.text("button.reply >> nth=1").split(" · ")[-1]) == float(f"{score:.4g}")
    assert page.run("document.querySelector('.chunk').mine")


def test_the_frame_of_a_notebook_shows_the_page(tab: Any, tmp_path: Path) -> None:
    shown = notebook_page([THESIS])
    (tmp_path / "notebook.html").write_text(shown._repr_html_(), encoding="utf-8")
    page = chromium.OpenedPage(tab, tmp_path / "notebook.html")
    frame = page.tab.frames[1]
    assert frame.evaluate("modules.main.store.picked.reply.turn") == 1
    assert frame.evaluate("CSS.highlights.get('span').size") > 0
    with pytest.raises(Exception, match=r"cross-origin|Blocked a frame"):
        frame.evaluate("parent.document.title")
    page.close()
    assert page.problems == []


def test_clicking_the_map_picks_layer_and_head(open_page: Open) -> None:
    page = open_page()
    before = page.text("#legend .labels")
    place = page.run("({x: 34 + 1.5 * modules.main.heat.wide, y: 2.5 * modules.main.heat.high})")
    page.tab.click("#heat", position=place)
    assert page.text("#summary .shown") == "Shown: layer 2, head 1"
    said = page.text("#heat-said").removeprefix("layer 2, head 1: ")
    assert three(as_number(said)) == three(THESIS.replies[0].heat[2, 1])
    assert page.text("#legend .labels") != before
    value = page.hover(9)["value"].removeprefix("attention ")
    assert three(as_number(value)) == three(THESIS.replies[0].profile[2, 1, 9])


def test_the_map_has_a_scale_and_says_what_was_not_kept(open_page: Open) -> None:
    page = open_page()
    values = THESIS.replies[0].heat
    assert values is not None
    ends = page.run(
        "[...document.querySelectorAll('#heat-scale .ends span')].map((e) => e.textContent)"
    )
    shown = [float(as_number(end.split(" ")[1])) for end in ends]
    assert shown == [float(f"{one:.1e}") for one in (values.min(), values.max())]
    assert page.text("#heat-note") == ""
    above = "(name) => document.querySelector(name).getBoundingClientRect().top"
    assert page.run(above, "#bars") < page.run(above, "#heat")
    page = open_page(WORLD)
    note = "Single heads were not kept (--profile heads keeps them): a click picks the layer."
    assert page.text("#heat-note") == note
    page = open_page(examples.conversation(kind="mean"))
    assert "Single layers and heads were not kept" in page.text("#heat-note")
    assert page.text("#heat-said") == ""


def test_keys_pick_layer_head_definition_and_colours(open_page: Open) -> None:
    page = open_page()
    page.press("Shift+ArrowDown", "Shift+ArrowDown", "Shift+ArrowRight", "d", "s")
    assert page.text("#summary .shown") == "Shown: layer 1, head 0"
    assert page.text("#summary dt.picked") == "paper"
    assert page.tab.input_value("#pick-scale") == "percentile"
    page.press("Shift+ArrowUp", "Shift+ArrowLeft")
    assert page.text("#summary .shown") == "Shown: layer 0, mean over heads"
    page.press("m")
    assert page.text("#summary .shown") == "Shown: mean over layers, mean over heads"
    assert page.text("#summary .over") == "The scores are over all layers and heads."
    page.press("Shift+ArrowDown", "Shift+ArrowRight", "Escape")
    assert page.text("#summary .shown") == "Shown: mean over layers, mean over heads"


@pytest.mark.parametrize(
    ("kind", "ranges"),
    [
        ("messages", [(turn.start, turn.end) for turn in THESIS.turns[:4]]),
        ("spans", [one[0] for one in THESIS.replies[1].spans.values()]),
    ],
)
def test_bars_are_the_sums_over_sources(
    open_page: Open, kind: str, ranges: list[tuple[int, int]]
) -> None:
    page = open_page()
    page.press("ArrowRight", "Shift+ArrowDown")
    page.tab.select_option("#pick-sources", kind)
    profile = THESIS.replies[1].profile[0].astype(numpy.float64).mean(axis=0)
    expected = sorted((profile[start:end].sum() for start, end in ranges), reverse=True)
    shown = page.run("[...document.querySelectorAll('.bar .value')].map((v) => v.textContent)")
    assert [three(as_number(v)) for v in shown] == [three(v) for v in expected]


def shown_bars(page: chromium.OpenedPage) -> list[str]:
    names = page.run("[...document.querySelectorAll('.bar bdi')].map((b) => b.textContent)")
    return [str(name) for name in names]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_bars_rank_what_comes_before_the_reply(open_page: Open, at: int) -> None:
    page = open_page()
    page.press(*["ArrowRight"] * at)
    reply = THESIS.replies[at]
    places = [one for (one,) in sentences(THESIS)]
    before = {
        "".join(THESIS.tokens[slice(*one)]).strip() for one in places if one[1] <= reply.start
    }
    assert page.tab.input_value("#pick-sources") == "sentences"
    bars = shown_bars(page)
    assert len(bars) == min(12, len(before))
    assert {bar.removesuffix("…") for bar in bars} <= {text[:90] for text in before}
    profile = reply.profile.mean(axis=(0, 1), dtype=numpy.float64)
    own = float(page.text("#bars-said").partition("itself: ≈ ")[2].removesuffix("."))
    assert own == pytest.approx(profile[reply.start : reply.end].sum(), rel=0.05)


def test_bars_open_on_the_sources_that_were_given(open_page: Open) -> None:
    given = {"late": ((30, 33),), "early": ((9, 12), (20, 22)), "after": ((200, 203),)}
    reply = replace(THESIS.replies[0], sources=given)
    page = open_page(replace(THESIS, replies=(reply,)))
    assert page.tab.input_value("#pick-sources") == "sources"
    options = page.run("[...document.querySelector('#pick-sources')].map((o) => o.value)")
    assert options == ["sources", "sentences", "messages", "spans"]
    bars = shown_bars(page)
    assert sorted(bar.partition(":")[0] for bar in bars) == ["early", "late"]
    late = "".join(THESIS.tokens[30:33]).strip()
    assert f"late: {late}" in bars


def test_clicking_a_bar_shows_where_the_source_stands(open_page: Open) -> None:
    page = open_page()
    page.tab.select_option("#pick-sources", "messages")
    page.tab.click(".bar >> nth=0")
    assert page.run("CSS.highlights.get('source').size") == 1
    assert page.text("#heat-title").startswith("Attention on “")
    marked = page.run("[...CSS.highlights.get('source')][0].startContainer.data")
    role, _, text = page.text(".bar >> nth=0 >> bdi").partition(": ")
    assert marked.startswith(text[:20])
    assert role in ("system", "user", "assistant")
    page.tab.click(".bar >> nth=0")
    assert page.run("CSS.highlights.get('source').size") == 0


@pytest.mark.parametrize(
    ("wanted", "count"), [("THESIS", 2), ("thesis.", 0), ("the ", 8), ("?", 4), ("zebra", 0)]
)
def test_search_counts_the_hits(open_page: Open, wanted: str, count: int) -> None:
    text = "".join(THESIS.tokens)
    assert text.lower().count(wanted.lower()) == count
    page = open_page()
    page.press("/")
    page.tab.keyboard.type(wanted)
    assert page.text("#search-count") == f"{count} {'hit' if count == 1 else 'hits'}"
    page.press("Enter")
    if count:
        assert page.text("#search-count") == f"1 of {count} hits"
        assert page.run("CSS.highlights.get('current-hit').size") == 1
    page.press("Escape")
    assert page.text("#search-count") == ""
    assert page.run("CSS.highlights.get('hit').size") == 0


def test_help_opens_and_closes(open_page: Open) -> None:
    page = open_page()
    page.press("?")
    assert page.tab.is_visible("#help")
    page.press("Escape")
    assert not page.tab.is_visible("#help")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_the_system_s_until_told(open_page: Open, scheme: str) -> None:
    page = open_page(scheme=scheme)
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    before = page.run(paper)
    assert page.run("document.documentElement.dataset.theme") == scheme
    page.press("t")
    assert page.run("document.documentElement.dataset.theme") != scheme
    assert page.run(paper) != before


def test_more_attention_is_never_a_lesser_colour(open_page: Open) -> None:
    page = open_page()
    steps = page.run("""() => {
      const found = [];
      for (let step = 0; step < modules.palette.STEPS; step += 1) {
        for (const range of CSS.highlights.get(modules.palette.shadeName(step))) {
          const chunk = modules.main.transcript.byElement.get(range.startContainer.parentNode);
          const { begins } = chunk.prompt;
          const [from, to] = [chunk.offsetOf(range.startOffset), chunk.offsetOf(range.endOffset)];
          for (let t = chunk.start; t < chunk.end; t += 1) {
            if (from <= begins[t] && begins[t] < to) found.push([t, step]);
          }
        }
      }
      return found;
    }""")
    profile = THESIS.replies[0].profile.mean(axis=(0, 1), dtype=numpy.float64)
    assert sorted(token for token, _ in steps) == list(range(len(profile)))
    ordered = [step for _, step in sorted((profile[token], step) for token, step in steps)]
    assert ordered == sorted(ordered)
    assert len(set(ordered)) > 10


def test_text_can_be_read_on_every_colour(open_page: Open) -> None:
    """The contrast of text is at least 4.5 (WCAG 2.2, AA), and lightness goes one way."""
    page = open_page()
    found = page.run("""() => {
      const canvas = document.createElement('canvas');
      const context = canvas.getContext('2d', { willReadFrequently: true });
      const luminance = (colour) => {
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((v) => {
          const s = v / 255;
          return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      return [false, true].map((dark) => modules.palette.palette(dark).map(
        ({ background, text }) => [luminance(background), luminance(text)]));
    }""")
    for theme in found:
        for background, text in theme:
            light, dark = max(background, text), min(background, text)
            assert (light + 0.05) / (dark + 0.05) >= 4.5
    lightness = [[background for background, _ in theme] for theme in found]
    assert lightness[0] == sorted(lightness[0], reverse=True)
    assert lightness[1] == sorted(lightness[1])
    assert len(set(lightness[1])) == len(lightness[1])
    assert len({text for _, text in found[1]}) == 1  # in the dark no word is of two colours


def test_a_narrow_window_needs_no_scrolling_sideways(open_page: Open) -> None:
    page = open_page()
    page.tab.set_viewport_size({"width": 420, "height": 800})
    page.settle()
    width = page.run("document.documentElement.scrollWidth")
    page.tab.set_viewport_size({"width": 1280, "height": 860})
    assert width <= 420

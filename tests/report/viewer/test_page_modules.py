"""The parts of the page on their own, run by a real browser."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

import benchmarks.viewer.example_chats as examples
import chromium
from sra_fast.report.viewer import write_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.OpenedPage]:
    file = tmp_path_factory.mktemp("page") / "page.html"
    write_page([examples.conversation()], file)
    with chromium.chromium_tab() as tab:
        yield chromium.OpenedPage(tab, file)


@pytest.mark.parametrize(
    ("text", "wanted", "hits"),
    [
        ("a.b A.B aXb", "a.b", [[0, 3], [4, 7]]),
        ("(x) [y] {z} \\ ^$ *+?|/-", "*+?|/-", [[17, 23]]),
        ("(x) [y] {z} \\ ^$", "[y] {z} \\ ^$", [[4, 16]]),
        ("aaaa", "aa", [[0, 2], [2, 4]]),
        ("眠れ眠れ", "眠れ", [[0, 2], [2, 4]]),
        ("İstanbul", "stan", [[1, 5]]),
        ("abc", "", []),
    ],
)
def test_a_search_takes_every_sign_as_it_is(
    page: chromium.OpenedPage, text: str, wanted: str, hits: list[list[int]]
) -> None:
    assert page.run("([t, w]) => modules.search.hitsIn(t, w)", [text, wanted]) == hits


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 3, "–"),
        (0, 3, "0"),
        (0.5, 3, "0.500"),
        (0.0123, 3, "0.0123"),
        (0.00001234, 3, "1.23e−5"),
        (-0.5, 2, "−0.50"),
        (1, 4, "1.000"),
    ],
)
def test_numbers_are_written_for_people(
    page: chromium.OpenedPage, value: float | None, digits: int, text: str
) -> None:
    assert page.run("([v, d]) => modules.numbers.shown(v, d)", [value, digits]) == text


@pytest.mark.parametrize(
    ("piece", "ending"), [("word ", " "), ("word\n", "\n"), ("眠", "眠"), (" word", "d")]
)
def test_chunks_hold_every_token_once_and_end_well(
    page: chromium.OpenedPage, piece: str, ending: str
) -> None:
    pieces = [piece if i % 7 == 6 else piece.strip() for i in range(2000)]
    text = "".join(pieces)
    begins = [0]
    for one in pieces:
        begins.append(begins[-1] + len(one))
    most = page.run("modules.chunking.MOST")
    chunks = page.run("([t, b, s, e]) => modules.chunking.cut(t, b, s, e)", [text, begins, 5, 1999])
    assert [chunks[0][0], chunks[-1][1]] == [5, 1999]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(chunks))
    assert all(0 < end - start <= most for start, end in chunks)
    assert all(text[begins[end] - 1] == ending for _, end in chunks[:-1])


@pytest.mark.parametrize("text", ["\n\na\nb\n", "plain", "眠\n眠", "\x00\x1b[1m\r\n", "\n"])
def test_places_in_the_page_and_in_the_text_are_the_same_places(
    page: chromium.OpenedPage, text: str
) -> None:
    found = page.run(
        """(text) => {
          const begins = Array.from({ length: text.length + 1 }, (_, i) => i);
          const prompt = { text, begins, slice: (a, b) => text.slice(a, b) };
          const element = document.createElement("div");
          const chunk = new modules.chunking.Chunk(prompt, 0, text.length, element);
          const signs = begins.slice(0, -1).map((at) => chunk.node.data[chunk.placeOf(at)]);
          return [begins.map((at) => chunk.offsetOf(chunk.placeOf(at))), signs.join("")];
        }""",
        text,
    )
    assert found[0] == list(range(len(text) + 1))
    pictures = {"\n": "↵", "\r": "␍", "\x00": "␀", "\x1b": "␛"}
    assert found[1] == "".join(pictures.get(sign, sign) for sign in text)


@pytest.mark.parametrize("kind", ["log", "percentile"])
def test_counting_codes_gives_the_scale_that_sorting_gives(
    page: chromium.OpenedPage, kind: str
) -> None:
    counted, ordered = page.run(
        """(kind) => {
          const codes = Uint16Array.from({ length: 999 }, (_, i) => (i * 7919) % 40000);
          const table = modules.blocks.numbers();
          const values = [...codes].map((code) => table[code]);
          const { scaleOfCodes, scaleOfValues } = modules.scale;
          return [[...scaleOfCodes(kind, codes)], [...scaleOfValues(kind, values)]];
        }""",
        kind,
    )
    assert counted == ordered == sorted(ordered)


def test_no_attention_has_no_colour(page: chromium.OpenedPage) -> None:
    steps = page.run("""() => {
      const { scaleOfCodes, stepOf } = modules.scale;
      const none = scaleOfCodes("log", new Uint16Array(5));
      const one = scaleOfCodes("log", Uint16Array.of(0, 0, 30000));
      return [stepOf(none, 0), stepOf(one, 0), stepOf(one, modules.blocks.numbers()[30000]) >= 0];
    }""")
    assert steps == [-1, -1, True]


@pytest.mark.parametrize("codes", [[3, 1, 2, 3, 0], [], [5], [1, 1, 1, 1]])
def test_the_largest_come_first_and_of_equals_the_first(
    page: chromium.OpenedPage, codes: list[int]
) -> None:
    found = page.run("(c) => modules.source_bars.largest(c, 3)", codes)
    assert found == sorted(range(len(codes)), key=lambda i: (-codes[i], i))[:3]


@pytest.mark.parametrize(
    ("value", "by", "next_one"), [(2, 1, 3), (3, 1, 3), (1, -1, 1), (2, -1, 1)]
)
def test_keys_stop_at_the_ends(
    page: chromium.OpenedPage, value: int, by: int, next_one: int
) -> None:
    found = page.run("([v, by]) => modules.keyboard.neighbour([1, 2, 3], v, by)", [value, by])
    assert found == next_one

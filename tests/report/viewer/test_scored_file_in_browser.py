"""From a file of conversations to a page: what a browser shows are the numbers of the result."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
from typer.testing import CliRunner

import chromium
from sra_fast import SRAResult
from sra_fast.cli.app import app
from sra_fast.files.score_folder import MASSES
from sra_fast.files.score_tables import SCORES_JSONL
from tiny_chat_model import save_tiny_model, talk, write_jsonl

REPLY = 7
MARKUP = "<script>document.title = 'run'</script> & 你好"


@dataclass(frozen=True)
class Scored:
    """A file of two conversations, scored with profiles, and its page."""

    folder: Path
    talks: tuple[dict[str, Any], ...]

    @property
    def page(self) -> Path:
        return self.folder / "view.html"

    @property
    def result(self) -> SRAResult:
        return SRAResult.load(self.folder / MASSES)

    @property
    def rows(self) -> list[dict[str, Any]]:
        text = (self.folder / SCORES_JSONL).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    place = tmp_path_factory.mktemp("scored")
    talks = (talk("short", 1), talk("long", 8, strategy="Question"))
    talks[1]["messages"][2]["content"] = MARKUP
    model = save_tiny_model(place / "model")
    file = write_jsonl(place / "talks.jsonl", talks)
    out = place / "out"
    for words in (
        ("score", file, "--model", model, "--profile", "heads", "--out", out),
        ("view", out),
    ):
        ended = CliRunner().invoke(app, [str(word) for word in words])
        assert ended.exit_code == 0, ended.output
    return Scored(out, talks)


def three(value: float) -> str:
    return f"{value:.2e}"


def as_number(text: str) -> float:
    return float(text.replace("−", "-"))


@pytest.mark.browser
def test_a_browser_shows_what_reply_7_looks_at(scored: Scored) -> None:
    result = scored.result
    (i,) = ((result.conversation == 1) & (result.turn == REPLY)).nonzero().flatten().tolist()
    profile = result.profile(i).double().numpy()
    with chromium.chromium_tab() as tab:
        page = chromium.OpenedPage(tab, scored.page)
        page.tab.select_option("#pick-title", label="long")
        page.press(*["ArrowRight"] * (REPLY - 1))

        assert page.text("#summary h2") == f"Reply {REPLY} · Question"
        shown = float(page.text("#summary dd >> nth=0"))
        assert shown == float(f"{scored.rows[i]['sra']:.4g}") == float(f"{result.sra[i]:.4g}")

        transcript = page.text("#transcript")
        said = [message["content"] for message in scored.talks[1]["messages"][: 2 * REPLY]]
        assert all(text in transcript for text in said)
        assert page.tab.title() != "run"  # the script of a text is text

        attention = page.run("""() => {
          const { reply } = modules.main.store.picked;
          const table = modules.blocks.numbers();
          const all = (count) => [-1, ...Array(count).keys()];
          return [-1, ...reply.kept].map((layer) => all(reply.heads).map((head) =>
            [...reply.attention(layer, head)].map((code) => modules.numbers.shown(table[code]))));
        }""")
        layers = numpy.concatenate([profile.mean(axis=0, keepdims=True), profile])
        exact = numpy.concatenate([layers.mean(axis=1, keepdims=True), layers], axis=1)
        found = numpy.vectorize(lambda text: three(as_number(text)))(numpy.array(attention))
        numpy.testing.assert_array_equal(found, numpy.vectorize(three)(exact))

        first = page.hover(0)
        value = first["value"].removeprefix("attention ")
        assert three(as_number(value)) == three(profile.mean(axis=(0, 1))[0])
        assert page.problems == []
        assert len(page.requests) == 1

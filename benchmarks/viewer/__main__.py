"""Measure how fast the viewer's page opens and scrolls: ``python -m benchmarks.viewer``.

A headless Chromium opens the page of a chat of 1,000, 10,000 and 100,000 tokens, scrolls through it
a window at a time, and goes from reply to reply. Beside it, a page with an element for every token.
The two take turns; every figure is the median over the rounds. ``--record`` writes
``viewer.json`` and ``viewer.md``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import machine
from benchmarks.viewer.example_chats import LONG_REPLIES, long_conversation
from benchmarks.viewer.plain_page import page_of_elements
from sra_fast.report.viewer import write_page
from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.markdown_table import markdown_table

RESULTS = Path(__file__).parents[1] / "results"
NAME = "viewer"
SIZES = (1_000, 10_000, 100_000)
WAYS = ("viewer", "an element for every token")
WINDOW = {"width": 1280, "height": 860}

_OPENED = """async () => {
  for (let i = 0; i < 2; i += 1) await new Promise(requestAnimationFrame);
  const painted = performance.now();
  const paints = () => performance.getEntriesByName("first-contentful-paint");
  while (paints().length === 0) await new Promise(requestAnimationFrame);
  const [first] = paints();
  const styled = [...document.querySelectorAll("*")].filter(
    (one) => one.checkVisibility({ contentVisibilityAuto: true })).length;
  return [first.startTime, painted, styled];
}"""
_SCROLLED = """async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const times = [];
  let last = await frame();
  for (let i = 0; i < 150; i += 1) {
    scrollBy(0, innerHeight);
    const now = await frame();
    times.push(now - last);
    last = now;
    if (scrollY + innerHeight >= document.documentElement.scrollHeight) scrollTo(0, 0);
  }
  return times.sort((a, b) => a - b);
}"""
_PICKED = """async () => {
  const tokens = [...document.querySelectorAll("div > span[title]")];
  const pick = tokens.length === 0
    ? () => document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }))
    : () => tokens.forEach((token) => {
        token.style.background = `rgb(0 90 180 / ${Math.random()})`;
      });
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const times = [];
  for (let i = 0; i < 11; i += 1) {
    const start = performance.now();
    pick();
    await frame();
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b);
}"""


def opened(browser: Any, file: Path) -> dict[str, float]:
    """Open a page, scroll through it and pick replies; return times in milliseconds, and counts."""
    page = browser.new_page(viewport=WINDOW)
    page.goto(file.as_uri())
    first, painted, styled = page.evaluate(_OPENED)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # whatever else runs
    before = _busy(session)
    frames = page.evaluate(_SCROLLED)
    busy = (_busy(session) - before) / len(frames)
    found = {
        "first_paint_ms": first,
        "whole_window_ms": painted,
        "frame_ms": median(frames),
        "frame_95_ms": frames[int(0.95 * len(frames))],
        "frame_longest_ms": frames[-1],
        "frame_work_ms": busy,
        "styled_elements": styled,
    }
    page.evaluate("scrollTo(0, 0)")
    picked = page.evaluate(_PICKED)
    found |= {"reply_ms": median(picked), "reply_longest_ms": picked[-1]}
    page.close()
    return found


def _busy(session: Any) -> float:
    """Return how long the page's main thread has worked so far, in milliseconds."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return 1000 * next(one["value"] for one in metrics if one["name"] == "TaskDuration")


def measure(size: int, rounds: int, browser: Any, folder: Path) -> list[dict[str, Any]]:
    """Return the figures of both pages for a chat of ``size`` tokens."""
    conversation = long_conversation(size, turns=max(2, size // 500))
    files = {way: folder / f"{size}-{number}.html" for number, way in enumerate(WAYS)}
    start = time.perf_counter()
    write_page([conversation], files[WAYS[0]])
    written = time.perf_counter() - start
    files[WAYS[1]].write_text(page_of_elements(conversation), encoding="utf-8")
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            found[way].append(opened(browser, files[way]))
    return [
        {
            "tokens": size,
            "page": way,
            "megabytes": files[way].stat().st_size / 1e6,
            **({"written_s": written} if way == WAYS[0] else {}),
            **{name: median(one[name] for one in all_rounds) for name in all_rounds[0]},
        }
        for way, all_rounds in found.items()
    ]


def page(record: dict[str, Any]) -> str:
    """Return the record as a page of Markdown."""
    facts = record["machine"]
    columns = {
        "size, MB": "megabytes",
        "first paint, ms": "first_paint_ms",
        "whole window, ms": "whole_window_ms",
        "a frame, ms": "frame_ms",
        "95 % of frames, ms": "frame_95_ms",
        "longest frame, ms": "frame_longest_ms",
        "work for a frame, ms": "frame_work_ms",
        "to another reply, ms": "reply_ms",
        "styled elements": "styled_elements",
    }
    rows = [
        (f"{one['tokens']:,}", one["page"], *(_cell(one.get(name)) for name in columns.values()))
        for one in record["pages"]
    ]
    return "\n".join(
        [
            "# Opening and scrolling the viewer's page",
            "",
            f"{facts['cpu']}, {facts['cores']} cores, no GPU; Chromium {record['browser']}, commit "
            f"{facts['commit']}. A window of {WINDOW['width']} × {WINDOW['height']}, scrolled by "
            f"its height every frame; {LONG_REPLIES} scored replies at most. Medians over "
            f"{record['rounds']} rounds, in which the two pages take turns. Work is the processor "
            "time of the page's main thread; a frame takes at least 16.7 ms. To go to another "
            "reply, the page of elements gives each of them another colour.",
            "",
            *markdown_table(("tokens", "page", *columns), rows, 2),
            "Measure again with `python -m benchmarks.viewer --record`.",
            "",
        ]
    )


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print, and record it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewer")
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="How often to open each page."
    )
    parser.add_argument(
        "--record", action="store_true", help="Write the figures among the recorded results."
    )
    given = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        parser.error("chromium is not installed; install it with 'make chromium'")
    pages: list[dict[str, Any]] = []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for size in SIZES:
            pages += measure(size, given.rounds, browser, Path(folder))
            print(f"measured: {size:,} tokens", file=sys.stderr, flush=True)
        record = {
            "machine": machine.facts(),
            "browser": browser.version,
            "rounds": given.rounds,
            "pages": pages,
        }
        browser.close()
    print(page(record))
    if given.record:
        write_json(RESULTS / f"{NAME}.json", record)
        write_text(RESULTS / f"{NAME}.md", page(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())

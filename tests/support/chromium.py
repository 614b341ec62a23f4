"""A headless Chromium for tests of pages; where there is none, they skip and say so.

With SRA_FAST_REQUIRE_BROWSER=1 in the environment they fail instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
REQUIRED = "SRA_FAST_REQUIRE_BROWSER"

# Observers speak frames later, and the more so the busier the machine is.
ALL_SEEN = """() => typeof modules === "undefined" ||
  [...document.querySelectorAll(".chunk")].every((element) => {
    const { top, bottom } = element.getBoundingClientRect();
    const { transcript } = modules.main;
    const seen = transcript.visible.has(transcript.byElement.get(element));
    return seen || bottom <= 0 || top >= innerHeight || top === bottom;
  })"""
TWO_FRAMES = "new Promise((d) => requestAnimationFrame(() => requestAnimationFrame(d)))"


def _without(what: str) -> NoReturn:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{what}, and {REQUIRED}=1 asks for it")
    pytest.skip(what)


@contextmanager
def chromium_tab() -> Iterator[Any]:
    """Start a browser with one tab, and end it with the block."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _without("playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        _without(f"there is no browser: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        # A container's user may have no namespaces of its own, which the sandbox needs.
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield browser.new_page(viewport={"width": 1280, "height": 860})
        finally:
            browser.close()


class OpenedPage:
    """A page that was opened in a tab, with what it asked for and what it complained of.

    Attributes:
        tab: the tab of the browser.
        problems: errors of its scripts, and what it wrote to the console.
        requests: the addresses that it asked for.
    """

    def __init__(self, tab: Any, file: Path, scheme: str = "light") -> None:
        self.tab = tab
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._listeners = {
            "console": lambda message: self.problems.append(message.text),
            "pageerror": lambda error: self.problems.append(str(error)),
            "request": lambda request: self.requests.append(request.url),
        }
        for event, listener in self._listeners.items():
            tab.on(event, listener)
        tab.emulate_media(color_scheme=scheme)
        tab.mouse.move(0, 0)
        tab.goto(file.as_uri())
        self.settle()

    def close(self) -> None:
        """Hear no more of the tab, which goes on to other pages."""
        for event, listener in self._listeners.items():
            self.tab.remove_listener(event, listener)

    def settle(self) -> None:
        """Wait until what is seen, in frames too, is laid out and coloured."""
        for frame in self.tab.frames:
            frame.evaluate(TWO_FRAMES)
            frame.wait_for_function(ALL_SEEN)

    def run(self, expression: str, argument: Any = None) -> Any:
        """Return what a JavaScript expression or function gives in the page."""
        return self.tab.evaluate(expression, argument)

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        return str(self.tab.text_content(selector))

    def press(self, *keys: str) -> None:
        """Press keys one after another."""
        for key in keys:
            self.tab.keyboard.press(key)
        self.settle()

    def hover(self, token: int) -> dict[str, str]:
        """Point at a token and return the lines of its card by their names."""
        place = self.run(
            """async (token) => {
              const { store } = modules.main;
              const { prompt } = store.picked.reply;
              const chunk = modules.main.transcript.chunkOf(token);
              await modules.main.transcript.goTo(...chunk.cellOf(token));
              const box = modules.transcript.rectangle(chunk.range(...chunk.cellOf(token)));
              return [box.left + box.width / 2, box.top + box.height / 2];
            }""",
            token,
        )
        self.tab.mouse.move(*place)
        self.settle()
        lines = self.run(
            "[...document.querySelectorAll('#card > div')].map((l) => [l.className, l.textContent])"
        )
        return dict(lines) if self.tab.is_visible("#card") else {}

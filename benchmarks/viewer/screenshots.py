"""Draw the documentation's pictures of the viewer: ``python -m benchmarks.viewer.screenshots``.

The conversations are the project's own, and the attention in them is drawn at random.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.viewer.example_chats import SMALL_TALK, WORLD, conversation, long_conversation
from sra_fast.report.viewer import ViewedConversation, write_page

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
WINDOW = {"width": 1280, "height": 800}
COLOURS = 192  # of a picture, which keeps it small


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        name: the name of its file.
        scheme: the system's colours, "light" or "dark".
        conversations: what the page shows.
        keys: the keys that are pressed first.
        act: what is done next.
    """

    name: str
    scheme: str
    conversations: Sequence[ViewedConversation]
    keys: Sequence[str] = ()
    act: Callable[[Any], None] = lambda tab: None


def _pick_head(tab: Any) -> None:
    tab.click("#heat", position={"x": 34 + 4.5 * 18, "y": 10.5 * 18})


def _scroll(tab: Any) -> None:
    tab.evaluate("scrollTo(0, 270)")


def _point(tab: Any) -> None:
    tab.mouse.move(400, 158)


def _search(tab: Any) -> None:
    tab.keyboard.press("/")
    tab.keyboard.type("message 140")
    tab.keyboard.press("Enter")
    tab.wait_for_timeout(500)


def pictures() -> list[Picture]:
    """Return what the pictures show, in any order."""
    small = conversation(layers=8, heads=6)
    forty = conversation(SMALL_TALK * 10, title="40 turns", layers=16, heads=12)
    world = conversation(WORLD, title="five scripts", kind="layers")
    right = ("ArrowRight",)
    return [
        Picture("viewer-light", "light", [small], right * 2, _point),
        Picture("viewer-dark", "dark", [small], right * 2),
        Picture("viewer-40-turns", "light", [forty], [*right * 24, "g"], _pick_head),
        Picture("viewer-100k-tokens", "dark", [long_conversation()], right * 19, _search),
        Picture("viewer-scripts", "light", [world], right * 3, _scroll),
    ]


def take(browser: Any, picture: Picture, folder: Path) -> Path:
    """Take a picture and return its file."""
    from PIL import Image

    page = folder / f"{picture.name}.html"
    write_page(picture.conversations, page)
    tab = browser.new_page(viewport=WINDOW, color_scheme=picture.scheme)
    tab.goto(page.as_uri())
    for key in picture.keys:
        tab.keyboard.press(key)
    tab.wait_for_timeout(500)
    picture.act(tab)
    tab.wait_for_timeout(500)
    file = PICTURES / f"{picture.name}.png"
    tab.screenshot(path=file)
    tab.close()
    with Image.open(file) as opened:
        small = opened.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(file, optimize=True)
    return file


def main() -> int:
    """Take every picture and print its size."""
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(exist_ok=True)
    path = shutil.which("chromium")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for picture in pictures():
            file = take(browser, picture, Path(folder))
            print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

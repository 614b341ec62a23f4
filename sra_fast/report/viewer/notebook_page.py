"""Show the page inside a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.report.viewer.page_writer import DEFAULT_BYTES, page_html
from sra_fast.report.viewer.tokenised_result import TokenisedResult
from sra_fast.report.viewer.viewed_conversation import ViewedConversation
from sra_fast.report.viewer.viewed_result import viewed
from sra_fast.result import SRAResult
from sra_fast.tools.atomic import replaced_atomically, writable_file


@dataclass(frozen=True, eq=False, repr=False)
class NotebookPage:
    """A page that a notebook shows where it is the value of a cell.

    It stands in a frame of its own, which may run its script and nothing else: it reaches neither
    the notebook nor the network.

    Attributes:
        page: the text of the page, HTML.
        height: height of the frame in pixels.
    """

    page: str
    height: int = 720

    def save(self, path: str | Path) -> None:
        """Write the page to a file, which a browser opens without a server or network.

        Args:
            path: the file, such as "page.html", which appears whole or not at all.

        Raises:
            OSError: the file cannot be written; the message has the path.
        """
        with replaced_atomically(writable_file(path)) as temporary:
            temporary.write_bytes(self.page.encode())

    def __repr__(self) -> str:
        size = len(self.page.encode())
        return f"NotebookPage({size / 1e6:.2g} MB of HTML; .save('page.html') writes it)"

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts" style="width:100%;height:{self.height}px;border:0" '
            f'srcdoc="{html.escape(self.page, quote=True)}"></iframe>'
        )


def result_page(result: SRAResult, tokenizer: Any, *, height: int = 720) -> NotebookPage:
    """Return the page of a result with profiles, which a notebook shows in a frame.

    Args:
        result: the result.
        tokenizer: the tokenizer whose tokens were scored.
        height: height of the frame in pixels.

    Raises:
        ViewError: there are no profiles, or no token ids.
        PageTooLargeError: the means alone are larger than a page may be.
    """
    conversations = viewed(TokenisedResult(result, tokenizer))
    return notebook_page(conversations, definition=result.definition, height=height)


def notebook_page(
    conversations: Sequence[ViewedConversation],
    max_bytes: int = DEFAULT_BYTES,
    *,
    definition: str | None = None,
    height: int = 720,
) -> NotebookPage:
    """Return the page of conversations, which a notebook shows in a frame.

    Args:
        conversations: what to show.
        max_bytes: the largest page, as in :func:`sra_fast.report.viewer.write_page`.
        definition: the definition whose scores are shown first.
        height: height of the frame in pixels.

    Raises:
        PageTooLargeError: the means alone are larger than ``max_bytes``.
        ViewError: there is nothing to show.
    """
    return NotebookPage(page_html(conversations, max_bytes, definition=definition), height)

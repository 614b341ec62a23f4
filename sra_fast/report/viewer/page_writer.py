"""Write a page whole or not at all, and no larger than allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sra_fast.report.viewer.page_assembly import page_head_and_foot
from sra_fast.report.viewer.page_blocks import Detail, PageBlock
from sra_fast.report.viewer.page_index import describe, script_json
from sra_fast.report.viewer.viewed_conversation import ViewedConversation, ViewError
from sra_fast.tools.atomic import replaced_atomically, writable_file

DEFAULT_BYTES = 30_000_000
"""The largest page that is written unless another size is allowed."""

_INDEX = '<script type="application/json" id="index">{}</script>\n'


class PageTooLargeError(ViewError):
    """An error that says that not even the means over layers and heads fit the page."""


@dataclass(frozen=True)
class _Page:
    """A page that is laid out, and whose blocks are not made yet."""

    head: str
    foot: str
    index: str
    blocks: Sequence[PageBlock]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """The bytes of the page."""
        texts = sum(len(text.encode()) for text in (self.head, self.index, self.foot))
        return texts + sum(block.size for block in self.blocks)

    def parts(self) -> Iterator[str]:
        """Yield the page piece by piece."""
        yield self.head
        yield self.index
        for block in self.blocks:
            yield block.html()
        yield self.foot


def write_page(
    conversations: Sequence[ViewedConversation],
    path: str | Path,
    max_bytes: int = DEFAULT_BYTES,
    *,
    definition: str | None = None,
) -> tuple[str, ...]:
    """Write one HTML page that shows what every reply attends to; it needs no server or network.

    What is shown are the numbers given, rounded once to three significant digits.

    Args:
        conversations: what to show.
        path: the file, which appears whole or not at all.
        max_bytes: the largest page to write. What does not fit is left out: first single heads,
            then layers. Means are over all layers and heads in any case.
        definition: the definition whose scores are shown first.

    Returns:
        What was left out, in sentences, which the page says as well; empty if all is there.

    Raises:
        PageTooLargeError: the means alone are larger than ``max_bytes``.
        ViewError: there is nothing to show.
        OSError: the file cannot be written; the message has the path.
    """
    file = writable_file(path)
    page = _largest_page(conversations, max_bytes, definition)
    with replaced_atomically(file) as temporary, temporary.open("wb") as opened:
        for part in page.parts():
            opened.write(part.encode())
    return page.left_out


def page_html(
    conversations: Sequence[ViewedConversation],
    max_bytes: int = DEFAULT_BYTES,
    *,
    definition: str | None = None,
) -> str:
    """Return the text of the page that :func:`write_page` writes.

    Raises:
        PageTooLargeError: the means alone are larger than ``max_bytes``.
        ViewError: there is nothing to show.
    """
    return "".join(_largest_page(conversations, max_bytes, definition).parts())


def _largest_page(
    conversations: Sequence[ViewedConversation], max_bytes: int, definition: str | None
) -> _Page:
    """Return the page with as much detail as fits: heads, else layers, else fewer, else none."""
    replies = [reply for one in conversations for reply in one.replies]
    if not replies:
        raise ViewError("there is no reply to show; give conversations whose replies were scored")
    layers = max(reply.layer_count for reply in replies)
    heads = any(reply.head_count for reply in replies)
    whole = _laid_out(conversations, Detail(None, heads), definition, ())
    if whole.size <= max_bytes:
        return whole
    too_large = f"With all of it the page would have {_megabytes(whole.size)}, and " + (
        f"{_megabytes(max_bytes)} are allowed"
    )
    if heads:
        said = (f"{too_large}: single heads are left out.",)
        page = _laid_out(conversations, Detail(None, False), definition, said)
        if page.size <= max_bytes:
            return page
    fits, does_not = 0, layers
    best: _Page | None = None
    while does_not - fits > 1 or best is None:
        count = (fits + does_not) // 2 if does_not - fits > 1 else 0
        detail = Detail(_spread(count, layers), False)
        page = _laid_out(
            conversations, detail, definition, (_told(too_large, heads, detail, layers),)
        )
        if page.size <= max_bytes:
            fits, best = count, page
        elif count == 0:
            raise PageTooLargeError(
                f"the means over layers and heads alone take {_megabytes(page.size)}, and "
                f"{_megabytes(max_bytes)} are allowed; show fewer conversations, or allow a larger "
                "page",
                "max_bytes",
            )
        else:
            does_not = count
    return best


def _laid_out(
    conversations: Sequence[ViewedConversation],
    detail: Detail,
    definition: str | None,
    left_out: tuple[str, ...],
) -> _Page:
    titles = list(dict.fromkeys(one.title for one in conversations))
    title = titles[0] if len(titles) == 1 else f"{len(titles)} conversations"
    head, foot = page_head_and_foot(f"{title} · sra_fast")
    index, blocks = describe(conversations, detail, definition)
    text = _INDEX.format(script_json({**index, "leftOut": left_out}))
    return _Page(head, foot, text, blocks, left_out)


def _spread(count: int, layers: int) -> tuple[int, ...]:
    """Return ``count`` of the layers, evenly spread from the first to the last."""
    if count == 1:
        return (layers - 1,)
    return tuple(round(i * (layers - 1) / (count - 1)) for i in range(count))


def _told(too_large: str, heads: bool, detail: Detail, layers: int) -> str:
    kept = detail.layers or ()
    single = "single heads and " if heads else ""
    if not kept:
        return f"{too_large}: {single}single layers are left out."
    named = ", ".join(map(str, kept))
    return (
        f"{too_large}: {single}{layers - len(kept)} of {layers} layers are left out; "
        f"kept are those at {named} (counted from 0)."
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB"

"""Cut a prompt into sources, such as its messages, its sentences or its documents.

Sources never overlap, and blanks around them belong to none. What a sentence is, is told by simple
rules that hold for most texts, not by a model of a language: a full stop, a question or exclamation
mark (also those of Chinese, Japanese, Hindi, Arabic and others), with quotes and brackets behind
it, ends one where a blank or the end of the line follows; so does every line break. Chinese and
Japanese marks need no blank. Neither an abbreviation's full stop nor one inside a number is told
apart from others unless no blank follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias, get_args

from sra_fast.chat.chat_template import EncodingError
from sra_fast.chat.text_places import PromptText, TextRange, trimmed_range
from sra_fast.names import SourceUnit

UNITS: tuple[str, ...] = get_args(SourceUnit)

NamedRange: TypeAlias = tuple[str, TextRange]
"""The name of a source, and its place."""

_CLOSING = "[\"'”’»)\\]}）】」』]*"
_SENTENCE_END = re.compile(rf"(?:[.!?…।؟۔]+{_CLOSING}(?=\s|$))|(?:[。！？｡]+{_CLOSING})|(?:\n)")
_TAGGED = re.compile(
    r"<(?P<tag>document|doc|passage|context|source)\b[^<>]*>(?P<text>.*?)</(?P=tag)\s*>",
    re.IGNORECASE | re.DOTALL,
)
# A line that begins "Document 3:", "[Document 3](Title: ...)", "Passage 3 -", "[3] ..." and such.
_HEADED = re.compile(
    r"^[ \t]*(?:\[?(?:document|doc|passage|source|context|chunk)[ \t]*\[?#?\d+\]?|\[\d+\])",
    re.IGNORECASE | re.MULTILINE,
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_ROLES = ("tool", "document", "context")


def cut_sources(
    texts: Sequence[PromptText], unit: str, left_out: Sequence[TextRange]
) -> list[NamedRange]:
    """Cut a prompt into sources, in the order of the prompt.

    Args:
        texts: the prompt's texts.
        unit: "messages" for whole messages; "sentences" for their sentences; "documents" for the
            messages of tools, and texts between tags such as ``<document>`` or under headings such
            as ``Document 3:`` or ``[3]``.
        left_out: ranges that are no sources: the replies. Sources end where one begins.

    Returns:
        Names such as ``"message 0 (system)"``, ``"message 1 (user), sentence 3"`` or
        ``"document 2"``, counted like messages from 0 or, within one, from 1; and the places. The
        sentences of a prompt that is one text are called ``"sentence 3"``.

    Raises:
        EncodingError: there is no such unit, or the prompt has none.
    """
    if unit not in UNITS:
        raise EncodingError(
            f"sources: expected {', '.join(map(repr, UNITS))} or, in sra_fast.mark, a mapping of "
            f"names to places, got {unit!r}"
        )
    made = {"messages": _messages, "sentences": _sentences, "documents": _documents}[unit](texts)
    kept = []
    for name, at in made:
        rest = _without(texts[at.message].content, at, left_out)
        if rest is not None:
            kept.append((name, rest))
    if not kept:
        raise EncodingError(
            f"sources: the prompt has no {unit}"
            + (
                "; documents are messages with the role tool, texts between tags such as "
                "<document> and </document>, and texts under headings such as 'Document 1:' or "
                "'[1]' at the beginning of a line; sra_fast.mark takes any others as {name: place}"
                if unit == "documents"
                else " beside the replies"
            )
        )
    return kept


def sentence_ends(text: str) -> list[int]:
    """Return where the sentences of a text end, in characters, but for the end of the text."""
    return [match.end() for match in _SENTENCE_END.finditer(text)]


def _without(content: str, at: TextRange, ranges: Sequence[TextRange]) -> TextRange | None:
    """Return what is left of a range before the first of these ranges, or else behind it."""
    left: TextRange | None = at
    for other in ranges:
        if left is None or left.message != other.message:
            continue
        if left.start < other.end and other.start < left.end:
            before, behind = (left.start, other.start), (other.end, left.end)
            start, end = before if left.start < other.start else behind
            left = trimmed_range(content, at.message, start, max(start, end))
    return left


def _messages(texts: Sequence[PromptText]) -> Iterator[NamedRange]:
    if texts[0].role is None:
        raise EncodingError("sources: a prompt that is one text has no messages to name")
    for number, text in enumerate(texts):
        at = trimmed_range(text.content, number)
        if at is not None:
            yield f"message {number} ({text.role})", at


def _sentences(texts: Sequence[PromptText]) -> Iterator[NamedRange]:
    for number, text in enumerate(texts):
        where = "" if text.role is None else f"message {number} ({text.role}), "
        begin, count = 0, 0
        for end in [*sentence_ends(text.content), len(text.content)]:
            at = trimmed_range(text.content, number, begin, end)
            begin = end
            if at is not None:
                count += 1
                yield f"{where}sentence {count}", at


def _documents(texts: Sequence[PromptText]) -> Iterator[NamedRange]:
    count = 0
    for number, text in enumerate(texts):
        for start, end in _document_ranges(text):
            at = trimmed_range(text.content, number, start, end)
            if at is not None:
                count += 1
                yield f"document {count}", at


def _document_ranges(text: PromptText) -> Iterator[tuple[int, int]]:
    tagged = [match.span("text") for match in _TAGGED.finditer(text.content)]
    if tagged:
        yield from tagged
        return
    heads = [match.start() for match in _HEADED.finditer(text.content)]
    if heads:
        for start, following in zip(heads, [*heads[1:], None], strict=True):
            if following is not None:
                yield start, following
                continue
            # What follows the last document, such as the question, begins after a blank line.
            blank = _BLANK_LINE.search(text.content, start)
            yield start, len(text.content) if blank is None else blank.start()
        return
    if text.role in _ROLES:
        yield 0, len(text.content)

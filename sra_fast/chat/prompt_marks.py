"""Read what a user points at in a prompt: its spans, its replies and its sources."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sra_fast.chat.chat_template import ChatTemplate, EncodingError
from sra_fast.chat.source_places import cut_sources
from sra_fast.chat.text_places import Place, PromptText, TextRange, find_places, trimmed_range
from sra_fast.chat.thoughts import reply_start
from sra_fast.names import SourceUnit


@dataclass(frozen=True)
class PromptMarks:
    """The places that a user points at, by what they are."""

    spans: dict[str, tuple[TextRange, ...]]
    responses: tuple[tuple[TextRange, ...], ...]
    sources: tuple[tuple[str, TextRange], ...]

    def ranges(self) -> list[tuple[str, TextRange]]:
        """Return the name and the place of each: spans, replies, sources."""
        named = [(f"span {name!r}", at) for name, places in self.spans.items() for at in places]
        named += [
            (f"response {k}", at) for k, places in enumerate(self.responses, 1) for at in places
        ]
        return named + [(f"source {name!r}", at) for name, at in self.sources]


def message_texts(messages: object) -> list[PromptText]:
    """Return the text of each message; one without text, such as a tool call, has an empty one."""
    if not isinstance(messages, Sequence) or not messages:
        raise TypeError(
            f"expected a text or a list of messages with 'role' and 'content', got {messages!r}"
        )
    return [_message_text(message, number) for number, message in enumerate(messages)]


def _message_text(message: object, number: int) -> PromptText:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise TypeError(f"message {number}: expected a mapping with a 'role', got {message!r}")
    content = message.get("content")
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, Mapping) else type(part) for part in content]
        if kinds != ["text"]:
            raise EncodingError(
                f"message {number} ({message['role']}) has a content of the parts {kinds}; only "
                "one text can be marked here: join texts to one, and mark images by hand in "
                "span_masks"
            )
        content = content[0].get("text")
        if not isinstance(content, str):
            raise TypeError(f"message {number}: expected 'text' as a text, got {content!r}")
    if content is not None and not isinstance(content, str):
        raise TypeError(f"message {number}: expected 'content' as a text, got {content!r}")
    return PromptText(content or "", message["role"])


def find_marks(
    texts: Sequence[PromptText],
    spans: Mapping[str, Place | list[Place]] | None,
    response: Place | list[Place] | None,
    sources: SourceUnit | Mapping[str, Place | list[Place]] | None,
    chat: ChatTemplate | None = None,
    unanswered: bool = False,
) -> PromptMarks:
    """Find every place that a user points at in a prompt.

    Args:
        texts: the prompt's texts.
        spans, response, sources: the places of these, as :func:`sra_fast.mark` takes them.
        chat: the chat template that writes the messages; None for a prompt that is one text.
        unanswered: whether there may be no reply.

    Raises:
        TypeError: an argument is of no known kind.
        EncodingError: a place is not there or ambiguous, or sources or replies overlap.
    """
    if not isinstance(spans, Mapping) or not spans:
        raise TypeError(
            "spans: expected {name: place} with at least one span, such as {'first': 0} for the "
            "first message; every batch has one, also if it is for its sources or its profile "
            f"alone; got {spans!r}"
        )
    places = {name: find_places(texts, place, f"span {name!r}") for name, place in spans.items()}
    replies = _replies(texts, response, chat, unanswered)
    cut: list[tuple[str, TextRange]] = []
    if isinstance(sources, str):
        cut = cut_sources(texts, sources, [at for reply in replies for at in reply])
    elif isinstance(sources, Mapping):
        for name, place in sources.items():
            cut += [(name, at) for at in find_places(texts, place, f"source {name!r}")]
    elif sources is not None:
        raise TypeError(f"sources: expected a word or {{name: place}}, got {sources!r}")
    _check_disjoint(cut, "sources")
    pieces = [(f"response {k}", at) for k, reply in enumerate(replies, 1) for at in reply]
    _check_disjoint(pieces, "replies")
    return PromptMarks(places, replies, tuple(cut))


def _replies(
    texts: Sequence[PromptText],
    response: Place | list[Place] | None,
    chat: ChatTemplate | None,
    unanswered: bool,
) -> tuple[tuple[TextRange, ...], ...]:
    if response is None:
        last = [number for number, text in enumerate(texts) if text.role == "assistant"]
        if unanswered:
            return ()
        if not last:
            raise EncodingError(
                "response: the prompt has no message of the assistant; say which text is the reply"
            )
        response = last[-1]
    replies = []
    for number, place in enumerate(response if isinstance(response, list) else [response], 1):
        found = find_places(texts, place, f"response {number}")
        replies.append(tuple(_without_thought(texts, at, chat, number) for at in found))
    return tuple(sorted(replies, key=lambda reply: (reply[0].message, reply[0].start)))


def _without_thought(
    texts: Sequence[PromptText], at: TextRange, chat: ChatTemplate | None, number: int
) -> TextRange:
    """Return the part of a whole message that is its reply; other places are left as they are."""
    text = texts[at.message]
    if chat is None or text.role != "assistant" or at != trimmed_range(text.content, at.message):
        return at
    start = max(at.start, reply_start(text.content, chat.thoughts))
    if start >= at.end:
        raise EncodingError(f"response {number}: message {at.message} has nothing but a thought")
    return TextRange(at.message, start, at.end)


def _check_disjoint(named: Sequence[tuple[str, TextRange]], what: str) -> None:
    ordered = sorted(named, key=lambda one: (one[1].message, one[1].start))
    for (name, before), (other, after) in itertools.pairwise(ordered):
        if before.message == after.message and after.start < before.end:
            raise EncodingError(
                f"{what} must not overlap: {name!r} ends at character {before.end} of text "
                f"{before.message}, and {other!r} begins at {after.start}"
            )

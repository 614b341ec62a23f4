"""Mark spans, sources and replies in a prompt of one's own, by its texts.

A prompt is a list of messages, which the tokenizer's chat template writes, or one text. Each place
is found in what the user wrote (:mod:`~sra_fast.chat.text_places`), followed through the chat
template (:mod:`~sra_fast.chat.chat_text`), and read off the tokenizer's offsets
(:mod:`~sra_fast.chat.token_marks`). Token ids are never searched.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import torch

from sra_fast.chat.chat_template import (
    ChatTemplate,
    EncodingError,
    check_fast,
    control_tokens,
    read_chat_template,
)
from sra_fast.chat.chat_text import ChatText, Part, check_control_tokens, place_parts
from sra_fast.chat.prompt_marks import PromptMarks, find_marks, message_texts
from sra_fast.chat.text_places import Place, PromptText, TextRange
from sra_fast.chat.thoughts import Thoughts, without_tags
from sra_fast.chat.token_marks import mark_ranges, mark_sources
from sra_fast.names import SourceUnit
from sra_fast.tools.sra_warning import SRAWarning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LABEL = "the prompt"


def mark(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Mapping[str, Any]],
    spans: Mapping[str, Place | list[Place]] | None = None,
    response: Place | list[Place] | None = None,
    *,
    sources: SourceUnit | Mapping[str, Place | list[Place]] | None = None,
    generation_prompt: bool = False,
    thoughts: Thoughts | None = None,
    now: datetime | None = None,
    template_arguments: Mapping[str, Any] | None = None,
    conversation_id: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Turn a prompt of your own into a batch of one row for ``sra_fast.score``.

    A place is a text that stands in the prompt exactly once, a compiled pattern (every match),
    the index of a message (negative ones count from the end), ``(message, start, end)`` in
    characters of a message's content, or ``(start, end)`` in characters of a prompt that is one
    text. A list of places is one span that is made of all of them.

    Args:
        tokenizer: a fast tokenizer, with a chat template if the prompt is messages.
        prompt: messages with ``role`` and ``content`` in the form of the tokenizer's chat template,
            further keys included; or one text, taken as it is.
        spans: the place of each named span whose attention is asked for, at least one; a batch that
            is for its sources or its profile alone has one, too, such as ``{"first": 0}``.
        response: the place of the reply; in a list, each place is a reply of its own. None for the
            last message of the assistant. A message's reply is what follows its thought, if it
            begins with one.
        sources: cuts the prompt into disjoint sources: "messages", "sentences" or "documents", or a
            mapping of names to places. None for no sources.
        generation_prompt: whether the chat template writes the beginning of the next reply at the
            end. Then ``response`` may be left out, for a prompt that is not answered yet.
        thoughts: the opening and the closing tag of a thought, as in :func:`sra_fast.encode`.
        now: the date and time that a chat template with a date writes; this moment if None.
        template_arguments: what else the chat template reads, such as ``tools``.
        conversation_id: what to call the prompt in results and their tables.
        meta: what else is known of the prompt, as JSON can say it; results carry it.

    Returns:
        ``input_ids`` and ``attention_mask`` ``[1, T]`` int64, ``span_masks`` of ``[1, T]`` bool by
        name, and ``response_mask [1, T]`` int32, k at the tokens of the k-th reply. With sources,
        also ``source_ids [1, T]`` int32, s at the tokens of the s-th source (0: none), and
        ``source_names``, a list with the row's names as a tuple. ``conversation_ids`` and ``meta``
        are lists with those given, if they are.

    Raises:
        TypeError: there is no span, a place is none of the above, or the prompt is neither text nor
            messages.
        EncodingError: a place is not there or ambiguous, sources overlap, or the tokenizer or its
            chat template drops, doubles or alters a text that is marked.

    Warns:
        SRAWarning: all of a span comes after a reply, which then pays it no attention.
    """
    if isinstance(prompt, str):
        check_fast(tokenizer)
        if generation_prompt or template_arguments:
            raise EncodingError(
                "generation_prompt and template_arguments are for messages; a prompt that is one "
                "text is taken as it is"
            )
        marks = find_marks([PromptText(prompt, None)], spans, response, sources)
        named = tuple(
            (Part(0, at.start, at.end, name), at.start, at.end) for name, at in marks.ranges()
        )
        special = not prompt.startswith(control_tokens(tokenizer))
        batch = _tokenised(tokenizer, ChatText(prompt, named), marks, special)
        return batch | _columns(conversation_id, meta)
    texts = message_texts(prompt)
    chat = read_chat_template(tokenizer, thoughts=thoughts, now=now)
    marks = find_marks(texts, spans, response, sources, chat, unanswered=generation_prompt)
    arguments = {**(template_arguments or {}), "add_generation_prompt": generation_prompt}
    written = _write(chat, prompt, texts, marks, arguments)
    # The template has written the special tokens.
    batch = _tokenised(tokenizer, written, marks, special=False)
    return batch | _columns(conversation_id, meta)


def _columns(conversation_id: str | None, meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a batch of one row says of its conversation, if anything is known."""
    ids = {} if conversation_id is None else {"conversation_ids": [conversation_id]}
    return ids if meta is None else {**ids, "meta": [dict(meta)]}


def _write(
    chat: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    texts: Sequence[PromptText],
    marks: PromptMarks,
    arguments: Mapping[str, Any],
) -> ChatText:
    """Write messages with a chat template, and find where everything marked went."""
    roles = [str(text.role) for text in texts]
    contents = [(role, text.content) for role, text in zip(roles, texts, strict=True)]
    bare = [
        (role, without_tags(text, chat.thoughts) if role == "assistant" else text)
        for role, text in contents
    ]
    check_control_tokens(chat, bare, _LABEL)
    in_parts = _takes_parts(chat, messages, arguments)

    def write(changed: Sequence[str]) -> str:
        written = [
            {**message, "content": _like(message["content"], text) if in_parts else text}
            if message.get("content")
            else message
            for message, text in zip(messages, changed, strict=True)
        ]
        return chat.write_messages(written, arguments)

    def refused(error: Exception) -> EncodingError:
        return EncodingError(f"{_LABEL}: the chat template refuses the messages ({error})")

    # One pair of markers for each range, however many names it has.
    ranges: dict[TextRange, str] = {}
    for name, at in marks.ranges():
        ranges.setdefault(at, name)
    parts = [Part(at.message, at.start, at.end, name) for at, name in ranges.items()]
    return place_parts(chat, contents, parts, _LABEL, write=write, refused=refused)


def _takes_parts(
    chat: ChatTemplate, messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]
) -> bool:
    """Return whether the chat template reads contents that are lists of one text.

    One that does not refuses them, or writes such a list as Python does.
    """
    lists = [one["content"] for one in messages if isinstance(one.get("content"), list)]
    try:
        written = chat.write_messages(messages, arguments) if lists else ""
    except Exception:  # whatever the template raises, it refuses
        return False
    return not any(str(content) in written for content in lists)


def _like(content: Any, text: str) -> Any:
    """Return a text in the form that a message's content has: a text, or a list of one part."""
    return [{**content[0], "text": text}] if isinstance(content, list) else text


def _tokenised(
    tokenizer: Any, written: ChatText, marks: PromptMarks, special: bool
) -> dict[str, Any]:
    """Tokenise a written prompt, with special tokens if wanted, and mark its tokens."""
    half = re.search("[\ud800-\udfff]", written.text)
    if half is not None:
        raise EncodingError(
            f"{_LABEL}: character {half.start()} of the written prompt is {half[0]!r}, half of a "
            "character, which no tokenizer reads; take it out, or join it with its other half"
        )
    where = {
        TextRange(part.message, part.start, part.end): (start, end)
        for part, start, end in written.spans
    }
    tokens = tokenizer(
        written.text,
        add_special_tokens=special,
        return_offsets_mapping=True,
        padding=False,
        truncation=False,
        verbose=False,
    )
    ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
    ranges = [[where[at] for at in places] for places in marks.spans.values()]
    ranges += [[where[at] for at in places] for places in marks.responses]
    marked = mark_ranges(tokenizer, written, ids, offsets, ranges, _LABEL)
    spans, replies = marked[: len(marks.spans)], marked[len(marks.spans) :]
    responses = torch.zeros(len(ids), dtype=torch.int32)
    for number, reply in enumerate(replies, 1):
        shared = reply & (responses != 0)
        if bool(shared.any()):
            raise EncodingError(
                f"{_LABEL}: token {int(shared.nonzero()[0])} stands for the end of one reply and "
                "the beginning of another; mark them as one, or leave something between them"
            )
        responses[reply] = number
    _warn_of_later_spans(dict(zip(marks.spans, spans, strict=True)), responses, len(replies))
    batch: dict[str, Any] = {
        "input_ids": torch.tensor([ids], dtype=torch.int64),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        "span_masks": dict(zip(marks.spans, (span[None] for span in spans), strict=True)),
        "response_mask": responses[None],
    }
    if marks.sources:
        names = tuple(dict.fromkeys(name for name, _ in marks.sources))
        number_of = {name: number for number, name in enumerate(names, 1)}
        labelled = [(number_of[name], *where[at]) for name, at in marks.sources]
        batch["source_ids"] = mark_sources(written, offsets, labelled)[None]
        batch["source_names"] = [names]
    return batch


def _warn_of_later_spans(
    spans: Mapping[str, torch.Tensor], responses: torch.Tensor, count: int
) -> None:
    """Warn of a span that begins after a reply has ended: the reply cannot attend to it."""
    for number in range(1, count + 1):
        last = int((responses == number).nonzero()[-1])
        for name, span in spans.items():
            first = int(span.nonzero()[0])
            if first > last:
                warnings.warn(
                    f"response {number} ends at token {last}, before the span {name!r} begins at "
                    f"token {first}, so it pays it no attention and every mass is 0; were the two "
                    "swapped?",
                    SRAWarning,
                    stacklevel=4,
                )

"""Write a prompt as the text that a model reads, and find the characters of each part in it.

Where a text ends up is decided by the tokenizer's chat template. So marker characters are put
around each text, the template writes the prompt, the markers tell the ranges of characters, and
then they are taken out again. A template that drops, doubles, alters or moves a text is refused.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from sra_fast.chat.chat_template import PRIVATE_USE, ChatTemplate, EncodingError
from sra_fast.chat.templates import Prompt, PromptMessage
from sra_fast.chat.thoughts import reply_start, without_tags


@dataclass(frozen=True)
class Part:
    """A range of characters in one message that the chat template must write unchanged.

    Attributes:
        message: index of the message among those given to the chat template.
        start, end: the range in the message's content, in characters.
        name: what error messages call the part.
        turn: number of the reply among the assistant messages of its conversation, from 1, if the
            part is a scored reply; None otherwise.
        is_strategy: whether the part is the quoted name of the strategy.
        role: the role of a message that the part is the whole text of; "" of other parts.
    """

    message: int
    start: int
    end: int
    name: str
    turn: int | None = None
    is_strategy: bool = False
    role: str = ""


@dataclass(frozen=True)
class ChatText:
    """The text that a model reads, and the places of the messages' parts in it.

    Attributes:
        text: the prompt as the chat template writes it.
        spans: ``(part, start, end)``, the range in characters of ``text``: the strategy first, then
            the scored replies, then all other messages.
    """

    text: str
    spans: tuple[tuple[Part, int, int], ...]


def write_chat(template: ChatTemplate, prompt: Prompt) -> ChatText:
    """Write a prompt with a tokenizer's chat template, and find where its parts went.

    Args:
        template: the chat template.
        prompt: the prompt. For a model without a system role, its system message goes in front of
            the first user message.

    Raises:
        EncodingError: a message has a control token in it, a reply is empty, or the chat template
            refuses the prompt or does not write every message once, in order and as it is.
    """
    label = prompt.conversation.label
    messages = _messages(template, prompt)
    parts = list(_parts(template, messages, prompt))
    check_control_tokens(template, [(m.role, _text_of(template, m)) for m in messages], label)

    def write(contents: Sequence[str]) -> str:
        return template.write([(m.role, text) for m, text in zip(messages, contents, strict=True)])

    def refused(error: Exception) -> EncodingError:
        return EncodingError(
            f"{label}: the chat template refuses the conversation ({error})"
            f"{_why_refused(template, messages)}"
        )

    return place_parts(
        template,
        [(m.role, m.content) for m in messages],
        parts,
        label,
        write=write,
        refused=refused,
    )


def place_parts(
    template: ChatTemplate,
    messages: Sequence[tuple[str, str]],
    parts: Sequence[Part],
    label: str,
    *,
    write: Callable[[Sequence[str]], str],
    refused: Callable[[Exception], EncodingError],
) -> ChatText:
    """Write messages, and find where parts of them went.

    Args:
        template: what is known of the chat template, for errors.
        messages: ``(role, content)`` of each message.
        parts: the parts to find. Those of one message may overlap.
        label: what errors call the conversation.
        write: writes the messages with other contents, given one per message.
        refused: what to raise if the messages themselves cannot be written.

    Raises:
        EncodingError: the chat template does not write every part once, in order and as it is.
    """
    contents = [content for _, content in messages]
    try:
        plain = write(contents)
    except Exception as error:
        raise refused(error) from error
    markers = _unused_characters([plain, *contents], 2 * len(parts), label)
    text, found = _take_out(write(_with_markers(contents, parts, markers)), markers)
    for number, part in enumerate(parts):
        content = contents[part.message][part.start : part.end]
        does = _damage(content, text, found[2 * number], found[2 * number + 1])
        if does is not None:
            _fail(template, messages[part.message][0], content, part, does, label)
    if text != plain:
        raise EncodingError(
            f"{label}: the chat template writes something else when a text in it changes, so the "
            "places of its parts cannot be told; pass your own prompts with their masks to "
            "sra_fast.score"
        )
    # Every marker stands exactly once, as _damage found, so its first position is its only one.
    ranges = [(p, found[2 * i][0], found[2 * i + 1][0]) for i, p in enumerate(parts)]
    _check_order(ranges, label)
    return ChatText(text, tuple(ranges))


def check_control_tokens(
    template: ChatTemplate, texts: Sequence[tuple[str, str]], label: str
) -> None:
    """Check that the tokenizer reads no control token in ``(role, text)`` of each message.

    Raises:
        EncodingError: it does.
    """
    words = "\n".join(text for _, text in texts)
    for token in template.control_tokens:
        if token in words:
            where = next((role for role, text in texts if token in text), "chat")
            raise EncodingError(
                f"{label}: {token!r} stands in the text of a message ({where}), and this tokenizer "
                "reads it as a control token, not as text; take it out"
            )


def _text_of(template: ChatTemplate, message: PromptMessage) -> str:
    """Return what must be text in a message: all but the tags around an assistant's thought."""
    if message.role != "assistant":
        return message.content
    return without_tags(message.content, template.thoughts)


def plain_chat(template: ChatTemplate, prompt: Prompt) -> str:
    """Return the text of a prompt without looking for its parts.

    Whatever the chat template raises is passed on.

    Args:
        template: the chat template.
        prompt: the prompt.
    """
    return template.write([(m.role, m.content) for m in _messages(template, prompt)])


def _messages(template: ChatTemplate, prompt: Prompt) -> tuple[PromptMessage, ...]:
    return prompt.messages if template.takes_system else _fold_system_message(prompt)


def _why_refused(template: ChatTemplate, messages: Sequence[PromptMessage]) -> str:
    """Return what makes a chat template refuse a conversation, where trying others tells it."""

    def takes(chat: Sequence[PromptMessage]) -> bool:
        try:
            template.write([(m.role, m.content) for m in chat])
        except Exception:  # whatever the template raises, it refuses
            return False
        return True

    chat = [m for m in messages if m.role != "system"]
    if chat[0].role == "assistant" and takes([m for m in messages if m is not chat[0]]):
        return (
            "; it takes no conversation that opens with an assistant message: leave that message "
            "out, or use a template that makes it history, such as c1_hf"
        )
    user, reply = (PromptMessage(role, "a") for role in ("user", "assistant"))
    if not takes([user, reply]):
        return (
            "; it refuses the shortest conversation too, one message and its reply: set "
            "tokenizer.chat_template to one that writes conversations"
        )
    return ""


def _fold_system_message(prompt: Prompt) -> tuple[PromptMessage, ...]:
    """Put the system text in front of the first user message, for models without a system role."""
    system, *chat = prompt.messages
    for position, message in enumerate(chat):
        if message.role == "user":
            content = f"{system.content}\n\n{message.content}"
            chat[position] = PromptMessage("user", content, strategy=system.strategy)
            return tuple(chat)
    raise EncodingError(
        f"{prompt.conversation.label}: this model's chat template takes no system message, and no "
        "user message is there to carry the strategy; add the user message that is answered"
    )


def _parts(
    template: ChatTemplate, messages: Sequence[PromptMessage], prompt: Prompt
) -> Iterator[Part]:
    """Yield what the template must write unchanged: the strategy, the replies, all other messages.

    They come in this order, so that an error speaks of what matters most.
    """
    whole: list[Part] = []
    for number, message in enumerate(messages):
        start, end = 0, len(message.content)
        if message.strategy is not None:
            name = f'the strategy "{prompt.conversation.strategy}"'
            yield Part(number, *message.strategy, name=name, is_strategy=True)
        if message.role == "assistant":
            # A model's thoughts are no part of its reply: the person never reads them, and chat
            # templates leave those of earlier turns out.
            start = reply_start(message.content, template.thoughts)
        if message.turn is not None:
            if start == end:
                raise EncodingError(
                    f"{prompt.conversation.label}: the reply of turn {message.turn} is empty "
                    "after its thoughts (one without a closing tag goes on to the end); add the "
                    "text that the person reads"
                )
            name = f"the reply of turn {message.turn}"
            yield Part(number, start, end, name, turn=message.turn)
        elif start < end:
            name = f"message {number + 1} of the prompt ({message.role})"
            whole.append(Part(number, start, end, name, role=message.role))
    yield from whole


def _unused_characters(texts: Sequence[str], count: int, label: str) -> list[str]:
    used = set().union(*texts)
    free = (chr(code) for block in PRIVATE_USE for code in block if chr(code) not in used)
    markers = [character for character, _ in zip(free, range(count), strict=False)]
    if len(markers) < count:
        raise EncodingError(
            f"{label}: there are more messages than characters to mark them with; shorten the "
            "conversation"
        )
    return markers


def _with_markers(
    contents: Sequence[str], parts: Sequence[Part], markers: Sequence[str]
) -> list[str]:
    inserts: list[list[tuple[int, str]]] = [[] for _ in contents]
    for number, part in enumerate(parts):
        inserts[part.message].append((part.start, markers[2 * number]))
        inserts[part.message].append((part.end, markers[2 * number + 1]))
    marked: list[str] = []
    for content, here in zip(contents, inserts, strict=True):
        pieces, done = [], 0
        # Where two markers meet, their order changes nothing: they are taken out again.
        for position, marker in sorted(here):
            pieces += [content[done:position], marker]
            done = position
        marked.append("".join(pieces) + content[done:])
    return marked


def _take_out(marked: str, markers: Sequence[str]) -> tuple[str, list[list[int]]]:
    """Remove the markers from a text, and return it with the positions where each marker stood."""
    number = {marker: i for i, marker in enumerate(markers)}
    found: list[list[int]] = [[] for _ in markers]
    text: list[str] = []
    length = 0
    for piece in re.split("([" + "".join(markers) + "])", marked):
        if piece in number:
            found[number[piece]].append(length)
        else:
            text.append(piece)
            length += len(piece)
    return "".join(text), found


def _damage(content: str, text: str, starts: Sequence[int], ends: Sequence[int]) -> str | None:
    """Return what the chat template does to a part, or None if it writes it once and as it is."""
    if not starts and not ends:
        return "drops"
    if len(starts) > 1 or len(ends) > 1:
        return "doubles"
    if not starts or not ends:
        return "cuts"
    if text[starts[0] : ends[0]] != content:
        return "alters"
    return None


def _fail(
    template: ChatTemplate, role: str, content: str, part: Part, does: str, label: str
) -> NoReturn:
    tag = next((end for end in template.ends_of_thoughts if end in content), None)
    if role == "assistant" and tag is not None:
        raise EncodingError(
            f"{label}: the chat template {does} {part.name}, because it takes what stands before "
            f"{tag!r} for a thought; if it is one, begin the message with the opening tag or give "
            f'thoughts=("", {tag!r}), and if not, take {tag!r} out'
        )
    raise EncodingError(
        f"{label}: the chat template {does} {part.name}; use a chat template that writes every "
        "message once and as it is, or pass your own prompts with their masks to sra_fast.score"
    )


def _check_order(ranges: Sequence[tuple[Part, int, int]], label: str) -> None:
    in_prompt = sorted(ranges, key=lambda r: (r[0].message, r[0].start, -r[0].end))
    for (_, start, _), (part, later, _) in itertools.pairwise(in_prompt):
        if later < start:
            raise EncodingError(
                f"{label}: the chat template moves {part.name} in front of what it follows; use "
                "one that keeps the order of the messages"
            )

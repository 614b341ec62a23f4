"""Tell the reply of an assistant message from the thoughts that a model wrote before it.

One rule holds for every model: a message that begins with an opening tag has a thought, which ends
with the first closing tag after it; the reply is what follows. A message that does not begin so is
a reply as a whole, whatever it mentions. Which tags these are is told by the user, or else by the
chat template: it takes what stands before a tag away, or writes it in another way. Without either,
every message is a reply as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from sra_fast.tools.argument_error import ArgumentError

Thoughts: TypeAlias = tuple[str, str]
"""The tags around a thought: the opening one, and the closing one.

An empty opening tag means that every message with the closing tag begins with a thought."""

# Marker characters that stand for texts in the conversations that a template is asked with.
_USER, _OLD_REPLY, _THOUGHT, _REPLY, _BEFORE = map(chr, range(0xE000, 0xE005))


class ThoughtsError(ArgumentError):
    """Raised when something is no pair of tags around a thought."""


class Writer(Protocol):
    """A thing that writes conversations, given as ``(role, content)`` of each message."""

    def write(self, messages: Sequence[tuple[str, str]]) -> str:
        """Return the text of a conversation."""


def check_thoughts(thoughts: object) -> None:
    """Check that something is a pair of tags.

    Raises:
        ThoughtsError: it is none, or the closing tag is empty.
    """
    pair = isinstance(thoughts, (tuple, list)) and len(thoughts) == 2
    if not pair or not all(isinstance(tag, str) for tag in thoughts):  # type: ignore[attr-defined]
        raise ThoughtsError(
            "thoughts must be the opening and the closing tag of a thought, such as "
            f'("<think>", "</think>"), found {thoughts!r}',
            "thoughts",
        )
    if not thoughts[1].strip():  # type: ignore[index]
        raise ThoughtsError(
            "the closing tag of a thought is empty; give the text that ends one", "thoughts"
        )


def reply_start(content: str, thoughts: Sequence[Thoughts]) -> int:
    """Return the character of an assistant message at which its reply begins.

    It is 0 for a message without thoughts, and the length of the message if nothing follows them.

    Args:
        content: the message.
        thoughts: pairs of tags; the first one that the message begins with counts.
    """
    thought = _thought(content, thoughts)
    return 0 if thought is None else len(content) - len(content[thought[2] :].lstrip())


def without_tags(content: str, thoughts: Sequence[Thoughts]) -> str:
    """Return an assistant message without the tags around the thought that it begins with.

    Args:
        content: the message.
        thoughts: pairs of tags; the first one that the message begins with counts.
    """
    thought = _thought(content, thoughts)
    if thought is None:
        return content
    begin, end, reply = thought
    return f"{content[begin:end]}\n{content[reply:]}"


def _thought(content: str, thoughts: Sequence[Thoughts]) -> tuple[int, int, int] | None:
    """Return where the thought of a message begins and ends, and where its closing tag ends.

    A thought that is never closed, as where a limit of tokens cut it, goes on to the message's end.
    """
    first = len(content) - len(content.lstrip())
    for opening, closing in thoughts:
        begin = first + len(opening)
        if content.startswith(opening, first) and (end := content.find(closing, begin)) >= 0:
            return begin, end, end + len(closing)
    for opening, _ in thoughts:
        if opening.strip() and content.startswith(opening, first):
            return first + len(opening), len(content), len(content)
    return None


def thoughts_of_template(
    chat_template: str, writer: Writer
) -> tuple[tuple[Thoughts, ...], tuple[str, ...]]:
    """Return the tags of thoughts that a chat template takes out of assistant messages.

    A tag that a template looks for stands in its source as a string. Each of these is put between
    two texts of an assistant message: if the template then leaves the first text out, or writes it
    another way, it takes the first for a thought and the string for its end.

    Where nothing tells the opening tag, it is the closing one without its slash, if it has one.

    Args:
        chat_template: the source of the template.
        writer: writes conversations with the template.

    Returns:
        The pairs of tags; and every tag that ends a thought for the template, also those whose
        opening tag cannot be told.
    """
    literals = _literals(chat_template)
    if not literals or _leaves_alone(writer, literals):
        return (), ()
    found: dict[str, str | None] = {}
    for end in literals:
        if any(other in end for other in found):
            continue
        others = [tag for tag in literals if tag not in end and end not in tag]
        slashless = end.replace("/", "", 1) if "/" in end else None
        if _treats(writer, "", end):
            found[end] = _opening(writer, end, others) or slashless
        elif slashless and _treats(writer, slashless, end):
            found[end] = slashless
        elif _treats(writer, "".join(others), end):
            found[end] = next((tag for tag in others if _treats(writer, tag, end)), None)
    pairs = tuple((opening, end) for end, opening in found.items() if opening is not None)
    return pairs, tuple(found)


def _literals(chat_template: str) -> list[str]:
    """Return the strings in the source of a template without blanks around them, each once.

    The shortest come first.
    """
    from jinja2 import Environment
    from jinja2.exceptions import TemplateSyntaxError

    found: dict[str, None] = {}
    try:
        for _, kind, text in Environment().lex(chat_template):
            if kind == "string":  # escaped as in Python
                plain = text[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")
                found[plain.strip()] = None
    except (TemplateSyntaxError, UnicodeError):
        return []  # what cannot be read cannot be written with either
    return sorted((text for text in found if text), key=lambda text: (len(text), text))


def _leaves_alone(writer: Writer, literals: Sequence[str]) -> bool:
    """Return whether a template writes replies as they are, whatever strings of its own they hold.

    It saves asking for each of the strings.
    """
    text = _THOUGHT.join(("", *literals, *literals, ""))
    plain = _written(writer, _OLD_REPLY, _REPLY)
    changed = _written(writer, f"{text}{_OLD_REPLY}", f"{text}{_REPLY}")
    return changed == plain.replace(_OLD_REPLY, text + _OLD_REPLY).replace(_REPLY, text + _REPLY)


def _treats(writer: Writer, opening: str, end: str) -> bool:
    """Return whether a template takes what stands between two strings in a reply for a thought.

    It does if the end changes what is written, and the text before it is left out, or stands
    between the two strings but not in the place of the reply.
    """
    plain = _written(writer, _OLD_REPLY, _REPLY)
    endless, thought = f"{opening}{_THOUGHT}", f"{opening}{_THOUGHT}{end}"
    for reply in (_OLD_REPLY, _REPLY):
        written = _written(writer, *_with(thought, reply))
        if not written.count(_OLD_REPLY) == written.count(_REPLY) == 1:
            continue
        before, kept, after = written.partition(_THOUGHT)
        between = after.partition(reply)[0]
        wrapped = opening and before.rstrip().endswith(opening) and end in between
        moved = written != plain.replace(reply, thought + reply)
        if not kept or (wrapped and moved):
            without = _written(writer, *_with(endless, reply))
            return without.replace(_THOUGHT, _THOUGHT + end) != written
    return False


def _with(thought: str, reply: str) -> tuple[str, str]:
    """Return the old and the new reply of a conversation, one of them with a thought before it."""
    return (thought + _OLD_REPLY, _REPLY) if reply == _OLD_REPLY else (_OLD_REPLY, thought + _REPLY)


def _opening(writer: Writer, end: str, literals: Sequence[str]) -> str | None:
    """Return the string that a template takes away, with all before it, in front of a thought.

    It is None if the template keeps no thoughts to tell it by.
    """
    for tag in literals:
        written = _written(writer, _OLD_REPLY, f"{_BEFORE}{tag}{_THOUGHT}{end}{_REPLY}")
        if _BEFORE not in written and all(text in written for text in (_THOUGHT, _REPLY)):
            return tag
    return None


def _written(writer: Writer, old: str, new: str) -> str:
    """Write a conversation of two turns, or return an empty text if the template refuses it."""
    roles = ("user", "assistant", "user", "assistant")
    try:
        return writer.write(list(zip(roles, (_USER, old, _USER, new), strict=True)))
    except Exception:  # a template is a program: raise_exception, undefined names, anything
        return ""

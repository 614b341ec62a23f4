"""Find in an endpoint's answer what its server should have taken out: thoughts, control tokens.

A server without a reasoning parser, or with one for another model, leaves thoughts in the content:
often with the closing tag alone, because the prompt holds the opening one. A server with another
model's stop tokens leaves control tokens in it, and what the model wrote after them. Neither is a
reply, and where the reply begins is not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sra_fast.chat.thoughts import Thoughts

_THOUGHTS: tuple[Thoughts, ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
)
_CONTROL = re.compile(
    r"<\|[a-z][a-z_]*\|?>|<(?:start|end)_of_turn>|\[/?INST\]|</s>(?=\s*$|<s>)", re.IGNORECASE
)


def leftover_in(reply: str, thoughts: Sequence[Thoughts]) -> str | None:
    """Return what is no part of a reply and stands in it, with the way out; None if nothing does.

    Args:
        reply: the text of an answer, after a thought at its beginning was taken off.
        thoughts: the pairs of tags by which it was taken off.
    """
    for opening, closing in (*thoughts, *_THOUGHTS):
        begins = bool(opening) and reply.lstrip().startswith(opening)
        if begins and closing not in reply:
            return f"is a thought without an end (no {closing!r}); allow more tokens"
        if closing in reply:
            tags = (opening, closing) if begins else ("", closing)
            return (
                f"holds a thought that ends with {closing!r}; let the server take thoughts out "
                f"(its reasoning parser), or give the tags {tags[0]!r} and {tags[1]!r} as thoughts"
            )
    if found := _CONTROL.search(reply):
        return (
            f"holds the control token {found[0]!r}; give the server the model's own chat template "
            "and stop tokens"
        )
    return None

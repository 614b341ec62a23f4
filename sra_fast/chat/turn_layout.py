"""Write the turns of a prompt as the model read them when each reply was the last message.

A model that replies reads a prompt that ends there. Many chat templates write a message in the same
way whether others follow it or not; then all turns are read from one text, because nobody attends
to what comes later. Others write old turns differently: they drop thoughts, or put an empty one
before the last reply. There, one text for all turns would be another measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from sra_fast.chat.chat_template import ChatTemplate
from sra_fast.chat.chat_text import ChatText, plain_chat, write_chat
from sra_fast.chat.templates import Prompt
from sra_fast.names import TurnLayout


@dataclass(frozen=True)
class WrittenTurns:
    """Scored turns that are read from one text.

    Attributes:
        text: the text; the other turns in it are no scored replies.
        turns: the numbers of the scored replies, in order.
        layouts: for each of them, "as_generated" if the text up to its end is the one in which it
            was the last reply, else "as_written".
    """

    text: ChatText
    turns: tuple[int, ...]
    layouts: tuple[TurnLayout, ...]


def check_layout(layout: str) -> None:
    """Check that there is such a layout.

    Raises:
        ValueError: there is none.
    """
    if layout not in get_args(TurnLayout):
        names = " or ".join(map(repr, get_args(TurnLayout)))
        raise ValueError(f"layout must be {names}, found {layout!r}")


def write_turns(template: ChatTemplate, prompt: Prompt, layout: TurnLayout) -> list[WrittenTurns]:
    """Write a prompt so that each of its scored turns is laid out as asked for.

    Args:
        template: the chat template.
        prompt: the prompt.
        layout: "as_generated" for as many texts as it takes to lay out every turn as when it was
            the last one; "as_written" for one text, whatever that does to the turns before.

    Returns:
        The texts, whose turns follow one another in order.

    Raises:
        EncodingError: the prompt cannot be written, for the reasons of ``write_chat``.
    """
    if layout == "as_written":
        text = write_chat(template, prompt)
        layouts = tuple(_layout(template, prompt, text, turn) for turn in prompt.turns)
        return [WrittenTurns(text, prompt.turns, layouts)]
    return list(_last_first(template, prompt))[::-1]


def _last_first(template: ChatTemplate, prompt: Prompt) -> Iterator[WrittenTurns]:
    left = prompt.turns
    while left:
        text = write_chat(template, _up_to(prompt, left[-1]))
        first = len(left) - 1
        while first > 0 and _is_alike(template, prompt, text, left[first - 1]):
            first -= 1
        here = left[first:]
        layouts: list[TurnLayout] = ["as_generated" for _ in here]
        yield WrittenTurns(_scoring(text, here), here, tuple(layouts))
        left = left[:first]


def _layout(template: ChatTemplate, prompt: Prompt, text: ChatText, turn: int) -> TurnLayout:
    return "as_generated" if _is_alike(template, prompt, text, turn) else "as_written"


def _is_alike(template: ChatTemplate, prompt: Prompt, text: ChatText, turn: int) -> bool:
    """Return whether a text reads as the one that ends with a turn, up to the end of its reply."""
    end = next(end for part, _, end in text.spans if part.turn == turn)
    if turn == prompt.turns[-1] and prompt.messages[-1].turn == turn:
        return True
    try:
        own = plain_chat(template, _up_to(prompt, turn))
    except Exception:  # the template refuses the shorter conversation
        return False
    if own[:end] != text.text[:end]:
        return False
    # A token may reach from the reply into what follows it, unless a control token ends both.
    ends = tuple(_before_control(template, one[end:]) for one in (text.text, own))
    return ends[0] == ends[1] or _tokens(template, text.text, end) == _tokens(template, own, end)


def _before_control(template: ChatTemplate, text: str) -> str:
    """Return what stands before the first control token, with that token's place if there is one.

    Two texts of which one goes on with a control token and the other simply ends are not alike.
    """
    found = [at for token in template.control_tokens if (at := text.find(token)) >= 0]
    return text[: min(found)] if found else text + "\0"


def _tokens(template: ChatTemplate, text: str, end: int) -> list[int]:
    """Return the tokens of a text that begin before a character."""
    made = template.tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    columns = zip(made["input_ids"], made["offset_mapping"], strict=True)
    return [token for token, (start, _) in columns if start < end]


def _up_to(prompt: Prompt, turn: int) -> Prompt:
    """Return a prompt that ends with the reply of a turn."""
    last = next(i for i, message in enumerate(prompt.messages) if message.turn == turn)
    turns = tuple(one for one in prompt.turns if one <= turn)
    return replace(prompt, messages=prompt.messages[: last + 1], turns=turns)


def _scoring(text: ChatText, turns: tuple[int, ...]) -> ChatText:
    """Return a text in which the replies of these turns alone are scored.

    The replies before them are messages that are read, as all others are.
    """
    spans = tuple(
        (
            part
            if part.turn is None or part.turn in turns
            else replace(part, turn=None, role="assistant"),
            start,
            end,
        )
        for part, start, end in text.spans
    )
    return replace(text, spans=spans)

"""Tell which role a speaker of somebody's file has, by the names that are in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sra_fast.chat.record_fields import ConversationError
from sra_fast.tools.suggestions import did_you_mean

AnyRole = Literal["user", "assistant", "system", "tool"]
"""The roles that somebody's file may know; conversations know the first two."""

_NAMES: Mapping[str, AnyRole] = {
    **dict.fromkeys(("user", "human", "client", "patient", "seeker", "speaker", "usr"), "user"),
    **dict.fromkeys(
        (
            "assistant",
            "gpt",
            "chatgpt",
            "model",
            "bot",
            "therapist",
            "counselor",
            "counsellor",
            "supporter",
            "listener",
            "sys",
        ),
        "assistant",
    ),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(
        (
            "tool",
            "tools",
            "function",
            "function_call",
            "function_response",
            "tool_call",
            "tool_response",
            "observation",
        ),
        "tool",
    ),
}


def role_of(name: object, what: str, roles: Mapping[str, Literal["user", "assistant"]]) -> AnyRole:
    """Return the role of a speaker.

    Args:
        name: what the file calls the speaker; capitals do not count.
        what: the name of the field and its place, with which the error begins.
        roles: further names, as the user gives them; they come first.

    Raises:
        ConversationError: nobody is known by this name.
    """
    text = str(name).strip() if name is not None else ""
    given = {key.casefold(): role for key, role in roles.items()}
    folded = text.casefold()
    if folded in given:
        return given[folded]
    if folded in _NAMES:
        return _NAMES[folded]
    known = [*roles, *_NAMES]
    raise ConversationError(
        f"{what} is {text!r}, and no role is known by that name{did_you_mean(text, known)} (known: "
        f"{', '.join(known)}); say which of the speakers are user and assistant",
        "roles",
    )

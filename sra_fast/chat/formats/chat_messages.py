"""Read chats as lists of messages: those of OpenAI's interface, and ShareGPT's.

OpenAI: ``{"messages": [{"role", "content"}, ...]}``, where content is a text or a list of parts.
ShareGPT: ``{"conversations": [{"from", "value"}, ...]}``, with "human" and "gpt". Both may carry a
strategy on the assistant's messages, or one for the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sra_fast.chat.change_tally import ChangeTally
from sra_fast.chat.checked_conversation import Role
from sra_fast.chat.dialogues import Dialogue, Repeats, Utterance, joined_turns
from sra_fast.chat.formats.roles import role_of
from sra_fast.chat.formats.scalars import identity_of, metadata
from sra_fast.chat.record_fields import RECORD_FIELDS, ConversationError, meta_field
from sra_fast.tools.suggestions import did_you_mean

_LISTS = ("messages", "conversations", "conversation")
_IDS = ("id", "conversation_id", "dialogue_id")
_CALLS = ("tool_calls", "function_call", "tool_call_id")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class ChatReader:
    """A reader of chats that makes a dialogue of each.

    A chat with calls of tools or with parts that are no text is left out and counted, because a
    conversation cannot say it. A system message becomes the metadata ``system``.

    Args:
        form: whose messages they are.
        roles: further names of speakers.
        stem: how the ids of chats without one begin; their number follows.
        tally: where changes are counted.
    """

    def __init__(
        self,
        form: Literal["openai", "sharegpt"],
        roles: Mapping[str, Role],
        stem: str,
        tally: ChangeTally,
    ) -> None:
        self._form: Literal["openai", "sharegpt"] = form
        self._roles, self._stem, self._tally = roles, stem, tally
        self._repeats = Repeats(tally)

    def dialogue(self, number: int, where: str, given: object) -> Dialogue | None:
        """Return the dialogue of a chat, or None if a conversation cannot say it.

        Args:
            number: the number of the chat in its file, from 0.
            where: its place, for error messages.
            given: the chat as it stands in the file.

        Raises:
            ConversationError: it is no such chat; the message names the place.
        """
        tally = self._tally
        entry = given if isinstance(given, Mapping) else {_LISTS[0]: given}
        messages = next((entry[name] for name in _LISTS if name in entry), None)
        if not isinstance(messages, list):
            unknown = [name for name in entry if name not in (*_LISTS, *_IDS, *RECORD_FIELDS)]
            hint = next(filter(None, (did_you_mean(name, _LISTS) for name in unknown)), "")
            raise ConversationError(f"{where}: holds no list of messages{hint}")
        used = {*_LISTS, *_IDS, *RECORD_FIELDS}
        meta = {**meta_field(entry, where), **metadata(entry, used, tally)}
        said = _utterances(messages, where, self._form, self._roles, meta, tally)
        if said is None:
            return None
        strategy = tally.strategy(entry.get("strategy"), where)
        if entry.get("response") is not None:
            said.append(Utterance("assistant", entry["response"], strategy, f"{where}, response"))
            strategy = None
        given_id = next((entry[name] for name in _IDS if entry.get(name) is not None), None)
        wanted = f"{self._stem}-{number}"
        if given_id is not None:
            wanted = identity_of(given_id, f"{where}: 'id'")
        identity, shared = self._repeats.named_apart(wanted)
        turns = joined_turns(said, tally, by="\n\n")
        situation = _optional(entry, "situation", where)
        same_as = shared or self._repeats.same_as(identity, situation, turns)
        if entry.get("dialogue") is not None:
            same_as = identity_of(entry["dialogue"], f"{where}: 'dialogue'")
        return Dialogue(
            identity,
            situation,
            turns,
            same_as=same_as,
            strategy=strategy,
            language=_optional(entry, "language", where),
            meta=meta,
        )


def _utterances(
    messages: list[object],
    where: str,
    form: Literal["openai", "sharegpt"],
    roles: Mapping[str, Role],
    meta: dict[str, object],
    tally: ChangeTally,
) -> list[Utterance] | None:
    """Return what user and assistant say, or None if the chat cannot be said as a conversation."""
    speaker, text_field = ("role", "content") if form == "openai" else ("from", "value")
    found: list[Utterance] = []
    for index, message in enumerate(messages):
        place = f"{where}, message {index}"
        if not isinstance(message, Mapping):
            raise ConversationError(
                f"{place}: expected an object with {speaker!r} and {text_field!r}, found "
                f"{type(message).__name__}"
            )
        for name in (speaker, text_field):
            if name not in message:
                if name == text_field and any(message.get(call) for call in _CALLS):
                    break
                raise ConversationError(
                    f"{place}: {name!r} is missing (it has: {', '.join(map(repr, message))})"
                )
        role = role_of(message[speaker], f"{place}: {speaker!r}", roles)
        if role == "tool" or any(message.get(name) for name in _CALLS):
            tally.count("tools", place)
            return None
        text = _text_of(message[text_field], f"{place}: {text_field!r}")
        if text is None:
            tally.count("pictures", place)
            return None
        for name, value in message.items():
            if name not in (speaker, text_field, "strategy", *_CALLS) and value is not None:
                tally.left_out[str(name)] += 1
        if role == "system":
            if text.strip():
                tally.count("system")
                before = f"{meta['system']}\n\n" if "system" in meta else ""
                meta["system"] = before + text.strip()
            continue
        strategy = None
        if role == "assistant":
            strategy = tally.strategy(message.get("strategy"), place)
        found.append(Utterance(role, text, strategy, f"{place}: {text_field!r}"))
    return found


def _text_of(content: object, what: str) -> str | None:
    """Return the text of a message's content, or None if a part of it is no text.

    Raises:
        ConversationError: it is neither a text nor a list of parts.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ConversationError(
            f"{what} must be a string or a list of parts, found {type(content).__name__}"
        )
    texts = []
    for index, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, Mapping) or "type" not in part:
            raise ConversationError(
                f"{what}: part {index} must be a string or an object with a 'type', found "
                f"{part!r:.80}"
            )
        if part["type"] not in _TEXT_PARTS:
            return None
        text = part.get("refusal") if part["type"] == "refusal" else part.get("text")
        if not isinstance(text, str):
            raise ConversationError(f"{what}: part {index} has no text")
        texts.append(text)
    return "".join(texts)


def _optional(entry: Mapping[str, object], name: str, where: str) -> str | None:
    value = entry.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConversationError(f"{where}: {name!r} must be a string, found {type(value).__name__}")
    return value.strip() or None

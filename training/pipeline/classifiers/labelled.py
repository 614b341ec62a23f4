"""Read replies and their strategies from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sra_fast.chat.conversations import read_conversations
from sra_fast.chat.foreign_files import foreign_formats_named
from sra_fast.chat.strategies import DEFAULT_STRATEGIES, StrategyError, lookup
from sra_fast.tools.strict_json import clean_text, json_values
from sra_fast.tools.suggestions import did_you_mean

from .interface import ClassifierError

_FIELDS = ("id", "response", "strategy", "dialogue")


@dataclass(frozen=True)
class LabelledResponse:
    """A reply and the strategy that it follows.

    The fields are called as in the file, where the text of a reply is "response".

    Attributes:
        id: the id of the reply, unique in its file.
        response: the text of the reply, never empty.
        strategy: the strategy that it follows, or None where that is not known.
        dialogue: the id of the dialogue that it comes from, whose replies resemble each other;
            None where it is not known, and the reply counts as a dialogue of its own.
        where: its place in the file, for error messages.
    """

    id: str
    response: str
    strategy: str | None
    dialogue: str | None
    where: str

    @property
    def label(self) -> str:
        """Return the strategy of the reply.

        Raises:
            ClassifierError: it is not known.
        """
        if self.strategy is None:
            raise ClassifierError(
                f"{self.where} ({self.id!r}): field 'strategy' is missing; a classifier learns "
                "from responses whose strategy is known"
            )
        return self.strategy


def read_responses(path: str | os.PathLike[str]) -> list[LabelledResponse]:
    """Read a file of conversations, or of ``{"response", "strategy"?, "id"?, "dialogue"?}``.

    The reply of a conversation is its ``response`` or, without one, its last assistant message.

    Args:
        path: the file.

    Raises:
        ClassifierError: a line has neither form or the file mixes both, a response is empty, two
            ids are the same, or the file is empty.
        ConversationError: a conversation is not valid, or the file is of another format.
        OSError: the file cannot be read.
    """
    with foreign_formats_named(path):
        return _read(path)


def _read(path: str | os.PathLike[str]) -> list[LabelledResponse]:
    lines = list(json_values(path, raises=ClassifierError))
    if not lines:
        raise ClassifierError(
            f"{Path(path).name}: the file holds no response; write one JSON object on each line"
        )
    conversations = [isinstance(line, Mapping) and "messages" in line for _, line in lines]
    if all(conversations):
        return _of_conversations(path)
    if any(conversations):
        other = lines[conversations.index(not conversations[0])][0]
        raise ClassifierError(
            f"{lines[0][0]} and {other}: one is a conversation (with 'messages') and the other a "
            "response alone; keep them in two files"
        )
    found: list[LabelledResponse] = []
    seen: dict[str, str] = {}
    for index, (where, line) in enumerate(lines):
        one = _of_line(line, index, where)
        if one.id in seen:
            raise ClassifierError(f"{where}: id {one.id!r} is also that of {seen[one.id]}")
        seen[one.id] = where
        found.append(one)
    return found


def read_labelled(
    path: str | os.PathLike[str], strategies: Mapping[str, str] = DEFAULT_STRATEGIES
) -> list[LabelledResponse]:
    """Read responses as :func:`read_responses` does, and require that each has a known strategy.

    Args:
        path: the file.
        strategies: the description of each strategy that may occur, by its name.

    Raises:
        ClassifierError: :func:`read_responses` raises it, a strategy is missing or unknown, or all
            responses follow the same one.
    """
    found = read_responses(path)
    for one in found:
        try:
            lookup(one.label, strategies)
        except StrategyError as error:
            raise ClassifierError(f"{one.where} ({one.id!r}): {error}", "strategies") from error
    if len({one.strategy for one in found}) < 2:
        raise ClassifierError(
            f"{Path(path).name}: every response follows {found[0].strategy!r}; a classifier needs "
            "responses of at least two strategies"
        )
    return found


def _of_conversations(path: str | os.PathLike[str]) -> list[LabelledResponse]:
    return [
        LabelledResponse(
            id=one.id,
            response=one.last_reply[1],
            strategy=one.strategy,
            dialogue=one.dialogue,
            where=one.where,
        )
        for one in read_conversations(path)
    ]


def _of_line(line: object, index: int, where: str) -> LabelledResponse:
    if not isinstance(line, Mapping):
        raise ClassifierError(
            f"{where}: expected an object with 'response' and 'strategy', found "
            f"{type(line).__name__}"
        )
    for key in line:
        if key not in _FIELDS:
            known = ", ".join(repr(field) for field in _FIELDS)
            raise ClassifierError(
                f"{where}: unknown field {str(key)!r}{did_you_mean(key, _FIELDS)} (known: {known})"
            )
    texts = {
        field: _text(line[field], f"{where}: field {field!r}", field in ("id", "dialogue"))
        for field in _FIELDS
        if line.get(field) is not None
    }
    if "response" not in texts:
        raise ClassifierError(f"{where}: field 'response' is missing")
    return LabelledResponse(
        id=texts.get("id", str(index)),
        response=texts["response"],
        strategy=texts.get("strategy"),
        dialogue=texts.get("dialogue"),
        where=where,
    )


def _text(value: object, what: str, is_identity: bool) -> str:
    if is_identity and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return clean_text(value, what, raises=ClassifierError)

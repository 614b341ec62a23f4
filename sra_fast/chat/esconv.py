"""Read the dialogues of ESConv's files, and of those made from them.

Three dialects are in use: ``ESConv.json`` (speakers seeker and supporter), ``FailedESConv.json``
(speaker and listener), and lines of JSON with speakers usr and sys, as in MultiESC. The dialect of
a file is told from its content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from sra_fast.chat.change_tally import ChangeTally
from sra_fast.chat.checked_conversation import Role
from sra_fast.chat.dialogues import Dialogue, Repeats, Utterance, joined_turns
from sra_fast.chat.formats.scalars import metadata
from sra_fast.chat.record_fields import ConversationError
from sra_fast.tools.strict_json import clean_text
from sra_fast.tools.suggestions import did_you_mean

OTHER_NAMES: Mapping[str, str] = {
    "Questions": "Question",
    "Restatement": "Restatement or Paraphrasing",
    "Approval and Reassurance": "Affirmation and Reassurance",
    "Direct Guidance": "Providing Suggestions",
    "Other": "Others",
}
"""FailedESConv's names for ESConv's eight strategies: it is of an earlier round of annotation."""


@dataclass(frozen=True)
class _Dialect:
    """How one of the three kinds of file names the speakers and the text of a message."""

    name: str
    seeker: str
    supporter: str
    text_field: str


_DIALECTS = (
    _Dialect("ESConv (seeker/supporter)", "seeker", "supporter", "content"),
    _Dialect("FailedESConv (speaker/listener)", "speaker", "listener", "content"),
    _Dialect("line JSON (usr/sys)", "usr", "sys", "text"),
)


def esconv_dialogues(
    entries: Iterable[tuple[str, object]], stem: str, tally: ChangeTally
) -> Iterator[Dialogue]:
    """Yield the dialogues of a file in one of the three dialects.

    Args:
        entries: the dialogues as they stand in the file, with their places.
        stem: how the ids begin; the number of the dialogue follows.
        tally: where changes are counted.

    Raises:
        ConversationError: the file is in no known dialect or mixes them, or something in it is not
            as the dialect has it.
    """
    repeats = Repeats(tally)
    first: tuple[_Dialect, str] | None = None
    where = stem
    for number, (where, entry) in enumerate(entries):
        said: list[Utterance] = []
        messages = _raw_messages(entry, where)
        for place, message in messages:
            dialect = _dialect(message, place)
            first = first or (dialect, place)
            if dialect is not first[0]:
                raise ConversationError(
                    f"{place}: mixes dialects ({first[0].name} from {first[1]} on; {dialect.name} "
                    f"from {place} on); convert files of one dialect at a time"
                )
            said.append(_utterance(message, dialect, place, tally))
        assert isinstance(entry, Mapping)
        turns = joined_turns(said, tally)
        situation = _situation(entry, where)
        identity = f"{stem}-{number}"
        yield Dialogue(
            identity,
            situation,
            turns,
            same_as=repeats.same_as(identity, situation, turns),
            meta=metadata(entry, ("dialog", "situation"), tally),
        )
    if first is None:
        raise ConversationError(f"{where}: the file holds no message")


def _utterance(
    message: Mapping[str, object], dialect: _Dialect, place: str, tally: ChangeTally
) -> Utterance:
    role: Role = "user" if message["speaker"] == dialect.seeker else "assistant"
    named = tally.strategy(_strategy(message), place) if role == "assistant" else None
    text = message.get(dialect.text_field)
    if not isinstance(text, str):
        raise ConversationError(
            f"{place}: {dialect.text_field!r} must be a string, found {type(text).__name__}"
            f"{did_you_mean(dialect.text_field, map(str, message))}"
        )
    return Utterance(role, text, named, f"{place}: {dialect.text_field!r}")


def _dialect(message: Mapping[str, object], place: str) -> _Dialect:
    speaker = message.get("speaker")
    found = [one for one in _DIALECTS if speaker in (one.seeker, one.supporter)]
    if not found:
        _unknown_format(place, f"its speaker is {speaker!r}")
    return found[0]


def _raw_messages(entry: object, where: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    dialog = entry.get("dialog") if isinstance(entry, Mapping) else None
    if not isinstance(dialog, list):
        _unknown_format(where, "it is not an object with a list 'dialog'")
    for position, message in enumerate(dialog):
        place = f"{where}, dialog[{position}]"
        if not isinstance(message, Mapping):
            _unknown_format(place, f"expected an object, found {type(message).__name__}")
        yield place, message


def _unknown_format(where: str, why: str) -> NoReturn:
    known = ", ".join(dialect.name for dialect in _DIALECTS)
    raise ConversationError(f"{where}: no dialect of ESConv, because {why} (known: {known})")


def _situation(entry: Mapping[str, object], where: str) -> str | None:
    situation = entry.get("situation")
    if situation is None or (isinstance(situation, str) and not situation.strip()):
        return None
    return clean_text(situation, f"{where}: 'situation'", raises=ConversationError)


def _strategy(message: Mapping[str, object]) -> object:
    annotation = message.get("annotation")
    # ESConv keeps the strategy inside an annotation, the line JSON beside the text.
    holder = annotation if isinstance(annotation, Mapping) else message
    return holder.get("strategy")

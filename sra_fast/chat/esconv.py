"""Convert the dialogues of ESConv's files into this library's conversation records.

Three dialects are in use: ``ESConv.json`` (speakers seeker and supporter), ``FailedESConv.json``
(speaker and listener), and lines of JSON with speakers usr and sys. The dialect of a file is told
from its content. Whatever does not become part of a record is counted, and a note says so.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from sra_fast.chat.conversations import ConversationError, Role
from sra_fast.chat.strategies import DEFAULT_STRATEGIES, ESCONV_STRATEGIES, lookup
from sra_fast.tools.strict_json import clean_text, decode_utf8, parse_json, read_json_lines
from sra_fast.tools.suggestions import did_you_mean

# FailedESConv comes from an earlier round of annotation, with other names for the same eight.
_OTHER_NAMES = {
    "Questions": "Question",
    "Restatement": "Restatement or Paraphrasing",
    "Approval and Reassurance": "Affirmation and Reassurance",
    "Direct Guidance": "Providing Suggestions",
    "Other": "Others",
}

_TOLD_BY = 4  # turns that tell dialogues apart; many share a greeting and its answer


@dataclass(frozen=True)
class Converted:
    """The conversation records that a file gave, and notes on what was changed or left out.

    Attributes:
        records: conversation records, as :func:`~sra_fast.chat.conversations.write_conversations`
            takes them.
        notes: one sentence for each thing that was changed or left out, with how often.
    """

    records: tuple[dict[str, object], ...]
    notes: tuple[str, ...]


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


@dataclass(frozen=True)
class Turn:
    """Consecutive messages of one speaker in a dialogue, joined into one text.

    Attributes:
        role: "user" for the seeker, "assistant" for the supporter.
        content: the texts, joined by a space.
        strategies: the strategies that the messages are annotated with, in order.
    """

    role: Role
    content: str
    strategies: tuple[str, ...]


@dataclass(frozen=True)
class Dialogue:
    """A whole exchange between seeker and supporter, as it stands in a file of ESConv.

    Attributes:
        id: the file's name and the dialogue's number in it, from 0.
        situation: what the seeker came with, or None.
        turns: seeker ("user") and supporter ("assistant") alternate.
        same_as: id of the first dialogue of the file that begins alike (same situation and first
            four turns), if there is one. The records of both name that one as their dialogue, so
            that no split puts them on two sides.
    """

    id: str
    situation: str | None
    turns: tuple[Turn, ...]
    same_as: str | None = None

    def context(self, turns: int) -> dict[str, object]:
        """Return ``situation`` and the first ``turns`` turns as a conversation record has them."""
        situation = {} if self.situation is None else {"situation": self.situation}
        messages = [{"role": t.role, "content": t.content} for t in self.turns[:turns]]
        return {**situation, "messages": messages}


def convert(
    path: str | os.PathLike[str],
    *,
    strategy: str | None = None,
    strategies: Mapping[str, str] | None = None,
) -> Converted:
    """Turn a file of one of the three dialects into conversation records.

    Consecutive messages of one speaker are one turn, joined by a space. Without ``strategy``
    every annotated supporter turn that follows a seeker turn becomes a record: the turns before
    it as ``messages``, the turn as ``response``, its annotation as ``strategy``. With
    ``strategy`` every dialogue becomes one record, all of whose supporter turns are scored
    against that strategy.

    Args:
        path: the file.
        strategy: name of the strategy to score whole dialogues against.
        strategies: the known strategies, as a mapping of names to descriptions, if ``strategy`` is
            one of the user's own; the 23 of the library if None.

    Raises:
        ConversationError: the file is in no known dialect or mixes them, something in it is not
            as the dialect has it, or no record comes out of it.
        StrategyError: ``strategy`` is unknown.
        OSError: the file cannot be read.
    """
    if strategy is not None:
        lookup(strategy, DEFAULT_STRATEGIES if strategies is None else strategies)
    file = Path(path)
    dialogues, dialect, counts = _read(file)
    records: list[dict[str, object]] = []
    for dialogue in dialogues:
        if strategy is None:
            records.extend(_turn_records(dialogue, counts))
        else:
            records.extend(_whole_record(dialogue, strategy, counts))
    notes = _notes(dialect, len(dialogues), len(records), counts)
    if not records:
        raise ConversationError(f"{file.name}: no conversation came out of it. " + " ".join(notes))
    return Converted(tuple(records), notes)


def read_dialogues(path: str | os.PathLike[str]) -> tuple[list[Dialogue], tuple[str, ...]]:
    """Read the dialogues of a file in one of the three dialects, with notes on what was changed.

    Raises:
        ConversationError, OSError: as :func:`convert`.
    """
    found, dialect, counts = _read(Path(path))
    return found, (f"{dialect.name}: {len(found)} dialogues.", *_counted(counts))


def _read(file: Path) -> tuple[list[Dialogue], _Dialect, Counter[str]]:
    """Return a file's dialogues, their dialect, and how often something was changed."""
    entries = _entries(file)
    dialect = _dialect(entries, file.name)
    counts: Counter[str] = Counter()
    found: list[Dialogue] = []
    first: dict[object, str] = {}
    for number, (where, entry) in enumerate(entries):
        one = _dialogue(f"{file.stem}-{number}", entry, where, dialect, counts)
        said = tuple((turn.role, turn.content) for turn in one.turns[:_TOLD_BY])
        earlier = first.setdefault((one.situation, said), one.id)
        if earlier != one.id:
            one = replace(one, same_as=earlier)
            counts["repeated"] += 1
        found.append(one)
    return found, dialect, counts


def _entries(file: Path) -> list[tuple[str, object]]:
    """Return the file's dialogues with their places, from one JSON list or from lines of JSON."""
    text = decode_utf8(file.read_bytes(), file.name, raises=ConversationError)
    if text.lstrip().startswith("["):
        values = parse_json(text, file.name, raises=ConversationError)
        if isinstance(values, list) and values:
            return [(f"{file.name} dialogue {i}", value) for i, value in enumerate(values)]
        raise ConversationError(f"{file.name}: the list in it is empty")
    entries = read_json_lines(file, raises=ConversationError)
    if not entries:
        raise ConversationError(f"{file.name}: the file is empty")
    return entries


def _dialect(entries: list[tuple[str, object]], name: str) -> _Dialect:
    """Return the one dialect that every speaker in the file belongs to."""
    found: dict[str, tuple[_Dialect, str]] = {}
    for where, entry in entries:
        for place, message in _raw_messages(entry, where):
            speaker = message.get("speaker")
            dialect = next((d for d in _DIALECTS if speaker in (d.seeker, d.supporter)), None)
            if dialect is None:
                _unknown_format(place, f"its speaker is {speaker!r}")
            found.setdefault(dialect.name, (dialect, place))
    if not found:
        raise ConversationError(f"{name}: holds no message")
    if len(found) > 1:
        seen = "; ".join(f"{dialect.name} from {place} on" for dialect, place in found.values())
        raise ConversationError(
            f"{name}: mixes dialects ({seen}); convert files of one dialect at a time"
        )
    ((dialect, _),) = found.values()
    return dialect


def _raw_messages(entry: object, where: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    dialog = entry.get("dialog") if isinstance(entry, dict) else None
    if not isinstance(dialog, list):
        _unknown_format(where, "it is not an object with a list 'dialog'")
    for position, message in enumerate(dialog):
        place = f"{where}, dialog[{position}]"
        if not isinstance(message, dict):
            _unknown_format(place, f"expected an object, found {type(message).__name__}")
        yield place, message


def _unknown_format(where: str, why: str) -> NoReturn:
    known = ", ".join(dialect.name for dialect in _DIALECTS)
    raise ConversationError(
        f"{where}: not a format that is known here, because {why} (known: {known}); other data "
        "needs to be written as conversations, one JSON object a line"
    )


def _dialogue(
    identity: str, entry: object, where: str, dialect: _Dialect, counts: Counter[str]
) -> Dialogue:
    situation = entry.get("situation") if isinstance(entry, dict) else None
    if situation is not None and not isinstance(situation, str):
        raise ConversationError(
            f"{where}: 'situation' must be a string, found {type(situation).__name__}"
        )
    if situation is not None:
        situation = _text(situation, f"{where}: 'situation'")
    turns: list[Turn] = []
    for place, message in _raw_messages(entry, where):
        text = _text(message.get(dialect.text_field), f"{place}: {dialect.text_field!r}")
        if text is None:
            counts["empty"] += 1
            continue
        role: Role = "user" if message["speaker"] == dialect.seeker else "assistant"
        named = _strategy(message, place, counts) if role == "assistant" else None
        strategies: tuple[str, ...] = () if named is None else (named,)
        if turns and turns[-1].role == role:
            counts["joined"] += 1
            before = turns.pop()
            text = f"{before.content} {text}"
            strategies = before.strategies + strategies
        turns.append(Turn(role, text, strategies))
    return Dialogue(identity, situation, tuple(turns))


def _text(value: object, what: str) -> str | None:
    """Return the text without white space around it, or None if nothing is left."""
    if isinstance(value, str) and not value.strip():
        return None
    return clean_text(value, what, raises=ConversationError)


def _strategy(message: Mapping[str, object], place: str, counts: Counter[str]) -> str | None:
    annotation = message.get("annotation")
    # ESConv keeps the strategy inside an annotation, the line JSON beside the text.
    holder = annotation if isinstance(annotation, dict) else message
    name = holder.get("strategy")
    if name is None or name == "":
        return None
    if not isinstance(name, str):
        raise ConversationError(f"{place}: 'strategy' must be a string, found {name!r}")
    name = name.strip()
    counts["renamed"] += name in _OTHER_NAMES
    name = _OTHER_NAMES.get(name, name)
    if name not in ESCONV_STRATEGIES:
        raise ConversationError(
            f"{place}: strategy {name!r} is not one of ESConv's"
            f"{did_you_mean(name, ESCONV_STRATEGIES)} (known: {', '.join(ESCONV_STRATEGIES)})"
        )
    return name


def _turn_records(dialogue: Dialogue, counts: Counter[str]) -> Iterator[dict[str, object]]:
    """Yield one record for each annotated supporter turn that answers the seeker."""
    supporter_turns = 0
    for position, turn in enumerate(dialogue.turns):
        if turn.role == "user":
            continue
        supporter_turns += 1
        if position == 0:
            counts["opening"] += 1
        elif not turn.strategies:
            counts["unannotated"] += 1
        else:
            counts["several"] += len(set(turn.strategies)) > 1
            yield {
                "id": f"{dialogue.id}-t{supporter_turns}",
                "dialogue": dialogue.same_as or dialogue.id,
                **dialogue.context(position),
                "strategy": turn.strategies[0],
                "response": turn.content,
            }


def _whole_record(
    dialogue: Dialogue, strategy: str, counts: Counter[str]
) -> Iterator[dict[str, object]]:
    """Yield the dialogue as one record, if the supporter answers the seeker in it at all."""
    counts["opening"] += dialogue.turns[:1] != () and dialogue.turns[0].role == "assistant"
    if any(turn.role == "assistant" for turn in dialogue.turns[1:]):
        yield {
            "id": dialogue.id,
            **({} if dialogue.same_as is None else {"dialogue": dialogue.same_as}),
            **dialogue.context(len(dialogue.turns)),
            "strategy": strategy,
        }
    else:
        counts["unanswered"] += 1


def _notes(
    dialect: _Dialect, dialogues: int, records: int, counts: Counter[str]
) -> tuple[str, ...]:
    heading = f"{dialect.name}: {dialogues} dialogues became {records} conversations."
    return (heading, *_counted(counts))


def _counted(counts: Counter[str]) -> tuple[str, ...]:
    sentences = {
        "joined": "messages were joined to the one before, of the same speaker.",
        "empty": "empty messages were dropped.",
        "repeated": "dialogues begin like an earlier one and count as that one in splits.",
        "renamed": "strategies of other names were given those of ESConv's eight.",
        "opening": "supporter turns open their dialogue: context, not replies to score.",
        "unannotated": "supporter turns have no strategy: context, not replies to score.",
        "several": "supporter turns carry several strategies: the first one counts.",
        "unanswered": "dialogues hold no supporter turn after a seeker's and were left out.",
    }
    return tuple(f"{counts[key]} {text}" for key, text in sentences.items() if counts[key])

"""Turn dialogues, whatever file they are from, into conversation records, and count what changes.

A reader of a format yields :class:`Dialogue` objects; what becomes of them is decided here, alike
for all formats. Whatever does not become part of a record is counted, and a note says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sra_fast.chat.conversations import Role
from sra_fast.chat.record_fields import ConversationError
from sra_fast.tools.strict_json import clean_text
from sra_fast.tools.suggestions import did_you_mean

_TOLD_BY = 4  # turns that tell dialogues apart; many share a greeting and its answer
_NAMED = 8  # the most names that a note lists


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
    strategies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dialogue:
    """A whole exchange between seeker and supporter, as it stands in somebody's file.

    Attributes:
        id: unique in its file: its own, or the file's name and the dialogue's number, from 0.
        situation: what the seeker came with, or None.
        turns: seeker ("user") and supporter ("assistant") alternate.
        same_as: id of the first dialogue of the file that begins alike (same situation and first
            four turns), if there is one. The records of both name that one as their dialogue, so
            that no split puts them on two sides.
        strategy: the strategy of all replies, if the file names one for the whole.
        language: the language of the texts, or None.
        meta: what else the file says of the dialogue.
    """

    id: str
    situation: str | None
    turns: tuple[Turn, ...]
    same_as: str | None = None
    strategy: str | None = None
    language: str | None = None
    meta: Mapping[str, object] = field(default_factory=dict, hash=False)

    def context(self, turns: int) -> dict[str, object]:
        """Return ``situation`` and the first ``turns`` turns as a conversation record has them."""
        situation = {} if self.situation is None else {"situation": self.situation}
        messages = [{"role": t.role, "content": t.content} for t in self.turns[:turns]]
        return {**situation, "messages": messages}


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


@dataclass
class Tally:
    """A count of what is changed or left out while a file is converted.

    Attributes:
        renamed: the names that strategies are given, by the names in the file; None for a strategy
            that does not count as one.
        usual_names: names that a format is known to use for others; ``renamed`` comes first.
        names_count: whether the strategies in the file are read at all.
        counts: how often each thing happened, by the names of :data:`_SENTENCES`.
        strategies: how often each strategy was named, after renaming.
        left_out: how often each field was left out.
        places: the first place of each thing in ``counts``, if it is known.
        used_names: the names of ``renamed`` that occurred.
        kept: how often each field was kept as metadata.
    """

    renamed: Mapping[str, str | None] = field(default_factory=dict)
    usual_names: Mapping[str, str] = field(default_factory=dict)
    names_count: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    places: dict[str, str] = field(default_factory=dict)
    used_names: set[str] = field(default_factory=set)
    kept: Counter[str] = field(default_factory=Counter)

    def count(self, what: str, place: str = "") -> None:
        """Count one more of something, and keep the place of the first."""
        self.counts[what] += 1
        if place:
            self.places.setdefault(what, place)

    def strategy(self, name: object, place: str) -> str | None:
        """Return the name that a strategy of a file goes by, or None if there is none.

        Raises:
            ConversationError: it is something else than a text.
        """
        if name is None or name == "" or not self.names_count:
            return None
        if not isinstance(name, str):
            raise ConversationError(f"{place}: 'strategy' must be a string, found {name!r}")
        name = name.strip()
        if name in self.renamed:
            self.used_names.add(name)
            renamed = self.renamed[name]
            self.count("renamed" if renamed is not None else "unnamed")
            if renamed is None:
                return None
            name = renamed
        elif name in self.usual_names:
            self.count("renamed")
            name = self.usual_names[name]
        if not name:
            return None
        self.strategies[name] += 1
        return name

    def notes(self, known: Iterable[str]) -> tuple[str, ...]:
        """Return a sentence for each thing that was counted.

        Args:
            known: names of the strategies that are described already.
        """
        found = []
        for what, text in _SENTENCES.items():
            if self.counts[what]:
                first = f" The first is at {self.places[what]}." if what in self.places else ""
                found.append(f"{self.counts[what]} {text}{first}")
        names = list(known)
        if other := {name: n for name, n in self.strategies.items() if name not in names}:
            listed = _listed(
                f"{name!r} ({n}){did_you_mean(name, names)}"
                for name, n in sorted(other.items(), key=lambda item: -item[1])
            )
            found.append(
                f"{sum(other.values())} strategies are none of the {len(names)} known ones and "
                f"keep their own names: {listed}. To score them, describe them as strategies of "
                "your own."
            )
        if unused := [name for name in self.renamed if name not in self.used_names]:
            found.append(f"These names to replace do not occur: {_listed(map(repr, unused))}.")
        if self.kept:
            found.append(f"These fields are kept in 'meta': {_listed(map(repr, self.kept))}.")
        if self.left_out:
            listed = _listed(f"{name!r} ({n})" for name, n in self.left_out.most_common())
            found.append(f"These fields have no place in a conversation: {listed}.")
        return tuple(found)


_SENTENCES = {
    "joined": "messages were joined to the one before, of the same speaker.",
    "empty": "empty messages were dropped.",
    "repeated": "dialogues begin like an earlier one and count as that one in splits.",
    "same_id": "dialogues have the id of an earlier one; they were given a number and count as "
    "that one in splits.",
    "renamed": "strategies were given other names.",
    "unnamed": "strategies were taken off, as the names to replace say.",
    "raters": "utterances have several annotations: the most frequent strategy counts.",
    "system": "system messages were kept as 'system' in 'meta'; prompt templates write their own.",
    "tools": "conversations with calls of tools were left out; a conversation has none.",
    "pictures": "conversations with parts that are no text were left out.",
    "opening": "supporter turns open their dialogue: context, not replies to score.",
    "unannotated": "supporter turns have no strategy: context, not replies to score.",
    "several": "supporter turns carry several strategies: the first one counts.",
    "unanswered": "dialogues hold no supporter turn after a seeker's and were left out.",
}


@dataclass(frozen=True)
class Utterance:
    """One message of a dialogue as it stands in a file.

    Attributes:
        role: "user" for the seeker, "assistant" for the supporter.
        text: the text; white space alone is nothing said.
        strategy: name of the strategy it is annotated with, or None.
        place: where it is in the file, for error messages.
    """

    role: Role
    text: object
    strategy: str | None
    place: str


def joined_turns(
    utterances: Iterable[Utterance], tally: Tally, *, by: str = " "
) -> tuple[Turn, ...]:
    """Join consecutive messages of one speaker, and drop empty ones.

    Args:
        utterances: the messages, in order.
        tally: where this is counted.
        by: what stands between two texts that are joined.

    Raises:
        ConversationError: a text is no string, or cannot be encoded.
    """
    turns: list[Turn] = []
    for one in utterances:
        if one.text is None or (isinstance(one.text, str) and not one.text.strip()):
            tally.count("empty")
            continue
        text = clean_text(one.text, one.place, raises=ConversationError)
        strategies = _texts(one.strategy)
        if turns and turns[-1].role == one.role:
            tally.count("joined")
            before = turns.pop()
            text = f"{before.content}{by}{text}"
            strategies = before.strategies + strategies
        turns.append(Turn(one.role, text, strategies))
    return tuple(turns)


class Repeats:
    """A memory of how the dialogues of a file begin and what they are called."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._beginnings: dict[int, str] = {}
        self._ids: Counter[str] = Counter()

    def same_as(self, identity: str, situation: str | None, turns: tuple[Turn, ...]) -> str | None:
        """Return the id of an earlier dialogue that begins alike, or None."""
        said = tuple((turn.role, turn.content) for turn in turns[:_TOLD_BY])
        earlier = self._beginnings.setdefault(hash((situation, said)), identity)
        if earlier == identity:
            return None
        self._tally.count("repeated")
        return earlier

    def named_apart(self, identity: str) -> tuple[str, str | None]:
        """Return an id that no earlier dialogue has, and the id of the one it is shared with."""
        self._ids[identity] += 1
        if self._ids[identity] == 1:
            return identity, None
        self._tally.count("same_id")
        number = self._ids[identity]
        while f"{identity}#{number}" in self._ids:
            number += 1
        self._ids[f"{identity}#{number}"] += 1
        return f"{identity}#{number}", identity


def records_of(
    dialogue: Dialogue, tally: Tally, *, strategy: str | None = None, whole: bool = False
) -> Iterator[dict[str, object]]:
    """Yield the conversation records that a dialogue becomes.

    Without ``strategy`` every annotated supporter turn that follows a seeker turn becomes a record:
    the turns before it as ``messages``, the turn as ``response``, its annotation as ``strategy``.

    Args:
        dialogue: the dialogue.
        tally: where what is left out is counted.
        strategy: name of a strategy to hold all replies of the dialogue against, in one record.
        whole: whether the dialogue becomes one record, whose messages carry their strategies.
    """
    one_for_all = strategy or dialogue.strategy
    annotated = any(turn.strategies for turn in dialogue.turns)
    if strategy is not None or (dialogue.strategy is not None and not annotated):
        yield from _whole_record(dialogue, one_for_all, tally)
    elif whole:
        yield from _whole_record(dialogue, None, tally)
    else:
        yield from _turn_records(dialogue, tally)


def _turn_records(dialogue: Dialogue, tally: Tally) -> Iterator[dict[str, object]]:
    """Yield one record for each annotated supporter turn that answers the seeker."""
    supporter_turns = 0
    for position, turn in enumerate(dialogue.turns):
        if turn.role == "user":
            continue
        supporter_turns += 1
        strategies = turn.strategies or _texts(dialogue.strategy)
        if position == 0:
            tally.count("opening")
        elif not strategies:
            tally.count("unannotated")
        else:
            tally.counts["several"] += len(set(strategies)) > 1
            yield {
                "id": f"{dialogue.id}-t{supporter_turns}",
                "dialogue": dialogue.same_as or dialogue.id,
                **_about(dialogue),
                **dialogue.context(position),
                "strategy": strategies[0],
                "response": turn.content,
                **({"meta": dict(dialogue.meta)} if dialogue.meta else {}),
            }


def _whole_record(
    dialogue: Dialogue, strategy: str | None, tally: Tally
) -> Iterator[dict[str, object]]:
    """Yield the dialogue as one record, if the supporter answers the seeker in it at all."""
    tally.counts["opening"] += dialogue.turns[:1] != () and dialogue.turns[0].role == "assistant"
    replies = [turn for turn in dialogue.turns[1:] if turn.role == "assistant"]
    if not replies:
        tally.count("unanswered")
        return
    record = dialogue.context(len(dialogue.turns))
    if strategy is None:
        record["messages"] = [_annotated(t, dialogue.strategy) for t in dialogue.turns]
        named = [turn.strategies or _texts(dialogue.strategy) for turn in replies]
        tally.counts["unannotated"] += sum(not strategies for strategies in named)
        tally.counts["several"] += sum(len(set(strategies)) > 1 for strategies in named)
        if not any(named):
            return
    yield {
        "id": dialogue.id,
        **({} if dialogue.same_as is None else {"dialogue": dialogue.same_as}),
        **_about(dialogue),
        **record,
        **({} if strategy is None else {"strategy": strategy}),
        **({"meta": dict(dialogue.meta)} if dialogue.meta else {}),
    }


def _about(dialogue: Dialogue) -> dict[str, object]:
    return {} if dialogue.language is None else {"language": dialogue.language}


def _annotated(turn: Turn, default: str | None) -> dict[str, object]:
    message: dict[str, object] = {"role": turn.role, "content": turn.content}
    strategies = turn.strategies or _texts(default)
    if turn.role == "assistant" and strategies:
        message["strategy"] = strategies[0]
    return message


def _texts(text: str | None) -> tuple[str, ...]:
    return () if text is None else (text,)


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + more

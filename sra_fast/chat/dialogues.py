"""Hold the dialogues of somebody's file: who says what in turn, and what they are annotated with.

A reader of a format yields :class:`Dialogue` objects. Messages of one speaker in a row are one
turn, empty ones are dropped, and dialogues that begin alike are told; all this is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sra_fast.chat.change_tally import ChangeTally
from sra_fast.chat.checked_conversation import Role
from sra_fast.chat.record_fields import ConversationError
from sra_fast.tools.strict_json import clean_text

_TOLD_BY = 4  # turns that tell dialogues apart; many share a greeting and its answer


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
    utterances: Iterable[Utterance], tally: ChangeTally, *, by: str = " "
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
        strategies = tuple(filter(None, [one.strategy]))
        if turns and turns[-1].role == one.role:
            tally.count("joined")
            before = turns.pop()
            text = f"{before.content}{by}{text}"
            strategies = before.strategies + strategies
        turns.append(Turn(one.role, text, strategies))
    return tuple(turns)


class Repeats:
    """A memory of how the dialogues of a file begin and what they are called."""

    def __init__(self, tally: ChangeTally) -> None:
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

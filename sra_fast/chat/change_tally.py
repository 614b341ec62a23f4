"""Count what is changed or left out while a file is converted, and say it in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sra_fast.chat.record_fields import ConversationError
from sra_fast.tools.counted import counted
from sra_fast.tools.suggestions import did_you_mean

_NAMED = 8  # the most names that a note lists


@dataclass
class ChangeTally:
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
        for what, texts in _SENTENCES.items():
            if self.counts[what]:
                first = f" The first is at {self.places[what]}." if what in self.places else ""
                found.append(counted(self.counts[what], *texts) + first)
        names = list(known)
        if other := {name: n for name, n in self.strategies.items() if name not in names}:
            listed = _listed(
                f"{name!r} ({n}){did_you_mean(name, names)}"
                for name, n in sorted(other.items(), key=lambda item: -item[1])
            )
            unknown = counted(
                sum(other.values()),
                f"strategy is none of the {len(names)} known ones and keeps its own name",
                f"strategies are none of the {len(names)} known ones and keep their own names",
            )
            found.append(
                f"{unknown}: {listed}. To score them, describe them as strategies of your own."
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
    "joined": (
        "message was joined to the one before, of the same speaker.",
        "messages were joined to the one before, of the same speaker.",
    ),
    "empty": ("empty message was dropped.", "empty messages were dropped."),
    "repeated": (
        "dialogue begins like an earlier one and counts as that one in splits.",
        "dialogues begin like an earlier one and count as that one in splits.",
    ),
    "same_id": (
        "dialogue has the id of an earlier one; it was given a number and counts as that one in "
        "splits.",
        "dialogues have the id of an earlier one; they were given a number and count as that one "
        "in splits.",
    ),
    "renamed": ("strategy was given another name.", "strategies were given other names."),
    "unnamed": (
        "strategy was taken off, as the names to replace say.",
        "strategies were taken off, as the names to replace say.",
    ),
    "raters": (
        "utterance has several annotations: the most frequent strategy counts.",
        "utterances have several annotations: the most frequent strategy counts.",
    ),
    "system": (
        "system message was kept as 'system' in 'meta'; prompt templates write their own.",
        "system messages were kept as 'system' in 'meta'; prompt templates write their own.",
    ),
    "tools": (
        "conversation with calls of tools was left out; a conversation has none.",
        "conversations with calls of tools were left out; a conversation has none.",
    ),
    "pictures": (
        "conversation with parts that are no text was left out.",
        "conversations with parts that are no text were left out.",
    ),
    "opening": (
        "supporter turn opens its dialogue: context, no reply to score.",
        "supporter turns open their dialogue: context, not replies to score.",
    ),
    "unannotated": (
        "supporter turn has no strategy: context, no reply to score.",
        "supporter turns have no strategy: context, not replies to score.",
    ),
    "several": (
        "supporter turn carries several strategies: the first one counts.",
        "supporter turns carry several strategies: the first one counts.",
    ),
    "unanswered": (
        "dialogue holds no supporter turn after a seeker's and was left out.",
        "dialogues hold no supporter turn after a seeker's and were left out.",
    ),
}
"""The sentence for each thing that was counted: of one, and of several."""


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + more

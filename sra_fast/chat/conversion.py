"""Convert files in the forms that others keep conversations in into this library's own.

What a file holds is told from its content (:mod:`sra_fast.chat.formats.recognition`). Nothing is
dropped in silence: whatever is changed or left out is counted, and a note says so. Names of
strategies are kept as the file has them; only what is scored later must be described.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sra_fast.chat.change_tally import ChangeTally
from sra_fast.chat.conversations import Role, parse_conversation
from sra_fast.chat.dialogue_records import records_of
from sra_fast.chat.dialogues import Dialogue
from sra_fast.chat.esconv import OTHER_NAMES, esconv_dialogues
from sra_fast.chat.formats.annomi import ANNOMI
from sra_fast.chat.formats.chat_messages import ChatReader
from sra_fast.chat.formats.dialogue_tables import Columns, table_dialogues
from sra_fast.chat.formats.entries import entries
from sra_fast.chat.formats.recognition import FORMS, Form, form_of
from sra_fast.chat.record_fields import ConversationError
from sra_fast.chat.strategies import DEFAULT_STRATEGIES, lookup
from sra_fast.tools.atomic import json_text, replaced_atomically
from sra_fast.tools.strict_json import clean_text, decode_utf8, parse_json


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
class Conversion:
    """The choices for a conversion; the defaults fit a file whose replies name their strategies.

    Attributes:
        strategy: name of a strategy to hold all replies of every dialogue against; None for the
            strategies in the file.
        strategies: the strategies that are described, as a mapping of names to descriptions.
            ``strategy`` must be one of them; other names in the file are kept and told.
        renamed: new names of strategies by those in the file; None for one that does not count.
        columns: which column of a table is what; needed for tables other than AnnoMI's.
        roles: "user" or "assistant" by what the file calls its speakers, beside the usual names.
        whole: whether every dialogue becomes one conversation, each of whose replies carries its
            own strategy, and not one conversation for each of these replies.

    Raises:
        StrategyError: ``strategy`` is unknown.
    """

    strategy: str | None = None
    strategies: Mapping[str, str] = field(default_factory=lambda: DEFAULT_STRATEGIES)
    renamed: Mapping[str, str | None] = field(default_factory=dict)
    columns: Columns | None = None
    roles: Mapping[str, Role] = field(default_factory=dict)
    whole: bool = False

    def __post_init__(self) -> None:
        if self.strategy is not None:
            lookup(self.strategy, self.strategies)


_AS_IT_IS = Conversion()


def convert(path: str | os.PathLike[str], how: Conversion = _AS_IT_IS) -> Converted:
    """Turn a file of somebody's dialogues into conversation records that are held in memory.

    Args:
        path: a file or folder of one of the known formats.
        how: the choices.

    Raises:
        ConversationError: the file is in no known format, damaged, or mixes formats; something in
            it is not as the format has it; or no record comes out of it.
        MissingExtraError: a package that reads the format is not installed.
        OSError: the file cannot be read.
    """
    made = _Conversion(Path(path), how)
    return Converted(tuple(made.records()), made.notes())


def convert_file(
    path: str | os.PathLike[str], out: str | os.PathLike[str], how: Conversion = _AS_IT_IS
) -> tuple[int, tuple[str, ...]]:
    """Turn a file of somebody's dialogues into a whole file of conversations, or write none.

    Neither is held in memory, if the file is JSON by lines, Parquet or a folder of ``datasets``.

    Args:
        path: a file or folder of one of the known formats.
        out: the JSONL file to write.
        how: the choices.

    Returns:
        The number of conversations, and a note for each thing that was changed or left out.

    Raises:
        ConversationError, MissingExtraError, OSError: as :func:`convert`.
    """
    made = _Conversion(Path(path), how)
    with replaced_atomically(Path(out)) as temporary, temporary.open("wb") as file:
        for record in made.records():
            file.write(json_text(record, indent=None).encode("utf-8"))
    return made.made, made.notes()


def read_dialogues(
    path: str | os.PathLike[str], how: Conversion = _AS_IT_IS
) -> tuple[list[Dialogue], tuple[str, ...]]:
    """Read the dialogues of a file of a known format, with notes on what was changed.

    Raises:
        ConversationError, MissingExtraError, OSError: as :func:`convert`.
    """
    made = _Conversion(Path(path), how)
    found = list(made.dialogues())
    return found, (f"{made.format}: {len(found)} dialogues.", *made.tally.notes(how.strategies))


def read_renamed(path: str | os.PathLike[str]) -> dict[str, str | None]:
    """Read new names of strategies from a JSON file: one object, old name to new name or null.

    Raises:
        ConversationError: the file is not in that form.
        OSError: the file cannot be read.
    """
    file = Path(path)
    text = decode_utf8(file.read_bytes(), file.name, raises=ConversationError)
    value = parse_json(text, file.name, raises=ConversationError)
    if not isinstance(value, dict) or not value:
        raise ConversationError(
            f"{file.name}: expected one object with the new name of each strategy by its old one, "
            f"such as {json.dumps({'Greeting': 'Others', 'noise': None})}; found "
            f"{'an empty one' if value == {} else type(value).__name__}"
        )
    found: dict[str, str | None] = {}
    for old, new in value.items():
        what = f"{file.name}: the new name of {old!r}"
        found[old] = None if new is None else clean_text(new, what, raises=ConversationError)
    return found


class _Conversion:
    """One pass through a file, and what was counted on the way."""

    def __init__(self, path: Path, how: Conversion) -> None:
        self.how = how
        self.path = path
        self.made = 0
        self.format = ""
        self.dialogues_read = 0
        self.tally = ChangeTally(how.renamed, names_count=how.strategy is None)

    def records(self) -> Iterator[dict[str, object]]:
        """Yield the records, each checked, and refuse a file that gives none."""
        ids: set[str] = set()
        for record in self._records():
            where = f"{self.path.name}, conversation {self.made}"
            identity = parse_conversation(record, index=self.made, where=where).id
            if identity in ids:
                raise ConversationError(
                    f"{where}: the id {identity!r} is also that of an earlier one; ids must differ"
                )
            ids.add(identity)
            self.made += 1
            yield record
        if not self.made:
            raise ConversationError(
                f"{self.path.name}: no conversation came out of it. {' '.join(self.notes())}"
                + self._advice(),
                *(("strategy",) if self._names_none() else ()),
            )

    def notes(self) -> tuple[str, ...]:
        """Return what was read and made, and a sentence for each thing that was counted."""
        became = f"{self.dialogues_read} dialogues became {self.made} conversations"
        return (f"{self.format}: {became}.", *self.tally.notes(self.how.strategies))

    def dialogues(self) -> Iterator[Dialogue]:
        """Yield the dialogues of the file."""
        form, found = self._entries()
        yield from self._dialogues(form, found)

    def _records(self) -> Iterator[dict[str, object]]:
        form, found = self._entries()
        if form == "own":
            yield from self._own(found)
            return
        for dialogue in self._dialogues(form, found):
            yield from records_of(
                dialogue, self.tally, strategy=self.how.strategy, whole=self.how.whole
            )

    def _own(self, found: Iterator[tuple[str, object]]) -> Iterator[dict[str, object]]:
        """Yield conversations of our own form as they are, with the new names in them.

        What is not quite of that form is read as somebody's messages are.
        """
        reader = ChatReader("openai", self.how.roles, self._stem, self.tally)
        for index, (where, entry) in enumerate(found):
            self.dialogues_read += 1
            try:
                conversation = parse_conversation(entry, index=index, where=where)
            except ConversationError:
                dialogue = reader.dialogue(index, where, entry)
                if dialogue is not None:
                    yield from records_of(
                        dialogue, self.tally, strategy=self.how.strategy, whole=True
                    )
                continue
            if self.how.strategy is not None:
                yield conversation.under(self.how.strategy).record
                continue
            record = conversation.record
            holders = [holder for holder in _holders(record) if "strategy" in holder]
            for holder in holders:
                name = self.tally.strategy(holder.pop("strategy"), where)
                holder.update({} if name is None else {"strategy": name})
            named = any("strategy" in holder for holder in holders)
            if "strategy" in record or (named and "response" not in record):
                yield record
            else:
                self.tally.count("unannotated", where)

    @property
    def _stem(self) -> str:
        """How the ids of dialogues without one begin."""
        if self.path.is_dir():
            return self.path.name
        return Path(self.path.name.removesuffix(".gz")).stem

    def _dialogues(self, form: Form, found: Iterator[tuple[str, object]]) -> Iterator[Dialogue]:
        for dialogue in self._read(form, found):
            self.dialogues_read += 1
            yield dialogue

    def _read(self, form: Form, found: Iterator[tuple[str, object]]) -> Iterator[Dialogue]:
        stem, tally, how = self._stem, self.tally, self.how
        rows = ((where, entry) for where, entry in found if isinstance(entry, Mapping))
        if how.columns is not None:
            return table_dialogues(rows, how.columns, how.roles, stem, tally)
        if form == "esconv":
            tally.usual_names = OTHER_NAMES
            return esconv_dialogues(found, stem, tally)
        if form == "annomi":
            return table_dialogues(rows, ANNOMI, how.roles, stem, tally)
        if form == "openai" or form == "sharegpt":
            reader = ChatReader(form, how.roles, stem, tally)
            read = (reader.dialogue(n, *entry) for n, entry in enumerate(found))
            return (dialogue for dialogue in read if dialogue is not None)
        raise ConversationError(
            f"{self.path.name}: these are {FORMS[form]}, not whole dialogues of somebody else's"
        )

    def _entries(self) -> tuple[Form, Iterator[tuple[str, object]]]:
        """Return the form of the file's entries, and the entries, which must all have that form."""
        found = entries(self.path)
        where, entry = next(found)
        form = form_of(entry)
        table = form in ("table", "annomi") and isinstance(entry, Mapping)
        if form is None or (form == "table" and self.how.columns is None):
            raise ConversationError(self._unknown(where, entry), *(("columns",) if table else ()))
        if self.how.columns is not None and not table:
            raise ConversationError(
                f"{where}: columns are for tables, and this is {FORMS[form]}; leave them out",
                "columns",
            )
        if self.how.roles and form == "esconv":
            raise ConversationError(
                f"{where}: the speakers of {FORMS[form]} are known; leave the roles out", "roles"
            )
        self.format = FORMS[form][0].upper() + FORMS[form][1:]
        return form, self._of_one_form(form, where, itertools.chain([(where, entry)], found))

    def _of_one_form(
        self, form: Form, first: str, found: Iterator[tuple[str, object]]
    ) -> Iterator[tuple[str, object]]:
        alike = {"openai": ("openai", "own"), "annomi": ("annomi", "table")}.get(form, (form,))
        for where, entry in found:
            other = form_of(entry)
            if form != "own" and other not in alike and self.how.columns is None:
                what = "something else" if other is None else FORMS[other]
                raise ConversationError(
                    f"{where}: this is {what}{_what_it_has(entry)}, and {first} is "
                    f"{FORMS[form]}; convert files of one format at a time"
                )
            yield where, entry

    def _unknown(self, where: str, entry: object) -> str:
        if form_of(entry) == "table":
            return (
                f"{where}: this is a table{_what_it_has(entry)}; say which column is what: 'id', "
                "'role' and 'content' of an utterance, or 'user' and 'response' of a conversation"
            )
        known = "; ".join(FORMS[form] for form in FORMS if form != "table")
        return (
            f"{where}: not a format that is known here{_what_it_has(entry)}. Known are: {known}; "
            "and tables, if it is said which column is what"
        )

    def _names_none(self) -> bool:
        return not self.tally.strategies and self.how.strategy is None

    def _advice(self) -> str:
        if not self._names_none():
            return ""
        return " No reply names a strategy; give one that all replies are held against."


def _holders(record: dict[str, object]) -> list[dict[str, object]]:
    """Return what may hold a strategy in a record of our own: its messages, and itself."""
    messages = record["messages"]
    assert isinstance(messages, list)
    return [*messages, record]


def _what_it_has(entry: object) -> str:
    if isinstance(entry, Mapping):
        return f" (it has: {', '.join(repr(str(key)) for key in entry)})"
    return f" (it is {type(entry).__name__})"

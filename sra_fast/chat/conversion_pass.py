"""Go through a file of somebody's dialogues once, and make conversation records of what it holds.

What a file holds is told from its content (:mod:`sra_fast.chat.formats.recognition`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from sra_fast.chat.change_tally import ChangeTally
from sra_fast.chat.conversations import parse_conversation
from sra_fast.chat.conversion_choices import Conversion
from sra_fast.chat.dialogue_records import records_of
from sra_fast.chat.dialogues import Dialogue
from sra_fast.chat.esconv import OTHER_NAMES, esconv_dialogues
from sra_fast.chat.formats.annomi import ANNOMI
from sra_fast.chat.formats.chat_messages import ChatReader
from sra_fast.chat.formats.dialogue_tables import table_dialogues
from sra_fast.chat.formats.entries import entries
from sra_fast.chat.formats.recognition import FORMS, Form, form_of
from sra_fast.chat.record_fields import ConversationError
from sra_fast.tools.counted import counted


class ConversionPass:
    """One pass through a file, and what was counted on the way.

    Args:
        path: the file.
        how: the choices.

    Attributes:
        made: the number of records that were made so far.
        format: what the file is, as a sentence begins; empty before the first entry is read.
        tally: what was changed or left out so far.
    """

    def __init__(self, path: Path, how: Conversion) -> None:
        self.how = how
        self.path = path
        self.made = 0
        self.format = ""
        self.dialogues_read = 0
        self.tally = ChangeTally(how.renamed, names_count=how.strategy is None)

    def records(self) -> Iterator[dict[str, object]]:
        """Yield the records, each checked, and refuse a file that gives none.

        Raises:
            ConversationError, MissingExtraError, OSError: as
                :func:`~sra_fast.chat.conversion.convert`.
        """
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
        read, made = counted(self.dialogues_read, "dialogue"), counted(self.made, "conversation")
        return (f"{self.format}: {read} became {made}.", *self.tally.notes(self.how.strategies))

    def dialogues(self) -> Iterator[Dialogue]:
        """Yield the dialogues of the file.

        Raises:
            ConversationError, MissingExtraError, OSError: as :meth:`records`.
        """
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

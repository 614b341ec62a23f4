"""Read dialogues from a table: a line is an utterance, or a question with its answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sra_fast.chat.change_tally import ChangeTally
from sra_fast.chat.checked_conversation import Role
from sra_fast.chat.dialogues import Dialogue, Repeats, Utterance, joined_turns
from sra_fast.chat.formats.entries import missing_column
from sra_fast.chat.formats.roles import role_of
from sra_fast.chat.formats.scalars import identity_of, scalar
from sra_fast.chat.record_fields import ConversationError
from sra_fast.tools.number_text import finite_number
from sra_fast.tools.suggestions import did_you_mean

FIELDS = (
    "id",
    "order",
    "role",
    "content",
    "user",
    "response",
    "strategy",
    "situation",
    "language",
)
"""The meanings that a column of a table can have, named like a conversation's fields."""

_NOTHING = ("", "n/a", "nan", "none", "null")  # what cells without an annotation hold


@dataclass(frozen=True)
class Columns:
    """The columns of a table by what they are.

    Attributes:
        names: the column of each field, by the names of :data:`FIELDS`: either "id", "role" and
            "content" of an utterance, or "user" and "response" of a line that is a conversation.

    Raises:
        ConversationError: a field is unknown, or those that are needed are missing.
    """

    names: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in FIELDS:
                raise ConversationError(
                    f"a column cannot be {name!r}{did_you_mean(name, FIELDS)} (known: "
                    f"{', '.join(FIELDS)})",
                    "columns",
                )
        given = set(self.names)
        if not {"id", "role", "content"} <= given and not {"user", "response"} <= given:
            raise ConversationError(
                "the columns must name 'id', 'role' and 'content', for a table with an utterance "
                "a line, or 'user' and 'response', for one with a conversation a line",
                "columns",
            )
        if {"role", "content"} & given and {"user", "response"} & given:
            raise ConversationError(
                "the columns name 'role' or 'content', of a table with an utterance a line, and "
                "'user' or 'response', of one with a conversation a line; it can only be one",
                "columns",
            )

    @property
    def are_utterances(self) -> bool:
        """Whether a line of the table is an utterance."""
        return "role" in self.names


def table_dialogues(
    rows: Iterable[tuple[str, Mapping[str, object]]],
    columns: Columns,
    roles: Mapping[str, Role],
    stem: str,
    tally: ChangeTally,
) -> Iterator[Dialogue]:
    """Yield the dialogues of a table.

    Utterances of one ``id`` are a dialogue, wherever they stand, in the order of the numbers in
    ``order``, or else of the lines. Other columns whose value is the same throughout a dialogue
    become its metadata.

    Args:
        rows: the lines of the table with their places.
        columns: which column is what.
        roles: further names of speakers.
        stem: how the ids of dialogues without one begin.
        tally: where changes are counted.

    Raises:
        ConversationError: a column is missing, a role unknown, or an utterance stands there twice
            with different texts.
    """
    repeats = Repeats(tally)
    if columns.are_utterances:
        groups: dict[str, list[tuple[str, Mapping[str, object]]]] = {}
        for where, row in rows:
            _check_columns(row, columns, where)
            identity = identity_of(row[columns.names["id"]], f"{where}: the id")
            groups.setdefault(identity, []).append((where, row))
        for identity, group in groups.items():
            yield _dialogue(identity, group, columns, roles, tally, repeats)
        return
    for number, (where, row) in enumerate(rows):
        _check_columns(row, columns, where)
        given = row[columns.names["id"]] if "id" in columns.names else f"{stem}-{number}"
        identity, shared = repeats.named_apart(identity_of(given, f"{where}: the id"))
        strategy = _strategy(row, columns, where, tally)
        said = (
            Utterance("user", row[columns.names["user"]], None, where),
            Utterance("assistant", row[columns.names["response"]], strategy, where),
        )
        turns = joined_turns(said, tally)
        situation = _text(row, columns, "situation")
        yield Dialogue(
            identity,
            situation,
            turns,
            same_as=shared or repeats.same_as(identity, situation, turns),
            language=_text(row, columns, "language"),
            meta=_meta([row], columns, tally),
        )


def _dialogue(
    identity: str,
    group: list[tuple[str, Mapping[str, object]]],
    columns: Columns,
    roles: Mapping[str, Role],
    tally: ChangeTally,
    repeats: Repeats,
) -> Dialogue:
    said = []
    for where, rows in _in_order(group, columns):
        role = role_of(rows[0][columns.names["role"]], f"{where}: the role", roles)
        if role not in ("user", "assistant"):
            raise ConversationError(
                f"{where}: the role is {rows[0][columns.names['role']]!r}; a table of utterances "
                "has those of a user and of an assistant alone"
            )
        named = [name for row in rows if (name := _raw_strategy(row, columns)) is not None]
        if len(rows) > 1:
            tally.count("raters", where)
        frequent = Counter(named).most_common(1)
        strategy = None
        if role == "assistant" and frequent:
            strategy = tally.strategy(frequent[0][0], where)
        said.append(
            Utterance(
                "user" if role == "user" else "assistant",
                rows[0][columns.names["content"]],
                strategy,
                where,
            )
        )
    turns = joined_turns(said, tally)
    whole = [row for _, row in group]
    situation = _text(whole[0], columns, "situation")
    return Dialogue(
        identity,
        situation,
        turns,
        same_as=repeats.same_as(identity, situation, turns),
        language=_text(whole[0], columns, "language"),
        meta=_meta(whole, columns, tally),
    )


def _in_order(
    group: list[tuple[str, Mapping[str, object]]], columns: Columns
) -> list[tuple[str, list[Mapping[str, object]]]]:
    """Return the utterances of a dialogue in order, each with its lines: one for each annotation.

    Raises:
        ConversationError: the order is no number, or two texts have the same.
    """
    if "order" not in columns.names:
        return [(where, [row]) for where, row in group]
    found: dict[float, tuple[str, list[Mapping[str, object]]]] = {}
    for where, row in group:
        value = row[columns.names["order"]]
        number = finite_number(str(value))
        if number is None:
            raise ConversationError(
                f"{where}: column {columns.names['order']!r} holds {value!r}, which is no number "
                "to put utterances in order by"
            )
        first, rows = found.setdefault(number, (where, []))
        rows.append(row)
        for name in ("role", "content"):
            if row[columns.names[name]] != rows[0][columns.names[name]]:
                raise ConversationError(
                    f"{where}: utterance {value} of this dialogue is also at {first}, with another "
                    f"{columns.names[name]!r}; number the utterances apart"
                )
    return [found[number] for number in sorted(found)]


def _check_columns(row: Mapping[str, object], columns: Columns, where: str) -> None:
    for name in columns.names.values():
        if name not in row:
            raise missing_column(name, list(row), where)


def _raw_strategy(row: Mapping[str, object], columns: Columns) -> str | None:
    name = row[columns.names["strategy"]] if "strategy" in columns.names else None
    if name is None or str(name).strip().casefold() in _NOTHING:
        return None
    return str(name).strip()


def _strategy(
    row: Mapping[str, object], columns: Columns, where: str, tally: ChangeTally
) -> str | None:
    return tally.strategy(_raw_strategy(row, columns), where)


def _text(row: Mapping[str, object], columns: Columns, name: str) -> str | None:
    value = row[columns.names[name]] if name in columns.names else None
    return str(value).strip() or None if value is not None else None


def _meta(
    rows: list[Mapping[str, object]], columns: Columns, tally: ChangeTally
) -> dict[str, object]:
    """Return the other columns whose value is one throughout a dialogue; the rest is counted."""
    used = set(columns.names.values())
    meta: dict[str, object] = {}
    for name in rows[0]:
        if name in used:
            continue
        value = scalar(rows[0][name])
        if all(row[name] == rows[0][name] for row in rows) and (
            value is not None or rows[0][name] in (None, "")
        ):
            if value is not None:
                meta[name] = value
                tally.kept[name] += 1
        else:
            tally.left_out[name] += 1
    return meta

"""Choose how a file of somebody's dialogues becomes conversations."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sra_fast.chat.checked_conversation import Role
from sra_fast.chat.formats.dialogue_tables import Columns
from sra_fast.chat.record_fields import ConversationError
from sra_fast.chat.strategies import DEFAULT_STRATEGIES, lookup
from sra_fast.tools.strict_json import clean_text, decode_utf8, parse_json


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

"""Read single values of somebody's file: ids, and what is kept as metadata."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from sra_fast.chat.change_tally import ChangeTally
from sra_fast.chat.record_fields import LARGEST, ConversationError
from sra_fast.tools.strict_json import clean_text

_SURROGATE = re.compile("[\ud800-\udfff]")


def identity_of(value: object, what: str) -> str:
    """Return an id as a text.

    Args:
        value: a text or a whole number.
        what: its name and place, with which the error begins.

    Raises:
        ConversationError: it is neither, or empty.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return clean_text(value, what, raises=ConversationError)


def scalar(value: object) -> object:
    """Return a value that can be kept as metadata, or None if there is nothing or it cannot."""
    if isinstance(value, str):
        return None if _SURROGATE.search(value) else value.strip() or None
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -LARGEST <= value < LARGEST else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None


def metadata(
    entry: Mapping[str, object], used: Iterable[str], tally: ChangeTally
) -> dict[str, object]:
    """Return the fields of an entry that are not used otherwise and are single values.

    Args:
        entry: the entry.
        used: names of the fields that are read for what they are.
        tally: where the fields are counted that hold lists or objects, which are left out.
    """
    meta: dict[str, object] = {}
    for name, value in entry.items():
        if name in used or value is None or value == "":
            continue
        kept = scalar(value)
        if kept is None:
            tally.left_out[str(name)] += 1
        else:
            meta[str(name)] = kept
            tally.kept[str(name)] += 1
    return meta

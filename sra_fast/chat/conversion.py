"""Convert files in the forms that others keep conversations in into this library's own.

What a file holds is told from its content (:mod:`sra_fast.chat.formats.recognition`). Nothing is
dropped in silence: whatever is changed or left out is counted, and a note says so. Names of
strategies are kept as the file has them; only what is scored later must be described.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sra_fast.chat.conversion_choices import Conversion as Conversion
from sra_fast.chat.conversion_choices import read_renamed as read_renamed
from sra_fast.chat.conversion_pass import ConversionPass
from sra_fast.chat.dialogues import Dialogue
from sra_fast.tools.atomic import json_text, replaced_atomically
from sra_fast.tools.counted import counted


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
    made = ConversionPass(Path(path), how)
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
    made = ConversionPass(Path(path), how)
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
    made = ConversionPass(Path(path), how)
    found = list(made.dialogues())
    return found, (
        f"{made.format}: {counted(len(found), 'dialogue')}.",
        *made.tally.notes(how.strategies),
    )

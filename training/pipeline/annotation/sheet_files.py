"""Write sheets as CSV for spreadsheets and as tasks for Label Studio, with the key apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sra_fast.tools.atomic import json_text, write_text

from ..items import SPEAKERS
from .errors import AnnotationError
from .rating_tables import write_csv
from .sheets import Sheet

KEY = "key.json"
PREFERENCE = "preference"
SHEET_FIELDS = (
    "export",
    "annotator",
    "item",
    "strategy",
    "description",
    "conversation",
    "response_one",
    "response_two",
    PREFERENCE,
)
_SCALE = (
    "-4 the first is much better, -2 it is better, 0 no difference, +2 the second is better, "
    "+4 it is much better"
)
_INSTRUCTIONS = f"""\
Each row is one conversation and two replies to its last message. Both replies were asked to follow
the strategy that the row names and describes. Read the conversation, then both replies, and write
into the column "{PREFERENCE}" which reply follows the strategy better and helps the seeker more: a
whole number from -4 to +4.

    {_SCALE}

Leave the cell empty if you cannot say, and change nothing else. Work alone, and save the file as
CSV (UTF-8).
"""
_LABEL_STUDIO = """\
<View>
  <Header value="Strategy" />
  <Text name="strategy" value="$strategy" />
  <Text name="description" value="$description" />
  <Header value="Conversation" />
  <Paragraphs name="conversation" value="$conversation" layout="dialogue" />
  <Header value="First reply" />
  <Text name="response_one" value="$response_one" />
  <Header value="Second reply" />
  <Text name="response_two" value="$response_two" />
  <Header value="Which one follows the strategy better and helps the seeker more?" />
  <Header value="{scale}" size="6" />
  <Choices name="{name}" toName="response_two" choice="single-radio" showInline="true">
{choices}
  </Choices>
</View>
"""


def export_files(sheets: Sequence[Sheet], key: Mapping[str, Any]) -> dict[str, str]:
    """Return the contents of the files of an export by their names.

    Only the key tells which system wrote which reply.

    Args:
        sheets: the sheet of each annotator.
        key: the key to them, as ``make_sheets`` returns it.
    """
    files = {
        "instructions.txt": _INSTRUCTIONS,
        "label-studio.xml": _LABEL_STUDIO.format(
            scale=_SCALE,
            name=PREFERENCE,
            choices="\n".join(f'    <Choice value="{value}" />' for value in range(-4, 5)),
        ),
    }
    for sheet in sheets:
        rows = [_row(sheet, index) for index in range(len(sheet.items))]
        tasks = [_task(sheet, index, row) for index, row in enumerate(rows)]
        files[f"sheet-{sheet.annotator}.csv"] = write_csv(SHEET_FIELDS, rows)
        files[f"label-studio-{sheet.annotator}.json"] = json_text(tasks)
    files[KEY] = json_text(key)
    return files


def write_export(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files of an export that do not exist yet, and overwrite none.

    Args:
        folder: the folder of the export; it is made if it does not exist.
        files: the contents of the files by their names.

    Raises:
        AnnotationError: a file exists with other contents; nothing is written then.
        OSError: a file cannot be written.
    """
    missing: dict[str, str] = {}
    for name, text in files.items():
        path = folder / name
        if not path.exists():
            missing[name] = text
        elif path.read_bytes() != text.encode("utf-8"):
            raise AnnotationError(
                f"{path} exists with other contents, or is filled in already; give another folder",
                "out",
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in missing.items():
        write_text(folder / name, text)


def _row(sheet: Sheet, index: int) -> dict[str, str]:
    item = sheet.items[index]
    first, second = sheet.responses(index)
    lines = [f"{turn['author']}: {turn['text']}" for turn in _turns(sheet, index)]
    return {
        "export": sheet.export,
        "annotator": sheet.annotator,
        "item": item.id,
        "strategy": item.strategy,
        "description": item.description,
        "conversation": "\n".join(lines),
        "response_one": first,
        "response_two": second,
        PREFERENCE: "",
    }


def _task(sheet: Sheet, index: int, row: Mapping[str, str]) -> dict[str, Any]:
    data = {field: row[field] for field in SHEET_FIELDS if field != PREFERENCE}
    return {"data": {**data, "conversation": _turns(sheet, index)}}


def _turns(sheet: Sheet, index: int) -> list[dict[str, str]]:
    item = sheet.items[index]
    situation = [{"author": "Situation", "text": item.situation}] if item.situation else []
    return situation + [
        {"author": SPEAKERS[message.role], "text": message.content} for message in item.messages
    ]

"""Read the entries of a file one by one, whatever holds them: JSON, CSV, Parquet or a folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sra_fast.chat.formats.recognition import container_of, delimiter_of, form_of
from sra_fast.chat.record_fields import ConversationError
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.strict_json import parse_json
from sra_fast.tools.suggestions import did_you_mean
from sra_fast.tools.text_lines import text_lines

_LONGEST = 1 << 27  # characters of one text in a table; a quote that is never closed runs on


def entries(path: Path) -> Iterator[tuple[str, object]]:
    """Yield the entries of a file or folder as ``(where, value)`` pairs, in order.

    Of JSON they are the values of the lines, those of the one list, or the one object; of a table
    they are its lines, as mappings of column names to texts or to what a Parquet file holds.

    Args:
        path: JSON or CSV, which may be packed by gzip, Parquet, or a folder that
            ``Dataset.save_to_disk`` wrote.

    Raises:
        ConversationError: the file is none of these, damaged, or empty.
        MissingExtraError: pyarrow or datasets is needed and not installed.
        OSError: the file cannot be read.
    """
    container = container_of(path)
    empty = True
    if container == "folder":
        found = _saved_entries(path)
    elif container == "parquet":
        found = _parquet_entries(path)
    elif path.is_dir():
        raise ConversationError(
            f"{path}: this folder holds no data set that Dataset.save_to_disk wrote; give one, or "
            "one of the files in it"
        )
    elif container == "lines":
        found = _json_lines(path)
    elif container == "whole":
        found = _json_whole(path)
    elif container == "table":
        found = _table_entries(path)
    else:
        found = _unknown(path)
    for entry in found:
        empty = False
        yield entry
    if empty:
        raise ConversationError(f"{path.name}: the file is empty; it holds no entry")


def _json_lines(path: Path) -> Iterator[tuple[str, object]]:
    for number, line in text_lines(path, raises=ConversationError):
        if line.strip():
            value = parse_json(line, path.name, first_line=number, raises=ConversationError)
            yield f"{path.name} line {number}", value


def _json_whole(path: Path) -> Iterator[tuple[str, object]]:
    text = "".join(line for _, line in text_lines(path, raises=ConversationError))
    value = parse_json(text.removeprefix("\ufeff"), path.name, raises=ConversationError)
    if not isinstance(value, list) or form_of(value) is not None:
        yield path.name, value
        return
    if not value:
        raise ConversationError(f"{path.name}: the list in it is empty")
    for index, one in enumerate(value):
        yield f"{path.name}[{index}]", one


def _unknown(path: Path) -> Iterator[tuple[str, object]]:
    """Yield nothing if the file is empty, and else say why nothing can be read from it."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == b"PK\x03\x04":
        raise ConversationError(
            f"{path.name}: this is a ZIP or Excel file; unpack it, or save the sheet as CSV"
        )
    for _number, line in text_lines(path, raises=ConversationError):
        if line.strip():
            # It is no table either, or its name says so: the error shows where it stops being JSON.
            try:
                parse_json(line, path.name, raises=ConversationError)
            except ConversationError as error:
                raise ConversationError(
                    f"{error}; if this is a table, its name must end in .csv or .tsv"
                ) from error
            raise ConversationError(
                f"{path.name}: this is neither JSON nor CSV, Parquet or a folder of the datasets "
                "library; a table needs a name that ends in .csv or .tsv"
            )
    return iter(())


def _table_entries(path: Path) -> Iterator[tuple[str, object]]:
    lines = _Lines(path)
    delimiter = delimiter_of(lines.first)
    before = csv.field_size_limit(_LONGEST)
    try:
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            number = lines.number + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise ConversationError(
                    f"{path.name} line {number}: not valid CSV ({error}); is a quote not closed "
                    "there?"
                ) from error
            if row is None:
                return
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = _checked_header(row, path.name)
                continue
            where = f"{path.name} line {number}"
            if len(row) != len(header):
                raise ConversationError(
                    f"{where}: has {len(row)} columns, and the first line names {len(header)}; a "
                    "text with a separator or a line break in it stands in double quotes"
                )
            yield where, dict(zip(header, row, strict=True))
    finally:
        csv.field_size_limit(before)


class _Lines:
    """An iterator over the lines of a table, cut at every kind of line end, that counts them."""

    def __init__(self, path: Path) -> None:
        self.number = 0
        self._lines = self._cut(path)
        self.first = ""
        for line in self._lines:
            self.first = line
            if line.strip():
                break
            self.number += 1
        self._pending = bool(self.first)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.first if self._pending else next(self._lines)
        self._pending = False
        self.number += 1
        return line

    @staticmethod
    def _cut(path: Path) -> Iterator[str]:
        for _, line in text_lines(path, raises=ConversationError):
            yield from io.StringIO(line, newline="") if "\r" in line[:-2] else (line,)


def _checked_header(row: list[str], name: str) -> list[str]:
    header = [cell.strip() for cell in row]
    for column in header:
        if not column:
            raise ConversationError(f"{name}: a column has no name in the first line; name it")
        if header.count(column) > 1:
            raise ConversationError(f"{name}: two columns are called {column!r}; rename one")
    return header


def _parquet_entries(path: Path) -> Iterator[tuple[str, object]]:
    with needed("cli", "pyarrow"):
        import pyarrow
        from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name} row {number}", _unpacked(row)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConversationError(
            f"{path.name}: the Parquet file is damaged after row {number} "
            f"({str(error).splitlines()[0]}); it was cut off or changed on its way, so get it again"
        ) from error


def _saved_entries(path: Path) -> Iterator[tuple[str, object]]:
    with needed("train", "datasets"):
        from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(path))
    except Exception as error:  # Arrow's, JSON's and the file system's, by what is damaged
        raise ConversationError(
            f"{path.name}: the datasets library cannot load this folder ({error}); copy it whole, "
            "or save the data set again"
        ) from error
    if isinstance(found, DatasetDict):
        if len(found) != 1:
            raise ConversationError(
                f"{path.name}: holds the splits {', '.join(found)}; give the folder of one of them"
            )
        (found,) = found.values()
    for number, row in enumerate(found, start=1):
        yield f"{path.name} row {number}", _unpacked(row)


def _unpacked(row: Any) -> object:
    """Return what a row holds; a row with a single text that is a JSON object holds that object."""
    if isinstance(row, dict) and len(row) == 1:
        (text,) = row.values()
        if isinstance(text, str) and text.lstrip().startswith("{"):
            try:
                value = json.loads(text)
            except ValueError:
                return row
            return value if isinstance(value, dict) else row
    return row


def missing_column(name: str, columns: list[str], where: str) -> ConversationError:
    """Return the error for a column that a table does not have, with the nearest one it has."""
    return ConversationError(
        f"{where}: has no column {name!r}{did_you_mean(name, columns)} (it has: "
        f"{', '.join(map(repr, columns))})"
    )

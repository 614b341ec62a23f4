"""Read tables from CSV or JSONL strictly, and write CSV that is safe to open in a spreadsheet.

A spreadsheet takes a cell that begins with = + - @ for a formula, even if the cell is quoted in the
file. Such a cell is written with an apostrophe in front, which reading takes off again.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sra_fast.tools.number_text import finite_number
from sra_fast.tools.strict_json import decode_utf8, read_json_lines
from sra_fast.tools.suggestions import did_you_mean

from .errors import AnnotationError

TableRow = Mapping[str, object]
"""One line of a table, as a mapping of column names to values."""

# Spreadsheets skip white space before a formula, and know its full-width signs too.
_FORMULA = re.compile(r"'*[\s]*[=+\-@＝＋－＠\t\r]")
_DELIMITERS = ",;\t"  # what spreadsheets put between cells, by country


def safe_cell(text: str) -> str:
    """Return the text as a CSV cell that no spreadsheet takes for a formula.

    Args:
        text: the text of the cell.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def plain_text(cell: str) -> str:
    """Return the text of a cell that :func:`safe_cell` wrote, without its apostrophe.

    Args:
        cell: the cell; a spreadsheet may have taken the apostrophe off already.
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def write_csv(fields: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Return a table as CSV text, beginning with the mark by which spreadsheets know UTF-8.

    Args:
        fields: the names of the columns, in their order.
        rows: the lines of the table, each a mapping of column names to texts.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(fields)
    writer.writerows([safe_cell(row[field]) for field in fields] for row in rows)
    return "\ufeff" + out.getvalue()


def read_table(path: Path, fields: Sequence[str]) -> list[tuple[str, TableRow]]:
    """Read a table from CSV, or from JSONL if the file begins with ``{``.

    Args:
        path: the file.
        fields: the columns that must be there; any others are kept as they are.

    Returns:
        For each line, its place in the file for messages, and a mapping of column names to values:
        texts in CSV (empty where a cell is), whatever JSON says in JSONL.

    Raises:
        AnnotationError: the file is malformed, a column is missing, or there is no line under the
            header.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        rows = _json_rows(path, fields)
    else:
        rows = _csv_rows(decode_utf8(data, path.name, raises=AnnotationError), path.name, fields)
    if not rows:
        raise AnnotationError(f"{path.name}: holds no row; give a file that was filled in")
    return rows


def number_of(value: object, what: str) -> float | None:
    """Return a value as a finite number; None for an empty cell or a null.

    Args:
        value: the value of a cell, a text or a value of JSON.
        what: the name and place of the value, with which the message begins.

    Raises:
        AnnotationError: the value is something else.
    """
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    number = None if isinstance(value, bool) else finite_number(text)
    if number is None:
        raise AnnotationError(f"{what} must be a finite number or empty, found {text!r:.60}")
    return number


def text_of(value: object, what: str) -> str:
    """Return a value as a text that is not empty; a whole number becomes its digits.

    Args:
        value: the value of a cell, a text or a value of JSON.
        what: the name and place of the value, with which the message begins.

    Raises:
        AnnotationError: the value is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise AnnotationError(f"{what} must be a text, found {value!r:.60}")
    return str(value).strip()


def _json_rows(path: Path, fields: Sequence[str]) -> list[tuple[str, TableRow]]:
    rows: list[tuple[str, TableRow]] = []
    for where, row in read_json_lines(path, raises=AnnotationError):
        if not isinstance(row, dict):
            raise AnnotationError(f"{where}: expected an object, found {type(row).__name__}")
        _refuse_missing(row, fields, where, "write null where there is no value")
        rows.append((where, row))
    return rows


def _csv_rows(text: str, name: str, fields: Sequence[str]) -> list[tuple[str, TableRow]]:
    first = text.splitlines()[0] if text else ""
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[str, TableRow]] = []
    header: list[str] | None = None
    begin = 1
    try:
        for cells in reader:
            where, begin = f"{name} line {begin}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header):
                    twice = next(cell for cell in header if header.count(cell) > 1)
                    raise AnnotationError(f"{where}: column {twice!r} occurs twice; rename one")
                _refuse_missing(header, fields, where, f"the columns are {', '.join(header)}")
            elif len(cells) != len(header):
                raise AnnotationError(
                    f"{where}: {len(cells)} cells under {len(header)} columns; write the file "
                    "with a spreadsheet or a CSV library"
                )
            else:
                texts = (plain_text(cell) for cell in cells)
                rows.append((where, dict(zip(header, texts, strict=True))))
    except csv.Error as error:
        raise AnnotationError(f"{name} line {begin}: not valid CSV ({error})") from error
    return rows


def _refuse_missing(found: Iterable[str], fields: Sequence[str], where: str, way_out: str) -> None:
    names = list(found)
    for field in fields:
        if field not in names:
            raise AnnotationError(
                f"{where}: no column {field!r}{did_you_mean(field, names)} ({way_out})"
            )

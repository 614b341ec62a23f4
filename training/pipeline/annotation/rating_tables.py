"""Tables as files: CSV or an object a line, read strictly; CSV cells that a spreadsheet leaves be.

A spreadsheet takes a cell that begins with = + - @ for a formula, whatever quotes are around it in
the file. Text cells that do get an apostrophe in front, which reading takes off again.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sra_fast.tools.strict_json import decode_utf8, read_json_lines
from sra_fast.tools.suggestions import did_you_mean

from .errors import AnnotationError

Row = Mapping[str, object]

# Spreadsheets look past white space, and take full-width signs for the others.
_FORMULA = re.compile(r"'*[\s]*[=+\-@＝＋－＠\t\r]")
_DELIMITERS = ",;\t"  # a spreadsheet's own choice, by country


def safe_cell(text: str) -> str:
    """The text as a cell that no spreadsheet computes."""
    return f"'{text}" if _FORMULA.match(text) else text


def plain_text(cell: str) -> str:
    """The text of :func:`safe_cell`, with or without its apostrophe."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def write_csv(fields: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Texts as CSV, with the mark by which spreadsheets know UTF-8."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(fields)
    writer.writerows([safe_cell(row[field]) for field in fields] for row in rows)
    return "\ufeff" + out.getvalue()


def read_table(path: Path, fields: Sequence[str]) -> list[tuple[str, Row]]:
    """Reads CSV, or JSONL if the file begins with ``{``, as ``(where, row)`` pairs.

    Values are texts in CSV, "" where a cell is empty, and what JSON says in JSONL. Other columns
    than ``fields`` come along unread.

    Raises:
        AnnotationError: not such a file, a field is missing, or there is no row.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        rows = _json_rows(path, fields)
    else:
        rows = _csv_rows(decode_utf8(data, path.name, raises=AnnotationError), path.name, fields)
    if not rows:
        raise AnnotationError(f"{path.name}: holds no row")
    return rows


def number_of(value: object, what: str) -> float | None:
    """A finite number; None for an empty cell or a null.

    Raises:
        AnnotationError: something else; the message begins with ``what``.
    """
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise AnnotationError(f"{what} must be a finite number or empty, found {text!r:.60}")
    return number


def text_of(value: object, what: str) -> str:
    """A text with something in it; whole numbers count as their digits.

    Raises:
        AnnotationError: something else; the message begins with ``what``.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise AnnotationError(f"{what} must be a text, found {value!r:.60}")
    return str(value).strip()


def _json_rows(path: Path, fields: Sequence[str]) -> list[tuple[str, Row]]:
    rows: list[tuple[str, Row]] = []
    for where, row in read_json_lines(path, raises=AnnotationError):
        if not isinstance(row, dict):
            raise AnnotationError(f"{where}: expected an object, found {type(row).__name__}")
        _refuse_missing(row, fields, where, "write null where there is no value")
        rows.append((where, row))
    return rows


def _csv_rows(text: str, name: str, fields: Sequence[str]) -> list[tuple[str, Row]]:
    first = text.splitlines()[0] if text else ""
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[str, Row]] = []
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
                    raise AnnotationError(f"{where}: column {twice!r} stands there twice")
                _refuse_missing(header, fields, where, f"the columns are {', '.join(header)}")
            elif len(cells) != len(header):
                raise AnnotationError(
                    f"{where}: {len(cells)} cells under {len(header)} columns; write the file "
                    "through a spreadsheet or a CSV library"
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

"""One dialogue in every format that conversations are kept in, for tests that go over the list."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

SAID = (
    ("user", 'I lost my job, and "all" of it.\nYesterday.', None),
    ("assistant", "How come?", "Question"),
    ("user", "They closed; naïve me.", None),
    ("assistant", "That hurts.", "Reflection of feelings"),
)
"""The dialogue that every file holds: role, text and strategy of each message."""

COLUMNS = "id=talk,role=who,content=said,strategy=label"
"""The columns of the tables of utterances that are of no known format."""

PAIRS = "user=prompt,response=answer,strategy=label"
"""The columns of the tables with a question and its answer a line."""


def esconv_entry(seeker: str, supporter: str, field: str, *, beside: bool) -> dict[str, Any]:
    """Return the dialogue as one of ESConv's dialects has it."""
    dialog = []
    for role, text, strategy in SAID:
        message: dict[str, Any] = {"speaker": seeker if role == "user" else supporter, field: text}
        named = {} if strategy is None else {"strategy": strategy}
        dialog.append({**message, **(named if beside else {"annotation": named})})
    return {"emotion_type": "fear", "dialog": dialog}


def openai_entry(**changes: Any) -> dict[str, Any]:
    """Return the dialogue as messages with roles, and strategies on the assistant's."""
    messages = [
        {"role": role, "content": text, **({} if strategy is None else {"strategy": strategy})}
        for role, text, strategy in SAID
    ]
    return {"messages": messages, **changes}


def with_system() -> dict[str, Any]:
    """Return the dialogue as messages that a system message opens."""
    entry = openai_entry(source="x")
    entry["messages"].insert(0, {"role": "system", "content": "Be kind."})
    return entry


def sharegpt_entry(**changes: Any) -> dict[str, Any]:
    """Return the dialogue as ShareGPT keeps it, with strategies on the messages of gpt."""
    messages = [
        {
            "from": "human" if role == "user" else "gpt",
            "value": text,
            **({} if strategy is None else {"strategy": strategy}),
        }
        for role, text, strategy in SAID
    ]
    return {"id": 7, "conversations": messages, **changes}


def annomi_rows() -> list[dict[str, Any]]:
    """Return the dialogue as lines of AnnoMI's simple table."""
    return [
        {
            "transcript_id": 0,
            "mi_quality": "high",
            "video_title": "Losing a job, filmed",
            "video_url": "https://example.org/0",
            "topic": "work",
            "utterance_id": number,
            "interlocutor": "client" if role == "user" else "therapist",
            "timestamp": f"00:00:{number:02d}",
            "utterance_text": text,
            "main_therapist_behaviour": strategy or "n/a",
            "client_talk_type": "neutral" if role == "user" else "n/a",
        }
        for number, (role, text, strategy) in enumerate(SAID)
    ]


def table_rows() -> list[dict[str, Any]]:
    """Return the dialogue as lines of a table of no known format."""
    return [
        {"talk": "a", "who": role, "said": text, "label": strategy, "site": "north"}
        for role, text, strategy in SAID
    ]


def as_csv(rows: Iterable[Mapping[str, Any]], delimiter: str = ",", end: str = "\r\n") -> str:
    """Return rows as the text of a CSV file."""
    kept = list(rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, kept[0], delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(kept)
    return text.getvalue()


def as_lines(entries: Iterable[object]) -> str:
    """Return entries as JSON by lines."""
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_saved(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as the folder of a data set."""
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


def text_file(
    name: str, text: Callable[[], str], encoding: str = "utf-8"
) -> Callable[[Path], Path]:
    """Return a function that writes a text file into a folder, packed if its name ends in .gz."""

    def write(folder: Path) -> Path:
        data = text().encode(encoding)
        path = folder / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def _own() -> dict[str, Any]:
    return openai_entry(id=3, situation=None, meta={"site": "north"})


FILES: dict[str, tuple[Callable[[Path], Path], str | None]] = {
    "ESConv": (
        text_file(
            "e.json",
            lambda: json.dumps([esconv_entry("seeker", "supporter", "content", beside=False)]),
        ),
        None,
    ),
    "FailedESConv": (
        text_file(
            "f.json",
            lambda: json.dumps([esconv_entry("speaker", "listener", "content", beside=False)]),
        ),
        None,
    ),
    "MultiESC": (
        text_file("m.txt", lambda: as_lines([esconv_entry("usr", "sys", "text", beside=True)])),
        None,
    ),
    "AnnoMI": (text_file("a.csv", lambda: as_csv(annomi_rows())), None),
    "AnnoMI in UTF-16": (
        text_file("a16.csv", lambda: as_csv(annomi_rows(), "\t"), "utf-16"),
        None,
    ),
    "AnnoMI in Parquet": (lambda folder: write_parquet(folder / "a.parquet", annomi_rows()), None),
    "ShareGPT list": (text_file("s.json", lambda: json.dumps([sharegpt_entry()], indent=1)), None),
    "ShareGPT lines": (text_file("s.jsonl", lambda: as_lines([sharegpt_entry()])), None),
    "ShareGPT in gzip": (text_file("s.jsonl.gz", lambda: as_lines([sharegpt_entry()])), None),
    "OpenAI lines": (text_file("o.jsonl", lambda: as_lines([with_system()])), None),
    "OpenAI bare list": (
        text_file("o.json", lambda: json.dumps(openai_entry()["messages"], indent=1)),
        None,
    ),
    "OpenAI in Parquet": (
        lambda folder: write_parquet(folder / "o.parquet", [openai_entry(source="x")]),
        None,
    ),
    "OpenAI in a folder": (
        lambda folder: write_saved(folder / "saved", [openai_entry(source="x")]),
        None,
    ),
    "own lines": (text_file("own.jsonl", lambda: as_lines([_own()])), None),
    "own list": (text_file("own.json", lambda: json.dumps([_own()], indent=2)), None),
    "own object": (text_file("one.json", lambda: json.dumps(_own(), indent=2)), None),
    "own in gzip": (text_file("own.jsonl.gz", lambda: as_lines([_own()])), None),
    "own with a mark": (text_file("b.jsonl", lambda: as_lines([_own()]), "utf-8-sig"), None),
    "CSV": (text_file("t.csv", lambda: as_csv(table_rows()), "utf-8-sig"), COLUMNS),
    "CSV of old line ends": (text_file("r.csv", lambda: as_csv(table_rows(), end="\r")), COLUMNS),
    "CSV with semicolons": (text_file("d.csv", lambda: as_csv(table_rows(), ";", "\n")), COLUMNS),
    "TSV in gzip": (text_file("t.tsv.gz", lambda: as_csv(table_rows(), "\t")), COLUMNS),
    "JSON table": (text_file("t.json", lambda: as_lines(table_rows())), COLUMNS),
    "Parquet table": (lambda folder: write_parquet(folder / "t.parquet", table_rows()), COLUMNS),
}
"""Every kind of file: a function that writes it into a folder, and the columns it needs."""

OWN = ("own lines", "own list", "own object", "own with a mark")
"""The kinds that are read without a conversion."""

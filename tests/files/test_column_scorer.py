"""Test the scorer of columns: the numbers of ``sra-fast score``, whoever hands it the batches."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest

import sra_fast
from sra_fast.chat.conversations import ConversationError, read_conversations
from sra_fast.chat.templates import TEMPLATES
from sra_fast.files import batch_scorer
from sra_fast.files.models import find_model
from sra_fast.files.score_file import FileScorer
from sra_fast.files.score_tables import META, ScoreRow
from sra_fast.files.scoring_options import ScoringError, ScoringOptions
from tiny_chat_model import save_tiny_model, talk, write_jsonl

RECORDS = [
    talk("a", 1, meta={"split": "test", "kept": [1, 2.5]}),
    talk("b", 3, dialogue="d"),
    talk("c", 2, situation="They lost a job."),
    {
        "id": 7,
        "messages": [
            {"role": "user", "content": "I cannot sleep."},
            {"role": "assistant", "content": "Since when?", "strategy": "Question"},
        ],
    },
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("chats") / "chats.jsonl", RECORDS)


def rows_of_a_file(model: Path, chats: Path, out: Path, template: str) -> list[ScoreRow]:
    scorer = FileScorer(find_model(str(model)), chats, ScoringOptions(device="cpu"))
    conversations = read_conversations(chats)
    job = scorer.prepare("score", out, conversations, TEMPLATES[template], "all")
    (done,) = scorer.run([job])
    return done.rows


def in_columns(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def check_same(columns: Any, rows: list[ScoreRow], *, exact: bool) -> None:
    assert list(columns["conversation_id"]) == [row["conversation_id"] for row in rows]
    for name in [name for name in rows[0] if not name.startswith(META)]:
        expected, found = [row[name] for row in rows], list(columns[name])
        if isinstance(expected[0], float):
            values = numpy.array(expected, dtype=numpy.float32)
            numpy.testing.assert_allclose(found, values, rtol=0 if exact else 1e-5, err_msg=name)
        else:
            assert found == expected, name


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_the_scores_are_those_of_a_file(
    model: Path, chats: Path, tmp_path: Path, template: str
) -> None:
    scorer = sra_fast.Scorer(str(model), template=template, device="cpu")
    columns = scorer(in_columns(RECORDS))
    check_same(columns, rows_of_a_file(model, chats, tmp_path / "out", template), exact=True)
    kinds = {name: str(column.dtype) for name, column in columns.items()}
    assert kinds.pop("conversation_id") == kinds.pop("meta") == "object"
    assert kinds["turn"] == kinds["prompt_tokens"] == "int64"
    assert {kinds[name] for name in ("paper", "mass", "reference", "table1", "sra")} == {"float32"}
    assert json.loads(columns["meta"][0]) == {"split": "test", "kept": [1, 2.5]}


@pytest.mark.parametrize("share", [True, False])
def test_prefixes_are_shared_as_it_is_told(
    model: Path, monkeypatch: pytest.MonkeyPatch, share: bool
) -> None:
    told: list[str] = []

    def score(*args: Any, **options: Any) -> sra_fast.SRAResult:
        result = sra_fast.score(*args, **options)
        told.append(result.prefixes)
        return result

    monkeypatch.setattr(batch_scorer, "score", score)
    scorer = sra_fast.Scorer(str(model), template="c1_hf", device="cpu", share_prefixes=share)
    scorer(in_columns([talk("a", 3), talk("b", 3)]))
    assert [bool(one) for one in told] == [share]


def test_arrays_are_taken_as_lists_are(model: Path) -> None:
    """Engines turn lists of messages into arrays of objects, and whole numbers into numpy's."""
    scorer = sra_fast.Scorer(str(model), device="cpu")
    messages = numpy.empty(4, dtype=object)
    for index, record in enumerate(RECORDS):
        messages[index] = numpy.array(record["messages"], dtype=object)
    arrays = {
        "id": numpy.arange(4),
        "messages": messages,
        "strategy": numpy.array(["Offer Hope"] * 4),
    }
    lists = {
        "id": [0, 1, 2, 3],
        "messages": [list(m) for m in messages],
        "strategy": ["Offer Hope"] * 4,
    }
    found, expected = scorer(arrays), scorer(lists)
    assert found.keys() == expected.keys()
    for name, column in found.items():
        numpy.testing.assert_array_equal(column, expected[name])


def test_a_batch_without_rows_has_the_same_columns(model: Path) -> None:
    scorer = sra_fast.Scorer(str(model), device="cpu")
    empty = scorer({"id": [], "messages": [], "strategy": []})
    whole = scorer(in_columns(RECORDS))
    assert {name: column.dtype for name, column in empty.items()} == {
        name: column.dtype for name, column in whole.items()
    }
    assert {len(column) for column in empty.values()} == {0}


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_datasets_map_takes_it(model: Path, chats: Path, tmp_path: Path, batch_size: int) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    records = [{**record, "id": str(record["id"])} for record in RECORDS]
    data = datasets.Dataset.from_dict(in_columns(records))
    scored = data.map(
        sra_fast.Scorer(str(model), device="cpu"),
        batched=True,
        batch_size=batch_size,
        remove_columns=data.column_names,
    )
    rows = rows_of_a_file(model, chats, tmp_path / "out", "standard")
    check_same(scored[:], rows, exact=batch_size == 1000)
    kinds = {name: feature.dtype for name, feature in scored.features.items()}
    assert kinds["sra"] == "float32"
    assert kinds["turn"] == "int64"
    assert kinds["conversation_id"] == "string"


def test_it_pickles_as_its_arguments(model: Path) -> None:
    scorer = sra_fast.Scorer(str(model), template="c1_hf", device="cpu")
    before = pickle.dumps(scorer)
    columns = scorer(in_columns(RECORDS))
    assert pickle.dumps(scorer) == before  # nothing of the model, and datasets' hash is the same
    assert len(before) < 20_000
    again = pickle.loads(before)(in_columns(RECORDS))
    for name, column in columns.items():
        numpy.testing.assert_array_equal(again[name], column)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (
            {"messages": [[]], "strategy": ["Offer Hope"]},
            ConversationError,
            "row 0 of the batch: the conversation has no 'id'; add a column",
        ),
        (
            {
                "id": ["a", None],
                "messages": [talk("a")["messages"]] * 2,
                "strategy": ["Offer Hope"] * 2,
            },
            ConversationError,
            "row 1 of the batch: the conversation has no 'id'",
        ),
        (
            {
                "id": ["a", "a"],
                "messages": [talk("a")["messages"]] * 2,
                "strategy": ["Offer Hope"] * 2,
            },
            ConversationError,
            "'id' is also that of",
        ),
        (
            {**in_columns([talk("a")]), "labels": [1]},
            ConversationError,
            "unknown field 'labels'",
        ),
        (
            {"id": ["a"], "messages": []},
            ConversationError,
            "the columns of the batch have different lengths",
        ),
        ([talk("a")], TypeError, "expected a mapping of columns, found list"),
    ],
)
def test_a_batch_that_cannot_be_read_is_refused(
    model: Path, batch: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sra_fast.Scorer(str(model), device="cpu")(batch)


def test_wrong_arguments_are_refused_when_it_is_made(model: Path) -> None:
    with pytest.raises(ValueError, match="template"):
        sra_fast.Scorer(str(model), template="nothing")
    with pytest.raises(KeyError, match="papper"):
        sra_fast.Scorer(str(model), definition="papper")


def test_a_conversation_that_is_too_long_is_named(tmp_path: Path) -> None:
    short = save_tiny_model(tmp_path / "tiny", context=64)
    with pytest.raises((ScoringError, ValueError), match="64"):
        sra_fast.Scorer(str(short), device="cpu")(in_columns([talk("a", 5)]))

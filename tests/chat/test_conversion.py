"""Files as people have them become conversations, and nothing is lost on the way without a word."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import conversation_files as made
from conversation_files import FILES, OWN, SAID
from sra_fast.chat.conversations import (
    Conversation,
    ConversationError,
    as_conversations,
    read_conversations,
)
from sra_fast.chat.conversion import (
    Conversion,
    convert,
    convert_file,
    read_dialogues,
    read_renamed,
)
from sra_fast.chat.foreign_files import ForeignFormatError
from sra_fast.chat.formats.dialogue_tables import Columns

TEXTS = [(role, text) for role, text, _ in SAID]
STRATEGIES = [strategy for _, _, strategy in SAID if strategy is not None]


def columns(text: str | None) -> Columns | None:
    return None if text is None else Columns(dict(pair.split("=") for pair in text.split(",")))


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def told(path: Path, how: Conversion | None = None) -> str:
    """Return the error that a file is refused with."""
    with pytest.raises(ConversationError) as caught:
        convert(path, how or Conversion())
    return str(caught.value)


# --- Every kind of file ---


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_gives_the_same_conversation(tmp_path: Path, kind: str) -> None:
    make, needs = FILES[kind]
    found = convert(make(tmp_path), Conversion(columns=columns(needs), whole=True))
    (one,) = as_conversations(found.records)
    assert [(m.role, m.content) for m in one.messages] == TEXTS
    assert [strategy for _, _, strategy in one.scored] == STRATEGIES
    assert one.response is None


@pytest.mark.parametrize("kind", [kind for kind in FILES if not kind.startswith("own")])
def test_without_whole_each_annotated_reply_is_a_conversation(tmp_path: Path, kind: str) -> None:
    make, needs = FILES[kind]
    found = as_conversations(convert(make(tmp_path), Conversion(columns=columns(needs))).records)
    assert [one.strategy for one in found] == STRATEGIES
    assert [len(one.messages) for one in found] == [1, 3]
    assert len({one.dialogue for one in found}) == 1


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_conversations_is_read_and_any_other_is_named(tmp_path: Path, kind: str) -> None:
    path = FILES[kind][0](tmp_path)
    if kind in OWN:
        assert [m.content for m in read_conversations(path)[0].messages] == [t for _, t in TEXTS]
        return
    if kind == "JSON table":
        with pytest.raises(ConversationError, match="unknown field 'talk'"):
            read_conversations(path)
        return
    with pytest.raises(ForeignFormatError, match=r"sra_fast\.chat\.conversion") as caught:
        read_conversations(path)
    assert caught.value.path == path
    names = {
        "ESConv": "ESConv",
        "FailedESConv": "ESConv",
        "MultiESC": "ESConv",
        "AnnoMI": "AnnoMI",
        "ShareGPT": "ShareGPT",
        "OpenAI": "OpenAI",
    }
    packed = {"Parquet": "Parquet", "a folder": "datasets", "gzip": "gzip", "UTF-16": "UTF-16"}
    expected = next((n for end, n in packed.items() if end in kind), None)
    expected = expected or names.get(kind.split()[0], "CSV")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "kind",
    ["AnnoMI in Parquet", "OpenAI in a folder", "ShareGPT in gzip", "own in gzip", "TSV in gzip"],
)
def test_half_of_a_packed_file_is_damaged_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    make, needs = FILES[kind]
    path = make(tmp_path)
    for file in [path] if path.is_file() else [path / "data-00000-of-00001.arrow"]:
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
    out = write(tmp_path / "out.jsonl", "before")
    with pytest.raises(ConversationError, match=r"damaged|cannot load") as caught:
        convert_file(path, out, Conversion(columns=columns(needs)))
    assert path.name in str(caught.value)
    assert out.read_text() == "before"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", [k for k in FILES if "folder" not in k and "Parquet" not in k])
def test_a_text_that_breaks_off_is_refused(tmp_path: Path, kind: str) -> None:
    make, needs = FILES[kind]
    path = make(tmp_path)
    data = path.read_bytes()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(gzip.decompress(data)[:-20]))
    else:
        path.write_bytes(data[:-20])
    assert path.name in told(path, Conversion("Offer Hope", columns=columns(needs)))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.json", b"", "empty.json: the file is empty"),
        ("blank.csv", b" \n\n", "blank.csv: the file is empty"),
        ("header.csv", b"talk,who,said\n", "header.csv: the file is empty"),
        ("list.json", b"[]", "list.json: the list in it is empty"),
        (
            "latin.csv",
            "id,said\na,naïve".encode("latin-1"),
            "latin.csv line 2: byte 5 is not UTF-8",
        ),
        ("latin.jsonl", '{"a": "é"}'.encode("latin-1"), "latin.jsonl line 1: byte 8 is not UTF-8"),
        ("wide.json", '{"a": 1}'.encode("utf-16-le"), "holds zero bytes"),
        ("wide.json", '{"a": 1}'.encode("utf-32"), "this is UTF-32"),
        ("sheet.xlsx", b"PK\x03\x04rest", "save the sheet as CSV"),
        ("notes.txt", b"Dear diary", "notes.txt line 1, column 1: not valid JSON"),
        ("talks.txt", b"talk,who\n1,user", "if this is a table, its name must end in .csv"),
        ("a.csv", b"talk,,said\n1,2,3", "a column has no name"),
        ("a.csv", b"talk,who,talk\n1,2,3", "two columns are called 'talk'"),
        ("a.csv", b"talk,who\n1,2,3", "a.csv line 2: has 3 columns, and the first line names 2"),
        ("a.csv", b'talk,who\n1,"open\n2,b\n', "a.csv line 2: not valid CSV"),
        ("a.csv", b"talk,who\n1,2", "a.csv line 2: this is a table (it has: 'talk', 'who')"),
        ("a.json", b'{"a": [1]}', "not a format that is known here (it has: 'a'). Known are: "),
        ("a.json", b'{"a": 1, "a": 2}', "key 'a' stands twice"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(
    tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    assert says in told(write(tmp_path / name, data))


def test_a_folder_without_a_data_set_is_told(tmp_path: Path) -> None:
    assert "holds no data set" in told(tmp_path)
    with pytest.raises(ConversationError, match="this is a folder"):
        read_conversations(tmp_path)


def test_a_folder_of_several_splits_names_them(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    rows = datasets.Dataset.from_list([made.openai_entry()])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "both"))
    assert "the splits train, test" in told(tmp_path / "both")
    assert len(convert(tmp_path / "both" / "train").records) == 1


def test_formats_are_not_mixed_in_silence(tmp_path: Path) -> None:
    entries = [made.sharegpt_entry(), made.openai_entry()]
    path = write(tmp_path / "a.jsonl", made.as_lines(entries))
    assert "a.jsonl line 2: this is conversations" in told(path)
    assert "a.jsonl line 1 is conversations as ShareGPT" in told(path)


# --- Strategies ---


def test_unknown_strategies_keep_their_names_and_are_told(tmp_path: Path) -> None:
    entry = made.esconv_entry("usr", "sys", "text", beside=True)
    entry["dialog"][1]["strategy"] = "Greeting"
    entry["dialog"][3]["strategy"] = "Question?"
    found = convert(write(tmp_path / "m.txt", made.as_lines([entry])))
    assert [record["strategy"] for record in found.records] == ["Greeting", "Question?"]
    (note,) = [note for note in found.notes if "none of the 23 known ones" in note]
    assert "'Greeting' (1), 'Question?' (1); did you mean 'Question'?" in note


def test_strategies_are_renamed_as_the_user_says(tmp_path: Path) -> None:
    names = write(tmp_path / "map.json", '{"Question": "Clarification", "Qestion": "Other"}')
    entry = made.esconv_entry("usr", "sys", "text", beside=True)
    path = write(tmp_path / "m.txt", made.as_lines([entry]))
    found = convert(path, Conversion(renamed=read_renamed(names)))
    assert [r["strategy"] for r in found.records] == ["Clarification", "Reflection of feelings"]
    assert "1 strategy was given another name." in found.notes
    assert "These names to replace do not occur: 'Qestion'." in found.notes


def test_a_strategy_that_does_not_count_leaves_its_reply_as_context(tmp_path: Path) -> None:
    for kind in ("MultiESC", "AnnoMI", "ShareGPT lines", "own lines"):
        found = convert(
            FILES[kind][0](tmp_path), Conversion(renamed={"Question": None}, whole=True)
        )
        (one,) = as_conversations(found.records)
        assert one.scored == ((3, 2, "Reflection of feelings"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "expected one object"),
        ("{}", "found an empty one"),
        ('{"a": 5}', "the new name of 'a' must be a string"),
        ('{"a": " "}', "the new name of 'a' is empty"),
    ],
)
def test_a_file_of_names_is_read_strictly(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConversationError, match=says):
        read_renamed(write(tmp_path / "map.json", text))


def test_strategies_that_are_not_used_are_not_looked_at(tmp_path: Path) -> None:
    entry = made.esconv_entry("seeker", "supporter", "content", beside=False)
    entry["dialog"][1]["annotation"] = {"strategy": ["of", "another", "kind"]}
    path = write(tmp_path / "e.json", json.dumps([entry]))
    assert "'strategy' must be a string" in told(path)
    found = convert(path, Conversion("Offer Hope"))
    assert found.records[0]["strategy"] == "Offer Hope"
    assert not any("known ones" in note for note in found.notes)


def test_a_file_without_strategies_needs_one_for_all(tmp_path: Path) -> None:
    messages = [{"role": role, "content": text} for role, text in TEXTS]
    path = write(tmp_path / "o.jsonl", made.as_lines([{"messages": messages}]))
    assert "No reply names a strategy" in told(path)
    (record,) = convert(path, Conversion("Offer Hope")).records
    assert record["strategy"] == "Offer Hope"
    assert record["messages"] == messages


# --- Chats ---


def chats(tmp_path: Path, *entries: dict[str, Any], **how: Any) -> tuple[list[Conversation], str]:
    """Return what chats become, all held against one strategy, and the notes as one text."""
    path = write(tmp_path / "chats.jsonl", made.as_lines(entries))
    found = convert(path, Conversion("Offer Hope", **how))
    return as_conversations(found.records), " ".join(found.notes)


TOOL_CHATS = {
    "a call": [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ],
    "an old call": [
        {"role": "assistant", "content": None, "function_call": {"name": "f"}},
        {"role": "function", "name": "f", "content": "42"},
    ],
}


@pytest.mark.parametrize("kind", TOOL_CHATS)
def test_chats_with_tools_are_left_out_and_told(tmp_path: Path, kind: str) -> None:
    entry = made.openai_entry()
    entry["messages"][1:1] = TOOL_CHATS[kind]
    found, notes = chats(tmp_path, made.openai_entry(id="good"), entry)
    assert [one.id for one in found] == ["good"]
    assert "1 conversation with calls of tools was left out" in notes
    assert "chats.jsonl line 2, message 1" in notes


def test_sharegpt_roles_of_tools_are_told_too(tmp_path: Path) -> None:
    entry = made.sharegpt_entry(id="b")
    entry["conversations"][1:1] = [
        {"from": "function_call", "value": "{}"},
        {"from": "observation", "value": "42"},
    ]
    found, notes = chats(tmp_path, made.sharegpt_entry(), entry)
    assert [one.id for one in found] == ["7"]
    assert "1 conversation with calls of tools" in notes


def test_parts_of_text_are_read_and_pictures_are_told(tmp_path: Path) -> None:
    one, other = made.openai_entry(id="text"), made.openai_entry(id="picture")
    parts = [{"type": "text", "text": "I lost"}, {"type": "text", "text": " my job."}]
    one["messages"][0]["content"] = parts
    other["messages"][0]["content"] = [*parts, {"type": "image_url", "image_url": {"url": "x"}}]
    found, notes = chats(tmp_path, one, other)
    assert [c.messages[0].content for c in found] == ["I lost my job."]
    assert "1 conversation with parts that are no text was left out" in notes


def test_a_system_message_becomes_metadata(tmp_path: Path) -> None:
    one = made.openai_entry(tools=[{"name": "f"}], source="web")
    one["messages"].insert(0, {"role": "system", "content": "Be kind."})
    one["messages"][1]["name"] = "ann"
    found, notes = chats(tmp_path, one)
    assert found[0].meta == {"source": "web", "system": "Be kind."}
    assert "1 system message was kept" in notes
    assert "'tools' (1)" in notes
    assert "'name' (1)" in notes


def test_messages_of_one_speaker_are_joined_by_a_blank_line(tmp_path: Path) -> None:
    one = made.openai_entry()
    one["messages"].insert(0, {"role": "user", "content": "Hello."})
    one["messages"].append({"role": "assistant", "content": " "})
    found, notes = chats(tmp_path, one)
    assert found[0].messages[0].content == f"Hello.\n\n{SAID[0][1]}"
    assert "1 message was joined" in notes
    assert "1 empty message was dropped" in notes


def test_an_id_that_stands_there_twice_is_numbered_and_one_for_splits(tmp_path: Path) -> None:
    found, notes = chats(tmp_path, *(made.sharegpt_entry() for _ in range(3)))
    assert [one.id for one in found] == ["7", "7#2", "7#3"]
    assert {one.dialogue or one.id for one in found} == {"7"}
    assert "2 dialogues have the id of an earlier one" in notes


def test_a_speaker_of_another_name_is_told_and_can_be_given_a_role(tmp_path: Path) -> None:
    one = made.sharegpt_entry()
    for message in one["conversations"]:
        message["from"] = {"human": "Klientin", "gpt": "Berater"}[message["from"]]
    with pytest.raises(ConversationError, match=r"message 0: 'from' is 'Klientin'.*say which"):
        chats(tmp_path, one)
    found, _ = chats(tmp_path, one, roles={"klientin": "user", "Berater": "assistant"})
    assert [m.role for m in found[0].messages] == [role for role, _ in TEXTS]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"messages": ["x"]}, "line 1, message 0: expected an object"),
        ({"messages": [{"role": "user"}]}, "message 0: 'content' is missing"),
        ({"messages": [{"role": "user", "content": 5}]}, "'content' must be a string or a list"),
        ({"messages": [{"role": "user", "content": [5]}]}, "part 0 must be a string or an object"),
        ({"messages": [{"role": "usr", "content": "x"}, {"role": "usor"}]}, "message 1: 'content'"),
        ({"messages": [{"role": "usser", "content": "x"}]}, "did you mean 'user'"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "U+D83D"),
        ({"id": 1.5, "messages": [{"role": "user", "content": "x"}]}, "'id' must be a string"),
    ],
)
def test_a_malformed_chat_is_told_with_its_place(
    tmp_path: Path, entry: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConversationError) as caught:
        chats(tmp_path, entry)
    assert says in str(caught.value)
    assert "chats.jsonl line 1" in str(caught.value)


# --- Tables ---


def test_annomi_keeps_what_it_says_of_a_whole_transcript(tmp_path: Path) -> None:
    found = convert(FILES["AnnoMI"][0](tmp_path), Conversion(whole=True))
    meta = found.records[0]["meta"]
    assert isinstance(meta, dict)
    assert meta["mi_quality"] == "high"
    assert meta["topic"] == "work"
    assert "timestamp" not in meta
    assert any("'timestamp' (1)" in note for note in found.notes)


def test_utterances_are_put_in_order_and_several_annotators_are_one(tmp_path: Path) -> None:
    rows = made.annomi_rows()
    again = {**rows[1], "main_therapist_behaviour": "reflection"}
    rows = [rows[3], again, rows[2], rows[0], again, rows[1]]
    path = write(tmp_path / "a.csv", made.as_csv(rows))
    found = convert(path, Conversion(whole=True))
    (one,) = as_conversations(found.records)
    assert [(m.role, m.content) for m in one.messages] == TEXTS
    assert one.messages[1].strategy == "reflection"
    assert any("1 utterance has several annotations" in note for note in found.notes)


def test_two_texts_under_one_number_are_refused(tmp_path: Path) -> None:
    rows = made.annomi_rows()
    rows[2]["utterance_id"] = 0
    error = told(write(tmp_path / "a.csv", made.as_csv(rows)))
    assert "utterance 0 of this dialogue is also at a.csv line 2" in error


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"utterance_id": "first"}, "holds 'first', which is no number"),
        ({"utterance_id": "1_0"}, "holds '1_0', which is no number"),
        ({"utterance_id": "nan"}, "holds 'nan', which is no number"),
        ({"interlocutor": "moderator"}, "the role is 'moderator', and no role is known"),
        ({"interlocutor": "system"}, "those of a user and of an assistant alone"),
        ({"transcript_id": ""}, "the id is empty"),
    ],
)
def test_a_wrong_cell_is_told_with_its_line(
    tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    rows = made.annomi_rows()
    rows[0] |= changes
    error = told(write(tmp_path / "a.csv", made.as_csv(rows)))
    assert says in error
    assert "a.csv line 2" in error


def test_a_missing_column_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = FILES["CSV"][0](tmp_path)
    error = told(path, Conversion(columns=columns("id=talk,role=who,content=sad")))
    assert "has no column 'sad'; did you mean 'said'?" in error
    rows = [{k: v for k, v in row.items() if k != "utterance_id"} for row in made.annomi_rows()]
    error = told(write(tmp_path / "a.csv", made.as_csv(rows)))
    assert "has no column 'utterance_id'" in error


def test_a_table_of_questions_and_answers_is_a_conversation_a_line(tmp_path: Path) -> None:
    rows = [
        {"prompt": "I lost my job.", "answer": "How come?", "label": "Question", "site": 1},
        {"prompt": "I am sad.", "answer": "I see.", "label": "", "site": 2},
    ]
    path = write(tmp_path / "pairs.csv", made.as_csv(rows))
    found = convert(path, Conversion(columns=columns(made.PAIRS)))
    (one,) = as_conversations(found.records)
    assert (one.id, one.strategy, one.response) == ("pairs-0-t1", "Question", "How come?")
    assert one.meta == {"site": "1"}
    assert any("1 supporter turn has no strategy" in note for note in found.notes)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"id": "a", "role": "b", "contents": "c"}, "did you mean 'content'"),
        ({"id": "a", "role": "b"}, "must name 'id', 'role' and 'content'"),
        ({"user": "a", "response": "b", "role": "c"}, "it can only be one"),
    ],
)
def test_columns_that_do_not_fit_are_refused(names: dict[str, str], says: str) -> None:
    with pytest.raises(ConversationError, match=says):
        Columns(names)


def test_columns_and_roles_are_refused_where_nothing_reads_them(tmp_path: Path) -> None:
    path = FILES["ShareGPT lines"][0](tmp_path)
    assert "columns are for tables" in told(path, Conversion(columns=columns(made.COLUMNS)))
    path = FILES["ESConv"][0](tmp_path)
    assert "leave the roles out" in told(path, Conversion(roles={"x": "user"}))


def test_a_parquet_file_with_json_in_a_column_of_texts_is_unpacked(tmp_path: Path) -> None:
    entry = made.esconv_entry("seeker", "supporter", "content", beside=False)
    path = made.write_parquet(tmp_path / "e.parquet", [{"text": json.dumps(entry)}])
    assert len(convert(path).records) == 2


# --- Our own form ---


def test_conversations_come_through_as_they_are(tmp_path: Path) -> None:
    entry = made.openai_entry(id=3, situation=None, language="en", meta={"a": [1, {"b": None}]})
    path = write(tmp_path / "own.jsonl.gz", gzip.compress(made.as_lines([entry]).encode()))
    (found,) = as_conversations(convert(path).records)
    (again,) = as_conversations([found.record])
    assert (found.id, found.meta, found.language) == ("3", entry["meta"], "en")
    assert again.messages == found.messages
    one_for_all = convert(path, Conversion("Offer Hope")).records[0]
    assert one_for_all["strategy"] == "Offer Hope"
    assert "'strategy'" not in str(one_for_all["messages"])


@pytest.mark.parametrize("packed", [gzip.compress, lambda data: data.decode().encode("utf-16")])
def test_packed_conversations_are_told_apart_from_those_that_are_read(
    tmp_path: Path, packed: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "own.jsonl", packed(made.as_lines([made.openai_entry()]).encode()))
    with pytest.raises(ForeignFormatError, match="in UTF-8 and not packed; convert") as caught:
        read_conversations(path)
    assert "save the file as UTF-8" not in str(caught.value)


def test_a_misspelt_list_of_messages_among_conversations_is_named(tmp_path: Path) -> None:
    right = made.openai_entry()
    wrong = {name.replace("messages", "mesages"): value for name, value in right.items()}
    path = write(tmp_path / "own.jsonl", made.as_lines([right, wrong]))
    assert "own.jsonl line 2: holds no list of messages; did you mean 'messages'?" in told(path)


def test_an_unknown_field_of_a_conversation_is_kept_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", made.as_lines([made.openai_entry(rating=4.5)]))
    assert convert(path).records[0]["meta"] == {"rating": 4.5}


# --- Files ---


def test_a_file_is_converted_line_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", made.as_lines(made.sharegpt_entry(id=i) for i in range(5)))
    count, notes = convert_file(path, tmp_path / "out.jsonl")
    assert count == len(read_conversations(tmp_path / "out.jsonl")) == 10
    assert notes[0].startswith("Conversations as ShareGPT keeps them: 5 dialogues became 10")


def test_an_error_in_the_last_line_writes_nothing(tmp_path: Path) -> None:
    text = made.as_lines([made.sharegpt_entry(), {"conversations": [{"from": "human"}]}])
    with pytest.raises(ConversationError, match="line 2, message 0"):
        convert_file(write(tmp_path / "s.jsonl", text), tmp_path / "out.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["s.jsonl"]


@pytest.mark.parametrize("kind", ["AnnoMI", "OpenAI lines", "ShareGPT list", "MultiESC"])
def test_dialogues_of_every_format_can_be_extended(tmp_path: Path, kind: str) -> None:
    ((dialogue,), notes) = read_dialogues(FILES[kind][0](tmp_path))
    assert [(turn.role, turn.content) for turn in dialogue.turns] == TEXTS
    assert "1 dialogue." in notes[0]


# --- The page about these files ---

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "files-you-can-bring.md"
EXAMPLES = re.findall(
    r"^```(?:json|text)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S
)
SHOWN = [text for text in EXAMPLES if re.search(r'"dialog"|"messages"|"conversations"|,.*,', text)]
NEEDED = {"talk,": "id=talk,role=who,content=said,strategy=label", "prompt,": made.PAIRS}


@pytest.mark.parametrize("text", SHOWN, ids=lambda text: text[:24])
def test_the_examples_of_the_page_convert_as_they_stand(tmp_path: Path, text: str) -> None:
    if text.startswith('{"Greeting"'):
        assert len(read_renamed(write(tmp_path / "names.json", text))) == 3
        return
    is_json = text[0] in "[{"
    path = write(tmp_path / ("a.json" if is_json else "a.csv"), text)
    needs = next((value for key, value in NEEDED.items() if text.startswith(key)), None)
    strategy = None if '"strategy"' in text or not is_json else "Offer Hope"
    assert convert(path, Conversion(strategy, columns=columns(needs))).records


def test_the_page_has_an_example_of_each_format() -> None:
    assert len(SHOWN) == 9

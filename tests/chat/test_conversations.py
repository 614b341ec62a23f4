"""Test that conversations are read strictly, and that errors name the place and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sra_fast.chat.conversations import (
    Conversation,
    ConversationError,
    Message,
    as_conversations,
    parse_conversation,
    read_conversations,
    write_conversations,
)

USER = {"role": "user", "content": "I lost my job."}
REPLY = {"role": "assistant", "content": "I am sorry to hear that."}


def record(**changes: Any) -> dict[str, Any]:
    return {"id": "c7", "messages": [USER, REPLY], "strategy": "Offer Hope", **changes}


def parse(value: object) -> Conversation:
    return parse_conversation(value, index=3, where="chats.jsonl line 12")


def write_lines(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def test_a_record_becomes_a_conversation() -> None:
    found = parse(record(situation=" Fired. ", messages=[USER], response="\tOh.\n"))
    assert found == Conversation(
        id="c7",
        messages=(Message("user", "I lost my job."),),
        strategy="Offer Hope",
        situation="Fired.",
        response="Oh.",
        where="chats.jsonl line 12",
    )


def test_a_conversation_without_id_is_called_by_its_index() -> None:
    value = record()
    del value["id"]
    assert parse(value).id == "3"


@pytest.mark.parametrize("first", [USER, REPLY])
def test_either_role_may_begin(first: dict[str, str]) -> None:
    messages = [first, *([USER, REPLY] if first is REPLY else [REPLY])]
    assert parse(record(messages=messages)).messages[0].role == first["role"]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (["not", "an", "object"], ["conversation '3'", "found list"]),
        (record(id=True), ["conversation '3'", "'id'", "found bool"]),
        (record(id=7.0), ["conversation '3'", "'id'", "found float"]),
        (record(id=""), ["'id'", "is empty"]),
        (record(strategi="x"), ["unknown field 'strategi'", "did you mean 'strategy'"]),
        (record(strategy=None), ["'strategy' is missing"]),
        (record(strategy=5), ["'strategy'", "found int"]),
        ({"messages": [USER, REPLY]}, ["conversation '3'", "'strategy' is missing"]),
        ({"strategy": "Offer Hope"}, ["'messages' is missing"]),
        (record(messages="hello"), ["'messages'", "found str"]),
        (record(messages=[]), ["'messages' is empty"]),
        (record(messages=[USER, "Oh."]), ["'messages[1]'", "found str"]),
        (record(messages=[USER, {"role": "assistant"}]), ["messages[1].content", "is missing"]),
        (record(messages=[{**USER, "name": "Ann"}, REPLY]), ["messages[0].name", "unknown field"]),
        (record(messages=[USER, {**REPLY, "content": " \n"}]), ["messages[1].content", "is empty"]),
        (record(messages=[USER, {**REPLY, "content": 5}]), ["messages[1].content", "found int"]),
        (record(messages=[USER, {**REPLY, "role": "Assistant"}]), ["did you mean 'assistant'"]),
        (record(messages=[USER, {**REPLY, "role": ["user"]}]), ["messages[1].role", "['user']"]),
        (record(messages=[USER, USER, REPLY]), ["messages[1].role", "' makes two 'user'", "join"]),
        (record(messages=[USER]), ["no assistant message that follows", "'response'"]),
        (record(messages=[REPLY, USER]), ["no assistant message that follows", "'response'"]),
        (record(response="Oh."), ["must end with a 'user' message", "leave 'response' out"]),
        (record(messages=[USER], response=" "), ["'response'", "is empty"]),
        (record(messages=[USER], response=None), ["no assistant message that follows"]),
        (record(messages=[{**USER, "strategy": "Offer Hope"}, REPLY]), ["messages[0].strategy"]),
        (record(messages=[USER, {**REPLY, "strategy": ""}]), ["messages[1].strategy", "is empty"]),
        (record(meta=["a"]), ["'meta'", "an object of names and values", "found list"]),
        (record(meta={" ": 1}), ["'meta'", "give every value a name"]),
        (record(meta={"a": float("nan")}), ["'meta.a'", "nan"]),
        (record(meta={"a": {"b": [1, "\ud83d"]}}), ["'meta.a.b[1]'", "U+D83D"]),
        (record(meta={"a": 2**63}), ["'meta.a'", "64 bits"]),
        (record(topic="work"), ["unknown field 'topic'", "goes into 'meta'"]),
        (record(situation=""), ["'situation'", "is empty"]),
        (record(situation="\ud83d"), ["'situation'", "U+D83D", "character 1"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(value: object, says: list[str]) -> None:
    with pytest.raises(ConversationError) as caught:
        parse(value)
    for part in ["chats.jsonl line 12", *says]:
        assert part in str(caught.value)


def test_a_system_message_is_refused_with_the_way_out() -> None:
    messages = [{"role": "system", "content": "Be kind."}, USER, REPLY]
    with pytest.raises(ConversationError, match=r"messages\[0\]\.role.*template.*sra_fast\.score"):
        parse(record(messages=messages))


def test_a_conversation_built_by_hand_is_checked_too() -> None:
    with pytest.raises(ConversationError, match=r"'a'.*nothing to score"):
        Conversation(id="a", messages=(Message("user", "Hi"),), strategy="Offer Hope")


def test_records_and_conversations_are_taken_side_by_side() -> None:
    first = parse(record())
    assert as_conversations([first, record(id="c8")])[0] is first


@pytest.mark.parametrize("items", ["chats.jsonl", Path("chats.jsonl"), record(), parse(record())])
def test_what_is_no_list_of_conversations_is_refused(items: Any) -> None:
    with pytest.raises(ConversationError, match="expected a list of conversations"):
        as_conversations(items)


def test_the_same_id_twice_is_refused_with_both_places() -> None:
    with pytest.raises(ConversationError, match=r"conversations\[2\].*'id'.*conversations\[0\]"):
        as_conversations([record(), record(id="other"), record()])


def test_an_id_may_not_be_that_of_a_conversation_without_one() -> None:
    nameless = record()
    del nameless["id"]
    with pytest.raises(ConversationError, match="called by its number"):
        as_conversations([nameless, record(id="0")])


def test_a_file_is_read_with_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    lines = ["", json.dumps(record(id="a")), "  ", json.dumps(record(id="b")) + "\r", ""]
    path = write_lines(tmp_path / "chats.jsonl", *lines, encoding="utf-8-sig")
    found = read_conversations(path)
    assert [(c.id, c.where) for c in found] == [
        ("a", "chats.jsonl line 2"),
        ("b", "chats.jsonl line 4"),
    ]


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    text = "one\u2028two\x85three"
    line = json.dumps(record(situation=text), ensure_ascii=False)
    assert read_conversations(write_lines(tmp_path / "a.jsonl", line))[0].situation == text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "a", "strategy" "x"}', ["chats.jsonl line 2, column 24", "not valid JSON"]),
        ('{"id": "a", "id": "b"}', ["chats.jsonl line 2", "'id' stands twice"]),
        ('{"messages": [{"role": "user", "role": "user"}]}', ["line 2", "'role' stands twice"]),
        ('[{"id": "a"}]', ["chats.jsonl line 2", "found a list", "one conversation a line"]),
        ("[" * 100_000, ["chats.jsonl line 2", "not usable JSON"]),
        (json.dumps(record(situation="a\ud83d")), ["line 2", "'c7'", "U+D83D", "character 2"]),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, says: list[str]) -> None:
    path = write_lines(tmp_path / "chats.jsonl", json.dumps(record(id="good")), line)
    with pytest.raises(ConversationError) as caught:
        read_conversations(path)
    for part in says:
        assert part in str(caught.value)


def test_a_file_in_another_encoding_is_refused_with_the_line(tmp_path: Path) -> None:
    line = json.dumps(record(situation="Müde"), ensure_ascii=False)
    path = write_lines(tmp_path / "old.jsonl", "", line, encoding="latin-1")
    with pytest.raises(ConversationError, match=r"old\.jsonl line 2: byte \d+ is not UTF-8"):
        read_conversations(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversationError, match=r"empty\.jsonl: holds no conversation"):
        read_conversations(write_lines(tmp_path / "empty.jsonl", "", " "))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    records = [record(id="a", situation='"ü" \u2028 \U0001f600'), record(id="b")]
    write_conversations(tmp_path / "out.jsonl", records)
    found = read_conversations(tmp_path / "out.jsonl")
    assert [c.situation for c in found] == [records[0]["situation"], None]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_bad_record_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    target = write_lines(tmp_path / "out.jsonl", "old")
    with pytest.raises(ConversationError, match=r"records\[1\]"):
        write_conversations(target, [record(), record(id="b", strategy="")])
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(OSError, match=r"out\.jsonl"):
        write_conversations(tmp_path / "out.jsonl", [record()])
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_conversation_is_written_as_it_was_read() -> None:
    whole = {
        "id": "c1",
        "dialogue": "d",
        "language": "de",
        "situation": "Bad day.",
        "messages": [{"role": "user", "content": "Hm."}],
        "strategy": "Offer Hope",
        "response": "Tomorrow.",
    }
    bare = {
        "id": "c2",
        "messages": [{"role": "user", "content": "Hm."}, {"role": "assistant", "content": "So."}],
        "strategy": "Offer Hope",
    }
    assert [one.record for one in as_conversations([whole, bare])] == [whole, bare]


# --- Strategies of single replies, and metadata ---


def own(*strategies: str | None, **changes: Any) -> dict[str, Any]:
    """Return a record with that many replies, each with a strategy of its own or null."""
    messages = [m for s in strategies for m in (USER, {**REPLY, "strategy": s})]
    return {"id": "c7", "messages": messages, **changes}


@pytest.mark.parametrize(
    ("value", "scored"),
    [
        (own("Question", "Offer Hope"), [(1, 1, "Question"), (3, 2, "Offer Hope")]),
        (own("Question", None), [(1, 1, "Question")]),
        (own("Question", None, strategy="Others"), [(1, 1, "Question"), (3, 2, "Others")]),
        (own(None, None, strategy="Others"), [(1, 1, "Others"), (3, 2, "Others")]),
    ],
)
def test_each_reply_is_scored_against_its_own_strategy(
    value: dict[str, Any], scored: list[tuple[int, int, str]]
) -> None:
    found = parse(value)
    assert list(found.scored) == scored
    assert found.strategy == scored[-1][2]
    assert [found.strategy_of(turn) for _, turn, _ in scored] == [name for _, _, name in scored]
    assert parse_conversation(found.record, index=3, where=found.where) == found


def test_a_response_is_scored_against_the_strategy_of_the_conversation() -> None:
    value = own("Question", strategy="Offer Hope", response="It passes.")
    value["messages"].append(USER)
    found = parse(value)
    assert found.scored == ((3, 2, "Offer Hope"),)
    assert parse_conversation(found.record, index=3, where=found.where) == found
    with pytest.raises(ConversationError, match="'strategy' is missing"):
        parse({**value, "strategy": None})


def test_a_strategy_on_the_opening_message_alone_is_refused() -> None:
    messages = [{**REPLY, "strategy": "Question"}, USER, REPLY]
    with pytest.raises(ConversationError, match="opening message alone"):
        parse(record(messages=messages, strategy=None))


def test_a_conversation_by_hand_names_the_strategy_of_its_last_reply() -> None:
    messages = (Message("user", "Hi"), Message("assistant", "Oh.", "Question"))
    with pytest.raises(ConversationError, match="give the conversation that of its last reply"):
        Conversation(id="a", messages=messages, strategy="Offer Hope")
    with pytest.raises(ValueError, match="a user message has no strategy"):
        Message("user", "Hi", "Question")


def test_optional_fields_may_be_null_and_ids_whole_numbers() -> None:
    empty = dict.fromkeys(("situation", "language", "dialogue", "meta", "response"))
    messages = [USER, {**REPLY, "strategy": None}]
    found = parse(record(id=7, messages=messages, **empty))
    assert (found.id, found.situation, found.dialogue, found.meta) == ("7", None, None, {})
    assert parse(record(id=None, dialogue=12)).dialogue == "12"
    assert parse(record(id=None)).id == "3"


def test_metadata_stays_with_a_conversation() -> None:
    meta = {"topic": "work", "rating": 4.5, "tags": ["a", {"b": None}], "old": True}
    found = parse(record(meta=meta))
    assert found.meta == meta
    assert found.record["meta"] == meta
    assert found.with_last_reply("Oh.").meta == meta
    assert hash(found) == hash(parse(record()))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("many", [False, True])
def test_a_list_and_a_single_object_are_read_too(
    tmp_path: Path, indent: int | None, many: bool
) -> None:
    value = [record(id="a"), record(id="b")] if many else record(id="a")
    path = write_lines(tmp_path / "chats.json", json.dumps(value, indent=indent))
    found = read_conversations(path)
    assert [one.id for one in found] == (["a", "b"] if many else ["a"])
    if many:
        assert found[1].where == "chats.json[1]"


def test_an_error_in_a_list_names_the_entry(tmp_path: Path) -> None:
    value = [record(id="a"), record(id="b", strategi="x")]
    path = write_lines(tmp_path / "chats.json", json.dumps(value))
    with pytest.raises(ConversationError, match=r"chats\.json\[1\].*'strategi'"):
        read_conversations(path)

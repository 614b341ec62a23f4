"""Test that ESConv's files become conversations, and that whatever does not is counted and told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from esconv_data import ESCONV as DATA
from esconv_data import WHY_ABSENT
from sra_fast.chat.conversations import ConversationError, as_conversations
from sra_fast.chat.conversion import Conversion, convert, read_dialogues
from sra_fast.chat.strategies import ESCONV_STRATEGIES, StrategyError
from sra_fast.training.data.dataset import split_by_conversation

# (name of the seeker, name of the supporter, field of the text, is the strategy beside the text?)
DIALECTS = {
    "esconv": ("seeker", "supporter", "content", False),
    "failed": ("speaker", "listener", "content", False),
    "lines": ("usr", "sys", "text", True),
}

TALK = [
    ("supporter", "Hello!", "Question"),
    ("seeker", " I lost my job. ", None),
    ("seeker", "Yesterday.", None),
    ("supporter", "Oh no.", "Reflection of feelings"),
    ("supporter", "How are you?", "Question"),
    ("seeker", "Bad.", None),
    ("supporter", "  ", "Others"),
    ("supporter", "I see.", None),
    ("seeker", "Yes.", None),
    ("supporter", "It will pass.", "Affirmation and Reassurance"),
    ("seeker", "Thanks.", None),
]


def dialogue(talk: list[tuple[str, str, str | None]], dialect: str) -> dict[str, Any]:
    seeker, supporter, field, beside = DIALECTS[dialect]
    dialog = []
    for speaker, text, strategy in talk:
        message: dict[str, Any] = {"speaker": seeker if speaker == "seeker" else supporter}
        message[field] = text
        named = {} if strategy is None else {"strategy": strategy}
        dialog.append({**message, **(named if beside else {"annotation": named})})
    return {"situation": "I was fired.", "emotion_type": "fear", "dialog": dialog}


def write(path: Path, dialogues: list[Mapping[str, Any]], *, lines: bool = False) -> Path:
    if lines:
        path.write_text("".join(json.dumps(d) + "\n" for d in dialogues), encoding="utf-8")
    else:
        path.write_text(json.dumps(dialogues, indent=1), encoding="utf-8")
    return path


def texts(record: Mapping[str, Any]) -> list[str]:
    return [f"{m['role'][0]}:{m['content']}" for m in record["messages"]]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_annotated_turn_that_follows_the_seeker_becomes_a_record(
    tmp_path: Path, dialect: str
) -> None:
    source = [dialogue(TALK, dialect), dialogue(TALK[1:4], dialect)]
    found = convert(write(tmp_path / "data.json", source, lines=dialect == "lines"))
    history = ["a:Hello!", "u:I lost my job. Yesterday.", "a:Oh no. How are you?", "u:Bad."]
    assert [
        (r["id"], texts(r), r["strategy"], r["response"], r["situation"]) for r in found.records
    ] == [
        ("data-0-t2", history[:2], "Reflection of feelings", "Oh no. How are you?", "I was fired."),
        (
            "data-0-t4",
            [*history, "a:I see.", "u:Yes."],
            "Affirmation and Reassurance",
            "It will pass.",
            "I was fired.",
        ),
        ("data-1-t1", history[1:2], "Reflection of feelings", "Oh no.", "I was fired."),
    ]
    as_conversations(found.records)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_was_changed_or_left_out_is_counted(tmp_path: Path, dialect: str) -> None:
    found = convert(write(tmp_path / "data.json", [dialogue(TALK, dialect)] * 2))
    notes = " ".join(found.notes)
    assert "2 dialogues became 4 conversations" in found.notes[0]
    assert "6 messages were joined" not in notes  # the empty one is dropped, not joined
    assert "4 messages were joined" in notes
    assert "2 empty messages" in notes
    assert "2 supporter turns open" in notes
    assert "2 supporter turns have no strategy" in notes
    assert "2 supporter turns carry several strategies" in notes


def test_with_a_strategy_every_dialogue_is_one_conversation(tmp_path: Path) -> None:
    source = [dialogue(TALK, "esconv"), dialogue(TALK[:3], "esconv")]
    found = convert(write(tmp_path / "data.json", source), Conversion("Offer Hope"))
    (record,) = found.records
    assert record["id"] == "data-0"
    assert record["strategy"] == "Offer Hope"
    assert "response" not in record
    assert texts(record)[-3:] == ["u:Yes.", "a:It will pass.", "u:Thanks."]
    assert any("1 dialogue holds no supporter turn" in note for note in found.notes)
    assert any("2 supporter turns open" in note for note in found.notes)


def test_an_unknown_strategy_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match="did you mean 'Offer Hope'"):
        convert(tmp_path / "missing.json", Conversion("Hope"))


def test_a_strategy_of_the_users_own_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "data.json", [dialogue(TALK, "esconv")])
    found = convert(path, Conversion("Joke", {"Joke": "Make them laugh."}))
    assert found.records[0]["strategy"] == "Joke"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Questions", "Question"),
        ("Other", "Others"),
        ("Restatement", "Restatement or Paraphrasing"),
        ("Approval and Reassurance", "Affirmation and Reassurance"),
        ("Direct Guidance", "Providing Suggestions"),
    ],
)
def test_the_other_names_are_mapped_to_esconvs_eight(tmp_path: Path, name: str, kept: str) -> None:
    talk = [("seeker", "Hi", None), ("supporter", "Oh", name)]
    found = convert(write(tmp_path / "data.json", [dialogue(talk, "failed")]))
    assert found.records[0]["strategy"] == kept
    assert any("1 strategy was given another name" in note for note in found.notes)


def test_a_situation_of_white_space_is_none(tmp_path: Path) -> None:
    source = {**dialogue(TALK, "esconv"), "situation": " "}
    found = convert(write(tmp_path / "data.json", [source]))
    assert all("situation" not in record for record in found.records)


HELLO = {"speaker": "seeker", "content": "Hi", "annotation": {}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "the list in it is empty"),
        ("", "the file is empty"),
        ("nonsense", "data.json line 1, column 1: not valid JSON"),
        ({"a": 1}, "data.json line 1: this is a table (it has: 'a')"),
        (["x"], "data.json[0]: not a format that is known here (it is str)"),
        ([{"dialog": ["x"]}], "data.json[0], dialog[0]"),
        ([{"dialog": []}], "holds no message"),
        ([{"dialog": [{**HELLO, "speaker": "bot"}]}], "its speaker is 'bot'"),
        ([{"dialog": [{**HELLO, "speaker": ["seeker"]}]}], "its speaker is ['seeker']"),
        ([{"dialog": [{"speaker": "seeker", "text": "Hi"}]}], "'content' must be a string"),
        ([{"dialog": [HELLO], "situation": 5}], "'situation' must be a string"),
        ([{"dialog": [HELLO]}], "no conversation came out of it"),
        ([dialogue(TALK, "esconv"), dialogue(TALK, "failed")], "mixes dialects"),
        ([dialogue([("supporter", "\ud83d", "Question")], "esconv")], "U+D83D"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_place(
    tmp_path: Path, content: object, says: str
) -> None:
    path = tmp_path / "data.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConversationError) as caught:
        convert(path)
    assert "data.json" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.skipif(not DATA.is_dir(), reason=WHY_ABSENT)
@pytest.mark.parametrize("name", ["esconv_valid_130.json", "FailedESConv.json"])
def test_the_real_files_convert_without_loss(name: str) -> None:
    source = json.loads((DATA / name).read_text(encoding="utf-8"))
    found = convert(DATA / name)
    conversations = as_conversations(found.records)
    assert {c.strategy for c in conversations} == set(ESCONV_STRATEGIES)

    # The expected number is counted in another way: by runs of speakers in the file itself.
    replies = 0
    for entry in source:
        speakers = [message["speaker"] for message in entry["dialog"]]
        helper = [speaker in ("supporter", "listener") for speaker in speakers]
        replies += sum(b and not a for a, b in itertools.pairwise(helper))
    assert len(conversations) == replies

    whole = as_conversations(convert(DATA / name, Conversion("Offer Hope")).records)
    assert len(whole) == len(source)
    for conversation, entry in zip(whole, source, strict=True):
        words = " ".join(message["content"] for message in entry["dialog"]).split()
        assert " ".join(m.content for m in conversation.messages).split() == words


def test_the_turns_of_one_dialogue_say_that_they_belong_together(tmp_path: Path) -> None:
    messages = [
        {"speaker": "seeker", "annotation": {}, "content": "I am tired."},
        {"speaker": "supporter", "annotation": {"strategy": "Question"}, "content": "Since when?"},
        {"speaker": "seeker", "annotation": {}, "content": "A month."},
        {"speaker": "supporter", "annotation": {"strategy": "Others"}, "content": "I see."},
    ]
    file = tmp_path / "ESConv.json"
    dialogue = {"situation": "s", "emotion_type": "e", "problem_type": "p", "dialog": messages}
    other = {**dialogue, "dialog": [*messages[:-1], {**messages[-1], "content": "Oh."}]}
    file.write_text(json.dumps([dialogue, other]))
    records = convert(file).records
    assert [record["dialogue"] for record in records] == ["ESConv-0"] * 2 + ["ESConv-1"] * 2
    assert len({record["id"] for record in records}) == 4


@pytest.mark.parametrize("strategy", [None, "Offer Hope"])
def test_a_dialogue_that_stands_there_twice_is_one_for_splits(
    tmp_path: Path, strategy: str | None
) -> None:
    source = [dialogue(talk, "esconv") for talk in (TALK, TALK[1:], TALK, TALK[1:])]
    found = convert(write(tmp_path / "data.json", source), Conversion(strategy))
    conversations = as_conversations(found.records)
    assert len(conversations) == len(found.records)
    assert {c.dialogue or c.id for c in conversations} == {"data-0", "data-1"}
    assert any("2 dialogues begin like an earlier one" in note for note in found.notes)
    for seed in range(4):
        rest, held_out = split_by_conversation(list(found.records), 0.5, seed)
        said = [{str(record["messages"]) for record in part} for part in (rest, held_out)]
        assert said[0]
        assert said[1]
        assert not said[0] & said[1]


def test_dialogues_are_read_as_strictly_as_they_are_converted(tmp_path: Path) -> None:
    source = [dialogue(TALK, "esconv"), dialogue(TALK, "failed")]
    path = write(tmp_path / "data.json", source)
    with pytest.raises(ConversationError, match=r"mixes dialects .*data.json\[1\], dialog\[0\] on"):
        read_dialogues(path)
    message = {"speaker": "usr", "text": "Hi"}
    for key, says in (("dialog", "key 'dialog' stands twice"), ("x", None)):
        path.write_text(f'{{"dialog": {json.dumps([message])}, "{key}": []}}')
        if says is None:
            assert len(read_dialogues(path)[0]) == 1
        else:
            with pytest.raises(ConversationError, match=says):
                read_dialogues(path)

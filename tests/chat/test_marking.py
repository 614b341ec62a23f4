"""Test that spans, replies and sources of one's own prompts are found, or refused by name."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import sra_fast
from chat_tokenizers import SOUND_TEMPLATES, TOKENIZERS, byte_level_bpe
from sra_fast.chat.batch_joining import join
from sra_fast.chat.chat_template import EncodingError
from sra_fast.chat.marking import mark
from sra_fast.tools.sra_warning import SRAWarning
from tiny_chat_model import tiny_model

FOLDER = os.environ.get("SRA_FAST_CHAT_TEMPLATES")
OTHERS = sorted(Path(FOLDER).glob("*.jinja")) if FOLDER else []

RULE = "Be brief: two words."
ASKED = "When then? It is late.\n\nI am  tired."
REPLY = "Go now. Rest."
CHAT = [
    {"role": "user", "content": f"{RULE} {ASKED}"},
    {"role": "assistant", "content": "Why so?"},
    {"role": "user", "content": "No reason… 2½ days."},
    {"role": "assistant", "content": REPLY},
]


def read(tokenizer: Any, batch: dict[str, Any], mask: torch.Tensor) -> str:
    """Return the text of the marked tokens."""
    return str(tokenizer.decode(batch["input_ids"][mask.bool()]))


def blankless(text: str) -> str:
    return re.sub(r"\s|##", "", text).casefold()


@pytest.mark.parametrize("template", SOUND_TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_each_span_has_the_tokens_of_its_text(kind: str, template: str) -> None:
    tokenizer = TOKENIZERS[kind](SOUND_TEMPLATES[template])
    batch = mark(tokenizer, CHAT, {"rule": RULE, "late": (0, 32, 43), "both": ["Why so", RULE]})
    assert blankless(read(tokenizer, batch, batch["span_masks"]["rule"])) == blankless(RULE)
    assert blankless(read(tokenizer, batch, batch["response_mask"])) == blankless(REPLY)
    late = blankless(CHAT[0]["content"][32:43])
    assert late in blankless(read(tokenizer, batch, batch["span_masks"]["late"]))
    both = batch["span_masks"]["both"]
    assert bool((both & batch["span_masks"]["rule"]).eq(batch["span_masks"]["rule"]).all())
    assert blankless("Why so") in blankless(read(tokenizer, batch, both))


@pytest.mark.skipif(not OTHERS, reason="name a folder of templates in SRA_FAST_CHAT_TEMPLATES")
@pytest.mark.parametrize("file", OTHERS, ids=lambda file: file.stem)
def test_templates_of_others_are_marked_right_or_refused_with_a_reason(file: Path) -> None:
    tokenizer = byte_level_bpe(file.read_text(encoding="utf-8"))
    try:
        batch = mark(tokenizer, CHAT, {"rule": RULE}, sources="sentences")
    except EncodingError as error:
        reason = "refuses the messages|the chat template (drops|alters|doubles|writes something)"
        if re.search(reason, str(error)) is None:
            raise
        return
    assert blankless(read(tokenizer, batch, batch["span_masks"]["rule"])) == blankless(RULE)
    assert blankless(REPLY) in blankless(read(tokenizer, batch, batch["response_mask"]))
    for number, name in enumerate(batch["source_names"][0], 1):
        assert "sentence" in name
        assert bool((batch["source_ids"] == number).any())


def test_a_pattern_marks_every_match_and_an_index_the_whole_message() -> None:
    tokenizer = byte_level_bpe()
    batch = mark(tokenizer, CHAT, {"digits": re.compile("[Ww]h(y|en)"), "last": -2})
    assert read(tokenizer, batch, batch["span_masks"]["last"]) == CHAT[2]["content"]
    marked = read(tokenizer, batch, batch["span_masks"]["digits"])
    assert "When" in marked
    assert "Why" in marked


def test_several_replies_are_numbered_in_the_order_of_the_prompt() -> None:
    tokenizer = byte_level_bpe()
    batch = mark(tokenizer, CHAT, {"rule": RULE}, response=[3, 1])
    for number, said in enumerate(("Why so?", REPLY), 1):
        assert read(tokenizer, batch, batch["response_mask"] == number) == said


def test_a_reply_is_what_follows_its_thought() -> None:
    tokenizer = byte_level_bpe()
    chat = [CHAT[0], {"role": "assistant", "content": f"<think>\nHm.\n</think>\n\n{REPLY}"}]
    batch = mark(tokenizer, chat, {"rule": RULE}, thoughts=("<think>", "</think>"))
    assert read(tokenizer, batch, batch["response_mask"]) == REPLY


def test_a_prompt_that_is_one_text_is_taken_as_it_is() -> None:
    tokenizer = byte_level_bpe()
    text = f"{RULE} {ASKED} {REPLY}"
    batch = mark(tokenizer, text, {"rule": (0, len(RULE))}, response=REPLY)
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == text
    assert read(tokenizer, batch, batch["span_masks"]["rule"]) == RULE
    assert read(tokenizer, batch, batch["response_mask"]).strip() == REPLY


def test_a_prompt_need_not_be_answered_yet() -> None:
    tokenizer = byte_level_bpe(
        SOUND_TEMPLATES["chatml"]
        + "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
    )
    batch = mark(tokenizer, CHAT[:1], {"rule": RULE}, generation_prompt=True)
    assert not bool(batch["response_mask"].any())
    assert tokenizer.decode(batch["input_ids"][0]).endswith("assistant\n")


def test_keys_of_messages_and_arguments_reach_the_template() -> None:
    tokenizer = byte_level_bpe(
        "{{ documents[0].text }}{% for m in messages %}{{ m.name }}: {{ m.content }}\n{% endfor %}"
    )
    facts = [{"title": "A", "text": "Facts."}]
    chat = [{**message, "name": f"n{number}"} for number, message in enumerate(CHAT)]
    batch = mark(tokenizer, chat, {"rule": RULE}, template_arguments={"documents": facts})
    assert tokenizer.decode(batch["input_ids"][0]).startswith("Facts.n0: Be brief")


SOURCES = {
    "messages": ["message 0 (user)", "message 1 (assistant)", "message 2 (user)"],
    "sentences": [
        "message 0 (user), sentence 1",
        "message 0 (user), sentence 2",
        "message 0 (user), sentence 3",
        "message 0 (user), sentence 4",
        "message 1 (assistant), sentence 1",
        "message 2 (user), sentence 1",
        "message 2 (user), sentence 2",
    ],
}


@pytest.mark.parametrize("unit", SOURCES)
def test_sources_are_disjoint_and_named_and_leave_out_the_reply(unit: Any) -> None:
    tokenizer = byte_level_bpe()
    batch = mark(tokenizer, CHAT, {"rule": RULE}, sources=unit)
    assert batch["source_names"] == [tuple(SOURCES[unit])]
    ids = batch["source_ids"]
    assert ids.max() == len(SOURCES[unit])
    assert not bool((ids.bool() & batch["response_mask"].bool()).any())
    texts = "".join(read(tokenizer, batch, ids == n) for n in range(1, int(ids.max()) + 1))
    said = "".join(message["content"] for message in CHAT[:-1])
    assert blankless(texts) == blankless(said)


def test_sentences_end_where_readers_end_them() -> None:
    text = 'It costs 3.50 today! "Really?" she said. 你好。再见！Ja…\nEnd'
    batch = mark(byte_level_bpe(), f"{text} So.", {"x": "End"}, response="So.", sources="sentences")
    tokenizer, ids = byte_level_bpe(), batch["source_ids"]
    found = [read(tokenizer, batch, ids == n).strip() for n in range(1, int(ids.max()) + 1)]
    assert found == [
        "It costs 3.50 today!",
        '"Really?"',
        "she said.",
        "你好。",
        "再见！",
        "Ja…",
        "End",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<document id=1>A b.</document>\n<document>C d.</document>\nWhich?", ["A b.", "C d."]),
        (
            "Document 1: A b.\nDocument 2: C d.\n\nWhich?",
            ["Document 1: A b.", "Document 2: C d."],
        ),
        ("Read.\n[1] A b.\n[2] C d.\n\nWhich?", ["[1] A b.", "[2] C d."]),
    ],
)
def test_documents_are_found_by_their_tags_or_headings(content: str, expected: list[str]) -> None:
    tokenizer = byte_level_bpe()
    chat = [
        {"role": "user", "content": content},
        {"role": "tool", "content": "E f."},
        {"role": "assistant", "content": REPLY},
    ]
    batch = mark(tokenizer, chat, {"asked": 0}, sources="documents")
    found = [
        read(tokenizer, batch, batch["source_ids"] == number).strip()
        for number in range(1, int(batch["source_ids"].max()) + 1)
    ]
    assert found == [*expected, "E f."]


def test_ten_thousand_sources_are_marked() -> None:
    words = " ".join(f"w{number}" for number in range(10_000))
    matches = list(re.finditer(r"\S+", words))
    named: Any = {match.group(): match.span() for match in matches}
    text = f"{words} So."
    batch = mark(byte_level_bpe(), text, {"first": (0, 2)}, response="So.", sources=named)
    assert len(batch["source_names"][0]) == 10_000
    assert batch["source_ids"].unique().tolist() == list(range(10_001))


def test_what_stands_between_two_pieces_of_a_source_is_none_of_it() -> None:
    tokenizer = byte_level_bpe()
    text = "red one two red five So."
    named: Any = {"red": re.compile("red"), "five": "five"}
    batch = mark(tokenizer, text, {"x": "two"}, response="So.", sources=named)
    texts = [read(tokenizer, batch, batch["source_ids"] == number) for number in (1, 2)]
    assert [blankless(one) for one in texts] == ["redred", "five"]


def test_joined_batches_score_as_they_do_alone(tiny_chat: Any) -> None:
    model, tokenizer = tiny_chat
    rows = [mark(tokenizer, CHAT, {"rule": RULE}), mark(tokenizer, CHAT[:2], {"rule": RULE})]
    alone = torch.cat([sra_fast.score(model, row).sra for row in rows])
    sides: tuple[Literal["left", "right"], ...] = ("left", "right")
    for side in sides:
        together = sra_fast.score(model, join(rows, side)).sra
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def tiny_chat() -> Any:
    return tiny_model(), byte_level_bpe()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"spans": {"x": "Be Brief:  two"}}, "has 'Be brief: two' at character 0, which differs"),
        ({"spans": {"x": "Go now. Rost."}}, "does not stand in the prompt; did you mean"),
        ({"spans": {"x": "Why"}, "response": "so?"}, None),
        ({"spans": {"x": "o"}}, r"stands \d+ times in the prompt \(message 0 \(user\) at"),
        ({"spans": {"x": ""}}, "empty or blank"),
        ({"spans": {"x": re.compile("zzz")}}, "the pattern 'zzz' matches nothing"),
        ({"spans": {"x": re.compile("z*")}}, "matches no character"),
        ({"spans": {"x": 9}}, "there is no message 9; the prompt has 4, counted from 0"),
        ({"spans": {"x": (0, 4)}}, r"give \(message, start, end\)"),
        ({"spans": {"x": (0, 4, 400)}}, "4 to 400 is no range of the"),
        ({"spans": {"x": []}}, "the list of places is empty"),
        ({"spans": {"x": 1.5}}, "expected a text, a compiled pattern"),
        ({"spans": {}}, "at least one span"),
        ({"sources": "messages"}, "every batch has one, also if it is for its sources"),
        ({"spans": {"x": RULE}, "sources": "words"}, "sources: expected 'messages'"),
        ({"spans": {"x": RULE}, "sources": "documents"}, "the prompt has no documents"),
        ({"spans": {"x": RULE}, "sources": {"a": RULE, "b": "Be brief"}}, "must not overlap"),
        ({"spans": {"x": RULE}, "response": [3, "Go now"]}, "replies must not overlap"),
        ({"spans": {"x": RULE}, "prompt": CHAT[:1]}, "no message of the assistant"),
        ({"spans": {"x": RULE}, "prompt": []}, "expected a text or a list of messages"),
        (
            {"spans": {"x": 0}, "prompt": [{"role": "user", "content": [{"type": "image"}]}]},
            "only one text can be marked here",
        ),
        (
            {"spans": {"x": 0}, "prompt": [{"role": "user", "content": [{"type": "text"}]}]},
            "message 0: expected 'text' as a text",
        ),
        ({"spans": {"x": "a"}, "prompt": "a \ud83d b", "response": "b"}, "half of a character"),
        (
            {"spans": {"x": "<s>"}, "prompt": [{"role": "user", "content": "a <s>"}, CHAT[1]]},
            "'<s>'",
        ),
    ],
)
def test_a_place_that_is_not_there_or_not_one_is_refused(
    given: dict[str, Any], message: str | None
) -> None:
    arguments = {"prompt": CHAT, **given}
    if message is None:
        mark(byte_level_bpe(), **arguments)
        return
    with pytest.raises((EncodingError, TypeError), match=message):
        mark(byte_level_bpe(), **arguments)


def test_a_text_that_the_template_drops_is_refused() -> None:
    tokenizer = byte_level_bpe(SOUND_TEMPLATES["drops_system"])
    chat = [{"role": "system", "content": "Be kind."}, *CHAT]
    with pytest.raises(EncodingError, match="the chat template drops span 'x'"):
        mark(tokenizer, chat, {"x": "kind"})


def test_a_span_after_a_reply_is_told_and_others_are_not() -> None:
    with pytest.warns(SRAWarning, match="response 1 ends at token .*were the two swapped"):
        mark(byte_level_bpe(), CHAT, {"rest": "No reason"}, response=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mark(byte_level_bpe(), CHAT, {"rest": "No reason"})


def test_numbers_of_turns_are_joined_from_the_first_reply_on(tiny_chat: Any) -> None:
    model, tokenizer = tiny_chat
    short = mark(tokenizer, CHAT[:2], {"rule": RULE}) | {
        "conversation": torch.tensor([7]),
        "turns": torch.tensor([[5]]),
    }
    long = mark(tokenizer, CHAT, {"rule": RULE}, response=[1, 3]) | {
        "conversation": torch.tensor([8]),
        "turns": torch.tensor([[2, 3]]),
    }
    result = sra_fast.score(model, join([short, long], "left"))
    assert result.conversation.tolist() == [7, 8, 8]
    assert result.turn.tolist() == [5, 2, 3]


def test_a_content_in_parts_is_written_as_the_template_writes_parts() -> None:
    told = (
        "{%- for m in messages %}{{ '<|im_start|>' }}{%- if m['content'] is string %}"
        "{{ 'text ' + m['content'] }}{%- else %}{{ 'part ' + m['content'][0]['text'] }}{%- endif %}"
        "{{ '<|im_end|>' }}{%- endfor %}"
    )
    chat = [{"role": "user", "content": [{"type": "text", "text": RULE}]}, CHAT[1]]
    tokenizer = byte_level_bpe(told)
    batch = mark(tokenizer, chat, {"rule": RULE})
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    assert whole.startswith("<|im_start|>part ")
    assert read(tokenizer, batch, batch["attention_mask"]) == whole
    assert read(tokenizer, batch, batch["span_masks"]["rule"]).strip() == RULE
    # A template that takes texts alone gets the text.
    assert mark(byte_level_bpe(), chat, {"rule": RULE})["span_masks"]["rule"].any()


def test_batches_that_do_not_belong_together_are_not_joined() -> None:
    tokenizer = byte_level_bpe()
    one, other = (mark(tokenizer, CHAT, {name: RULE}) for name in ("rule", "rules"))
    with pytest.raises(ValueError, match=r"batch 1 has the spans \['rules'\]"):
        join([one, other])
    with pytest.raises(ValueError, match="batch 1 has the keys"):
        join([one, mark(tokenizer, CHAT, {"rule": RULE}, sources="messages")])
    with pytest.raises(ValueError, match="no batch"):
        join([])
    with pytest.raises(TypeError, match="got one batch"):
        join(one)

"""Test that thoughts are told by an argument or by what a chat template does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from chat_tokenizers import CHATML, QWEN_3, SOUND_TEMPLATES, byte_level_bpe, saying
from sra_fast.chat.chat_template import EncodingError, read_chat_template
from sra_fast.chat.encoding import encode_prompts
from sra_fast.chat.thoughts import Thoughts, ThoughtsError, reply_start

TAGS = ("<think>", "</think>")


DROPS = saying("text.split('</think>')[-1]")
# It keeps every thought, and writes an empty one where there is none.
WRAPS = saying(
    "'<think>' + text.split('</think>')[0].split('<think>')[-1] + '</think>' + "
    "text.split('</think>')[-1] if '</think>' in text else '<think></think>' + text"
)
# It wants both tags, in their order.
BOTH = saying(
    "text.split('</think>')[-1] if '<think>' in text and '</think>' in text else text", "text"
)
NO_SLASH = saying("text.split('<channel|>')[-1] if '<|channel>' in text else text")
NO_OPENING = saying("text.split('[BEGIN FINAL RESPONSE]')[-1]")
BRACKETS = saying("text.split('[/THINK]')[-1]", "text")
SKIPS_TOKEN = saying("text.replace('<|im_end|>', '')")
SPLITS_LINES = saying("'\n'.join(text.split('\n'))")


@pytest.mark.parametrize(
    ("chat", "thoughts", "ends"),
    [
        (QWEN_3, [TAGS], ["</think>"]),
        (DROPS, [TAGS], ["</think>"]),
        (WRAPS, [TAGS], ["</think>"]),
        (BOTH, [TAGS], ["</think>"]),
        (BRACKETS, [("[THINK]", "[/THINK]")], ["[/THINK]"]),
        (NO_SLASH, [("<|channel>", "<channel|>")], ["<channel|>"]),
        (NO_OPENING, [], ["[BEGIN FINAL RESPONSE]"]),
        (SKIPS_TOKEN, [], []),
        (SPLITS_LINES, [], []),
        *((SOUND_TEMPLATES[name], [], []) for name in SOUND_TEMPLATES if name != "qwen_3"),
    ],
)
def test_a_template_is_asked_for_its_tags(
    chat: str, thoughts: Sequence[Thoughts], ends: Sequence[str]
) -> None:
    found = read_chat_template(byte_level_bpe(chat))
    assert list(found.thoughts) == thoughts
    assert list(found.ends_of_thoughts) == ends


@pytest.mark.parametrize(
    ("content", "reply"),
    [
        ("<think>Hm.</think>\n\nYes.", "Yes."),
        ("\n<think>\nHm.\n</think>Yes.", "Yes."),
        ("[T]Hm.[/T] Yes.", "Yes."),
        ("<think></think>Yes.", "Yes."),
        ("<think>Hm.</think>Write </think> after it.", "Write </think> after it."),
        ("Models write </think> when done.", "Models write </think> when done."),
        ("Models write <think> and </think>.", "Models write <think> and </think>."),
        ("<think>Never done.", ""),
        ("\n[T]Never done.</think>", ""),
        ("Never <think> done.", "Never <think> done."),
        ("<think>Hm.</think>\n", ""),
        ("Yes.", "Yes."),
    ],
)
def test_the_reply_is_what_follows_a_thought_at_the_beginning(content: str, reply: str) -> None:
    assert content[reply_start(content, [TAGS, ("[T]", "[/T]")]) :] == reply


def test_without_an_opening_tag_every_closing_one_ends_a_thought() -> None:
    assert reply_start("Hm.</think>Yes.", [("", "</think>")]) == len("Hm.</think>")


def replies(chat: str, reply: str, **more: Any) -> list[str]:
    """Return the marked text of a conversation with one reply."""
    tokenizer = byte_level_bpe(chat)
    record = {
        "id": "c7",
        "messages": [{"role": "user", "content": "When?"}],
        "strategy": "Offer Hope",
        "response": reply,
    }
    return [
        tokenizer.decode(prompt.input_ids[prompt.response_mask > 0])
        for prompt in encode_prompts(tokenizer, [record], **more)
    ]


@pytest.mark.parametrize(
    "reply", ["Models write </think> when done. Rest now.", "[THINK]A[/THINK]B"]
)
def test_without_template_or_argument_the_whole_message_is_the_reply(reply: str) -> None:
    assert replies(CHATML, reply) == [reply]


@pytest.mark.parametrize("tags", [("[THINK]", "[/THINK]"), ("(", ")")])
@pytest.mark.parametrize("chat", [CHATML, QWEN_3])
def test_the_argument_counts_whatever_the_template_takes_for_thoughts(
    chat: str, tags: Thoughts
) -> None:
    thinking = f"{tags[0]}I should offer hope.{tags[1]}It will get better."
    assert replies(chat, thinking, thoughts=tags) == ["It will get better."]


def test_control_tokens_may_be_the_tags_of_a_thought_and_stand_nowhere_else() -> None:
    tags = ("<turn>", "<end_turn>")  # control tokens of this tokenizer, as [THINK] is in some
    assert replies(CHATML, "<turn>Hm.<end_turn>Yes.", thoughts=tags) == ["Yes."]
    for reply in ("<turn>Hm.<end_turn>Yes<turn>.", "<turn>H<|im_end|>m.<end_turn>Yes."):
        with pytest.raises(EncodingError, match="control token"):
            replies(CHATML, reply, thoughts=tags)


@pytest.mark.parametrize("chat", [QWEN_3, DROPS, NO_OPENING])
def test_a_mention_that_the_template_takes_for_a_thought_is_refused_with_the_cause(
    chat: str,
) -> None:
    tag = "[BEGIN FINAL RESPONSE]" if chat == NO_OPENING else "</think>"
    with pytest.raises(EncodingError) as caught:
        replies(chat, f"Models write {tag} when done.")
    text = str(caught.value)
    assert f"the reply of turn 1, because it takes what stands before {tag!r}" in text
    assert f'thoughts=("", {tag!r})' in text
    # The way out that it names is one.
    assert replies(chat, f"Hm. {tag} Yes.", thoughts=("", tag)) == ["Yes."]


@pytest.mark.parametrize(("chat", "thoughts"), [(QWEN_3, None), (CHATML, TAGS)])
def test_a_thought_that_is_never_closed_is_no_reply(chat: str, thoughts: Thoughts | None) -> None:
    with pytest.raises(EncodingError, match="turn 1 is empty after its thoughts"):
        replies(chat, "<think>I should offer", thoughts=thoughts)
    assert replies(CHATML, "<think>I should offer") == ["<think>I should offer"]


def test_thoughts_of_older_replies_stand_in_no_history() -> None:
    tokenizer = byte_level_bpe(QWEN_3)
    messages = [
        {"role": role, "content": content}
        for role, content in (
            ("user", "I failed."),
            ("assistant", "<think>Poor one.</think>That hurts."),
            ("user", "What now?"),
        )
    ]
    record = {"messages": messages, "strategy": "Offer Hope", "response": "Rest."}
    (prompt,) = encode_prompts(tokenizer, [record], "c1_hf")
    text = tokenizer.decode(prompt.input_ids)
    assert "Assistant: That hurts." in text
    assert "Poor one." not in text


@pytest.mark.parametrize(
    ("thoughts", "says"),
    [
        ("<think>", "must be the opening and the closing tag"),
        (("<think>",), "must be the opening and the closing tag"),
        (("<think>", None), "must be the opening and the closing tag"),
        (("<think>", " "), "the closing tag of a thought is empty"),
    ],
)
def test_what_is_no_pair_of_tags_is_refused(thoughts: Any, says: str) -> None:
    with pytest.raises(ThoughtsError, match=says):
        replies(CHATML, "Yes.", thoughts=thoughts)

"""Test what is found out about a chat template, and that refusals give the cause."""

from __future__ import annotations

from typing import Any

import pytest

from chat_tokenizers import CHATML, GEMMA, MISTRAL, SOUND_TEMPLATES, byte_level_bpe
from sra_fast.chat.chat_template import EncodingError, read_chat_template
from sra_fast.chat.encoding import encode_prompts

PARTS = CHATML.replace("m['content']", "m['content'][0]['text']")
ONLY_PARTS = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n' }}"
    "{%- for part in m['content'] if part['type'] == 'text' %}{{- part['text'] }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}"
)
BOTH = CHATML.replace(
    "m['content']", "(m['content'] if m['content'] is string else m['content'][0]['text'])"
)
USER_PARTS = CHATML.replace(
    "m['content']", "(m['content'][0]['text'] if m['role'] == 'user' else m['content'])"
)


def talk(**changes: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": "I failed."},
        {"role": "assistant", "content": "That hurts."},
        {"role": "user", "content": "What now?"},
        {"role": "assistant", "content": "Rest first."},
    ]
    return {"id": "c7", "messages": messages, "strategy": "Offer Hope", **changes}


@pytest.mark.parametrize(
    ("chat", "roles"),
    [
        (CHATML, set()),
        (BOTH, set()),
        (PARTS, {"system", "user", "assistant"}),
        (ONLY_PARTS, {"system", "user", "assistant"}),
        (USER_PARTS, {"user"}),
        *((chat, set()) for chat in SOUND_TEMPLATES.values()),
    ],
)
def test_messages_are_lists_of_parts_only_where_the_template_wants_them(
    chat: str, roles: set[str]
) -> None:
    assert read_chat_template(byte_level_bpe(chat)).in_parts == roles


@pytest.mark.parametrize("chat", [PARTS, ONLY_PARTS, BOTH, USER_PARTS])
def test_templates_of_parts_write_what_those_of_texts_write(chat: str) -> None:
    (plain,) = encode_prompts(byte_level_bpe(CHATML), [talk()])
    (prompt,) = encode_prompts(byte_level_bpe(chat), [talk()])
    assert prompt.input_ids.equal(plain.input_ids)
    assert prompt.response_mask.equal(plain.response_mask)


@pytest.mark.parametrize("name", SOUND_TEMPLATES)
def test_the_system_message_is_asked_about(name: str) -> None:
    found = read_chat_template(byte_level_bpe(SOUND_TEMPLATES[name]))
    assert found.takes_system == (name not in ("gemma", "mistral", "drops_system"))


def test_another_template_of_the_same_tokenizer_is_asked_anew() -> None:
    tokenizer = byte_level_bpe(CHATML)
    assert read_chat_template(tokenizer).takes_system
    tokenizer.chat_template = GEMMA
    assert not read_chat_template(tokenizer).takes_system


WANTS_TOOLS = "{% for tool in tools %}{{ tool.name }}{% endfor %}" + CHATML
NO_NAMES = CHATML + "{{ raise_exception('no names') if 'failed' in messages[1].content }}"


@pytest.mark.parametrize(
    ("chat", "says", "says_not"),
    [
        (WANTS_TOOLS, "it refuses the shortest conversation too", "opens with"),
        (NO_NAMES, "refuses the conversation (no names)", ";"),
    ],
)
def test_a_refusal_gives_the_cause_that_is_true(chat: str, says: str, says_not: str) -> None:
    greeting = {"role": "assistant", "content": "Hello."}
    for messages in (talk()["messages"], [greeting, *talk()["messages"]]):
        if chat == NO_NAMES and messages[0] is greeting:
            continue
        with pytest.raises(EncodingError) as caught:
            encode_prompts(byte_level_bpe(chat), [talk(messages=messages)])
        assert says in str(caught.value)
        assert says_not not in str(caught.value)


@pytest.mark.parametrize("chat", [GEMMA, MISTRAL])
def test_a_greeting_is_given_as_the_cause_where_it_is_one(chat: str) -> None:
    greeting = {"role": "assistant", "content": "Hello."}
    record = talk(messages=[greeting, *talk()["messages"]])
    with pytest.raises(EncodingError, match=r"takes no conversation that opens with.*c1_hf"):
        encode_prompts(byte_level_bpe(chat), [record])


def test_several_templates_without_a_default_are_refused_with_the_way_out() -> None:
    tokenizer = byte_level_bpe()
    tokenizer.chat_template = {"tool_use": CHATML, "rag": CHATML}
    with pytest.raises(
        EncodingError, match=r"which of its chat templates.*tokenizer\.chat_template"
    ):
        encode_prompts(tokenizer, [talk()])

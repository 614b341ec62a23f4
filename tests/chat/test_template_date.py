"""Test that a chat template with a date writes the one that it is given."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from chat_tokenizers import CHATML, byte_level_bpe
from sra_fast.chat.encoding import encode_prompts
from sra_fast.chat.template_date import with_date

NOW = datetime(2031, 5, 7, 8, 9, 10)
DATED = "{{- 'Today is ' + strftime_now('%d %b %Y') + '.\n' }}" + CHATML
TALK = {
    "messages": [{"role": "user", "content": "When?"}],
    "strategy": "Offer Hope",
    "response": "Soon.",
}


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%d %b %Y", "%B %-d, %Y", "%A, %H:%M", "100%% %d", "%%d", "none", ""]
)
def test_the_given_date_is_written_as_python_would(form: str) -> None:
    template = (
        "{{ strftime_now('" + form + "') }}|{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    written = byte_level_bpe("x").apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, chat_template=with_date(template, NOW)
    )
    assert written == f"{NOW.strftime(form)}|Hi"


@pytest.mark.parametrize(
    "begin", ["", "\n", "  ", "\n\n  {% set a = 1 %}", "{# x #}\n", "  {{ 1 }}"]
)
def test_the_rest_of_the_template_is_written_as_before(begin: str) -> None:
    template = begin + "{% for m in messages %}{{ m.content }}{% endfor %}{{ strftime_now('') }}"
    tokenizer = byte_level_bpe("x")
    chat = [{"role": "user", "content": "Hi"}]
    plain, dated = (
        tokenizer.apply_chat_template(chat, tokenize=False, chat_template=source)
        for source in (template, with_date(template, NOW))
    )
    assert dated == plain


def test_encode_writes_the_date_that_it_is_given() -> None:
    tokenizer = byte_level_bpe(DATED)
    (prompt,) = encode_prompts(tokenizer, [TALK], now=NOW)
    assert tokenizer.decode(prompt.input_ids).startswith("Today is 07 May 2031.\n<|im_start|>")


def test_all_conversations_of_a_call_have_the_date_of_its_beginning() -> None:
    tokenizer = byte_level_bpe(DATED.replace("%d %b %Y", "%Y-%m-%d %H:%M:%S"))
    before = datetime.now()
    texts = {tokenizer.decode(p.input_ids)[:40] for p in encode_prompts(tokenizer, [TALK] * 3)}
    (text,) = texts
    written = datetime.fromisoformat(text[len("Today is ") : len("Today is ") + 19])
    assert timedelta(seconds=-1) <= written - before < timedelta(hours=1)


def test_a_template_without_a_date_is_no_other_on_another_day() -> None:
    tokenizer = byte_level_bpe(CHATML)
    one, other = (encode_prompts(tokenizer, [TALK], now=now)[0] for now in (None, NOW))
    assert one.input_ids.equal(other.input_ids)

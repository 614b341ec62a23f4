"""Test that every turn is laid out as when its reply was the last, or that this is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chat_tokenizers import CHATML, QWEN_3, SOUND_TEMPLATES, byte_level_bpe, saying
from sra_fast.chat.encoding import EncodedPrompt, encode, encode_prompts

# It puts an empty thought before the last reply, and none before older ones.
REWRITES = saying("text", "'<think>\n\n</think>\n\n' + text")
# Its last reply ends otherwise than the older ones.
LAST_END = CHATML.replace("'<|im_end|>\n'", "('<end_turn>' if loop.last else '<|im_end|>\n')")
# Nothing stands between a reply and the next message but a line break, and nothing after the last.
BARE = (
    "{%- for m in messages %}{{- m['role'] + ': ' + m['content'] + ('' if loop.last else '\n') }}"
    "{%- endfor %}"
)
# It drops the first turn's thought once a later message mentions it.
LOOKS_AHEAD = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "('!' if 'again' in messages[-1]['content'] and loop.index0 == 2 else '') + '<|im_end|>\n' }}"
    "{%- endfor %}"
)


def talk(*replies: str, **changes: Any) -> dict[str, Any]:
    """Return a conversation with these replies."""
    messages = []
    for number, reply in enumerate(replies):
        messages += [
            {"role": "user", "content": f"I feel low, day {number}."},
            {"role": "assistant", "content": reply},
        ]
    return {"id": "c7", "messages": messages, "strategy": "Offer Hope", **changes}


def alone(record: dict[str, Any], turn: int) -> dict[str, Any]:
    """Return the conversation as it was when the reply of a turn was the last message."""
    return {**record, "messages": record["messages"][: 2 * turn]}


def up_to_the_reply(prompt: EncodedPrompt, k: int) -> list[int]:
    """Return the tokens of a prompt up to the end of its k-th reply."""
    last = int((prompt.response_mask == k).nonzero()[-1])
    return prompt.input_ids[: last + 1].tolist()


def turns(prompts: list[EncodedPrompt]) -> list[tuple[int, ...]]:
    return [prompt.turns for prompt in prompts]


@pytest.mark.parametrize("replies", [("That hurts.", "Rest first.", "Go.\n"), ("A.", "B.")])
@pytest.mark.parametrize("chat", [*SOUND_TEMPLATES.values(), REWRITES, LAST_END, BARE, LOOKS_AHEAD])
def test_every_turn_reads_what_it_read_when_it_was_the_last(
    chat: str, replies: tuple[str, ...]
) -> None:
    tokenizer = byte_level_bpe(chat)
    record = talk(*replies)
    prompts = encode_prompts(tokenizer, [record])
    assert [turn for prompt in prompts for turn in prompt.turns] == list(range(1, len(replies) + 1))
    for prompt in prompts:
        assert set(prompt.layouts) == {"as_generated"}
        for k, turn in enumerate(prompt.turns, start=1):
            (own,) = encode_prompts(tokenizer, [alone(record, turn)], turns="last")
            assert up_to_the_reply(prompt, k) == up_to_the_reply(own, 1)


@pytest.mark.parametrize(
    ("chat", "expected"),
    [
        (CHATML, [(1, 2, 3)]),
        (LAST_END, [(1, 2, 3)]),
        (REWRITES, [(1,), (2,), (3,)]),
        (QWEN_3, [(1,), (2,), (3,)]),
        (saying("text.split('</think>')[-1]", "text"), [(1,), (2, 3)]),
    ],
)
def test_turns_that_are_written_alike_stay_in_one_prompt(
    chat: str, expected: list[tuple[int, ...]]
) -> None:
    record = talk("<think>Hm.</think>That hurts.", "Rest first.", "Go.")
    found = encode_prompts(byte_level_bpe(chat), [record], thoughts=("<think>", "</think>"))
    assert turns(found) == expected


def test_a_token_that_reaches_beyond_the_reply_counts() -> None:
    tokenizer = byte_level_bpe(BARE)  # it has a token for a full stop and a line break
    assert turns(encode_prompts(tokenizer, [talk("Rest.", "Go.")])) == [(1,), (2,)]
    assert turns(encode_prompts(tokenizer, [talk("Rest!", "Go!")])) == [(1, 2)]


def test_each_rewritten_turn_is_a_row_of_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="sra_fast")
    batch = encode(byte_level_bpe(REWRITES), [talk("That hurts.", "Rest first.")])
    assert "1 prompt became 2" in caplog.text
    assert batch["conversation"].tolist() == [0, 0]
    assert batch["turns"].tolist() == [[1], [2]]
    assert not batch["as_written"].any()


def test_as_written_is_one_pass_that_says_which_turns_it_lays_out_otherwise() -> None:
    tokenizer = byte_level_bpe(REWRITES)
    record = talk("That hurts.", "Rest first.")
    batch = encode(tokenizer, [record], layout="as_written")
    assert batch["turns"].tolist() == [[1, 2]]
    assert batch["as_written"].tolist() == [[True, False]]
    whole = tokenizer.apply_chat_template(record["messages"], tokenize=False)
    assert tokenizer.decode(batch["input_ids"][0]).endswith(whole)


@pytest.mark.parametrize("chat", [CHATML, LAST_END])
def test_as_written_is_the_same_where_the_template_writes_turns_alike(chat: str) -> None:
    tokenizer, record = byte_level_bpe(chat), talk("That hurts.", "Rest first.")
    one, other = (
        encode(tokenizer, [record], layout=layout) for layout in ("as_generated", "as_written")
    )
    assert one.keys() == other.keys()
    assert one.pop("conversation_ids") == other.pop("conversation_ids")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_other_conversations_keep_their_places() -> None:
    records = [talk("A.", "B."), talk("C.", id="c8"), talk("D.", "E.", id="c9")]
    prompts = encode_prompts(byte_level_bpe(REWRITES), records)
    assert [(p.conversation, p.turns) for p in prompts] == [
        (0, (1,)),
        (0, (2,)),
        (1, (1,)),
        (2, (1,)),
        (2, (2,)),
    ]


def test_there_are_two_layouts() -> None:
    with pytest.raises(ValueError, match="'as_generated' or 'as_written', found 'one_pass'"):
        encode(byte_level_bpe(), [talk("A.")], layout="one_pass")  # type: ignore[arg-type]

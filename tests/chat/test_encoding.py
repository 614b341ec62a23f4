"""Test that the strategy's and every reply's tokens are found in any chat template, or refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from chat_tokenizers import (
    CHATML,
    CONTROL_TOKENS,
    DROPS_SYSTEM,
    GEMMA,
    LLAMA_2,
    MISTRAL,
    QWEN_3,
    SOUND_TEMPLATES,
    TOKENIZERS,
    byte_level_bpe,
    word_piece,
)
from sra_fast.chat.chat_template import EncodingError
from sra_fast.chat.conversations import ConversationError
from sra_fast.chat.encoding import EncodedPrompt, collate, encode, encode_prompts, padding_token
from sra_fast.chat.templates import TEMPLATES, PromptTemplate

REPLIES = ["Hope? \n\n Oh no.", 'You said "Offer Hope" strategy.', "Bad."]


def talk(**changes: Any) -> dict[str, Any]:
    """Return two turns and a response, in which texts of one message occur in others too."""
    messages = [
        {"role": "user", "content": "Bad. I lost my job."},
        {"role": "assistant", "content": REPLIES[0]},
        {"role": "user", "content": REPLIES[1]},
        {"role": "assistant", "content": REPLIES[1]},
        {"role": "user", "content": "Bad."},
        {"role": "assistant", "content": REPLIES[2]},
    ]
    situation = 'Everybody says "Offer Hope".'
    record = {
        "id": "c7",
        "situation": situation,
        "messages": messages,
        "strategy": "Offer Hope",
    }
    return {**record, **changes}


def said(text: str) -> str:
    """Return a text without blanks and case, which not every tokenizer can give back."""
    return "".join(text.replace("##", "").split()).casefold()


def read(tokenizer: PreTrainedTokenizerFast, ids: torch.Tensor) -> str:
    return said(tokenizer.decode(ids))


def strategy_of(tokenizer: PreTrainedTokenizerFast, prompt: EncodedPrompt) -> str:
    return read(tokenizer, prompt.input_ids[prompt.strategy_mask])


def replies_of(tokenizer: PreTrainedTokenizerFast, prompt: EncodedPrompt) -> list[str]:
    ks = range(1, int(prompt.response_mask.max()) + 1)
    return [read(tokenizer, prompt.input_ids[prompt.response_mask == k]) for k in ks]


def runs(mask: torch.Tensor) -> int:
    """Return how many stretches of tokens without a gap a mask has."""
    padded = torch.cat([torch.zeros(1), mask.to(torch.float32), torch.zeros(1)])
    return int((padded.diff() > 0).sum())


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("chat", SOUND_TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_masks_hold_the_quoted_strategy_and_the_replies_and_nothing_else(
    kind: str, chat: str, template: str
) -> None:
    tokenizer = TOKENIZERS[kind](SOUND_TEMPLATES[chat])
    prompts = encode_prompts(tokenizer, [talk()], template)
    assert [turn for prompt in prompts for turn in prompt.turns] == [1, 2, 3]
    assert len(prompts) == (1 if template == "standard" and chat != "qwen_3" else 3)
    control = {tokenizer.convert_tokens_to_ids(token) for token in CONTROL_TOKENS}
    for prompt in prompts:
        assert strategy_of(tokenizer, prompt) == '"offerhope"'
        wanted = [said(REPLIES[turn - 1]) for turn in prompt.turns]
        assert replies_of(tokenizer, prompt) == wanted
        assert runs(prompt.strategy_mask) == 1
        assert runs(prompt.response_mask > 0) == len(wanted)
        assert not control & set(prompt.input_ids[prompt.response_mask > 0].tolist())
        # The strategy is the one of the instruction, before which nobody has spoken.
        first_reply = int((prompt.response_mask > 0).nonzero()[0])
        assert int(prompt.strategy_mask.nonzero()[-1]) < first_reply


@pytest.mark.parametrize("chat", [chat for chat in SOUND_TEMPLATES if chat != "qwen_3"])
def test_the_tokens_are_those_of_the_chat_template_itself(chat: str) -> None:
    tokenizer = byte_level_bpe(SOUND_TEMPLATES[chat])
    (prompt,) = encode_prompts(tokenizer, [talk()], PromptTemplate("own", 'Use "{strategy}".'))
    system = {"role": "system", "content": 'Use "Offer Hope".'}
    messages = [system, *talk()["messages"]]
    if chat in ("gemma", "mistral", "drops_system"):
        first = f"{system['content']}\n\n{messages[1]['content']}"
        messages = [{"role": "user", "content": first}, *messages[2:]]
    expected = tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
    assert prompt.input_ids.tolist() == expected


def test_a_bos_of_the_template_stands_once() -> None:
    tokenizer = byte_level_bpe(GEMMA)
    bos = tokenizer.bos_token_id
    assert tokenizer("a")["input_ids"][0] == bos  # the tokenizer would add one of its own
    (prompt,) = encode_prompts(tokenizer, [talk()])
    assert prompt.input_ids.tolist().count(bos) == 1


def test_a_greeting_counts_as_a_turn_but_is_not_scored() -> None:
    tokenizer = byte_level_bpe(CHATML)
    greeting = {"role": "assistant", "content": "Hello."}
    batch = encode(tokenizer, [talk(messages=[greeting, *talk()["messages"]])])
    assert batch["turns"].tolist() == [[2, 3, 4]]


def test_thoughts_are_no_part_of_a_reply() -> None:
    tokenizer = byte_level_bpe(QWEN_3)
    thinking = talk()
    for message in thinking["messages"]:
        if message["role"] == "assistant":
            message["content"] = "<think>\nWhat now?\n</think>\n\n" + message["content"]
    prompts = encode_prompts(tokenizer, [thinking])
    assert [replies_of(tokenizer, p) for p in prompts] == [[said(reply)] for reply in REPLIES]
    for prompt in prompts:
        assert tokenizer.decode(prompt.input_ids).count("What now?") == 1  # in the last turn alone


def test_a_reply_of_thoughts_alone_is_refused() -> None:
    record = talk(messages=talk()["messages"][:1], response="<think>Hm.</think>\n")
    with pytest.raises(EncodingError, match=r"'c7'.*reply of turn 1 is empty"):
        encode_prompts(byte_level_bpe(QWEN_3), [record])


def test_private_use_characters_of_a_text_stay_in_it() -> None:
    tokenizer = byte_level_bpe(CHATML)
    reply = "".join(map(chr, range(0xE000, 0xE040))) + "\U000f0000."
    record = talk(messages=talk()["messages"][:1], response=reply, situation="\ue000\ue001")
    (prompt,) = encode_prompts(tokenizer, [record])
    assert replies_of(tokenizer, prompt) == [said(reply)]


def test_a_long_conversation_needs_more_markers_than_the_basic_plane_has() -> None:
    tokenizer = byte_level_bpe(CHATML)
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"m{i}"} for i in range(2 * 1700)]
    (prompt,) = encode_prompts(tokenizer, [talk(messages=messages)], turns="last")
    assert prompt.turns == (1700,)
    assert replies_of(tokenizer, prompt) == ["m3399"]


@pytest.mark.parametrize("seed", range(3))
def test_random_texts_come_back_whole(seed: int) -> None:
    rng = random.Random(seed)
    letters = "ab .\"\n\t'?{}é\u0301ñ한\u1112\u1161\u11ab👩\u200d👧\u200b…ﬁ<|>"
    tokenizer = byte_level_bpe(CHATML)

    def text() -> str:
        return "x" + "".join(rng.choices(letters, k=rng.randint(0, 30))) + "."

    messages = [{"role": ("user", "assistant")[i % 2], "content": text()} for i in range(20)]
    (prompt,) = encode_prompts(tokenizer, [talk(messages=messages, situation=text())])
    normal = tokenizer.backend_tokenizer.normalizer.normalize_str
    wanted = [said(normal(m["content"])) for m in messages if m["role"] == "assistant"]
    assert replies_of(tokenizer, prompt) == wanted


# --- The batch -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_only_adds_masked_positions(side: Any) -> None:
    tokenizer = byte_level_bpe(CHATML, pad_token="<s>")
    short = talk(id="short", messages=talk()["messages"][:1], response="Oh.")
    batch = encode(tokenizer, [talk(), short], padding_side=side)
    prompts = encode_prompts(tokenizer, [talk(), short])
    assert batch["conversation"].tolist() == [0, 1]
    assert batch["turns"].tolist() == [[1, 2, 3], [1, -1, -1]]
    width = batch["input_ids"].shape[1]
    assert width == max(len(p.input_ids) for p in prompts)
    for row, prompt in enumerate(prompts):
        real = batch["attention_mask"][row].bool()
        gap = width - len(prompt.input_ids)
        assert real.tolist() == (
            [False] * gap + [True] * (width - gap)
            if side == "left"
            else [True] * (width - gap) + [False] * gap
        )
        for name in ("input_ids", "strategy_mask", "response_mask"):
            assert torch.equal(batch[name][row][real], getattr(prompt, name))
        assert (batch["input_ids"][row][~real] == tokenizer.pad_token_id).all()
        assert not batch["strategy_mask"][row][~real].any()
        assert not batch["response_mask"][row][~real].any()


def test_the_batch_has_the_promised_dtypes() -> None:
    batch = encode(byte_level_bpe(), [talk()], "c1_hf")
    assert batch.pop("conversation_ids") == ["c7"] * 3
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "input_ids": torch.int64,
        "attention_mask": torch.int64,
        "strategy_mask": torch.bool,
        "response_mask": torch.int32,
        "conversation": torch.int64,
        "turns": torch.int64,
        "as_written": torch.bool,
    }
    assert batch["conversation"].tolist() == [0, 0, 0]
    assert batch["turns"].tolist() == [[1], [2], [3]]
    assert batch["input_ids"].shape == batch["response_mask"].shape


def test_a_conversation_is_encoded_the_same_alone_and_among_others() -> None:
    tokenizer = byte_level_bpe()
    others = [talk(id=str(i), situation="x" * i) for i in range(1, 200)]
    alone = encode_prompts(tokenizer, [talk()])[0]
    among = encode_prompts(tokenizer, [*others, talk()])
    assert [prompt.conversation for prompt in among] == list(range(200))
    assert torch.equal(among[-1].input_ids, alone.input_ids)
    assert torch.equal(among[-1].response_mask, alone.response_mask)


def test_the_last_turn_alone_can_be_asked_for() -> None:
    assert encode(byte_level_bpe(), [talk()], turns="last")["turns"].tolist() == [[3]]


def test_own_strategies_are_taken() -> None:
    tokenizer = byte_level_bpe()
    record = talk(strategy="Joke")
    (prompt,) = encode_prompts(tokenizer, [record], strategies={"Joke": "Make them laugh."})
    assert strategy_of(tokenizer, prompt) == '"joke"'


@pytest.mark.parametrize(
    ("special", "expected"), [({"pad_token": "<turn>"}, "<turn>"), ({}, "</s>")]
)
def test_padding_is_the_padding_token_or_the_end_of_text(
    special: dict[str, str], expected: str
) -> None:
    tokenizer = byte_level_bpe(**special)
    assert padding_token(tokenizer) == tokenizer.convert_tokens_to_ids(expected)


def test_without_either_padding_is_0() -> None:
    assert padding_token(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))) == 0


def test_collate_takes_two_sides_only() -> None:
    with pytest.raises(ValueError, match="'left' or 'right'"):
        collate([], 0, "both")  # type: ignore[arg-type]


def test_nothing_to_encode_is_refused() -> None:
    with pytest.raises(EncodingError, match="no conversation"):
        encode(byte_level_bpe(), [])


# --- What cannot be done is said --------------------------------------------------------------


def test_a_conversation_in_memory_is_named_by_its_place() -> None:
    with pytest.raises(ConversationError, match=r"'c8' \(conversations\[1\]\).*did you mean"):
        encode(byte_level_bpe(), [talk(), talk(id="c8", strategy="Hope")])


SHOUTS = CHATML.replace("m['content']", "m['content'] | upper")
DOUBLES_SYSTEM = CHATML + "{{ messages[0]['content'] }}"
DOUBLES_REPLY = CHATML + "{{ messages[-1]['content'] }}"
DROPS_REPLIES = DROPS_SYSTEM.replace("'system'", "'assistant'")
DROPS_USER = CHATML.replace("m['content']", "(m['content'] if loop.index0 != 3 else '')")
CUTS = CHATML.replace("m['content']", "m['content'][:12]")
SOFTENS_REPLIES = CHATML.replace("m['content']", "m['content'] | replace('?', '!')")
BACKWARDS = CHATML.replace("in messages", "in [messages[0]] + messages[1:][::-1]")
COUNTS = CHATML + "{{ messages[-1]['content'] | length }}"


@pytest.mark.parametrize(
    ("chat", "says"),
    [
        (SHOUTS, 'alters the strategy "Offer Hope"'),
        (DOUBLES_SYSTEM, 'doubles the strategy "Offer Hope"'),
        (DOUBLES_REPLY, "doubles the reply of turn 3"),
        (DROPS_REPLIES, "drops the reply of turn 1"),
        (DROPS_USER, "drops message 4 of the prompt (user)"),
        (CUTS, 'drops the strategy "Offer Hope"'),
        (SOFTENS_REPLIES, "alters the reply of turn 1"),
        (BACKWARDS, "moves"),
        (COUNTS, "writes something else when a text in it changes"),
    ],
)
def test_a_chat_template_that_spoils_a_text_is_refused(chat: str, says: str) -> None:
    with pytest.raises(EncodingError) as caught:
        encode_prompts(byte_level_bpe(chat), [talk()])
    text = str(caught.value)
    assert text.startswith("conversation 'c7' (conversations[0]): the chat template ")
    assert says in text


@pytest.mark.parametrize("chat", [LLAMA_2, GEMMA, MISTRAL])
def test_a_greeting_that_the_model_does_not_take_is_refused_with_the_way_out(chat: str) -> None:
    greeting = {"role": "assistant", "content": "Hello."}
    record = talk(messages=[greeting, *talk()["messages"]])
    tokenizer = byte_level_bpe(chat)
    with pytest.raises(EncodingError, match=r"'c7'.*roles must alternate.*opens with.*c1_hf"):
        encode_prompts(tokenizer, [record])
    assert len(encode_prompts(tokenizer, [record], "c1_hf")) == 3


def test_a_model_without_system_role_that_takes_a_greeting_reads_the_system_text_after_it() -> None:
    chat = "{{ raise_exception('no system') if messages[0].role == 'system' }}" + CHATML
    tokenizer = byte_level_bpe(chat)
    greeting = {"role": "assistant", "content": "Hello."}
    (prompt,) = encode_prompts(tokenizer, [talk(messages=[greeting, *talk()["messages"]])])
    text = tokenizer.decode(prompt.input_ids)
    assert text.startswith("<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nYou are")
    assert text.count("\n\nBad. I lost my job.<|im_end|>") == 1
    assert strategy_of(tokenizer, prompt) == '"offerhope"'


@pytest.mark.parametrize("place", ["situation", "response", "messages"])
def test_a_control_token_in_a_text_is_refused(place: str) -> None:
    text = "Well <|im_end|> then"
    one = [{"role": "user", "content": text if place == "messages" else "Hi"}]
    record = talk(messages=one, response="Oh.", situation="Fired.")
    if place != "messages":
        record[place] = text
    with pytest.raises(EncodingError, match=r"'c7'.*'<\|im_end\|>'.*control token"):
        encode_prompts(byte_level_bpe(), [record])


def lossy(prepare: Callable[[Tokenizer], None]) -> PreTrainedTokenizerFast:
    """Return the byte-level tokenizer, changed by ``prepare`` so that it loses text."""
    tokenizer = byte_level_bpe()
    prepare(tokenizer.backend_tokenizer)
    return tokenizer


def without_question_marks(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.Replace("?", "")


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (talk(), "drops '?' (U+003F) from the reply of turn 1"),
        (
            talk(strategy="Why?"),
            "drops '?' (U+003F) from the strategy \"Why?\"",
        ),
    ],
)
def test_a_tokenizer_that_drops_a_character_is_refused(record: Any, says: str) -> None:
    own = {"Why?": "Ask.", "Offer Hope": "x"}
    with pytest.raises(EncodingError) as caught:
        encode_prompts(lossy(without_question_marks), [record], strategies=own)
    assert says in str(caught.value)
    assert "'c7'" in str(caught.value)


def test_characters_without_a_token_are_refused() -> None:
    backend = Tokenizer(models.BPE({chr(i): i for i in range(128)}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHATML)
    record = talk(messages=talk()["messages"][:1], response="Olé, olé")
    with pytest.raises(EncodingError, match=r"drops 'é' .* from the reply of turn 1"):
        encode_prompts(tokenizer, [record])


def test_an_accent_that_is_composed_is_not_lost() -> None:
    tokenizer = byte_level_bpe()
    record = talk(messages=talk()["messages"][:1], response="Ole\u0301 \u1112\u1161\u11ab e\u0301")
    (prompt,) = encode_prompts(tokenizer, [record])
    assert replies_of(tokenizer, prompt) == ["olé한é"]


def test_a_tokenizer_set_to_truncate_does_not() -> None:
    tokenizer = byte_level_bpe(model_max_length=16)
    whole = encode_prompts(byte_level_bpe(), [talk()])[0].input_ids
    tokenizer.backend_tokenizer.enable_truncation(16)
    tokenizer.backend_tokenizer.enable_padding(length=4096)
    (prompt,) = encode_prompts(tokenizer, [talk()])
    assert torch.equal(prompt.input_ids, whole)


class Stubborn(PreTrainedTokenizerFast):
    """Stand for a tokenizer that truncates, whatever it is told."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        limit = {"truncation": True, "max_length": self.model_max_length}
        return super().__call__(*args, **{**kwargs, **limit})


@pytest.mark.parametrize(
    ("side", "missing", "says"),
    [("right", 5, "the reply of turn 3"), ("left", 350, 'the strategy "Offer Hope"')],
)
def test_a_tokenizer_that_truncates_all_the_same_is_refused(
    side: str, missing: int, says: str
) -> None:
    whole = byte_level_bpe()
    length = len(encode_prompts(whole, [talk()])[0].input_ids)
    tokenizer = Stubborn(
        tokenizer_object=whole.backend_tokenizer,
        chat_template=CHATML,
        truncation_side=side,
        model_max_length=length - missing,
    )
    with pytest.raises(EncodingError, match=f"'c7'.*truncates the prompt and drops {says}"):
        encode_prompts(tokenizer, [talk()])


def test_a_token_of_two_texts_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    chat = "{%- for m in messages %}{{ m['content'] }}{%- endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=chat)
    record = talk(messages=talk()["messages"][:1], response="Oh.")
    with pytest.raises(EncodingError, match="stands for the end of one text and the beginning"):
        encode_prompts(tokenizer, [record], PromptTemplate("own", 'Use "{strategy}".'))


def test_a_tokenizer_without_chat_template_is_refused() -> None:
    with pytest.raises(EncodingError, match=r"no chat template.*sra_fast\.score"):
        encode(byte_level_bpe(None), [talk()])


def test_a_slow_tokenizer_is_refused_with_the_way_out() -> None:
    class Slow:
        is_fast = False
        chat_template = CHATML

        def apply_chat_template(self) -> None: ...

    with pytest.raises(EncodingError, match=r"Slow is a slow tokenizer.*AutoTokenizer"):
        encode(Slow(), [talk()])  # type: ignore[arg-type]


def test_a_processor_is_refused_with_the_way_out() -> None:
    class Processor:
        tokenizer = None

        def apply_chat_template(self) -> None: ...

    with pytest.raises(EncodingError, match=r"processor\.tokenizer"):
        encode(Processor(), [talk()])  # type: ignore[arg-type]


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(EncodingError, match="str is no tokenizer"):
        encode("gpt2", [talk()])  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["as_generated", "as_written"])
def test_sentences_of_the_messages_are_sources(layout: Any) -> None:
    tokenizer = byte_level_bpe(QWEN_3)
    record = talk()
    record["messages"][0]["content"] = " I am tired. Are you?  No!\n\nWe all are "
    first = encode_prompts(tokenizer, [record], layout=layout, sources="sentences")[0]
    assert first.source_ids is not None
    found = {
        name: tokenizer.decode(first.input_ids[first.source_ids == number]).strip()
        for number, name in enumerate(first.source_names, 1)
    }
    asked = [text for name, text in found.items() if name.startswith("message 1 (user), ")]
    assert asked == ["I am tired.", "Are you?", "No!", "We all are"]
    assert not (first.source_ids.bool() & (first.response_mask > 0)).any()


def test_blanks_that_a_tokenizer_leaves_out_are_no_loss() -> None:
    tokenizer = word_piece()
    record = talk(messages=talk()["messages"][:1], response="Hoping \n\t that")
    (prompt,) = encode_prompts(tokenizer, [record])
    assert replies_of(tokenizer, prompt) == ["hopingthat"]


@pytest.mark.parametrize("layout", ["as_generated", "as_written"])
def test_every_message_but_the_scored_replies_is_a_source(layout: Any) -> None:
    # This template writes the last reply differently, so that each one has a prompt of its own.
    tokenizer = byte_level_bpe(QWEN_3)
    prompts = encode_prompts(tokenizer, [talk()], layout=layout, sources="messages")
    contents = [message["content"] for message in talk()["messages"]]
    for prompt in prompts:
        assert prompt.source_ids is not None
        assert not (prompt.source_ids.bool() & (prompt.response_mask > 0)).any()
        found = {
            name: read(tokenizer, prompt.input_ids[prompt.source_ids == number])
            for number, name in enumerate(prompt.source_names, 1)
        }
        roles = ("user", "assistant")
        expected = {
            f"message {place + 1} ({roles[place % 2]})": said(content)
            for place, content in enumerate(contents[: 2 * prompt.turns[-1]])
            if (place + 1) / 2 not in prompt.turns
        }
        system = found.pop("message 0 (system)")
        assert said("Offer Hope") in system
        assert found == expected

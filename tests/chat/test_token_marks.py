"""Test that a part has every token between its first and its last one, whatever the offsets say."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from chat_tokenizers import CHATML, byte_level_bpe, metaspace_unigram, word_piece, wrapped
from sra_fast.chat.chat_template import EncodingError
from sra_fast.chat.encoding import EncodedPrompt, encode_prompts


def talk(reply: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": "When then"}]
    return {"id": "c7", "messages": messages, "strategy": "Offer Hope", "response": reply}


def encoded(tokenizer: PreTrainedTokenizerFast, reply: str) -> EncodedPrompt:
    (prompt,) = encode_prompts(tokenizer, [talk(reply)])
    return prompt


def reply_of(tokenizer: PreTrainedTokenizerFast, reply: str) -> str:
    """Return the text of the tokens that are marked as the reply."""
    prompt = encoded(tokenizer, reply)
    return str(tokenizer.decode(prompt.input_ids[prompt.response_mask > 0]))


@pytest.mark.parametrize(
    "reply",
    ["In 2 weeks, or 14 days.", "A  b   c", "A \n\n b", "A\n \n b", "1 2 3", "a " * 9 + "b"],
)
def test_blanks_without_offsets_make_no_holes(reply: str) -> None:
    plain, trimming = byte_level_bpe(), byte_level_bpe()
    trimming.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    one, other = encoded(plain, reply), encoded(trimming, reply)
    assert one.input_ids.equal(other.input_ids)
    assert one.response_mask.equal(other.response_mask)
    assert one.strategy_mask.equal(other.strategy_mask)


def normalised(*steps: normalizers.Normalizer) -> PreTrainedTokenizerFast:
    """Return the byte-level tokenizer with a normaliser of these steps."""
    tokenizer = byte_level_bpe()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(list(steps))
    return tokenizer


QUOTES = normalised(normalizers.Replace("``", '"'), normalizers.Replace("''", '"'))
BREAKS = normalised(normalizers.Replace("<br />", "\n"))
BLANKS = normalised(normalizers.Replace(Regex(" {2,}"), " "))


@pytest.mark.parametrize(
    ("tokenizer", "reply", "read"),
    [
        (normalised(normalizers.NFKC()), "ｶﾞ ﬁ … 2½.", "ガ fi ... 21⁄2."),
        (normalised(normalizers.NFC()), "Ole\u0301 \u1112\u1161\u11ab.", "Olé 한."),
        (normalised(normalizers.NFD()), "Olé.", "Ole\u0301."),
        (QUOTES, "Say ``yes'' now", 'Say "yes" now'),
        (QUOTES, "``Yes''", '"Yes"'),
        (BREAKS, "One.<br />Two.<br />", "One.\nTwo.\n"),
        (BLANKS, "One.   Two.", "One. Two."),
        (normalised(normalizers.Lowercase()), "Oh NO.", "oh no."),
        (normalised(normalizers.NFD(), normalizers.StripAccents()), "Olé, ole\u0301.", "Ole, ole."),
        (normalised(normalizers.Nmt()), "One\u200btwo.", "One two."),
    ],
)
def test_what_a_normaliser_changes_is_marked_as_the_model_reads_it(
    tokenizer: PreTrainedTokenizerFast, reply: str, read: str
) -> None:
    assert reply_of(tokenizer, reply) == read


def with_prefix_space() -> PreTrainedTokenizerFast:
    tokenizer = byte_level_bpe()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def llama_2() -> PreTrainedTokenizerFast:
    """Return a tokenizer that puts a blank in front by its normaliser, and has no bytes."""
    vocabulary = {chr(code): code - 32 for code in range(33, 127)}
    vocabulary |= {"▁": 0, "<unk>": 95, "\n": 96}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return wrapped(backend, CHATML, unk_token="<unk>")


@pytest.mark.parametrize("kind", [with_prefix_space, llama_2, metaspace_unigram, word_piece])
@pytest.mark.parametrize("reply", ["Hi.", "In 2 weeks, or 14 days.", "x λ  y", "λ"])
def test_prefix_spaces_and_unknown_characters_lose_nothing(kind: Any, reply: str) -> None:
    prompt = encoded(kind(), reply)
    marked = (prompt.response_mask > 0).nonzero().flatten()
    assert len(marked) == marked[-1] - marked[0] + 1
    assert not prompt.strategy_mask[marked].any()


def without_unknown(pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer that leaves out what is not ASCII, and counts on without it."""
    vocabulary = {chr(code): code for code in range(128)} | {"▁": 128}
    backend = Tokenizer(models.BPE(vocabulary, []))
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    return wrapped(backend, CHATML)


@pytest.mark.parametrize(
    "before", [None, pre_tokenizers.Metaspace(), pre_tokenizers.Split(" ", "isolated")]
)
@pytest.mark.parametrize("reply", ["éab", "Olé, olé", "é", "a é b", "aée\u0301"])
def test_a_character_that_moves_the_offsets_is_named(before: Any, reply: str) -> None:
    with pytest.raises(EncodingError, match=r"'c7'.*drops 'é' .* from the reply of turn 1; take"):
        encoded(without_unknown(before), reply)


@pytest.mark.parametrize(
    ("step", "reply", "character"),
    [
        (normalizers.Replace("?", ""), "What?", "'?'"),
        (normalizers.Replace("?", ""), "``What?'' he said", "'?'"),
        (normalizers.BertNormalizer(lowercase=False), "Oh\u200dno", "'\\u200d'"),
    ],
)
def test_a_character_that_a_normaliser_takes_out_is_named(
    step: normalizers.Normalizer, reply: str, character: str
) -> None:
    with pytest.raises(EncodingError) as caught:
        encoded(normalised(normalizers.Replace("``", '"'), step), reply)
    assert f"drops {character} (U+" in str(caught.value)
    assert "from the reply of turn 1" in str(caught.value)

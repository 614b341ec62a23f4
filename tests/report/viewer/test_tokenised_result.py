"""A result and a tokenizer give the page the texts, messages and ranges that were scored."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import sra_fast
from chat_tokenizers import SOUND_TEMPLATES, byte_level_bpe, metaspace_unigram, word_piece
from sra_fast import SRAResult
from sra_fast.report.viewer.notebook_page import NotebookPage
from sra_fast.report.viewer.result_files import read_result
from sra_fast.report.viewer.shown_sources import sentences
from sra_fast.report.viewer.tokenised_result import TokenisedResult
from sra_fast.report.viewer.viewed_conversation import ViewedConversation, ViewError
from sra_fast.report.viewer.viewed_result import NoProfileError, viewed
from tiny_chat_model import save_tiny_model, talk

TALKS = (talk("c1", 3), talk("c2", 1), talk("c3", 2))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    )


def plain(text: str) -> str:
    """Return a text without blanks and case, which not every tokenizer can give back."""
    return "".join(text.replace("##", "").split()).casefold()


def text_of(shown: ViewedConversation, start: int, end: int) -> str:
    return plain("".join(shown.tokens[start:end]))


def scored(model: Any, tokenizer: Any, talks: Any = TALKS, **settings: Any) -> SRAResult:
    model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size))
    batch = sra_fast.encode(tokenizer, list(talks), **{"sources": "messages", **settings})
    return sra_fast.score(model, batch, profile="layers")


@pytest.mark.parametrize("layout", ["as_generated", "as_written"])
@pytest.mark.parametrize("template", ["chatml", "llama_2", "qwen_3"])
@pytest.mark.parametrize("make", [byte_level_bpe, metaspace_unigram, word_piece])
def test_turns_and_replies_have_the_texts_of_the_conversation(
    model: Any, make: Any, template: str, layout: str
) -> None:
    tokenizer = make(SOUND_TEMPLATES[template])
    result = scored(model, tokenizer, layout=layout)
    shown = viewed(TokenisedResult(result, tokenizer))
    seen = []
    for one in shown:
        replies = {(reply.start, reply.end) for reply in one.replies}
        turns = [(turn.start, turn.end) for turn in one.turns]
        assert turns == sorted(turns)
        assert replies <= set(turns)
        number = int(one.title.removeprefix("conversation "))
        said = [turn for turn in one.turns if turn.role != "system"]
        for turn, message in zip(said, TALKS[number]["messages"], strict=False):
            assert turn.role == message["role"]
            assert plain(message["content"]) in text_of(one, turn.start, turn.end)
        assert len(said) == 2 * max(reply.turn for reply in one.replies)
        for reply in one.replies:
            content = plain(TALKS[number]["messages"][2 * reply.turn - 1]["content"])
            assert text_of(one, reply.start, reply.end) == content
            seen.append((number, reply.turn))
    assert sorted(seen) == sorted(
        zip(result.conversation.tolist(), result.turn.tolist(), strict=True)
    )


@pytest.mark.parametrize("template", ["chatml", "llama_2", "qwen_3"])
def test_sentences_as_sources_tell_the_same_messages_and_are_bars(
    model: Any, template: str
) -> None:
    tokenizer = byte_level_bpe(SOUND_TEMPLATES[template])
    by_message = viewed(TokenisedResult(scored(model, tokenizer), tokenizer))
    result = scored(model, tokenizer, sources="sentences")
    by_sentence = viewed(TokenisedResult(result, tokenizer))
    for whole, cut in zip(by_message, by_sentence, strict=True):
        assert cut.turns == whole.turns
        assert sentences(cut) == sentences(whole)
        assert not any(reply.sources for reply in whole.replies)
        inside = {t for turn in cut.turns for t in range(turn.start, turn.end)}
        for reply in cut.replies:
            assert len(reply.sources) > reply.turn
            assert all(set(range(*at)) <= inside for one in reply.sources.values() for at in one)


def test_a_reply_in_a_message_parts_its_sentences(model: Any) -> None:
    tokenizer = byte_level_bpe()
    model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size))
    chat = [{"role": "user", "content": "One. Two. Three. Four."}]
    batch = sra_fast.mark(
        tokenizer, chat, {"x": "One"}, response=["Two.", "Four."], sources="sentences"
    )
    (shown,) = viewed(TokenisedResult(sra_fast.score(model, batch, profile="mean"), tokenizer))
    said = [(turn.role, text_of(shown, turn.start, turn.end)) for turn in shown.turns]
    assert said == [
        ("user", "one."),
        ("assistant", "two."),
        ("user", "three."),
        ("assistant", "four."),
    ]


def test_where_messages_are_not_known_no_sentence_holds_the_template(model: Any) -> None:
    tokenizer = byte_level_bpe(SOUND_TEMPLATES["chatml"])
    talks = [talk("c1", 2)]
    talks[0]["messages"][0]["content"] = "<document>Sleep well.</document> Why?"
    result = scored(model, tokenizer, talks, sources="documents")
    for one in viewed(TokenisedResult(result, tokenizer)):
        assert {turn.role for turn in one.turns} == {"prompt", "reply"}
        assert all(set(reply.sources) == {"document 1"} for reply in one.replies)
        assert sentences(one) == []


def test_replies_share_a_prompt_if_their_tokens_are_the_same_as_far_as_both_go(model: Any) -> None:
    tokenizer = byte_level_bpe()
    result = scored(model, tokenizer)
    assert TokenisedResult(result, tokenizer).prompts() == [(0, 1, 2), (3,), (4, 5)]
    assert result.profile_tokens is not None
    ids = result.profile_tokens.clone()
    ids[len(result.token_ids(0))] += 1  # the first token of response 1
    other = TokenisedResult(replace(result, profile_tokens=ids), tokenizer)
    assert other.prompts() == [(0, 2), (1,), (3,), (4, 5)]


@pytest.mark.parametrize(("rows", "left_out"), [("predicting", 1), ("last_prompt", None)])
def test_of_a_reply_behind_the_last_row_the_page_has_what_is_known(
    model: Any, rows: Any, left_out: int | None
) -> None:
    tokenizer = byte_level_bpe()
    model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size))
    batch = sra_fast.encode(tokenizer, [TALKS[1]])
    result = sra_fast.score(model, batch, profile="mean", rows=rows)
    ((reply,),) = (one.replies for one in viewed(TokenisedResult(result, tokenizer)))
    tokens = 0 if left_out is None else int(result.response_tokens[0]) - left_out
    assert reply.end - reply.start == tokens
    assert reply.end == len(result.token_ids(0))


def test_a_span_is_underlined_where_its_words_stand(model: Any) -> None:
    tokenizer = byte_level_bpe()
    result = scored(model, tokenizer)
    batch = sra_fast.encode(tokenizer, list(TALKS))
    ids = batch["input_ids"][0][batch["strategy_mask"][0]]
    for one in viewed(TokenisedResult(result, tokenizer)):
        for reply in one.replies:
            (strategy,) = reply.spans["strategy"]
            assert "".join(one.tokens[slice(*strategy)]) == tokenizer.decode(ids)


@pytest.mark.parametrize("way", ["left padding", "saved", "joined", "taken"])
def test_it_is_the_same_however_the_result_came_about(model: Any, tmp_path: Path, way: str) -> None:
    tokenizer = byte_level_bpe()
    whole = scored(model, tokenizer)
    expected = viewed(TokenisedResult(whole, tokenizer))
    if way == "left padding":
        batch = sra_fast.encode(tokenizer, list(TALKS), sources="messages")
        other = sra_fast.score(model, _left(batch), profile="layers")
    elif way == "saved":
        whole.save(tmp_path / "masses.safetensors")
        other = read_result(tmp_path / "masses.safetensors").result
    elif way == "joined":
        first = whole.take(range(2))
        other = SRAResult.concatenate([first, whole.take(range(2, len(whole)))])
    else:
        backwards = whole.take(range(len(whole) - 1, -1, -1))
        other = backwards.take(range(len(whole) - 1, -1, -1))
    found = viewed(TokenisedResult(other, tokenizer))
    assert [(one.tokens, one.turns) for one in found] == [(o.tokens, o.turns) for o in expected]
    for mine, theirs in zip(found, expected, strict=True):
        for reply, wanted in zip(mine.replies, theirs.replies, strict=True):
            assert (reply.start, reply.end, reply.spans) == (wanted.start, wanted.end, wanted.spans)
            torch.testing.assert_close(
                torch.from_numpy(reply.profile), torch.from_numpy(wanted.profile)
            )


def _left(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch padded on the left in place of the right."""
    shifts = (batch["attention_mask"].shape[1] - batch["attention_mask"].sum(dim=1)).tolist()
    assert any(shifts)
    wide = ("input_ids", "attention_mask", "strategy_mask", "response_mask", "source_ids")
    moved = {
        name: torch.stack([row.roll(shift) for row, shift in zip(batch[name], shifts, strict=True)])
        for name in wide
    }
    return {**batch, **moved}


def test_the_tokenizer_of_another_model_is_refused(model: Any) -> None:
    tokenizer = byte_level_bpe()
    result = scored(model, tokenizer)
    small = word_piece()
    assert len(small) <= int(result.profile_tokens.max())  # type: ignore[union-attr]
    with pytest.raises(ViewError, match="give the tokenizer of the model that was scored"):
        TokenisedResult(result, small)


def test_a_notebook_shows_a_result(model: Any) -> None:
    tokenizer = byte_level_bpe()
    shown = scored(model, tokenizer).show(tokenizer, height=400)
    assert isinstance(shown, NotebookPage)
    assert "height:400px" in shown._repr_html_()
    assert "Offer" in shown.page
    plain_batch = sra_fast.encode(tokenizer, list(TALKS))
    with pytest.raises(NoProfileError, match="score again with profile='mean'"):
        sra_fast.score(model, plain_batch).show(tokenizer)


@pytest.mark.parametrize("chosen", [[1, 0], [0, 0], [0, 1, 0]])
def test_replies_in_any_order_and_twice_have_a_page(model: Any, chosen: list[int]) -> None:
    tokenizer = byte_level_bpe()
    batch = sra_fast.encode(tokenizer, [talk("c1", 2)], layout="as_written")
    result = sra_fast.score(model, batch, profile="mean").take(chosen)
    (shown,) = viewed(TokenisedResult(result, tokenizer))
    places = [(turn.start, turn.end) for turn in shown.turns]
    assert {(reply.start, reply.end) for reply in shown.replies} <= set(places)
    assert [reply.turn for reply in shown.replies] == [1 + i for i in chosen]


@pytest.mark.parametrize("sources", [None, "messages"])
def test_replies_that_stand_within_each_other_have_a_page(model: Any, sources: Any) -> None:
    tokenizer = byte_level_bpe()
    chat = talk("c1", 1)["messages"]
    parts: Any = [re.compile("Hope|slowly"), "grows"]
    batch = sra_fast.mark(tokenizer, chat, {"feel": "feel"}, response=parts, sources=sources)
    result = sra_fast.score(model, batch, profile="mean")
    (shown,) = viewed(TokenisedResult(result, tokenizer))
    assert [reply.turn for reply in shown.replies] == [1, 2]
    assert "Hope grows slowly" in text_of_turns(shown)


def text_of_turns(shown: ViewedConversation) -> str:
    return "".join("".join(shown.tokens[turn.start : turn.end]) for turn in shown.turns)

"""Test that generated replies are the model's own, however batched and wherever one stops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

import sra_fast
from chat_tokenizers import CHATML, QWEN_3, byte_level_bpe
from fake_endpoint import HANG, FakeEndpoint, Request, Response, always, completion, failure
from model_families import FAMILIES, random_tokens
from sra_fast.chat.chat_template import control_tokens, read_chat_template
from sra_fast.chat.conversations import as_conversations
from sra_fast.chat.templates import TEMPLATES
from sra_fast.training.pipeline.endpoint import Endpoint
from sra_fast.training.pipeline.endpoint_patience import FAILURES_IN_A_ROW
from sra_fast.training.pipeline.generation import local
from sra_fast.training.pipeline.generation.cache import GrowingLayer, growing_cache
from sra_fast.training.pipeline.generation.cleaning import clean_reply
from sra_fast.training.pipeline.generation.endpoint_replier import EndpointReplier
from sra_fast.training.pipeline.generation.generation_prompts import (
    generation_prompts,
    tokenized_prompts,
)
from sra_fast.training.pipeline.generation.local import Generated, GenerationError, LocalModel
from sra_fast.training.pipeline.generation.replies import (
    LocalReplier,
    MissingRepliesError,
    Reply,
    _without,
    batches,
    complete,
)
from sra_fast.training.pipeline.generation.sampling import Sampling, draw, uniforms
from tiny_chat_model import save_tiny_model, talk

GREEDY = Sampling(temperature=0.0, max_new_tokens=12)
DRAWN = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=12)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_tiny_model(tmp_path_factory.mktemp("tiny"))
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def grouped(vocabulary: int = 200) -> tuple[list[str], list[Tensor], list[str]]:
    """Return three groups of prompts with long common beginnings, and one prompt alone."""
    generator = torch.Generator().manual_seed(5)

    def some(count: int) -> Tensor:
        return torch.randint(3, vocabulary, (count,), generator=generator)

    items, prompts, groups = [], [], []
    for group, (beginning, members) in enumerate(((60, 3), (75, 2), (50, 1))):
        common = some(beginning)
        for member in range(members):
            items.append(f"{group}-{member}")
            prompts.append(torch.cat([common, some(5 + 4 * member)]))
            groups.append(str(group))
    return items, prompts, groups


# --- Drawing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 0.9), (1.5, 0.999), (1.0, 1.0)])
def test_tokens_are_drawn_from_the_nucleus_as_transformers_cuts_it(
    temperature: float, top_p: float
) -> None:
    logits = 2.0 * torch.randn(1, 400, generator=torch.Generator().manual_seed(1))
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    truth = TopPLogitsWarper(top_p)(None, warped).softmax(-1)[0].double()
    numbers = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    tokens = torch.cat(
        [
            draw(logits.expand(len(part), -1), part, Sampling(temperature, top_p))
            for part in numbers.split(20_000)
        ]
    )
    found = torch.bincount(tokens, minlength=400).double() / len(numbers)
    assert torch.equal(found > 0, truth > 1e-5 * 0.9) or (found - truth).abs().max() < 1e-5
    assert (found - truth).abs().max() < 2e-5


def test_an_items_random_numbers_are_its_own() -> None:
    assert torch.equal(uniforms(DRAWN, "a"), uniforms(DRAWN, "a"))
    assert not torch.equal(uniforms(DRAWN, "a"), uniforms(DRAWN, "b"))
    assert not torch.equal(uniforms(DRAWN, "a"), uniforms(replace(DRAWN, seed=1), "a"))


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0}])
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_control_tokens_that_a_model_spells_out_are_taken_out() -> None:
    tokenizer = byte_level_bpe()
    (control, *_) = control_tokens(tokenizer)
    spelt = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(f"Well{control}."))
    letters = [
        one
        for piece in ("Well", *control, ".")
        for one in tokenizer.encode(piece, add_special_tokens=False)
    ]
    assert tokenizer.decode(letters, skip_special_tokens=True) == f"Well{control}."
    assert letters != spelt
    assert _without([control], f"Well{control}.") == "Well."
    assert _without(["<a>"], "<<a>a>x") == "x"


# --- Batches and shared beginnings -----------------------------------------------------------


def generate_alone(model: Any, prompt: Tensor, ends: Sequence[int]) -> Generated:
    """Return the reply that transformers generates to one prompt."""
    new = model.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt)[None],
        do_sample=False,
        max_new_tokens=GREEDY.max_new_tokens,
        pad_token_id=0,
        eos_token_id=list(ends),
    )[0, len(prompt) :].tolist()
    finished = bool(new) and new[-1] in ends
    return Generated(tuple(new[:-1] if finished else new), finished)


@pytest.mark.parametrize("share", [True, False])
def test_greedy_replies_are_those_of_transformers(tiny: Any, share: bool) -> None:
    tokenizer = byte_level_bpe()
    items, prompts, groups = grouped()
    replier = LocalModel(tiny, tokenizer, GREEDY, share=share)
    ends = sorted(local.end_tokens(tiny, tokenizer))
    alone = [generate_alone(tiny, prompt, ends) for prompt in prompts]
    assert replier.reply(items, prompts, groups) == alone


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "lfm2"])
def test_families_reply_in_batches_as_alone(name: str) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    model = family.build().eval()
    model.generation_config.eos_token_id = 2
    tokenizer = byte_level_bpe()
    items = [str(number) for number in range(4)]
    beginning = random_tokens(1, 40)[0]
    prompts = [torch.cat([beginning, random_tokens(1, 3 + n, seed=n)[0]]) for n in range(4)]
    replier = LocalModel(model, tokenizer, GREEDY)
    ends = sorted(local.end_tokens(model, tokenizer))
    assert replier.reply(items, prompts, ["a", "a", "b", "b"]) == [
        generate_alone(model, prompt, ends) for prompt in prompts
    ]


def test_a_growing_cache_holds_what_transformers_cache_holds() -> None:
    config = next(family for family in FAMILIES if family.name == "llama").build().config
    ours, theirs = growing_cache(config), DynamicCache(config=config)
    generator = torch.Generator().manual_seed(2)
    for step, tokens in enumerate((5, *([1] * 150), 70, 1)):
        rows = 2 if step > 40 else 4
        new = [torch.randn(rows, 2, tokens, 16, generator=generator) for _ in range(2)]
        for found, truth in zip(ours.update(*new, 0), theirs.update(*new, 0), strict=True):
            assert torch.equal(found, truth)
        if step == 40:
            for cache in (ours, theirs):
                cache.batch_select_indices(torch.tensor([3, 1]))
    assert ours.get_seq_length() == theirs.get_seq_length() == 226


def test_a_new_token_leaves_the_others_where_they_are() -> None:
    layer = GrowingLayer()
    keys, _ = layer.update(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4))
    grown, _ = layer.update(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    assert grown.data_ptr() == keys.data_ptr()


def test_drawn_replies_do_not_depend_on_the_batch(tiny: Any) -> None:
    tokenizer = byte_level_bpe()
    items, prompts, groups = grouped()
    whole = LocalModel(tiny, tokenizer, DRAWN).reply(items, prompts, groups)
    plain = LocalModel(tiny, tokenizer, DRAWN, share=False)
    alone = [
        plain.reply([item], [prompt], [group])[0]
        for item, prompt, group in zip(items, prompts, groups, strict=True)
    ]
    assert whole == alone
    assert len({one.tokens for one in whole}) == len(items)
    reversed_ = LocalModel(tiny, tokenizer, DRAWN).reply(items[::-1], prompts[::-1], groups[::-1])
    assert reversed_[::-1] == whole


def test_rows_that_end_leave_the_batch_and_change_nothing(tiny: Any) -> None:
    tokenizer = byte_level_bpe()
    items, prompts, groups = grouped()
    before = LocalModel(tiny, tokenizer, DRAWN).reply(items, prompts, groups)
    ends = {before[0].tokens[2], before[3].tokens[5]}  # now they end replies
    replier = LocalModel(tiny, tokenizer, DRAWN)
    replier._ends = frozenset(ends)
    expected = []
    for one in before:
        cut = next((i for i, token in enumerate(one.tokens) if token in ends), None)
        expected.append(Generated(one.tokens[:cut], cut is not None))
    sizes: list[int] = []
    hook = tiny.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    assert replier.reply(items, prompts, groups) == expected
    hook.remove()
    assert sizes[0] == len(items)
    assert sizes[-1] < len(items)


def test_a_common_beginning_is_computed_once(tiny: Any) -> None:
    tokenizer = byte_level_bpe()
    items, prompts, groups = grouped()
    one_token = replace(GREEDY, max_new_tokens=1)
    computed: dict[bool, int] = {}
    for share in (True, False):
        seen: list[int] = []
        hook = tiny.model.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(kwargs["input_ids"].numel()),
            with_kwargs=True,
        )
        LocalModel(tiny, tokenizer, one_token, share=share).reply(items, prompts, groups)
        hook.remove()
        computed[share] = sum(seen)
    assert computed[False] == len(prompts) * max(len(prompt) for prompt in prompts)
    beginnings = sum({group: 75 for group in groups}.values())
    assert computed[True] <= beginnings + len(prompts) * 14


def test_a_prompt_beyond_the_context_is_named(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, context=64)
    model = AutoModelForCausalLM.from_pretrained(folder)
    replier = LocalModel(model, byte_level_bpe(), GREEDY)
    with pytest.raises(
        GenerationError, match=r"item 'long'.*60 tokens and 12 .* context of 64"
    ) as refused:
        replier.reply(["short", "long"], [torch.ones(5).long(), torch.ones(60).long()], ["a", "b"])
    assert refused.value.arguments == ("max_new_tokens",)


def test_batches_keep_groups_together() -> None:
    groups = ["a", "b", "a", "c", "b", "a"]
    assert batches(groups, [5, 9, 4, 7, 8, 5], 3) == [[1, 4, 3], [0, 2, 5]]
    assert batches(groups, [5, 9, 4, 7, 8, 5], 2) == [[1, 4], [3, 0], [2, 5]]


# --- Prompts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["standard", "c1_hf", "c3_hl"])
def test_a_prompt_is_what_scoring_reads_before_the_reply(template: str) -> None:
    tokenizer = byte_level_bpe()
    conversations = as_conversations([talk("a", 3), talk("b", 2, situation="A hard week.")])
    prompts = generation_prompts(conversations, TEMPLATES[template])
    batch = sra_fast.encode(tokenizer, conversations, template, turns="last")
    for row, ids in enumerate(tokenized_prompts(read_chat_template(tokenizer), prompts)):
        reply = int(batch["response_mask"][row].nonzero()[0])
        assert ids.tolist() == batch["input_ids"][row, :reply].tolist()
    assert prompts[0].messages[-1] == {"role": "user", "content": "I feel low, day 3."}


def test_the_strategies_of_a_conversation_begin_alike_where_history_comes_first() -> None:
    tokenizer = byte_level_bpe()
    records = [
        {**talk("a", 4, strategy=name, dialogue="a"), "id": name}
        for name in ("Offer Hope", "Clarification")
    ]
    prompts = generation_prompts(as_conversations(records), TEMPLATES["c1_hf"])
    assert prompts[0].group == prompts[1].group
    one, other = tokenized_prompts(read_chat_template(tokenizer), prompts)
    common = tokenizer.decode(one[: local._common([one, other])])
    assert "Hope grows slowly, a 3." in common
    assert 'with the "' in common


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("assistant: I hear you.", "I hear you."),
        ("Here is a response: I hear you.", "I hear you."),
        ('Sure, here\'s a possible reply that offers hope:\n\n"I hear you."', "I hear you."),
        ("**Supporter:** I hear you.", "I hear you."),
        ("I hear you. My response: is that fine?", "I hear you. My response: is that fine?"),
        ('"One" and "two"', '"One" and "two"'),
        ("  assistant:  ", ""),
        ("Here is what I think: you are brave.", "Here is what I think: you are brave."),
        ("Here is my message:\nI hear you.", "I hear you."),
        ("Here is a warm message of reply: \u201cI hear you.\u201d", "I hear you."),
        ('Here\'s a possible continuation: "I hear you."', "I hear you."),
        ("Here is a message:", ""),
        *(
            (real, real)
            for real in (
                "Here's the message I keep hearing from you: nobody listens.",
                "My message in reply to that: you matter.",
                "This is a continuation of what you said: it wears you out.",
            )
        ),
    ],
)
def test_what_stands_around_a_reply_is_taken_off(raw: str, clean: str) -> None:
    assert clean_reply(raw) == clean


# --- Runs ------------------------------------------------------------------------------------


class Counting:
    """Reply with the item's name, note which items were asked, and fail if told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[str] = []
        self._fails_at = fails_at

    def plan(self, prompts: Sequence[Any]) -> list[list[int]]:
        return [[index, index + 1] for index in range(0, len(prompts), 2)]

    def reply(self, prompts: Sequence[Any]) -> list[Reply]:
        if self._fails_at == len(self.asked):
            raise RuntimeError("killed")
        self.asked += [prompt.item for prompt in prompts]
        return [Reply(p.item, p.item, p.item, 1, True) for p in prompts]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    conversations = as_conversations([talk(str(number)) for number in range(6)])
    prompts = generation_prompts(conversations, TEMPLATES["standard"])
    with pytest.raises(RuntimeError, match="killed"):
        complete(Counting(fails_at=4), prompts, tmp_path)
    (tmp_path / "00001.jsonl").write_text('{"item": "2", "te', encoding="utf-8")  # torn by a crash
    again = Counting()
    replies = complete(again, prompts, tmp_path)
    assert again.asked == ["2", "3", "4", "5"]
    assert [replies[prompt.item].text for prompt in prompts] == list("012345")


def test_another_batch_size_finds_what_is_done(tmp_path: Path) -> None:
    class InThrees(Counting):
        def plan(self, prompts: Sequence[Any]) -> list[list[int]]:
            return [list(range(at, at + 3)) for at in range(0, len(prompts), 3)]

    conversations = as_conversations([talk(str(number)) for number in range(6)])
    prompts = generation_prompts(conversations, TEMPLATES["standard"])
    with pytest.raises(RuntimeError, match="killed"):
        complete(Counting(fails_at=4), prompts, tmp_path)
    other = InThrees()
    replies = complete(other, prompts, tmp_path)
    assert other.asked == ["4", "5"]
    third = Counting()
    assert complete(third, prompts, tmp_path) == replies
    assert third.asked == []


def test_a_model_replies_to_conversations(tiny: Any, tmp_path: Path) -> None:
    conversations = as_conversations([talk(str(number), 1 + number % 3) for number in range(5)])
    prompts = generation_prompts(conversations, TEMPLATES["c1_hf"])
    few = LocalReplier(tiny, byte_level_bpe(), DRAWN, batch=2)
    many = LocalReplier(tiny, byte_level_bpe(), DRAWN, batch=32)
    assert complete(few, prompts, tmp_path / "2") == complete(many, prompts, tmp_path / "32")


@pytest.mark.parametrize(
    ("thoughts", "says"),
    [
        (("<think>", "</think>"), "<think>Hm.</think> I hear you."),
        (("", "</think>"), "Hm.</think> I hear you."),
        (None, "I hear you."),
    ],
)
def test_the_thought_of_an_answer_is_taken_off_if_its_tags_are_given(
    thoughts: Any, says: str, tmp_path: Path
) -> None:
    prompts = generation_prompts(as_conversations([talk("a")]), TEMPLATES["standard"])
    with always(completion(says)) as server:
        endpoint = Endpoint(server.url, "big", retries=0)
        replier = EndpointReplier(endpoint, DRAWN, thoughts=thoughts)
        replies = complete(replier, prompts, tmp_path)
    assert [(r.text, r.raw) for r in replies.values()] == [("I hear you.", says)]


THINK = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("thoughts", "says", "reason"),
    [
        (None, "<think>Hm.</think> I hear you.", "give the tags '<think>' and '</think>'"),
        (None, "Hm.</think> I hear you.", "give the tags '' and '</think>'"),
        (THINK, "Hm.</think> I hear you.", "give the tags '' and '</think>'"),
        (THINK, "<think>Hm, I wonder", "thought without an end .*; allow more tokens"),
        (("<r>", "</r>"), "<r>Hm, I wonder", "thought without an end"),
        (None, "[THINK]Hm.[/THINK]I hear you.", r"give the tags '\[THINK\]'"),
        (None, "I hear you.<|im_end|>\n<|im_start|>user", r"control token '<\|im_end\|>'"),
        (None, "<|channel|>analysis<|message|>Hm.", r"control token '<\|channel\|>'"),
        (None, "I hear you.<end_of_turn>", "control token '<end_of_turn>'"),
        (None, "I hear you.</s>", "control token '</s>'"),
    ],
)
def test_an_answer_that_holds_more_than_a_reply_is_a_gap_with_its_reason(
    thoughts: Any, says: str, reason: str, tmp_path: Path
) -> None:
    prompts = generation_prompts(as_conversations([talk("a")]), TEMPLATES["standard"])
    with always(completion(says)) as server:
        replier = EndpointReplier(Endpoint(server.url, "big", retries=0), DRAWN, thoughts=thoughts)
        with pytest.raises(MissingRepliesError, match=reason):
            complete(replier, prompts, tmp_path)


@pytest.mark.parametrize(
    "says", ["I <3 you | think", "5 < 6 > 4", "a <s>struck</s>word", "[INSTEAD]"]
)
def test_a_reply_may_hold_signs_that_only_look_like_control_tokens(
    says: str, tmp_path: Path
) -> None:
    prompts = generation_prompts(as_conversations([talk("a")]), TEMPLATES["standard"])
    with always(completion(says)) as server:
        replier = EndpointReplier(Endpoint(server.url, "big", retries=0), DRAWN)
        assert [one.text for one in complete(replier, prompts, tmp_path).values()] == [says]


@pytest.mark.parametrize(
    ("chat", "thoughts", "says", "text"),
    [
        (QWEN_3, None, "<think>Hm.</think> I hear you.", "I hear you."),
        (CHATML, None, "<think>Hm.</think> I hear you.", "<think>Hm.</think> I hear you."),
        (CHATML, ("<think>", "</think>"), "<think>Hm.</think> I hear you.", "I hear you."),
        (QWEN_3, None, "<think>I should say", ""),  # cut by the limit of tokens
        # Tags that are control tokens are no text, and are read all the same.
        (CHATML, ("<turn>", "<end_turn>"), "<turn>Hm.<end_turn> I hear you.</s>", "I hear you."),
    ],
)
def test_the_thought_of_a_model_is_taken_off_by_template_or_argument(
    tiny: Any, chat: str, thoughts: Any, says: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = byte_level_bpe(chat)
    new = Generated(tokenizer(says, add_special_tokens=False)["input_ids"], True)
    monkeypatch.setattr(LocalModel, "reply", lambda self, items, encoded, groups: [new])
    replier = LocalReplier(tiny, tokenizer, DRAWN, thoughts=thoughts)
    prompts = generation_prompts(as_conversations([talk("a")]), TEMPLATES["standard"])
    assert [reply.text for reply in replier.reply(prompts)] == [text]


def test_an_endpoint_replies(tmp_path: Path) -> None:
    conversations = as_conversations([talk("a"), talk("b")])
    prompts = generation_prompts(conversations, TEMPLATES["standard"])
    with always(completion("assistant: Take heart.", "length")) as server:
        endpoint = Endpoint(server.url, "big", retries=0)
        replies = complete(EndpointReplier(endpoint, DRAWN, batch=2), prompts, tmp_path)
        asked = [request.body for request in server.requests]
    assert [(r.text, r.tokens, r.finished) for r in replies.values()] == [
        ("Take heart.", 3, False)
    ] * 2
    assert {body["messages"][-1]["content"] for body in asked} == {"I feel low, day 2."}
    assert len({body["seed"] for body in asked}) == 2
    assert all(body["max_tokens"] == 12 and body["top_p"] == 0.95 for body in asked)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (failure(500), "failed"),
        (failure(429), "too many requests"),
        (failure(400), "refused the request"),
        (HANG, "did not answer within 0.3 s"),
        (Response('{"choices": [{"message": {"content": null}}]}'), "no 'content'"),
    ],
    ids=["500", "429", "400", "time-out", "malformed"],
)
def test_a_prompt_without_a_reply_leaves_the_others_theirs(
    tmp_path: Path, fault: Response, says: str
) -> None:
    prompts = generation_prompts(
        as_conversations([talk(name) for name in "abcd"]), TEMPLATES["standard"]
    )

    def answer(request: Request, number: int) -> Response:
        return fault if "grows slowly, b" in str(request.body["messages"]) else completion("Yes.")

    with FakeEndpoint(answer) as server:
        endpoint = Endpoint(server.url, "big", retries=0, timeout=0.3)
        with pytest.raises(MissingRepliesError, match=f"1 of 4 prompts .* 1 × .*{says}") as caught:
            complete(EndpointReplier(endpoint, DRAWN, batch=2), prompts, tmp_path)
        assert list(caught.value.replies) == ["a", "c", "d"]
        assert not caught.value.given_up
        assert len(server.requests) == 4
        server.answer = lambda request, number: completion("At last.")
        replies = complete(EndpointReplier(endpoint, DRAWN, batch=2), prompts, tmp_path)
    assert {item: reply.text for item, reply in replies.items()} == {
        "a": "Yes.",
        "b": "At last.",
        "c": "Yes.",
        "d": "Yes.",
    }
    assert len(server.requests) == 5


@pytest.mark.parametrize(("status", "asked"), [(500, FAILURES_IN_A_ROW), (401, 1)])
def test_an_endpoint_that_only_fails_is_given_up(tmp_path: Path, status: int, asked: int) -> None:
    conversations = as_conversations([talk(str(number)) for number in range(40)])
    prompts = generation_prompts(conversations, TEMPLATES["standard"])
    with always(failure(status)) as server:
        endpoint = Endpoint(server.url, "big", retries=0, concurrency=1)
        # One more may be under way when the last comes back.
        failed = f"40 of 40 .* ({asked}|{asked + 1}) × "
        with pytest.raises(MissingRepliesError, match=failed) as caught:
            complete(EndpointReplier(endpoint, DRAWN, batch=5), prompts, tmp_path)
    assert caught.value.given_up
    assert len(server.requests) <= asked + 1
    assert not list(tmp_path.glob("*.jsonl"))


FILTERED = Response(
    '{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}'
)


@pytest.mark.parametrize("refusal", [failure(400, "filtered"), FILTERED], ids=["400", "empty"])
def test_prompts_that_are_refused_do_not_keep_an_endpoint_from_the_others(
    tmp_path: Path, refusal: Response
) -> None:
    conversations = as_conversations([talk(str(number)) for number in range(40)])
    prompts = generation_prompts(conversations, TEMPLATES["standard"])
    refused = FAILURES_IN_A_ROW + 5

    def answer(request: Request, number: int) -> Response:
        return refusal if number < refused else completion("Yes.")

    with FakeEndpoint(answer) as server:
        endpoint = Endpoint(server.url, "big", retries=0, concurrency=1)
        with pytest.raises(MissingRepliesError, match=f"{refused} of 40 prompts") as caught:
            complete(EndpointReplier(endpoint, DRAWN, batch=5), prompts, tmp_path)
    assert not caught.value.given_up
    assert len(caught.value.replies) == 40 - refused
    assert len(server.requests) == 40


def test_nan_is_an_error_and_no_reply(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    broken = AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=False)
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    prompts = generation_prompts(as_conversations([talk("a")]), TEMPLATES["standard"])
    with pytest.raises(GenerationError, match="logits are NaN"):
        complete(LocalReplier(broken, byte_level_bpe(), DRAWN), prompts, tmp_path / "replies")
    assert not list(tmp_path.glob("replies/*.jsonl"))


@pytest.mark.parametrize(
    "content",
    [
        b'{"item": "0", "text": null, "raw": "", "tokens": 1, "finished": true}\n',
        b'{"item": "9", "text": "x", "raw": "x", "tokens": 1, "finished": true}\n',
        b'{"item": "0", "text": "x"}\n',
        b"[]\n",
        b"\xff\n",
        b"5\n",
    ],
)
def test_a_damaged_file_of_replies_is_asked_again(tmp_path: Path, content: bytes) -> None:
    conversations = as_conversations([talk(str(number)) for number in range(2)])
    prompts = generation_prompts(conversations, TEMPLATES["standard"])
    (tmp_path / "00000.jsonl").write_bytes(content)
    again = Counting()
    assert [one.text for one in complete(again, prompts, tmp_path).values()] == ["0", "1"]
    assert again.asked == ["0", "1"]

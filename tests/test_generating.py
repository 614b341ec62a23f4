"""Test that the attention that is recorded of `generate` is that of its own steps."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    StaticCache,
    StoppingCriteria,
    TextIteratorStreamer,
)
from transformers.generation.streamers import BaseStreamer

import sra_fast
from biased_masks import biased_masks
from image_models import IMAGE_FAMILIES, WIDTH, ImageFamily, image_batch
from marked_batches import marked_batch
from model_families import FAMILIES, HYBRIDS
from sra_fast.measure.continuous_batching import ENTRY_POINTS
from sra_fast.measure.generation_modes import UnservedGenerationError
from sra_fast.measure.recorded_generation import UnfinishedGenerationError
from tiny_chat_model import save_tiny_model

LLAMA = next(family for family in FAMILIES if family.name == "llama")
GPT_OSS = next(family for family in FAMILIES if family.name == "gpt_oss")
T, NEW = 40, 5
GREEDY: dict[str, Any] = dict(max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)


def prompts(lengths: tuple[int, ...] = (40, 29, 33)) -> dict[str, Any]:
    batch = marked_batch(lengths, "left")
    del batch["response_mask"]
    return batch


def inputs(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def scored(model: Any, batch: dict[str, Any], replies: Any, **options: Any) -> Any:
    """Return `score` of the ids that were generated, one response per sequence."""
    copies = len(replies.sequences) // len(batch["input_ids"])
    more = replies.sequences.shape[1] - batch["input_ids"].shape[1]
    whole = {
        name: torch.nn.functional.pad(batch[name], (0, more)).repeat_interleave(copies, dim=0)
        for name in ("attention_mask", "strategy_mask")
    }
    at = torch.arange(replies.sequences.shape[1]) - batch["input_ids"].shape[1]
    replied = [n - int(end) for n, end in zip(replies.new_tokens, replies.ended, strict=True)]
    whole["response_mask"] = (at >= 0) & (at < torch.tensor(replied)[:, None])
    whole["attention_mask"] = whole["attention_mask"] | whole["response_mask"].long()
    return sra_fast.score(
        model, {"input_ids": replies.sequences, **whole}, keep_rows=True, **options
    )


def assert_same(found: Any, wanted: Any) -> None:
    assert len(found) == len(wanted)
    for i in range(len(wanted)):
        torch.testing.assert_close(found.rows(i), wanted.rows(i), atol=1e-5, rtol=0)
    for name, scores in wanted.scores.items():
        torch.testing.assert_close(found.scores[name], scores, atol=1e-6, rtol=1e-4)
    assert torch.equal(found.response_tokens, wanted.response_tokens)


@pytest.mark.parametrize("family", [LLAMA, GPT_OSS], ids=str)
def test_replies_have_the_scores_of_score_and_the_tokens_of_generate(family: Any) -> None:
    model, batch = family.build(), prompts()
    attends_by = model.config._attn_implementation
    plain = model.generate(**inputs(batch), **GREEDY)
    replies = sra_fast.generate(model, batch, keep_rows=True, **GREEDY)
    assert torch.equal(replies.sequences, plain)
    assert_same(replies.scored, scored(model, batch, replies))
    assert replies.result.checked == "passed"
    for row, masses in enumerate(replies.masses):
        rows = replies.scored.rows(row).transpose(0, 1)
        assert torch.equal(masses, rows[:NEW])  # the row of the last token predicted none
    assert model.config._attn_implementation == attends_by
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert "generate" not in vars(model)
    assert "generate_batch" not in vars(model)


def test_sampled_copies_of_prompts_are_each_their_own_reply() -> None:
    model, batch = LLAMA.build(), prompts((40, 29))
    torch.manual_seed(3)
    replies = sra_fast.generate(
        model,
        batch,
        keep_rows=True,
        do_sample=True,
        temperature=1.5,
        max_new_tokens=NEW,
        num_return_sequences=3,
    )
    assert len({tuple(one.tolist()) for one in replies.sequences[:3]}) > 1
    assert_same(replies.scored, scored(model, batch, replies))
    assert replies.scored.conversation.tolist() == [0, 0, 0, 1, 1, 1]


class EndsAt(BaseStreamer, StoppingCriteria):  # type: ignore[misc]
    """Ends each sequence after a number of new tokens of its own, and hears what is streamed."""

    def __init__(self, *lengths: int) -> None:
        self.lengths = torch.tensor(lengths)
        self.heard: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return self.lengths <= input_ids.shape[1] - T

    def put(self, value: Tensor) -> None:
        self.heard.append(value)

    def end(self) -> None:
        self.heard.append(torch.tensor([]))


@pytest.mark.parametrize("ends", [True, False])
def test_rows_after_the_end_of_a_sequence_are_dropped(ends: bool) -> None:
    model, batch = LLAMA.build(), prompts()
    if not ends:
        model.generation_config.eos_token_id = None
    replies = sra_fast.generate(
        model,
        batch,
        keep_rows=True,
        stopping_criteria=[EndsAt(2, 4, 3)],
        streamer=(heard := EndsAt()),
        **{**GREEDY, "min_new_tokens": None},
    )
    assert replies.new_tokens == (2, 4, 3)
    assert replies.ended == (False, False, False)
    assert [len(one) for one in replies.masses] == [2, 4, 3]
    assert len(heard.heard) == 1 + 4 + 1
    assert_same(replies.scored, scored(model, batch, replies))


def test_an_end_marker_is_no_part_of_a_reply_and_needs_no_further_pass() -> None:
    model, batch = LLAMA.build(), prompts((40,))
    plain = model.generate(**inputs(batch), **GREEDY)
    marker = int(plain[0, T + 3])
    first = plain[0, T:].tolist().index(marker)
    passes: list[Any] = []
    hook = model.register_forward_hook(lambda *_: passes.append(0))
    replies = sra_fast.generate(
        model, batch, check=False, keep_rows=True, max_new_tokens=9, eos_token_id=marker
    )
    hook.remove()
    assert replies.ended == (True,)
    assert replies.new_tokens == (first + 1,)
    assert len(passes) == first + 1
    assert_same(replies.scored, scored(model, batch, replies))


def test_end_markers_can_be_switched_off() -> None:
    model, batch = LLAMA.build(), prompts((40,))
    marker = int(model.generate(**inputs(batch), **GREEDY)[0, T + 1])
    model.generation_config.eos_token_id = marker
    asked: dict[str, Any] = dict(max_new_tokens=NEW, do_sample=False)
    for switched_off in ({}, {"eos_token_id": None}):
        plain = model.generate(**inputs(batch), **asked, **switched_off)
        replies = sra_fast.generate(model, batch, check=False, **asked, **switched_off)
        assert torch.equal(replies.sequences, plain)
        assert replies.ended == (not switched_off,)


def test_stop_strings_end_each_reply_without_an_end_marker(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer(text, return_tensors="pt").input_ids for text in ("one and two", "hello")]
    asked: dict[str, Any] = dict(max_new_tokens=6, do_sample=False, pad_token_id=0)
    asked |= {"stop_strings": ["R", "4"], "tokenizer": tokenizer}
    alone = [model.generate(ids, **asked).shape[1] - ids.shape[1] for ids in texts]
    assert alone[0] < alone[1] < 6
    width = max(ids.shape[1] for ids in texts)

    def padded(rows: list[Tensor]) -> Tensor:
        return torch.cat([torch.nn.functional.pad(row, (width - row.shape[1], 0)) for row in rows])

    mask = padded([torch.ones_like(ids) for ids in texts])
    batch = {"input_ids": padded(texts), "attention_mask": mask, "strategy_mask": mask.bool()}
    replies = sra_fast.generate(model, batch, check=False, **asked)
    assert list(replies.new_tokens) == alone
    assert replies.ended == (False, False)
    assert replies.scored.response_tokens.tolist() == alone


def test_a_reply_of_an_end_marker_alone_has_no_score() -> None:
    model, batch = LLAMA.build(), prompts((40, 29))
    plain = model.generate(**inputs(batch), **GREEDY)
    marker = int(plain[0, T])
    replies = sra_fast.generate(model, batch, max_new_tokens=3, eos_token_id=marker)
    assert replies.new_tokens[0] == 1
    assert replies.ended[0]
    assert 0 not in replies.rows
    alone = sra_fast.generate(
        model, prompts((40,)), max_new_tokens=3, eos_token_id=marker, do_sample=False
    )
    assert alone.result is None
    with pytest.raises(ValueError, match="every reply is empty"):
        _ = alone.scored


@pytest.mark.parametrize("tokens", ["all", "behind"])
def test_a_prefix_cache_of_ones_own_goes_on_and_stays_usable(tokens: str) -> None:
    model, batch, known = LLAMA.build(), prompts((40,)), 25
    plain = sra_fast.generate(model, batch, keep_rows=True, **GREEDY)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(batch["input_ids"][:, :known], past_key_values=cache)
    given = inputs(batch)
    if tokens == "behind":
        given["input_ids"] = given["input_ids"][:, known:]
    with sra_fast.monitor(model, batch, keep_rows=True) as watch:
        model.generate(**given, past_key_values=cache, **GREEDY)
    torch.testing.assert_close(watch.results[0].rows(0), plain.scored.rows(0), atol=1e-5, rtol=0)
    assert cache.get_seq_length() == T + NEW - 1  # as after a call that nobody recorded


def test_on_token_gets_each_new_token_with_its_masses() -> None:
    model, batch = LLAMA.build(), prompts()
    told: list[tuple[int, Tensor, Tensor]] = []
    replies = sra_fast.generate(model, batch, on_token=lambda *given: told.append(given), **GREEDY)
    assert [step for step, _, _ in told] == list(range(NEW))
    assert torch.equal(torch.stack([ids for _, ids, _ in told], 1), replies.sequences[:, T:])
    for row in range(3):
        of_row = torch.stack([masses[row] for _, _, masses in told])
        assert torch.equal(of_row, replies.masses[row])


def test_on_token_may_call_the_model_and_score() -> None:
    model, batch = LLAMA.build(), prompts()
    marked = marked_batch((40, 29))
    wanted = sra_fast.score(model, marked)
    plain = sra_fast.generate(model, batch, **GREEDY)

    def measure(step: int, ids: Tensor, masses: Tensor) -> None:
        assert torch.equal(sra_fast.score(model, marked).sra, wanted.sra)
        model(ids[:, None])

    found = sra_fast.generate(model, batch, on_token=measure, **GREEDY)
    assert torch.equal(found.sequences, plain.sequences)
    assert torch.equal(found.scored.sra, plain.scored.sra)


@pytest.mark.parametrize("family", [LLAMA, GPT_OSS, *HYBRIDS[:1]], ids=str)
def test_a_reply_of_one_token_has_its_own_row_too(family: Any) -> None:
    model, batch = family.build(), prompts()
    replies = sra_fast.generate(model, batch, keep_rows=True, max_new_tokens=1, min_new_tokens=1)
    assert replies.new_tokens == (1, 1, 1)
    assert_same(replies.scored, scored(model, batch, replies))


def test_profiles_of_steps_and_replies_are_those_of_score() -> None:
    model, batch = GPT_OSS.build(), prompts()
    batch["source_ids"] = batch["attention_mask"].int()
    for kind in ("mean", "layers", "heads"):
        replies = sra_fast.generate(model, batch, profile=kind, keep_rows=True, **GREEDY)
        of_mean = scored(model, batch, replies, profile=kind)
        for row, length in enumerate((40, 29, 33)):
            found = replies.scored.profile(row)
            torch.testing.assert_close(found, of_mean.profile(row), atol=1e-5, rtol=0)
            assert torch.equal(replies.scored.token_ids(row), of_mean.token_ids(row))
            steps = replies.profiles[row]
            assert [one.shape[-1] for one in steps] == [length + step for step in range(NEW)]
            on_span = steps[2][..., 3:7].sum(-1)
            by_head = replies.masses[row][2, ..., 0]
            wanted = {"mean": by_head.mean(), "layers": by_head.mean(-1), "heads": by_head}[kind]
            torch.testing.assert_close(on_span, wanted, atol=1e-6, rtol=0)
        prompt = replies.scored.source_masses(1)[..., 0]
        own = of_mean.profile(1)[..., :29].sum(-1)
        torch.testing.assert_close(prompt, own, atol=1e-5, rtol=0)


def test_earlier_replies_count_among_the_turns() -> None:
    model, batch = LLAMA.build(), marked_batch((40, 29), "left")
    replies = sra_fast.generate(model, batch, **GREEDY)
    assert replies.scored.turn.tolist() == [3, 3]


def test_a_monitor_records_each_call_and_forward_passes_with_masks() -> None:
    model, batch = LLAMA.build(), prompts()
    marked = marked_batch((40, 29))
    with sra_fast.monitor(model, batch) as watch:
        first = model.generate(**inputs(batch), **GREEDY)
        model(**marked)
        model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **GREEDY)
    assert [len(one) for one in watch.results] == [3, 4, 3]
    assert torch.equal(watch.generated[0].sequences, first)
    wanted = sra_fast.generate(model, batch, **GREEDY)
    for result in (watch.results[0], watch.results[2]):
        torch.testing.assert_close(result.sra, wanted.scored.sra)
    assert torch.equal(model.generate(**inputs(batch), **GREEDY), first)


def test_half_precision_generates_what_it_generates_unrecorded() -> None:
    model, batch = LLAMA.build().to(torch.bfloat16), prompts()
    with sra_fast.monitor(model, batch) as watch:
        model.generate(**inputs(batch), **GREEDY)
    model.set_attn_implementation("sra_fast")
    assert torch.equal(watch.generated[0].sequences, model.generate(**inputs(batch), **GREEDY))
    assert watch.generated[0].masses[0].dtype == torch.float32


def test_under_autocast_masses_stay_in_float32() -> None:
    model, batch = LLAMA.build(), prompts()
    with (
        torch.autocast("cpu", torch.bfloat16),
        sra_fast.steer(model, batch, share=0.5),
        sra_fast.monitor(model, batch) as watch,
    ):
        model.generate(**inputs(batch), **GREEDY)
    for masses in watch.generated[0].masses:
        assert masses.dtype == torch.float32
        assert float(masses[..., 0].min()) >= 0.5 - 1e-5


@pytest.mark.parametrize("family", IMAGE_FAMILIES, ids=str)
def test_replies_to_images_have_the_masses_of_the_models_own_maps(family: ImageFamily) -> None:
    batch = image_batch(family, (WIDTH - 4, WIDTH), "left")
    span = batch["span_masks"]["image"].repeat_interleave(2, dim=0)
    del batch["response_mask"]
    arguments = {**GREEDY, "num_return_sequences": 2, "do_sample": True, "top_k": 1}
    replies = sra_fast.generate(family.build(), batch, keep_rows=True, **arguments)
    own = family.build()
    own.set_attn_implementation("eager")
    out = own.generate(
        **{name: each for name, each in batch.items() if name != "span_masks"},
        output_attentions=True,
        return_dict_in_generate=True,
        **arguments,
    )
    assert torch.equal(replies.sequences, out.sequences)
    for step, layers in enumerate(out.attentions):
        maps = torch.stack([one[:, :, -1, :WIDTH] for one in layers], dim=1)  # [S, L, H, T]
        wanted = (maps * span[:, None, None]).sum(-1)
        found = torch.stack([masses[step, :, :, 0] for masses in replies.masses])
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    # The row of the last token, which `generate` does not feed, is that of one token more.
    more = {**arguments, "max_new_tokens": NEW + 1, "min_new_tokens": NEW + 1}
    longer = sra_fast.generate(family.build(), batch, **more)
    last = torch.stack([replies.scored.rows(row)[:, -1] for row in range(4)])
    wanted = torch.stack([masses[NEW] for masses in longer.masses])
    torch.testing.assert_close(last, wanted, atol=1e-6, rtol=0)


def test_wrapped_models_generate_as_they_are() -> None:
    from peft import LoraConfig, get_peft_model

    batch, lora = prompts(), LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    adapted: Any = get_peft_model(LLAMA.build(), lora).eval()
    compiled: Any = torch.compile(LLAMA.build(), backend="eager")
    for model in (adapted, compiled):
        replies = sra_fast.generate(model, batch, keep_rows=True, **GREEDY)
        assert torch.equal(replies.sequences, model.generate(**inputs(batch), **GREEDY))
        assert_same(replies.scored, scored(model, batch, replies))


def test_an_output_object_and_its_cache_are_the_users() -> None:
    model, batch = LLAMA.build(), prompts()
    replies = sra_fast.generate(model, batch, return_dict_in_generate=True, **GREEDY)
    assert replies.output.sequences is replies.sequences
    assert replies.output.past_key_values.get_seq_length() == T + NEW - 1


# --- what is refused, by name ---

REFUSED: dict[str, dict[str, Any]] = {
    "num_beams": {"num_beams": 2},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 2},
    "guidance_scale": {"guidance_scale": 1.5},
    "use_cache": {"use_cache": False},
    "prefill_chunk_size": {"prefill_chunk_size": 8},
    "cache_implementation": {"cache_implementation": "static"},
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "custom_generate": {"custom_generate": lambda *_: None},
    "output_attentions": {"output_attentions": True},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_recorded_is_refused_by_name(name: str) -> None:
    model = LLAMA.build()
    with pytest.raises(UnservedGenerationError, match=f"^{name}"):
        sra_fast.generate(model, prompts(), check=False, max_new_tokens=3, **REFUSED[name])
    assert "generate" not in vars(model)
    assert model.config._attn_implementation == "sdpa"


def test_settings_of_configs_are_refused_too() -> None:
    model, batch = LLAMA.build(), prompts()
    with pytest.raises(UnservedGenerationError, match=r"^num_beams=3"):
        sra_fast.generate(model, batch, generation_config=GenerationConfig(num_beams=3))
    model.generation_config.prefill_chunk_size = 4
    with pytest.raises(UnservedGenerationError, match=r"^prefill_chunk_size=4"):
        sra_fast.generate(model, batch, max_new_tokens=2)


def test_an_assistant_and_a_static_cache_are_refused() -> None:
    model, batch = LLAMA.build(), prompts()
    with pytest.raises(UnservedGenerationError, match=r"^assistant_model"):
        sra_fast.generate(model, batch, assistant_model=LLAMA.build())
    static = StaticCache(config=model.config, max_cache_len=64)
    with pytest.raises(UnservedGenerationError, match=r"^past_key_values='StaticCache'"):
        sra_fast.generate(model, batch, past_key_values=static)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_continuous_batching_is_refused_by_name(name: str) -> None:
    model, batch = LLAMA.build(), prompts()
    with (
        pytest.raises(UnservedGenerationError, match=f"^{name}: .*is not recorded"),
        sra_fast.monitor(model, batch),
    ):
        getattr(model, name)(inputs=[[1, 2, 3]])
    assert name not in vars(model)


# --- bad input ---


def failed(model: Any, match: str, batch: dict[str, Any], **arguments: Any) -> None:
    with pytest.raises(ValueError, match=match):
        sra_fast.generate(model, batch, check=False, **{**GREEDY, **arguments})
    assert model.config._attn_implementation == "sdpa"
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not model.model._forward_hooks
    assert not model.model._forward_pre_hooks
    assert "generate" not in vars(model)


def test_a_span_that_is_not_in_a_prompt_is_refused() -> None:
    batch = prompts()
    batch["strategy_mask"][1] = False
    failed(LLAMA.build(), "row 1: no token is marked as 'strategy'", batch)


def test_prompts_padded_on_the_right_are_refused() -> None:
    batch = marked_batch((40, 29), "right")
    failed(LLAMA.build(), "row 1: the prompt is padded on the right", batch)


@pytest.mark.parametrize("lost", ["first", "other"])
def test_a_cache_without_the_span_is_refused(lost: str) -> None:
    model, batch = LLAMA.build(), prompts((40,))
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(batch["input_ids"][:, :30], past_key_values=cache)
    for layer in cache.layers:  # as an eviction method leaves them
        kept = slice(10, None) if lost == "first" else slice(0, 25)
        layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]
    with (
        pytest.raises(ValueError, match=r"a cache was cut.*span 'strategy', tokens 3 to 6"),
        sra_fast.monitor(model, batch),
    ):
        model.generate(
            input_ids=batch["input_ids"][:, 30:],
            attention_mask=batch["attention_mask"],
            past_key_values=cache,
            **GREEDY,
        )


def test_other_tokens_and_other_masks_than_the_batchs_are_refused() -> None:
    model, batch = LLAMA.build(), prompts()
    with pytest.raises(ValueError, match="other tokens"), sra_fast.monitor(model, batch):
        model.generate(input_ids=batch["input_ids"][:2], **GREEDY)
    every = torch.ones_like(batch["attention_mask"])
    seen = "the attention mask lets layer 0 see tokens from"
    with pytest.raises(ValueError, match=seen), sra_fast.monitor(model, batch):
        model.generate(input_ids=batch["input_ids"], attention_mask=every, **GREEDY)
    with pytest.raises(ValueError, match="input_ids: the batch says"):
        sra_fast.generate(model, batch, input_ids=batch["input_ids"])


def test_profiles_beyond_their_memory_are_refused_before_anything_runs() -> None:
    failed(LLAMA.build(), r"profile='heads'.*takes", prompts(), profile="heads", profile_bytes=9)


def test_sources_without_a_profile_and_callbacks_without_a_batch_are_refused() -> None:
    model, batch = LLAMA.build(), prompts()
    batch["source_ids"] = batch["attention_mask"].int()
    failed(model, 'give profile="mean"', batch)
    with pytest.raises(ValueError, match="on_token"):
        sra_fast.monitor(model, on_token=lambda *_: None).__enter__()


def test_one_generation_is_recorded_at_a_time() -> None:
    model, batch = LLAMA.build(), prompts()

    def again(step: int, ids: Tensor, masses: Tensor) -> None:
        model.generate(**inputs(batch), **GREEDY)

    with pytest.raises(ValueError, match=r"running already.*call it when that has ended"):
        sra_fast.generate(model, batch, check=False, on_token=again, **GREEDY)


def test_a_model_is_recorded_once_at_a_time() -> None:
    model, batch = LLAMA.build(), prompts()
    with (
        sra_fast.monitor(model, batch),
        pytest.raises(ValueError, match="recorded already; leave that recording first"),
        sra_fast.monitor(model, batch),
    ):
        pass
    plain = model.generate  # a method of somebody else's own is no recording
    model.generate = lambda *given, **named: plain(*given, **named)
    with sra_fast.monitor(model, batch) as watch:
        model.generate(**inputs(batch), **GREEDY)
    assert len(watch.results) == 1


def test_what_on_token_raises_ends_the_call_and_the_model_is_as_it_was() -> None:
    model, batch = LLAMA.build(), prompts()
    plain = model.generate(**inputs(batch), **GREEDY)

    def refuse(step: int, ids: Tensor, masses: Tensor) -> None:
        if step == 2:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        sra_fast.generate(model, batch, on_token=refuse, **GREEDY)
    assert not model._forward_hooks
    assert not model.model._forward_hooks
    assert torch.equal(model.generate(**inputs(batch), **GREEDY), plain)


def test_leaving_the_block_in_the_middle_of_a_stream_is_an_error_in_both_threads() -> None:
    model, batch = LLAMA.build(), prompts((40,))
    plain = model.generate(**inputs(batch), **GREEDY)
    streamer = TextIteratorStreamer(Plain(), timeout=60)  # type: ignore[no-untyped-call]
    errors: list[BaseException] = []

    def stream() -> None:
        try:
            model.generate(
                **inputs(batch), streamer=streamer, max_new_tokens=4000, min_new_tokens=4000
            )
        except UnfinishedGenerationError as error:
            errors.append(error)

    thread = threading.Thread(target=stream)

    def leave_early() -> None:
        with sra_fast.monitor(model, batch):
            thread.start()
            next(streamer)
            next(streamer)

    with pytest.raises(UnfinishedGenerationError, match="wait for the thread"):
        leave_early()
    assert model.config._attn_implementation == "sdpa"
    assert "generate" not in vars(model)
    assert not model.model._forward_hooks
    assert not model._forward_hooks
    thread.join(60)
    assert len(errors) == 1
    assert torch.equal(model.generate(**inputs(batch), **GREEDY), plain)


class Plain:
    """A tokenizer that writes each id as a word."""

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(f"{one} " for one in ids) + "\n"


STRENGTHS: list[dict[str, Any]] = [{"bias": 3.0}, {"bias": -2.0, "heads": [1]}, {"knock_out": True}]


@pytest.mark.parametrize("strength", STRENGTHS, ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_what_is_recorded_of_a_steered_model_is_its_steered_attention(
    name: str, strength: dict[str, Any]
) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    batch, span = prompts((30, 22)), prompts((30, 22))["strategy_mask"]
    model, eager = family.build(), family.build()
    with sra_fast.steer(model, batch, **strength):
        replies = sra_fast.generate(model, batch, **GREEDY)
    heads = tuple(strength["heads"]) if "heads" in strength else None
    with biased_masks(eager, span, strength.get("bias", -torch.inf), heads=heads):
        own = eager.generate(
            **inputs(batch), **GREEDY, output_attentions=True, return_dict_in_generate=True
        )
    assert torch.equal(replies.sequences, own.sequences)
    for row, masses in enumerate(replies.masses):
        for mass, layers in zip(masses, own.attentions, strict=True):
            for layer, maps in enumerate(layers):
                seen = maps[row, :, -1]
                if seen.shape[1] >= 30:  # else the cache of a window has forgotten the span
                    wanted = seen[:, :30][:, span[row]].sum(-1)
                    torch.testing.assert_close(mass[layer, :, 0], wanted, atol=1e-5, rtol=0)
                else:
                    assert not bool(mass[layer, :, 0].any())


def test_a_share_is_what_is_recorded() -> None:
    batch, model = prompts((30, 22)), LLAMA.build()
    with sra_fast.steer(model, batch, share=0.4, exact=True, layers=[1]):
        replies = sra_fast.generate(model, batch, profile="layers", **GREEDY)
    for masses in replies.masses:
        recorded = masses[:, 1, :, 0]
        torch.testing.assert_close(recorded, torch.full_like(recorded, 0.4), atol=1e-5, rtol=0)
        assert not bool(((masses[:, 0, :, 0] - 0.4).abs() < 1e-5).any())

"""Test that `sra_fast.steer` steers a model's own calls as a bias in its eager mask would."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import sra_fast
from biased_masks import assert_same_replies, biased_masks
from image_models import IMAGE_FAMILIES, WIDTH, ImageFamily, image_batch
from marked_batches import marked_batch
from model_families import FAMILIES, Family, random_tokens
from sra_fast.kernels.steering import SteeredGradientError
from sra_fast.measure import compat
from sra_fast.measure.continuous_batching import ENTRY_POINTS
from sra_fast.measure.generation_modes import UnservedGenerationError
from sra_fast.measure.layer_steering import CallSteering
from sra_fast.measure.reduction import UnansweredRequestError
from sra_fast.measure.served import serve
from sra_fast.measure.strengths.given_bias import GivenBias
from sra_fast.tools.sra_warning import SRAWarning

BY_NAME = {family.name: family for family in FAMILIES}
LLAMA = BY_NAME["llama"]
NEW_TOKENS = 7
GREEDY: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
GREEDY |= {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}


def prompts(*lengths: int) -> dict[str, Any]:
    """Return left-padded prompts with a span each at positions 3 to 6, and no reply."""
    batch = marked_batch(lengths, "left")
    del batch["response_mask"]
    return batch


def inputs(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("bias", [-math.inf, -2.0, 3.0])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt_oss"])
def test_greedy_replies_are_those_of_eager_with_the_bias_in_its_mask(
    name: str, bias: float
) -> None:
    batch = prompts(30, 22)
    strength = {"knock_out": True} if bias == -math.inf else {"bias": bias}
    model = BY_NAME[name].build()
    with sra_fast.steer(model, batch, **strength):
        found = model.generate(**inputs(batch), **GREEDY)
    eager = BY_NAME[name].build()
    plain = eager.generate(**inputs(batch), **GREEDY)
    with biased_masks(eager, batch["strategy_mask"], bias):
        wanted = eager.generate(**inputs(batch), **GREEDY)
    assert_same_replies(found, wanted)
    assert not torch.allclose(plain.logits[0], wanted.logits[0], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_forward_pass_is_that_of_eager_with_the_bias_in_its_mask(family: Family) -> None:
    batch = prompts(40, 29)
    model = family.build()
    with sra_fast.steer(model, batch, bias=2.5), torch.no_grad():
        found = model(**inputs(batch)).logits
    eager = family.build()
    with biased_masks(eager, batch["strategy_mask"], 2.5), torch.no_grad():
        wanted = eager(**inputs(batch)).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("chosen", "where"),
    [
        ({"layers": [1]}, {"layers": (1,)}),
        ({"heads": [0, 3]}, {"heads": (0, 3)}),
        ({"heads": {2: [1]}}, {"layers": (2,), "heads": (1,)}),
        ({"rows": "generated"}, {"first_row": 29}),
    ],
    ids=str,
)
def test_chosen_layers_heads_and_rows_alone_are_steered(
    chosen: dict[str, Any], where: dict[str, Any]
) -> None:
    batch, model, eager = prompts(30, 22), LLAMA.build(), LLAMA.build()
    with sra_fast.steer(model, batch, bias=3.0, **chosen):
        found = model.generate(**inputs(batch), **GREEDY)
    with biased_masks(eager, batch["strategy_mask"], 3.0, **where):
        assert_same_replies(found, eager.generate(**inputs(batch), **GREEDY))


def test_repeated_rows_keep_the_span_of_their_prompt() -> None:
    batch, model = prompts(30, 22), LLAMA.build()
    several = {**GREEDY, "num_beams": 1, "do_sample": True, "top_k": 1, "num_return_sequences": 3}
    with sra_fast.steer(model, batch, bias=3.0):
        once = model.generate(**inputs(batch), **GREEDY)
        found = model.generate(**inputs(batch), **several)
    assert torch.equal(found.sequences, once.sequences.repeat_interleave(3, dim=0))


def test_a_prompt_may_come_in_pieces_with_the_users_own_cache() -> None:
    batch, model = marked_batch((40,)), LLAMA.build()
    ids = batch["input_ids"]
    with sra_fast.steer(model, batch, bias=3.0), torch.no_grad():
        whole = model(ids).logits
        cache, found = None, []
        for piece in ids.split([2, 3, 20, 14, 1], dim=1):  # the span is cut
            out = model(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_what_is_measured_inside_is_the_attention_after_steering(name: str, exact: bool) -> None:
    batch, model = marked_batch((40, 29), "left"), BY_NAME[name].build()

    def rows(**strength: Any) -> Tensor:
        with torch.no_grad(), sra_fast.monitor(model, keep_rows=True) as watch:
            if not strength:
                model(**batch)
            else:
                with sra_fast.steer(model, batch, **strength):
                    model(**batch)
        return torch.cat([watch.results[0].rows(i)[..., 0].flatten() for i in range(4)])

    steered = rows(share=0.3, exact=exact)
    plain = rows()
    reached = steered[steered > 0]  # under a window some rows see no key of the span
    assert bool((plain < 0.25).any())
    assert bool((reached >= 0.3 - 1e-5).all())
    if exact:
        torch.testing.assert_close(reached, torch.full_like(reached, 0.3), rtol=0, atol=1e-5)
    assert not bool(rows(knock_out=True).any())


def test_what_is_measured_may_be_another_span_than_what_is_steered() -> None:
    batch, model = marked_batch((40,)), LLAMA.build()
    other = torch.zeros_like(batch["strategy_mask"])
    other[:, 10:14] = True
    both = {**batch, "span_masks": {"strategy": batch.pop("strategy_mask"), "control": other}}
    del both["strategy_mask"]
    masses = {}
    for span in (None, "strategy", "control"):
        with torch.no_grad(), sra_fast.monitor(model, keep_rows=True) as watch:
            if span is None:
                model(**batch, strategy_mask=other)
            else:
                with sra_fast.steer(model, both, bias=3.0, span=span):
                    model(**batch, strategy_mask=other)
        masses[span] = watch.results[0].sra.mean().item()
    assert masses["strategy"] < masses[None] < masses["control"]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_model_is_as_it_was_after_the_block_and_after_an_error(implementation: str) -> None:
    batch, model = prompts(30), LLAMA.build()
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        before = model(**inputs(batch)).logits
    with sra_fast.steer(model, batch, bias=3.0), torch.no_grad():
        assert not torch.equal(model(**inputs(batch)).logits, before)
    with pytest.raises(ZeroDivisionError), sra_fast.steer(model, batch, bias=3.0):
        raise ZeroDivisionError
    with (
        pytest.raises(SteeredGradientError, match="no_grad"),
        sra_fast.steer(model, batch, bias=3.0),
    ):
        model(**inputs(batch))
    assert compat.attn_implementation(model.config) == implementation
    assert not compat.forward_pre_hooks(serve(model).decoder)
    with torch.no_grad():
        assert torch.equal(model(**inputs(batch)).logits, before)


def test_blocks_may_be_left_in_any_order() -> None:
    batch, model = prompts(30), LLAMA.build()
    with torch.no_grad():
        plain = model(**inputs(batch)).logits
        steering, recording = sra_fast.steer(model, batch, bias=3.0), sra_fast.monitor(model, batch)
        steering.__enter__()
        steered = model(**inputs(batch)).logits
        watch = recording.__enter__()
        steering.__exit__(None, None, None)
        model.generate(**inputs(batch), max_new_tokens=2)  # recorded still
        assert torch.equal(model(**inputs(batch)).logits, plain)
        steering = sra_fast.steer(model, batch, bias=3.0)
        steering.__enter__()
        recording.__exit__(None, None, None)
        assert torch.equal(model(**inputs(batch)).logits, steered)
        steering.__exit__(None, None, None)
        assert torch.equal(model(**inputs(batch)).logits, plain)
    assert len(watch.generated) == 1
    assert compat.attn_implementation(model.config) == "sdpa"
    assert not set(ENTRY_POINTS) & set(vars(model))


def test_rows_that_predict_a_marked_reply_are_the_generated_ones() -> None:
    batch, model, eager = marked_batch((40,)), LLAMA.build(), LLAMA.build()
    predicting = torch.zeros(1, 40, dtype=torch.bool)
    predicting[:, :-1] = batch["response_mask"][:, 1:] > 0
    predicting[:, -1] = True
    with torch.no_grad(), sra_fast.steer(model, batch, bias=3.0, rows="generated"):
        found = model(**inputs(batch)).logits
    masked = copy.deepcopy(eager)
    with torch.no_grad(), biased_masks(masked, batch["strategy_mask"], 3.0, rows=predicting):
        wanted = masked(**inputs(batch)).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_prefix_cache_of_the_users_is_refused_unless_only_new_tokens_are_steered() -> None:
    batch, model = prompts(30), LLAMA.build()
    with torch.no_grad():
        cache = model(batch["input_ids"][:, :20]).past_key_values
    given = {**inputs(batch), "past_key_values": cache}
    with (
        sra_fast.steer(model, batch, bias=3.0),
        pytest.raises(ValueError, match="steer: past_key_values: 20 tokens"),
    ):
        model.generate(**given, **GREEDY)
    with sra_fast.steer(model, batch, bias=3.0, rows="generated"):
        wanted = model.generate(**inputs(batch), **GREEDY)
        assert_same_replies(model.generate(**given, **GREEDY), wanted)


def test_other_tokens_than_the_batchs_are_refused() -> None:
    batch, model = prompts(30, 22), LLAMA.build()
    ids = batch["input_ids"].clone()
    ids[1, 12] += 1
    with sra_fast.steer(model, batch, bias=3.0), torch.no_grad():
        with pytest.raises(ValueError, match="row 1 of a call has another token at position 12"):
            model(ids, attention_mask=batch["attention_mask"])
        with pytest.raises(ValueError, match="the batch has 2 rows and a call has 3"):
            model(random_tokens(3, 30))
        with pytest.raises(ValueError, match="steer: attention_mask"):
            model.generate(**inputs(batch), **GREEDY, guidance_scale=2.0)


@pytest.mark.parametrize("family", IMAGE_FAMILIES, ids=str)
def test_other_tokens_are_refused_where_the_decoder_gets_embeddings(family: ImageFamily) -> None:
    batch = image_batch(family, (WIDTH - 4, WIDTH), "left")
    del batch["response_mask"]
    model = family.build()
    given = {name: each for name, each in batch.items() if name != "span_masks"}
    with sra_fast.steer(model, batch, bias=3.0), torch.no_grad():
        model(**given)
        given["input_ids"] = given["input_ids"].clone()
        given["input_ids"][1, -3] += 1
        with pytest.raises(ValueError, match="row 1 of a call has another token at position"):
            model(**given)
        with pytest.raises(ValueError, match="another token"):
            model.generate(**given, **GREEDY)


def test_embeddings_are_refused_unless_they_are_the_batchs() -> None:
    model, batch = LLAMA.build(), prompts(30)
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach()
    with torch.no_grad(), sra_fast.steer(model, batch, bias=3.0):
        wanted = model(**inputs(batch)).logits
        with pytest.raises(ValueError, match="steer: inputs_embeds: they cannot be compared"):
            model(inputs_embeds=embeddings)
    batch["inputs_embeds"] = embeddings
    del batch["input_ids"]
    with torch.no_grad(), sra_fast.steer(model, batch, bias=3.0):
        assert torch.equal(model(inputs_embeds=embeddings).logits, wanted)


def test_a_copy_of_a_steered_model_is_refused() -> None:
    model, batch = LLAMA.build(), prompts(30)
    with sra_fast.steer(model, batch, bias=3.0):
        for copied in (copy.deepcopy, pickle.dumps):
            with pytest.raises(ValueError, match=r"steer: .* is steered, and a copy of it"):
                copied(model)
    copy.deepcopy(model)


def test_score_inside_names_the_way_out() -> None:
    model, batch = LLAMA.build(), marked_batch((30,))
    with (
        sra_fast.steer(model, batch, bias=3.0),
        pytest.raises(ValueError, match=r"score\(\) of a steered model.*monitor\(\)"),
    ):
        sra_fast.score(model, batch)


def test_a_steered_model_is_known_already_inside_a_monitor() -> None:
    model, batch = LLAMA.build(), prompts(30)
    with sra_fast.steer(model, batch, bias=3.0):
        wanted = model.generate(**inputs(batch), max_new_tokens=2)
        # Hooks of a monitor, which has nothing to record here, are no news about the model.
        with pytest.warns(SRAWarning), sra_fast.monitor(model):
            found = sra_fast.generate(model, batch, max_new_tokens=2)
    assert torch.equal(found.sequences, wanted)


def test_a_call_that_shows_the_batchs_padding_is_refused() -> None:
    model, batch = LLAMA.build(), prompts(30, 22)
    ones = torch.ones_like(batch["attention_mask"])
    with torch.no_grad(), sra_fast.steer(model, batch, bias=3.0):
        for mask in (None, ones):
            with pytest.raises(ValueError, match=r"^steer: attention_mask: the batch has padding"):
                model(batch["input_ids"], attention_mask=mask)
            with pytest.raises(ValueError, match=r"^steer: attention_mask"):
                model(batch["input_ids"], mask)
        model(batch["input_ids"], batch["attention_mask"])


def test_a_cache_that_lost_its_first_tokens_is_refused() -> None:
    model, batch = LLAMA.build(), prompts(30)
    cache = DynamicCache()
    longer = torch.cat([batch["input_ids"], random_tokens(1, 10)], dim=1)
    with torch.no_grad(), sra_fast.steer(model, batch, bias=3.0):
        model(longer, past_key_values=cache)
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, 10:], layer.values[:, :, 10:]
        with pytest.raises(ValueError, match=r"holds 30 tokens and a call is at position 40"):
            model(longer[:, :1], past_key_values=cache, position_ids=torch.tensor([[40]]))


def test_a_cache_that_dropped_the_span_is_refused() -> None:
    batch, model = marked_batch((40,)), LLAMA.build()

    steering = CallSteering(GivenBias(3.0), {0: None}, batch["strategy_mask"], None)
    layer = model.model.layers[0].self_attn
    with pytest.raises(ValueError, match="layer 0 has dropped 10 keys"):
        steering.of_layer(layer, 4, 30, windowed=False)
    made = steering.of_layer(layer, 4, 36, windowed=True)
    assert made is not None
    assert torch.equal(made.span, batch["strategy_mask"][:, 4:])
    with pytest.raises(ValueError, match="holds 41 keys"):
        steering.of_layer(layer, 4, 41, windowed=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of bias, share, knock_out, instaboost, spotlight and pasta"),
        ({"bias": 1.0, "share": 0.5}, "one of bias"),
        ({"bias": 1.0, "knock_out": True}, "one of bias"),
        ({"instaboost": 2.0, "pasta": 0.5}, "one of bias"),
        ({"bias": math.nan}, "bias: expected a number"),
        ({"bias": math.inf}, "bias: expected a number"),
        ({"share": 0.0}, "share: expected a number between 0 and 1"),
        ({"share": 1.2}, "share: expected a number between 0 and 1"),
        ({"bias": 1.0, "exact": True}, "exact"),
        ({"bias": 1.0, "rows": "prompt"}, "rows: expected"),
        ({"bias": 1.0, "layers": [3]}, r"layers: expected some of the attention layers \[0, 1, 2"),
        ({"bias": 1.0, "layers": []}, "layers: expected some"),
        ({"bias": 1.0, "heads": [4]}, "layer 0 has the heads 0 to 3"),
        ({"bias": 1.0, "heads": []}, "layer 0 has the heads 0 to 3"),
        ({"bias": 1.0, "heads": {5: [0]}}, "layers: expected some"),
        ({"bias": 1.0, "layers": [0], "heads": {1: [0]}}, r"heads: expected those of the layers"),
        ({"bias": 1.0, "span": "control"}, r"span: expected one of \['strategy'\]"),
    ],
    ids=str,
)
def test_what_cannot_be_is_named(arguments: dict[str, Any], message: str) -> None:
    model = LLAMA.build()
    with (
        pytest.raises(ValueError, match=f"steer: .*{message}"),
        sra_fast.steer(model, prompts(30), **arguments),
    ):
        pass


@pytest.mark.parametrize(
    "kind", [iter, torch.tensor, numpy.array, tuple], ids=["iterator", "tensor", "array", "tuple"]
)
def test_layers_and_heads_may_be_any_whole_numbers(kind: Any) -> None:
    model, batch = LLAMA.build(), prompts(30)

    def steered(**where: Any) -> Tensor:
        with torch.no_grad(), sra_fast.steer(model, batch, bias=3.0, **where):
            return model(**inputs(batch)).logits

    wanted = steered(layers=[1, 2], heads=[0, 3])
    assert torch.equal(steered(layers=kind([1, 2]), heads=kind([0, 3])), wanted)
    by_layer = {numpy.int64(1): kind([0, 3]), 2: kind([0, 3])}
    assert torch.equal(steered(heads=by_layer), wanted)


@pytest.mark.parametrize(
    "arguments",
    [
        {"bias": 1.0, "layers": 1},
        {"bias": 1.0, "layers": [False, True, False]},
        {"bias": 1.0, "layers": [1.0]},
        {"bias": 1.0, "heads": [0.5]},
        {"bias": 1.0, "heads": {1: 2}},
        {"bias": 1.0, "heads": {torch.tensor(1): [0]}},
        {"bias": "2"},
        {"share": torch.tensor(0.5)},
        {"knock_out": "no"},
        {"share": 0.5, "exact": 1},
    ],
    ids=str,
)
def test_what_is_no_number_is_named(arguments: dict[str, Any]) -> None:
    *_, name = arguments
    with (
        pytest.raises(TypeError, match=f"steer: {name}: expected"),
        sra_fast.steer(LLAMA.build(), prompts(30), **arguments),
    ):
        pass


def test_a_span_must_be_marked_and_named_where_there_are_several() -> None:
    model, batch = LLAMA.build(), prompts(30, 22)
    mask = batch.pop("strategy_mask")
    empty = mask.clone()
    empty[1] = False
    named = {**batch, "span_masks": {"a": mask, "b": empty}}
    with pytest.raises(ValueError, match="several"), sra_fast.steer(model, named, bias=1.0):
        pass
    with (
        pytest.raises(ValueError, match="row 1: no token is marked as 'b'"),
        sra_fast.steer(model, named, bias=1.0, span="b"),
    ):
        pass


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_continuous_batching_is_refused_by_name(name: str) -> None:
    model, batch = LLAMA.build(), prompts(30)
    with (
        pytest.raises(UnservedGenerationError, match=f"^{name}: .*is not steered"),
        sra_fast.steer(model, batch, bias=1.0),
    ):
        getattr(model, name)(inputs=[[1, 2, 3]])
    assert name not in vars(model)


def test_a_model_is_steered_once_at_a_time() -> None:
    model, batch = LLAMA.build(), prompts(30)
    with (
        sra_fast.steer(model, batch, bias=1.0),
        pytest.raises(ValueError, match="steered already"),
        sra_fast.steer(model, batch, bias=1.0),
    ):
        pass


def test_a_layer_that_was_not_reached_is_named() -> None:
    model, batch = LLAMA.build(), prompts(30)
    with sra_fast.steer(model, batch, bias=1.0), torch.no_grad():
        model.set_attn_implementation("eager")
        with pytest.raises(UnansweredRequestError, match=r"layers \[0, 1, 2\]"):
            model(**inputs(batch))


def test_leaving_the_block_in_the_middle_of_a_stream_is_named() -> None:
    model, batch = LLAMA.build(), prompts(30)
    begun, go_on = threading.Event(), threading.Event()

    class Stream:
        def put(self, ids: Tensor) -> None:
            begun.set()
            assert go_on.wait(10)

        def end(self) -> None:
            pass

    def run() -> None:
        model.generate(**inputs(batch), max_new_tokens=2, streamer=Stream())

    thread = threading.Thread(target=run, name="stream")
    block = sra_fast.steer(model, batch, bias=1.0)
    block.__enter__()
    thread.start()
    assert begun.wait(10)
    with pytest.raises(RuntimeError, match="while the thread 'stream' was still running"):
        block.__exit__(None, None, None)
    go_on.set()
    thread.join()
    assert compat.attn_implementation(model.config) == "sdpa"
    assert not compat.forward_pre_hooks(serve(model).decoder)

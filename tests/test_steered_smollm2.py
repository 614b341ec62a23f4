"""Test that SmolLM2 replies under `steer` as under eager attention that is changed as much."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import eager_methods
import sra_fast
from biased_masks import assert_same_replies, biased_masks
from eager_methods import Method, eager_method

pytestmark = pytest.mark.real_model
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
GREEDY |= {"output_logits": True, "return_dict_in_generate": True}


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, dict[str, Any]]:
    """Return the model in float32, and two prompts of unequal length with their instruction."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sra_fast.files.smollm2 import SmolLM2Error, smollm2_folder

    try:
        folder = smollm2_folder()
    except SmolLM2Error as error:
        pytest.skip(str(error))
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def marked(text: str) -> Any:
        system = {"role": "system", "content": "Talk with your friend. Offer hope."}
        chat = [system, {"role": "user", "content": text}]
        return sra_fast.mark(tokenizer, chat, {"hope": "Offer hope."}, generation_prompt=True)

    texts = ("I failed my exam again, and I do not dare to tell my parents.", "I am so tired.")
    rows = [marked(text) for text in texts]
    width = max(row["input_ids"].shape[1] for row in rows)

    def padded(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x, (width - x.shape[1], 0))

    batch = {
        "input_ids": torch.cat([padded(row["input_ids"]) for row in rows]),
        "attention_mask": torch.cat([padded(torch.ones_like(row["input_ids"])) for row in rows]),
        "strategy_mask": torch.cat([padded(row["span_masks"]["hope"]) for row in rows]),
    }
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), batch


@pytest.mark.parametrize("bias", [-math.inf, 3.0])
def test_smollm2_replies_as_eager_does_with_the_bias_in_its_mask(
    smollm2: tuple[Any, dict[str, Any]], bias: float
) -> None:
    model, batch = smollm2
    tokens = {key: batch[key] for key in ("input_ids", "attention_mask")}
    strength = {"knock_out": True} if bias == -math.inf else {"bias": bias}
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        plain = model(**tokens, logits_to_keep=1).logits[:, -1]
    with sra_fast.steer(model, batch, **strength):
        found = model.generate(**tokens, **GREEDY)
    with biased_masks(model, batch["strategy_mask"], bias):
        assert_same_replies(found, model.generate(**tokens, **GREEDY))
    assert not torch.allclose(found.logits[0], plain, atol=0.1)


HEADS = {4: [0, 5, 8], 12: [1], 29: [0, 1, 2]}


@pytest.mark.parametrize(
    ("arguments", "formula"),
    [
        ({"instaboost": 10.0}, eager_methods.instaboost(10.0)),
        ({"spotlight": 0.3}, eager_methods.spotlight(0.3)),
        ({"pasta": 0.01, "heads": HEADS}, eager_methods.pasta(0.01, HEADS)),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_smollm2_replies_as_eager_does_by_the_formula_of_a_method(
    smollm2: tuple[Any, dict[str, Any]], arguments: dict[str, Any], formula: Method
) -> None:
    model, batch = smollm2
    tokens = {key: batch[key] for key in ("input_ids", "attention_mask")}
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        plain = model(**tokens, logits_to_keep=1).logits[:, -1]
    with sra_fast.steer(model, batch, **arguments):
        found = model.generate(**tokens, **GREEDY)
        replies = sra_fast.generate(model, batch, **GREEDY)
    with eager_method(model, batch["strategy_mask"], formula) as used:
        wanted = model.generate(**tokens, **GREEDY)
    model.set_attn_implementation("sdpa")
    assert_same_replies(found, wanted)
    assert not torch.allclose(found.logits[0], plain, atol=0.1)
    prompt = batch["strategy_mask"].shape[1]
    for row, masses in enumerate(replies.masses):
        for step, mass in enumerate(masses[: len(used[0])]):
            seen = [used[layer][step][row, :, -1, :prompt] for layer in sorted(used)]
            attention = torch.stack(seen)[..., batch["strategy_mask"][row]].sum(dim=-1)
            torch.testing.assert_close(mass[..., 0], attention, atol=1e-5, rtol=0)

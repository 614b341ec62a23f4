"""Test SmolLM2 on real conversations against `generate(output_attentions=True)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sra_fast
from esconv_data import ESCONV, WHY_ABSENT
from sra_fast.chat.conversion import convert
from sra_fast.chat.encoding import encode_prompts

pytestmark = pytest.mark.real_model

NEW_TOKENS = 12


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    """Return the model in float32 and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sra_fast.files.smollm2 import SmolLM2Error, smollm2_folder

    try:
        folder = smollm2_folder()
    except SmolLM2Error as error:
        pytest.skip(str(error))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def prompts(smollm2: tuple[Any, Any]) -> list[Any]:
    """Return three conversations of ESConv, each in another template, up to the reply."""
    if not ESCONV.is_dir():
        pytest.skip(WHY_ABSENT)
    records = convert(ESCONV / "esconv_valid_130.json").records
    chosen = [records[0], records[len(records) // 2], records[-1]]
    found = []
    for record, template in zip(chosen, ("standard", "c1_hf", "c3_hl"), strict=True):
        (prompt,) = encode_prompts(smollm2[1], [record], template)
        reply = int(prompt.response_mask.nonzero()[0])
        found.append((prompt.input_ids[:reply], prompt.strategy_mask[:reply]))
    return found


def by_the_authors_rules(steps: Any, strategy: torch.Tensor) -> dict[str, float]:
    """Return `reference` and `table1` from what `generate` returns, per layer `[1, H, M, N]`."""
    span = strategy.nonzero().flatten().tolist()
    rows = []
    for step in steps:
        layers = torch.stack([layer[0, :, -1].double().mean(dim=0) for layer in step])  # [L, N]
        layers[:, 0] = 0.0
        layers = layers / layers.sum(dim=1, keepdim=True)
        rows.append(layers[:, span[0] : span[-1]].mean().item())
    return {"reference": sum(rows) / len(rows), "table1": rows[0]}


def test_reference_and_table1_are_what_their_rules_give_on_generated_attentions(
    smollm2: tuple[Any, Any], prompts: list[Any]
) -> None:
    model, _ = smollm2
    for ids, strategy in prompts:
        model.set_attn_implementation("eager")
        out = model.generate(
            ids[None],
            attention_mask=torch.ones_like(ids)[None],
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )
        model.set_attn_implementation("sdpa")
        wanted = by_the_authors_rules(out.attentions, strategy)
        whole = out.sequences[0]
        batch = {
            "input_ids": whole[None],
            "strategy_mask": torch.nn.functional.pad(strategy, (0, len(whole) - len(ids)))[None],
            "response_mask": (torch.arange(len(whole)) >= len(ids))[None],
        }
        found = sra_fast.score(model, batch, definition="reference")
        assert found.response_tokens.tolist() == [len(out.attentions)]
        for name, value in wanted.items():
            assert found.scores[name].item() == pytest.approx(value, rel=1e-5)  # type: ignore[index]


def test_every_turn_of_a_long_conversation_is_scored_in_one_pass(
    smollm2: tuple[Any, Any],
) -> None:
    model, tokenizer = smollm2
    path = Path(sra_fast.__file__).parent / "chat" / "data" / "demo_conversations.jsonl"
    from sra_fast.chat.conversations import read_conversations
    from sra_fast.measure.trial import TOKENS as TRIED

    long = [c for c in read_conversations(path) if c.id == "long-drift"]
    batch = sra_fast.encode(tokenizer, long)
    forwards = []
    handle = model.model.embed_tokens.register_forward_pre_hook(
        lambda _, args: forwards.append(args[0].shape)
    )
    result = sra_fast.score(model, batch, check=False)
    handle.remove()
    assert len([shape for shape in forwards if shape[1] > TRIED]) == 1
    assert len(result) > 60
    assert result.turn.tolist() == list(range(1, len(result) + 1))
    assert ((result.scores["mass"] > 0) & (result.scores["mass"] < 1)).all()
    few = sra_fast.encode(tokenizer, [_up_to_turn(long[0], 5)])
    torch.testing.assert_close(sra_fast.score(model, few).sra, result.sra[:5], rtol=1e-4, atol=1e-7)


def _up_to_turn(conversation: Any, turn: int) -> dict[str, Any]:
    messages = [{"role": m.role, "content": m.content} for m in conversation.messages[: 2 * turn]]
    return {
        "id": "cut",
        "situation": conversation.situation,
        "messages": messages,
        "strategy": conversation.strategy,
    }

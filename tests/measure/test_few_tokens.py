"""Test which tokens a model is tried on, and what is asked of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sra_fast
from marked_batches import marked_batch
from sra_fast.measure.few_tokens import every_row_on_every_key, plain_tokens
from sra_fast.measure.served import serve


def llama(**config: Any) -> Any:
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(**sizes | config))


@pytest.mark.parametrize(
    ("ids", "plain"),
    [
        ({"eos_token_id": 2, "bos_token_id": 0}, [1, 3, 4, 5]),
        ({"eos_token_id": [2, 5], "bos_token_id": 0}, [1, 3, 4]),
        ({"eos_token_id": list(range(6))}, [0]),
        ({"eos_token_id": None, "bos_token_id": None, "pad_token_id": 3}, [0, 1, 2, 4, 5]),
    ],
)
def test_tokens_with_a_meaning_are_left_out(ids: dict[str, Any], plain: list[int]) -> None:
    assert plain_tokens(serve(llama(vocab_size=6, **ids))).tolist() == plain


@pytest.mark.parametrize("eos", [2, [2, 106]])
def test_a_model_may_end_its_texts_with_several_tokens(eos: int | list[int]) -> None:
    model = llama(vocab_size=128, eos_token_id=eos)
    assert sra_fast.score(model, marked_batch((24,))).checked == "passed"


def test_span_j_is_the_jth_key_of_each_sequence() -> None:
    query = every_row_on_every_key([2, 3], [(0, 1), (1, 0)], (2, 4))
    wanted = torch.tensor([[0, 1, 2, 0], [1, 2, 4, 0]], dtype=torch.int32)
    torch.testing.assert_close(query.key_labels, wanted)
    assert query.rows.tolist() == [1, 2, 4, 5, 6]
    assert query.segments.tolist() == [[0, 1, 3], [1, 0, 3]]
    assert len(query.names) == 3

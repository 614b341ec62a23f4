"""Test that packed rows and compiled models are steered as rows alone and plain models are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sra_fast
from marked_batches import marked_batch
from model_families import FAMILIES, HYBRIDS, Family
from sra_fast.names import SteeredTokens

KEPT_APART = [
    family for family in FAMILIES if family.masks_keep_packed_apart and family not in HYBRIDS
]
STRENGTHS: tuple[dict[str, Any], ...] = ({"bias": 3.0}, {"knock_out": True}, {"share": 0.3})


def marked(length: int) -> dict[str, Tensor]:
    """Return one text with its span, without a reply."""
    batch = marked_batch((length,))
    return {name: batch[name] for name in ("input_ids", "strategy_mask")}


@pytest.mark.parametrize("family", KEPT_APART, ids=str)
def test_packed_rows_are_steered_as_rows_alone(family: Family) -> None:
    rows: SteeredTokens = "all" if KEPT_APART.index(family) % 2 else "generated"
    model, texts = family.build(), [marked(length) for length in (40, 29)]
    packed = {name: torch.cat([text[name] for text in texts], dim=1) for name in texts[0]}
    packed["position_ids"] = torch.cat([torch.arange(40), torch.arange(29)])[None]
    strength = STRENGTHS[KEPT_APART.index(family) % len(STRENGTHS)]
    with torch.no_grad():
        with sra_fast.steer(model, packed, rows=rows, **strength):
            found = model(
                packed["input_ids"], position_ids=packed["position_ids"], use_cache=False
            ).logits
        wanted = []
        for text in texts:
            with sra_fast.steer(model, text, rows=rows, **strength):
                wanted.append(model(text["input_ids"], use_cache=False).logits)
    torch.testing.assert_close(found, torch.cat(wanted, dim=1), rtol=1e-4, atol=1e-4)


def test_a_compiled_model_is_steered_as_it_is() -> None:
    model, text, strength = FAMILIES[0].build(), marked(40), STRENGTHS[0]
    compiled: Any = torch.compile(model, backend="eager")
    with torch.no_grad(), sra_fast.steer(model, text, **strength):
        wanted = model(text["input_ids"]).logits
        found = compiled(text["input_ids"]).logits
    torch.testing.assert_close(found, wanted)
    with torch.no_grad(), sra_fast.steer(compiled, text, **strength):
        torch.testing.assert_close(compiled(text["input_ids"]).logits, wanted)

"""Test that parts of a layer run in slices of tokens exactly where that changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from sra_fast.measure.layerwise import token_slices
from sra_fast.measure.layerwise.token_slices import sliced_parts


class Counted(nn.Module):
    """A part of a layer that counts the tokens of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.calls: list[int] = []

    def forward(self, hidden: Tensor) -> Any:
        self.calls.append(hidden.shape[1])
        return self.mixed(self.linear(hidden))

    def mixed(self, hidden: Tensor) -> Any:
        return hidden


class Shifting(Counted):
    """A part in which each token sees the one before it, though nothing in its name says so."""

    def mixed(self, hidden: Tensor) -> Any:
        return nn.functional.pad(hidden, (0, 0, 1, -1))


class Telling(Counted):
    """A part that gives a tuple."""

    def mixed(self, hidden: Tensor) -> Any:
        return hidden, hidden.sum()


class Layer(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, hidden: Tensor) -> Any:
        return self.part(hidden)


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_slices, "SLICE_TOKENS", 16)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_part_that_treats_tokens_alone_runs_in_slices(batch: int) -> None:
    part, hidden = Counted(), torch.randn(batch, 37, 4)
    whole = part(hidden)
    part.calls.clear()
    with torch.no_grad(), sliced_parts(layer := Layer(part)):
        found = layer(hidden)
    torch.testing.assert_close(found, whole)
    assert max(part.calls) == 16 // batch
    assert sum(part.calls) == 37 + 8 + 4 + 4  # with the trial, whole and in halves
    assert "forward" not in vars(part)


@pytest.mark.parametrize("kind", [Shifting, Telling])
def test_a_part_that_looks_at_other_tokens_or_tells_more_runs_whole(kind: type[Counted]) -> None:
    part, hidden = kind(), torch.randn(1, 37, 4)
    whole = part(hidden)
    with torch.no_grad(), sliced_parts(layer := Layer(part)):
        found = layer(hidden)
    torch.testing.assert_close(found, whole)
    assert part.calls[-1] == 37


def test_attention_and_short_texts_are_left_whole() -> None:
    config = LlamaConfig(hidden_size=16, intermediate_size=16, num_attention_heads=2)
    layer = LlamaDecoderLayer(config, 0)
    with sliced_parts(layer):
        sliced = [name for name, part in layer.named_modules() if "forward" in vars(part)]
    assert sliced == ["mlp", "input_layernorm", "post_attention_layernorm"]
    part = Counted()
    with sliced_parts(layer_of_part := Layer(part)):
        layer_of_part(torch.randn(1, 16, 4))
    assert part.calls == [16]

"""Make a chat model that is scored in milliseconds, in a folder as save_pretrained writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from chat_tokenizers import byte_level_bpe

CONTEXT = 4096


def tiny_model(*, seed: int = 0, context: int = CONTEXT) -> LlamaForCausalLM:
    """Make a random Llama that attends unevenly, for the byte-level tokenizer."""
    config = LlamaConfig(
        vocab_size=len(byte_level_bpe()),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def save_tiny_model(folder: Path, *, seed: int = 0, context: int = CONTEXT) -> Path:
    """Save a random Llama that attends unevenly, with a byte-level ChatML tokenizer."""
    tiny_model(seed=seed, context=context).save_pretrained(folder)
    byte_level_bpe().save_pretrained(folder)
    return folder


def talk(identity: str, turns: int = 2, **changes: Any) -> dict[str, Any]:
    """Return a conversation with that many replies, all of them to be scored."""
    messages = []
    for turn in range(1, turns + 1):
        messages += [
            {"role": "user", "content": f"I feel low, day {turn}."},
            {"role": "assistant", "content": f"Hope grows slowly, {identity} {turn}."},
        ]
    return {"id": identity, "messages": messages, "strategy": "Offer Hope", **changes}


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path

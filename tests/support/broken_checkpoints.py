"""Take tensors out of a checkpoint, rename them, and put others in their place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

MODEL, ADAPTER = "model.safetensors", "adapter_model.safetensors"


def tensors_of(folder: Path, name: str = MODEL) -> dict[str, Tensor]:
    """Return the tensors of a file of weights, by their names."""
    found: dict[str, Tensor] = load_file(folder / name)
    return found


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], name: str = MODEL) -> None:
    """Write a file of weights as transformers and PEFT write it."""
    save_file(dict(tensors), folder / name, {"format": "pt"})


def without(folder: Path, *names: str, name: str = MODEL) -> Path:
    """Take tensors out of a file of weights, and return its folder."""
    kept = {one: tensor for one, tensor in tensors_of(folder, name).items() if one not in names}
    write_tensors(folder, kept, name)
    return folder


def save_smallest_llama(folder: Path, *, tied: bool = False) -> Path:
    """Save a Llama of one layer that has no tokenizer, for tests that only load it."""
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder

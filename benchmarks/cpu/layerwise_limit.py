"""Score a model layer by layer in a process that may not have as much memory as its weights.

``python -m benchmarks.cpu.layerwise_limit`` writes a checkpoint of random weights into a temporary
folder, layer by layer, and scores a few texts with it under ``RLIMIT_DATA``, which counts anonymous
memory and writable private mappings, but no pages that are mapped for reading. The folder is
removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

import sra_fast
from benchmarks.cpu.layerwise_cost import measured, texts
from benchmarks.cpu.layerwise_record import page, record
from benchmarks.measuring.anonymous_memory import with_anonymous_peak
from benchmarks.measuring.fresh_process import ProcessFailedError, in_fresh_process
from sra_fast.files.model_files import CONFIG, INDEX
from sra_fast.measure.layerwise.layer_loop import run_layers as run_layers  # imported beforehand

CONFIGURATION: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32_000,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}


def write_checkpoint(folder: Path, layers: int) -> int:
    """Write a checkpoint of random weights like a Llama's, a file for each layer; return its bytes.

    Args:
        folder: where it goes.
        layers: the number of layers, of about 122 MB each.
    """
    config = LlamaConfig(**CONFIGURATION, num_hidden_layers=layers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    parts: dict[str, list[str]] = {}
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters()}
    for name in shapes:
        words = name.split(".")
        parts.setdefault(words[2] if words[1] == "layers" else "rest", []).append(name)
    generator = torch.Generator().manual_seed(0)
    size, placed = 0, {}
    for part, names in parts.items():
        tensors = {name: _random(shapes[name], generator) for name in names}
        save_file(tensors, folder / f"model-{part}.safetensors", metadata={"format": "pt"})
        size += sum(tensor.nbytes for tensor in tensors.values())
        placed |= dict.fromkeys(names, f"model-{part}.safetensors")
    (folder / INDEX).write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": placed}), encoding="utf-8"
    )
    config.architectures = ["LlamaForCausalLM"]
    (folder / CONFIG).write_text(config.to_json_string(use_diff=False), encoding="utf-8")
    return size


def scored_under(limit: int, folder: str, number: int, tokens: int) -> dict[str, Any]:
    """Score random texts layer by layer, in a process that may have ``limit`` bytes of data."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    begun, worked = time.perf_counter(), time.process_time()

    def run() -> sra_fast.SRAResult:
        model = sra_fast.layerwise_model(folder)
        return sra_fast.score(model, texts(model.config.vocab_size, number, tokens), layerwise=True)

    peak, result = with_anonymous_peak(run)
    return {
        "checked": result.checked,
        "anonymous": peak,
        "clock": time.perf_counter() - begun,
        "processor": time.process_time() - worked,
    }


def whole_under(limit: int, folder: str, number: int, tokens: int) -> str:
    """Score the same with the whole model, and return how that ended."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        measured(folder, number, tokens, by_layer=False)
    except (MemoryError, RuntimeError, ValueError, OSError) as error:
        told = (
            str(error).replace(folder, "the folder").replace(Path(folder).name, "of these weights")
        )
        return f"{type(error).__name__}, {shorten(told, 200)}"
    return "it ended too"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if the run did not end."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu.layerwise_limit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--layers", type=int, default=26, help="Write this number of layers, of 122 MB each."
    )
    parser.add_argument(
        "--limit", type=float, default=1.0, help="Allow the process this much data, in GB."
    )
    parser.add_argument("--texts", type=int, default=2, help="Score this number of random texts.")
    parser.add_argument(
        "--tokens", type=int, default=256, help="Make each text of this many tokens."
    )
    parser.add_argument(
        "--record", action="store_true", help="Write the figures into benchmarks/results/."
    )
    options = parser.parse_args(arguments)
    limit = int(options.limit * 1e9)
    with tempfile.TemporaryDirectory(prefix="sra-layerwise-") as folder:
        weights = write_checkpoint(Path(folder), options.layers)
        given = (limit, folder, options.texts, options.tokens)
        try:
            found = in_fresh_process(scored_under, *given)
        except ProcessFailedError as error:
            print(f"the run did not end: {error}")
            return 1
        whole = in_fresh_process(whole_under, *given)
    shown = {"texts": options.texts, "tokens": options.tokens, "layers": options.layers}
    limited = {**found, **shown, "weights": weights, "limit": limit, "whole": whole}
    if options.record:
        record("limit", limited)
    print(*page({"limit": limited}), sep="\n")
    return 0


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return random weights that keep the size of what they are given, or ones for a norm."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
    return (drawn * shape[-1] ** -0.5).to(torch.bfloat16)


if __name__ == "__main__":
    sys.exit(main())

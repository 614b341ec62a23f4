"""Measure memory and time of a score layer by layer, beside one with the whole model.

``python -m benchmarks.cpu.layerwise_cost`` scores random texts both ways, each in a fresh process,
in turns. The masses must be equal before anything is told. Memory is the peak of the anonymous
memory over what the process held before the model was loaded.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

import sra_fast
from benchmarks.cpu.layerwise_record import page, record
from benchmarks.measuring import machine
from benchmarks.measuring.anonymous_memory import with_anonymous_peak
from benchmarks.measuring.fresh_process import in_fresh_process
from sra_fast.files.models import find_model
from sra_fast.measure.layerwise.layer_loop import run_layers as run_layers  # imported beforehand
from sra_fast.scoring import score as score

SPAN_TOKENS, REPLY_TOKENS = 40, 64
EQUAL = 1e-6
"""The largest difference of a mass with which figures are told."""


def texts(vocabulary: int, number: int, tokens: int) -> dict[str, Tensor]:
    """Return random texts with a span near their beginning and a response at their end.

    Args:
        vocabulary: the number of token ids.
        number: B, the number of texts.
        tokens: T, the tokens of each.

    Returns:
        ``input_ids``, ``strategy_mask`` and ``response_mask``, ``[B, T]``.
    """
    generator = torch.Generator().manual_seed(tokens)
    span = torch.zeros(number, tokens, dtype=torch.bool)
    span[:, 20 : 20 + SPAN_TOKENS] = True
    response = torch.zeros(number, tokens, dtype=torch.bool)
    response[:, tokens - REPLY_TOKENS :] = True
    ids = torch.randint(vocabulary, (number, tokens), generator=generator)
    return {"input_ids": ids, "strategy_mask": span, "response_mask": response}


def measured(name: str, number: int, tokens: int, by_layer: bool) -> dict[str, Any]:
    """Load a model, score random texts, and return the masses, times and memory."""
    torch.set_num_threads(1)
    begun, worked = time.perf_counter(), time.process_time()

    def run() -> sra_fast.SRAResult:
        model: Any
        if by_layer:
            model = sra_fast.layerwise_model(name)
        else:
            model = find_model(name).load("auto", "cpu", logits=False)
        batch = texts(model.config.vocab_size, number, tokens)
        return sra_fast.score(model, batch, layerwise=by_layer)

    peak, result = with_anonymous_peak(run)
    return {
        "mass": result.mass.tolist(),
        "checked": result.checked,
        "anonymous": peak,
        "clock": time.perf_counter() - begun,
        "processor": time.process_time() - worked,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if the two ways give different masses."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu.layerwise_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="smollm2", help="The model: a folder or a name.")
    parser.add_argument("--texts", type=int, default=8, help="Score this number of random texts.")
    parser.add_argument(
        "--tokens", type=int, default=2048, help="Make each text of this many tokens."
    )
    parser.add_argument("--rounds", type=int, default=1, help="Measure this number of pairs.")
    parser.add_argument(
        "--record", action="store_true", help="Write the figures into benchmarks/results/."
    )
    options = parser.parse_args(arguments)
    found: dict[str, list[dict[str, Any]]] = {"whole": [], "layerwise": []}
    difference = 0.0
    for number in range(options.rounds):
        order = list(found) if number % 2 == 0 else list(found)[::-1]
        for way in order:
            given = (options.model, options.texts, options.tokens, way == "layerwise")
            found[way].append(in_fresh_process(measured, *given))
        masses = [torch.tensor(found[way][-1].pop("mass")) for way in found]
        difference = max(difference, float((masses[0] - masses[1]).abs().max()))
    if not difference <= EQUAL:
        print(f"the two ways differ by {difference:.1e}, so no figures are told")
        return 1
    facts = machine.facts()
    cost = {
        **{key: facts[key] for key in ("cpu", "torch", "transformers", "commit")},
        "threads": 1,
        "model": find_model(options.model).name,
        "texts": options.texts,
        "tokens": options.tokens,
        "difference": difference,
        **{
            way: {
                **{key: median(run[key] for run in runs) for key in _FIGURES},
                "checked": runs[0]["checked"],
            }
            for way, runs in found.items()
        },
    }
    if options.record:
        record("cost", cost)
    print(*page({"cost": cost}), sep="\n")
    return 0


_FIGURES = ("anonymous", "clock", "processor")


if __name__ == "__main__":
    sys.exit(main())

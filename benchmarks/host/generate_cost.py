"""Measure what ``generate`` costs under ``"sra_fast"`` when nobody asks for a mass.

``python -m benchmarks.host.generate_cost`` lets a model generate greedily under ``"sdpa"`` and
under ``"sra_fast"`` in turns, the first of a pair changing from round to round, and prints the
median of the ratios of each pair. Both must generate the same tokens, or there is no ratio.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import machine
from benchmarks.measuring.alternatives import attending
from sra_fast.files.models import find_model
from sra_fast.tools.markdown_table import markdown_table

WAYS = ("sdpa", "sra_fast")


@dataclass(frozen=True)
class GenerationCost:
    """The seconds of one prompt's generations, pair by pair.

    Attributes:
        tokens: the length of the prompt.
        rows: the prompts of the batch; all but the first are padded on the left.
        seconds: by attention implementation, in the order of the rounds.
        same: whether both implementations generated the same tokens in every round.
    """

    tokens: int
    rows: int
    seconds: dict[str, list[float]]
    same: bool

    @property
    def ratio(self) -> float:
        """Return the median over rounds of the time under ``"sra_fast"`` over that of sdpa."""
        pairs = zip(self.seconds["sra_fast"], self.seconds["sdpa"], strict=True)
        return median(own / plain for own, plain in pairs)


def measure(model: Any, tokens: int, rows: int, new: int, rounds: int) -> GenerationCost:
    """Generate ``new`` tokens after random prompts of ``tokens`` tokens, in ``rounds`` pairs."""
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(model.config.vocab_size, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, : row * tokens // (2 * rows)] = 0
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    same = True
    for number in range(-1, rounds):  # the first pair only warms up
        found: dict[str, Tensor] = {}
        for way in WAYS if number % 2 else WAYS[::-1]:
            with attending(model, way):
                begun = time.perf_counter()
                found[way] = model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=new,
                    min_new_tokens=new,
                    do_sample=False,
                    pad_token_id=0,
                )
                took = time.perf_counter() - begun
            if number >= 0:
                seconds[way].append(took)
        same &= torch.equal(*(found[way] for way in WAYS))
    return GenerationCost(tokens, rows, seconds, same)


def as_markdown(costs: Sequence[GenerationCost], new: int) -> list[str]:
    """Return a table with one line per prompt."""
    cells = [
        (
            f"{cost.rows} × {cost.tokens}",
            *(f"{median(cost.seconds[way]) / new * 1e3:.1f} ms" for way in WAYS),
            f"{cost.ratio:.3f}" if cost.same else "**WRONG**: other tokens",
        )
        for cost in costs
    ]
    return list(markdown_table(("prompt", *(f"{way}, a token" for way in WAYS), "ratio"), cells))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if an implementation generates other tokens."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host.generate_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="smollm2", help="The model: a folder or a name.")
    parser.add_argument(
        "--prompts",
        nargs="+",
        type=int,
        default=[256, 1024],
        help="Generate after prompts of these numbers of tokens (default 256 1024).",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=1,
        help="Generate for this many prompts at once, padded on the left (default 1).",
    )
    parser.add_argument(
        "--new", type=int, default=48, help="Generate this many tokens (default 48)."
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="Time this many pairs per prompt (default 15)."
    )
    given = parser.parse_args(arguments)
    model = find_model(given.model).load("float32", "cpu")
    costs = [
        measure(model, tokens, given.rows, given.new, given.rounds) for tokens in given.prompts
    ]
    facts = machine.facts()
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}", end="\n\n")
    print("\n".join(as_markdown(costs, given.new)))
    return int(not all(cost.same for cost in costs))


if __name__ == "__main__":
    sys.exit(main())

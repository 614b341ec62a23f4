"""Measure what ``generate`` costs under ``"sra_fast"`` when nobody asks for a mass.

``python -m benchmarks.host.generate_cost`` lets a model generate greedily under ``"sdpa"`` and
under ``"sra_fast"`` in turns, the first of a pair changing from round to round, and prints the
median of the ratios of each pair, by the clock and in processor time, which hardly sees what else
the machine does. Both must generate the same tokens, or there is no ratio.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from benchmarks.host.generation_times import (
    PLAIN,
    GenerationTimes,
    command,
    in_turns,
    random_prompts,
)
from benchmarks.measuring.alternatives import attending
from sra_fast.tools.markdown_table import markdown_table

OURS = "sra_fast"


def generated(
    implementation: str, model: Any, prompts: dict[str, Tensor], **arguments: Any
) -> Tensor:
    """Generate under an attention implementation."""
    with attending(model, implementation):
        sequences: Tensor = model.generate(
            prompts["input_ids"], attention_mask=prompts["attention_mask"], **arguments
        )
    return sequences


WAYS = {way: functools.partial(generated, way) for way in (PLAIN, OURS)}


def measure(model: Any, tokens: int, rows: int, new: int, rounds: int) -> GenerationTimes:
    """Generate ``new`` tokens after random prompts of ``tokens`` tokens, in ``rounds`` pairs."""
    return in_turns(model, random_prompts(model, tokens, rows), WAYS, new, rounds)


def as_markdown(costs: Sequence[GenerationTimes]) -> list[str]:
    """Return a table with one line per prompt."""
    cells = [
        (
            cost.prompt,
            *(cost.of_token(way) for way in WAYS),
            cost.ratio(OURS),
            cost.processor_ratio(OURS),
        )
        for cost in costs
    ]
    titles = ("prompt", *(f"{way}, a token" for way in WAYS), "ratio", "processor time")
    return list(markdown_table(titles, cells))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if an implementation generates other tokens."""
    return command("generate_cost", __doc__, arguments, measure, as_markdown)


if __name__ == "__main__":
    sys.exit(main())

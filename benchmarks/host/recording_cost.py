"""Measure what it costs to record the attention of ``generate`` while it runs.

``python -m benchmarks.host.recording_cost`` lets a model generate greedily under ``"sdpa"``, by
``sra_fast.generate`` and inside ``sra_fast.monitor(model, batch)``, in turns whose order changes
from round to round, and prints the median of the ratios of each round, by the clock and in
processor time, which hardly sees what else the machine does. Both recordings include the forward
pass of the last new token and the scores. All must generate the same tokens, or there is no ratio.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import sra_fast
from benchmarks.host.generate_cost import generated as attending_by
from benchmarks.host.generation_times import (
    PLAIN,
    Generate,
    GenerationTimes,
    command,
    in_turns,
    random_prompts,
)
from sra_fast.tools.markdown_table import markdown_table

SPAN = slice(1, 41)
"""The places of the marked tokens, counted from the first token of each prompt."""


def plain(model: Any, batch: dict[str, Tensor], **arguments: Any) -> Tensor:
    """Generate under ``"sdpa"``, without any record."""
    return attending_by(PLAIN, model, batch, **arguments)


def generated(model: Any, batch: dict[str, Tensor], **arguments: Any) -> Tensor:
    """Generate by ``sra_fast.generate``, which records."""
    return sra_fast.generate(model, batch, check=False, **arguments).sequences


def monitored(model: Any, batch: dict[str, Tensor], **arguments: Any) -> Tensor:
    """Generate inside ``sra_fast.monitor``, which records."""
    with sra_fast.monitor(model, batch):
        sequences: Tensor = model.generate(
            batch["input_ids"], attention_mask=batch["attention_mask"], **arguments
        )
    return sequences


WAYS: dict[str, Generate] = {
    PLAIN: plain,
    "sra_fast.generate": generated,
    "sra_fast.monitor": monitored,
}


def measure(model: Any, tokens: int, rows: int, new: int, rounds: int) -> GenerationTimes:
    """Generate ``new`` tokens after random prompts of ``tokens`` tokens, in ``rounds`` rounds."""
    prompts = random_prompts(model, tokens, rows)
    span = torch.zeros(rows, tokens, dtype=torch.bool)
    for row, real in enumerate(prompts["attention_mask"].sum(dim=1).tolist()):
        span[row, tokens - real :][SPAN] = True
    return in_turns(model, {**prompts, "strategy_mask": span}, WAYS, new, rounds)


def as_markdown(costs: Sequence[GenerationTimes]) -> list[str]:
    """Return a table with one line per prompt and way."""
    cells = [
        (cost.prompt, way, cost.of_token(way), cost.ratio(way), cost.processor_ratio(way))
        for cost in costs
        for way in WAYS
    ]
    titles = ("prompt", "way", "a token", "ratio", "processor time")
    return list(markdown_table(titles, cells))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if a way generates other tokens."""
    return command("recording_cost", __doc__, arguments, measure, as_markdown)


if __name__ == "__main__":
    sys.exit(main())

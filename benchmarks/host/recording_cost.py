"""Measure what it costs to record the attention of ``generate`` while it runs.

``python -m benchmarks.host.recording_cost`` lets a model generate greedily under ``"sdpa"``, by
``sra_fast.generate`` and inside ``sra_fast.monitor(model, batch)``, in turns whose order changes
from round to round, and prints the median of the ratios of each round. Both recordings include the
forward pass of the last new token and the scores. All must generate the same tokens, or there is no
ratio.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

import sra_fast
from benchmarks.measuring import machine
from benchmarks.measuring.alternatives import attending
from sra_fast.files.models import find_model
from sra_fast.tools.markdown_table import markdown_table

SPAN = slice(1, 41)
"""Where the marked tokens are, counted from the first token of each prompt."""


@dataclass(frozen=True)
class RecordingCost:
    """The seconds of one prompt's generations, round by round.

    Attributes:
        tokens: the length of the prompt.
        rows: the prompts of the batch; all but the first are padded on the left.
        seconds: by way, in the order of the rounds.
        same: whether all ways generated the same tokens in every round.
    """

    tokens: int
    rows: int
    seconds: dict[str, list[float]]
    same: bool

    def ratio(self, way: str) -> float:
        """Return the median over rounds of a way's time over that of sdpa."""
        pairs = zip(self.seconds[way], self.seconds["sdpa"], strict=True)
        return median(own / plain for own, plain in pairs)


def plain(model: Any, batch: dict[str, Tensor], **arguments: Any) -> Tensor:
    """Generate under ``"sdpa"``, without any record."""
    with attending(model, "sdpa"):
        sequences: Tensor = model.generate(**_inputs(batch), **arguments)
    return sequences


def generated(model: Any, batch: dict[str, Tensor], **arguments: Any) -> Tensor:
    """Generate by ``sra_fast.generate``, which records."""
    return sra_fast.generate(model, batch, check=False, **arguments).sequences


def monitored(model: Any, batch: dict[str, Tensor], **arguments: Any) -> Tensor:
    """Generate inside ``sra_fast.monitor``, which records."""
    with sra_fast.monitor(model, batch):
        sequences: Tensor = model.generate(**_inputs(batch), **arguments)
    return sequences


WAYS: dict[str, Callable[..., Tensor]] = {
    "sdpa": plain,
    "sra_fast.generate": generated,
    "sra_fast.monitor": monitored,
}


def measure(model: Any, tokens: int, rows: int, new: int, rounds: int) -> RecordingCost:
    """Generate ``new`` tokens after random prompts of ``tokens`` tokens, in ``rounds`` rounds."""
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(model.config.vocab_size, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    span = torch.zeros(rows, tokens, dtype=torch.bool)
    for row in range(rows):
        first = row * tokens // (2 * rows)
        mask[row, :first] = 0
        span[row, first:][SPAN] = True
    batch = {"input_ids": ids, "attention_mask": mask, "strategy_mask": span}
    arguments: dict[str, Any] = dict(
        max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
    )
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    same = True
    order = list(WAYS)
    for number in range(-1, rounds):  # the first round only warms up
        found: dict[str, Tensor] = {}
        for way in order:
            begun = time.perf_counter()
            found[way] = WAYS[way](model, batch, **arguments)
            took = time.perf_counter() - begun
            if number >= 0:
                seconds[way].append(took)
        order = [*order[1:], order[0]]
        same &= all(torch.equal(found["sdpa"], each) for each in found.values())
    return RecordingCost(tokens, rows, seconds, same)


def as_markdown(costs: Sequence[RecordingCost], new: int) -> list[str]:
    """Return a table with one line per prompt and way."""
    cells = [
        (
            f"{cost.rows} × {cost.tokens}",
            way,
            f"{median(cost.seconds[way]) / new * 1e3:.1f} ms",
            f"{cost.ratio(way):.3f}" if cost.same else "**WRONG**: other tokens",
        )
        for cost in costs
        for way in WAYS
    ]
    return list(markdown_table(("prompt", "way", "a token", "ratio"), cells))


def _inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if a way generates other tokens."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host.recording_cost",
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
        "--rounds", type=int, default=15, help="Time this many rounds per prompt (default 15)."
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

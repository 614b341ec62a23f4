"""Time ways of generating the same tokens in turns; shared by the benchmarks of ``generate``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import machine
from sra_fast.files.models import find_model

PLAIN = "sdpa"
"""The way that all others are compared with."""

Generate = Callable[..., Tensor]
"""Generate from a model and prompts, with arguments of ``generate``; returns the sequences."""


@dataclass(frozen=True)
class GenerationTimes:
    """The seconds of one prompt's generations, round by round.

    Attributes:
        tokens: the length of the prompt.
        rows: the prompts of the batch; all but the first are padded on the left.
        new: how many tokens were generated.
        seconds: by way, in the order of the rounds, by the clock and of all threads.
        same: whether all ways generated the same tokens in every round.
    """

    tokens: int
    rows: int
    new: int
    seconds: dict[str, list[tuple[float, float]]]
    same: bool

    @property
    def prompt(self) -> str:
        """The rows and tokens of the prompt, for tables."""
        return f"{self.rows} × {self.tokens}"

    def of_token(self, way: str) -> str:
        """Return a way's time for each new token, for tables."""
        return f"{median(clock for clock, _ in self.seconds[way]) / self.new * 1e3:.1f} ms"

    def ratio(self, way: str) -> str:
        """Return the median over rounds of a way's time over the plain one, for tables."""
        return self._ratio(way, 0)

    def processor_ratio(self, way: str) -> str:
        """Return the median over rounds of a way's processor time over the plain one."""
        return self._ratio(way, 1)

    def _ratio(self, way: str, which: int) -> str:
        if not self.same:
            return "**WRONG**: other tokens"
        pairs = zip(self.seconds[way], self.seconds[PLAIN], strict=True)
        return f"{median(own[which] / plain[which] for own, plain in pairs):.3f}"


def random_prompts(model: Any, tokens: int, rows: int) -> dict[str, Tensor]:
    """Return random ``input_ids`` and their ``attention_mask``, both ``[rows, tokens]`` int64."""
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(model.config.vocab_size, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, : row * tokens // (2 * rows)] = 0
    return {"input_ids": ids, "attention_mask": mask}


def in_turns(
    model: Any,
    prompts: Mapping[str, Tensor],
    ways: Mapping[str, Generate],
    new: int,
    rounds: int,
) -> GenerationTimes:
    """Generate ``new`` tokens in ``rounds`` rounds, each of which begins with another way."""
    arguments: dict[str, Any] = dict(
        max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
    )
    rows, tokens = prompts["input_ids"].shape
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    same, order = True, list(ways)
    for number in range(-1, rounds):  # the first round only warms up
        found: dict[str, Tensor] = {}
        for way in order:
            begun, worked = time.perf_counter(), time.process_time()
            found[way] = ways[way](model, prompts, **arguments)
            took = time.perf_counter() - begun, time.process_time() - worked
            if number >= 0:
                seconds[way].append(took)
        order = [*order[1:], order[0]]
        same &= all(torch.equal(found[PLAIN], each) for each in found.values())
    return GenerationTimes(tokens, rows, new, seconds, same)


def command(
    name: str,
    description: str | None,
    arguments: Sequence[str] | None,
    measure: Callable[[Any, int, int, int, int], GenerationTimes],
    as_markdown: Callable[[Sequence[GenerationTimes]], list[str]],
) -> int:
    """Run a benchmark's command; the exit status is 1 if a way generates other tokens.

    Args:
        name: the benchmark's module in this package.
        description: its help text.
        arguments: the words of the command; those of the process if None.
        measure: measures one prompt, given the model, the numbers of tokens, of rows and of new
            tokens, and that of rounds.
        as_markdown: returns the lines of a table.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.host.{name}",
        description=description,
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
    times = [
        measure(model, tokens, given.rows, given.new, given.rounds) for tokens in given.prompts
    ]
    facts = machine.facts()
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}", end="\n\n")
    print("\n".join(as_markdown(times)))
    return int(not all(each.same for each in times))

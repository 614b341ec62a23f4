"""Time the planning of ``score`` on the host before a forward pass.

``python -m benchmarks.cpu.planning`` reads the masks of one long conversation, makes the query of
its pass, checks it and plans it. Printed are medians and minima in milliseconds, for one reply and
for many.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from sra_fast.kernels.plan import check, plan
from sra_fast.measure.marked_query import query_as_given
from sra_fast.measure.spans import read_batch

TOKENS = 131_072
REPLIES = (1, 64)
REPEATS = 40
STEPS = ("read_batch", "build_query", "check and plan")
_PROMPT = 1 / 8  # of the tokens, before the first reply
_REPLY = 300  # the most tokens of one reply


def long_batch(tokens: int, replies: int) -> dict[str, Tensor]:
    """Return one conversation of ``tokens`` tokens with a span of 40 and replies of up to 300."""
    strategy = torch.zeros(1, tokens, dtype=torch.bool)
    responses = torch.zeros(1, tokens, dtype=torch.int32)
    first = int(tokens * _PROMPT)
    strategy[0, 1 : min(41, first)] = True
    step = (tokens - first) // replies
    for number in range(replies):
        start = first + number * step
        responses[0, start : start + min(_REPLY, step)] = number + 1
    return {
        "input_ids": torch.zeros(1, tokens, dtype=torch.int64),
        "attention_mask": torch.ones(1, tokens, dtype=torch.int64),
        "strategy_mask": strategy,
        "response_mask": responses,
    }


def times(tokens: int, replies: int, repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds of each step and of the first two together, ``repeats`` of each."""
    batch = long_batch(tokens, replies)
    found: dict[str, list[float]] = {name: [] for name in (*STEPS, "read and build")}
    for _ in range(repeats):
        marks = [time.perf_counter()]
        marked = read_batch(batch)
        marks.append(time.perf_counter())
        query, _placed = query_as_given(marked)
        marks.append(time.perf_counter())
        check(query, 1, tokens, tokens)
        plan(query, 1, tokens, tokens)
        marks.append(time.perf_counter())
        for name, start, end in zip(STEPS, marks, marks[1:], strict=False):
            found[name].append(1e3 * (end - start))
        found["read and build"].append(1e3 * (marks[2] - marks[0]))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and print the table; the exit status is 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu.planning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "tokens",
        nargs="?",
        type=int,
        default=TOKENS,
        help="Plan a conversation of this many tokens (default %(default)s).",
    )
    tokens = parser.parse_args(arguments).tokens
    print(f"{tokens} tokens, {torch.get_num_threads()} threads, milliseconds: median (least)")
    for replies in REPLIES:
        columns = [
            f"{name} {statistics.median(each):.2f} ({min(each):.2f})"
            for name, each in times(tokens, replies, REPEATS).items()
        ]
        print(f"{replies:3} replies: {', '.join(columns)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

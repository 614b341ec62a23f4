"""Measure what it saves to compute a beginning that sequences share once, on this CPU.

``python -m benchmarks.cpu.prefix_cost`` scores one reply of a long conversation under 15 strategies
with SmolLM2, once with each sequence whole and once with common beginnings computed once, in turns,
and prints how many times fewer tokens and seconds that takes, by the clock and in processor time,
which hardly sees what else the machine does; and the peak memory of either. It does so for
templates whose instruction stands at the end of the history, where nearly all is shared, and before
it. Then it scores different conversations, which share nothing, to show what looking costs.

The scores of both ways are compared first; if they differ, no ratio is printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import sra_fast
from benchmarks.measuring import machine, peak_memory
from benchmarks.measuring.fresh_process import in_fresh_process
from sra_fast.chat.conversations import Conversation, read_conversations
from sra_fast.chat.strategies import DEFAULT_STRATEGIES
from sra_fast.files.models import find_model
from sra_fast.files.smollm2 import NAME
from sra_fast.tools.markdown_table import markdown_table

CONVERSATIONS = Path(sra_fast.__file__).parent / "chat" / "data" / "demo_conversations.jsonl"
TEMPLATES = ("c1_hf", "c1_hl", "standard")
STRATEGIES = 15
MESSAGES = 30  # of the conversation, about as many as the dialogues of ESConv have
TOLERANCE = 1e-5  # of a score, relative
UNLIKE = "different"  # the batch of different conversations


@dataclass(frozen=True)
class PrefixCost:
    """The cost of one batch, with its sequences whole and with common beginnings computed once.

    Attributes:
        name: the template, or :data:`UNLIKE`.
        tokens: the tokens of all sequences.
        computed: those that are computed where beginnings are computed once.
        whole, once: ``(clock, processor)`` seconds of each score, pair by pair.
        differs: the largest relative difference of a score.
    """

    name: str
    tokens: int
    computed: int
    whole: tuple[tuple[float, float], ...]
    once: tuple[tuple[float, float], ...]
    differs: float

    def ratio(self, which: int) -> float:
        """Return the median over the pairs of whole over once: 0 by the clock, 1 of processor."""
        pairs = zip(self.whole, self.once, strict=True)
        return median(whole[which] / once[which] for whole, once in pairs)


def under_strategies(messages: int) -> list[dict[str, Any]]:
    """Return a long conversation's record under each of 15 strategies."""
    long = max(read_conversations(CONVERSATIONS), key=lambda one: len(one.messages))
    kept = [{"role": one.role, "content": one.content} for one in long.messages[:messages]]
    record = {"id": long.id, "situation": long.situation, "messages": kept}
    return [{**record, "strategy": name} for name in list(DEFAULT_STRATEGIES)[:STRATEGIES]]


def unlike() -> list[Conversation]:
    """Return the short conversations of the demo, which have nothing in common."""
    every = read_conversations(CONVERSATIONS)
    longest = max(len(one.messages) for one in every)
    return [one for one in every if len(one.messages) < longest]


def batch_of(name: str, tokenizer: Any, messages: int) -> Mapping[str, Any]:
    """Return the batch under a template, or the one of different conversations."""
    conversations: Sequence[Any] = unlike() if name == UNLIKE else under_strategies(messages)
    template = "c1_hl" if name == UNLIKE else name
    return sra_fast.encode(tokenizer, conversations, template=template, turns="last")


def measure(model: Any, name: str, batch: Mapping[str, Any], rounds: int) -> PrefixCost:
    """Time pairs of a score with sequences whole and one with beginnings once, in turns."""
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    results = {share: sra_fast.score(model, batch, share_prefixes=share) for share in found}
    for number in range(rounds):
        for share in (True, False) if number % 2 else (False, True):
            begun, worked = time.perf_counter(), time.process_time()
            sra_fast.score(model, batch, share_prefixes=share)
            seconds = (time.perf_counter() - begun, time.process_time() - worked)
            found[share].append(seconds)
    tokens = int(batch["attention_mask"].sum())
    told = results[True].prefixes
    apart = (results[True].sra / results[False].sra - 1).abs().max()
    return PrefixCost(
        name,
        tokens,
        int(told.split()[0]) if told else tokens,
        tuple(found[False]),
        tuple(found[True]),
        float(apart),
    )


def peak(model_name: str, messages: int, name: str, share: bool) -> int:
    """Return the bytes that a score takes at its peak; to be called in a fresh process."""
    torch.set_num_threads(1)
    source = find_model(model_name)
    model = source.load("float32", "cpu", logits=False)
    batch = batch_of(name, source.tokenizer(), messages)
    first = {key: value[:1] for key, value in batch.items()}
    sra_fast.score(model, first)  # what is set up once is no part of the peak
    return peak_memory.with_peak(lambda: sra_fast.score(model, batch, share_prefixes=share))[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if scores differ."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu.prefix_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default=NAME, help="The model: a folder or a name.")
    parser.add_argument(
        "--messages",
        type=int,
        default=MESSAGES,
        help="How many messages of the conversation to read.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="Pairs to time for each batch.")
    parser.add_argument(
        "--batches",
        nargs="+",
        default=[*TEMPLATES, UNLIKE],
        choices=[*TEMPLATES, UNLIKE],
        help="The templates, and the batch of different conversations.",
    )
    options = parser.parse_args(arguments)
    source = find_model(options.model)
    model = source.load("float32", "cpu", logits=False)
    lines = []
    for name in options.batches:
        batch = batch_of(name, source.tokenizer(), options.messages)
        cost = measure(model, name, batch, options.rounds)
        if not cost.differs <= TOLERANCE:
            print(f"{name}: the scores differ by {cost.differs:.1e} of themselves")
            return 1
        megabytes = [
            in_fresh_process(peak, options.model, options.messages, name, share) / 2**20
            for share in (False, True)
        ]
        lines.append(
            (
                name,
                str(cost.tokens),
                f"{cost.tokens / cost.computed:.2f}",
                f"{median(clock for clock, _ in cost.whole):.2f} s",
                f"{cost.ratio(0):.2f}",
                f"{cost.ratio(1):.2f}",
                " → ".join(f"{one:.0f} MB" for one in megabytes),
                f"{cost.differs:.0e}",
            )
        )
        print(lines[-1], file=sys.stderr, flush=True)
    facts = machine.facts()
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}", end="\n\n")
    titles = (
        "batch",
        "tokens",
        "times fewer tokens",
        "whole",
        "times faster",
        "processor time",
        "peak memory",
        "scores differ by",
    )
    print(*markdown_table(titles, lines), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

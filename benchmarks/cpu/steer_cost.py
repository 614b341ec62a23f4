"""Measure what steering costs a forward pass on this CPU, over the plain forward pass.

``python -m benchmarks.cpu.steer_cost`` runs a model over random tokens, plainly under ``"sdpa"``
and with a span of 40 tokens steered, in turns, and prints the medians of the ratios of each pair,
by the clock and in processor time, which hardly sees what else the machine does.
First the steered model's logits on a short text must be those of an attention that is written out
here, with the bias among its logits; if they are not, no ratio is printed.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

import sra_fast
from benchmarks.measuring import machine
from benchmarks.measuring.alternatives import attending
from sra_fast.files.models import find_model
from sra_fast.tools.markdown_table import markdown_table

SPAN_TOKENS = 40
SHORT = 256  # tokens of the text on which the logits are compared
TOLERANCE = 1e-3  # of logits, which are of the order of 10

WAYS: Mapping[str, Mapping[str, Any]] = {
    "bias 2.5": {"bias": 2.5},
    "share 0.3": {"share": 0.3},
    "bias −3": {"bias": -3.0},
    "knock-out": {"knock_out": True},
}


@dataclass(frozen=True)
class SteeringCost:
    """The seconds of one way of steering, pair by pair with the plain forward pass.

    Attributes:
        steered: the seconds of each steered forward pass, by the clock and of all its threads.
        plain: the seconds of the plain one beside it.
    """

    steered: tuple[tuple[float, float], ...]
    plain: tuple[tuple[float, float], ...]

    @property
    def ratio(self) -> float:
        """Return the median over the pairs of the steered time over the plain one."""
        return self._ratio(0)

    @property
    def processor_ratio(self) -> float:
        """Return the median over the pairs of the steered processor time over the plain one."""
        return self._ratio(1)

    def _ratio(self, which: int) -> float:
        pairs = zip(self.steered, self.plain, strict=True)
        return median(steered[which] / plain[which] for steered, plain in pairs)


def prompt(vocabulary: int, tokens: int) -> dict[str, Tensor]:
    """Return random tokens ``[1, T]``, of which 40 from an eighth on are marked as the span."""
    generator = torch.Generator().manual_seed(tokens)
    span = torch.zeros(1, tokens, dtype=torch.bool)
    span[:, tokens // 8 : tokens // 8 + SPAN_TOKENS] = True
    ids = torch.randint(vocabulary, (1, tokens), generator=generator)
    return {"input_ids": ids, "strategy_mask": span}


WRITTEN_OUT = "steering_written_out"


def written_out(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    steered_span: Tensor,
    strength: Mapping[str, Any],
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend causally without padding, with the bias of a strength added to the span's logits."""
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    logits = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen, -torch.inf)
    in_span = steered_span[:, None, None]
    if "share" in strength:
        of_span = logits.masked_fill(~in_span, -torch.inf).logsumexp(-1, keepdim=True)
        of_rest = logits.masked_fill(in_span, -torch.inf).logsumexp(-1, keepdim=True)
        share = strength["share"]
        raised = (math.log(share / (1 - share)) + of_rest - of_span).clamp(min=0)
        bias = raised.masked_fill(of_span == -torch.inf, 0)  # such a row sees no key of the span
    else:
        bias = torch.tensor(-torch.inf if strength.get("knock_out") else strength["bias"])
    weights = torch.where(in_span, logits + bias, logits).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(WRITTEN_OUT, written_out)


def differs(model: Any, way: str) -> float:
    """Return the largest difference of the steered logits to those of the written-out attention."""
    strength, batch = WAYS[way], prompt(model.config.vocab_size, SHORT)
    ids, span = batch["input_ids"], batch["strategy_mask"]
    with attending(model, WRITTEN_OUT):
        wanted = model(ids, steered_span=span, strength=strength).logits
    with sra_fast.steer(model, batch, **strength), torch.no_grad():
        found = model(ids).logits
    return float((found - wanted).abs().max())


@torch.no_grad()
def measure(model: Any, way: str, tokens: int, rounds: int) -> SteeringCost:
    """Time pairs of a steered and a plain forward pass over ``tokens`` tokens, in turns."""
    batch = prompt(model.config.vocab_size, tokens)
    steered, plain = [], []

    def seconds() -> tuple[float, float]:
        begun, worked = time.perf_counter(), time.process_time()
        model(batch["input_ids"], use_cache=False, logits_to_keep=1)
        return time.perf_counter() - begun, time.process_time() - worked

    for number in range(rounds):
        for first in (True, False):
            if first == bool(number % 2):
                with sra_fast.steer(model, batch, **WAYS[way]):
                    steered.append(seconds())
            else:
                with attending(model, "sdpa"):
                    plain.append(seconds())
    return SteeringCost(tuple(steered), tuple(plain))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if a steered model's logits are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu.steer_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="smollm2", help="The model: a folder or a name.")
    parser.add_argument("--tokens", type=int, default=4096, help="Tokens of the text.")
    parser.add_argument("--rounds", type=int, default=5, help="Pairs to time for each way.")
    options = parser.parse_args(arguments)
    model = find_model(options.model).load("float32", "cpu")
    lines = []
    for way in WAYS:
        off = differs(model, way)
        if off > TOLERANCE:
            print(f"{way}: the logits are off by {off:.1e} from the written-out attention's")
            return 1
        cost = measure(model, way, options.tokens, options.rounds)
        lines.append(
            (
                way,
                f"{median(clock for clock, _ in cost.plain):.2f} s",
                f"{median(clock for clock, _ in cost.steered):.2f} s",
                f"{cost.ratio:.3f}",
                f"{cost.processor_ratio:.3f}",
                f"{off:.0e}",
            )
        )
        print(lines[-1], file=sys.stderr, flush=True)
    facts = machine.facts()
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}", end="\n\n")
    titles = (
        "steered",
        "plain forward",
        "steered forward",
        "ratio",
        "processor time",
        "logits off by",
    )
    print(*markdown_table(titles, lines), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

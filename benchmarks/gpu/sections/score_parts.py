"""Split a score into its parts: planning, the forward pass, the reduction; launches and waits.

The functions of the library that plan and reduce are timed by the host's clock with the card idle
before and after, so that a part is its own work and not the wait for what was launched before. What
remains of the whole is the forward pass. Launches, waits and bytes to the host are counted from the
profiler's trace, for a score and for the plain forward pass by SDPA.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu.harness import llama
from benchmarks.gpu.harness.bench import Bench, Entry
from benchmarks.gpu.harness.profiled import host_work, watch
from benchmarks.gpu.harness.timing import BenchCall, synchronize
from sra_fast.scoring import score

PARTS = {
    "planning": (
        "scoring.read_content",
        "scoring.planned",
        "measure.scored_forward.build_query",
        "measure.scored_forward.laid_out",
    ),
    "checks": (
        "scoring.serve",
        "scoring.refuse_adapters",
        "scoring.tried",
        "scoring.self_check",
    ),
    "reduction": ("measure.scored_forward.reduce",),
}
"""Part -> the functions that a score calls for it, by the modules that call them."""


def split(
    model: Any, one: Mapping[str, Tensor], many: Mapping[str, Tensor], bench: Bench, entry: Entry
) -> None:
    """Write the parts of a score into an entry, with one reply and with many.

    Args:
        model: the model, scored before.
        one, many: batches of one length.
        bench: what the section works with.
        entry: gets ``PART_ms`` and ``PART_ms of many``.
    """
    for suffix, batch in (("", one), (" of many", many)):
        with _timed(bench.device) as took:
            begun = time.perf_counter()
            score(model, batch)
            whole = time.perf_counter() - begun
        for part in PARTS:
            entry[f"{part}_ms{suffix}"] = took[part] * 1e3
        entry[f"forward_ms{suffix}"] = (whole - sum(took.values())) * 1e3


def count(
    model: Any, one: Mapping[str, Tensor], many: Mapping[str, Tensor], bench: Bench, entry: Entry
) -> None:
    """Write launches, waits and bytes to the host into an entry, of scores and of the SDPA pass.

    Args:
        model: the model, scored before.
        one, many: batches of one length.
        bench: what the section works with; on a CPU there is nothing to count.
        entry: gets the counts, and how many launches a layer a score has more.
    """
    calls: dict[str, BenchCall] = {
        "score": lambda: score(model, one),
        "score of many": lambda: score(model, many),
        "sdpa": llama.plain_forward(model, one["input_ids"].to(bench.device)),
    }
    for name, call in calls.items():
        entry |= host_work(watch(call, bench.device)).fields(name)
    more = entry["score launches"] - entry["sdpa launches"]
    entry["more launches a layer"] = more / model.config.num_hidden_layers


@contextmanager
def _timed(device: torch.device) -> Iterator[dict[str, float]]:
    """Time the functions of every part while inside ``with``; gives seconds by part."""
    took: dict[str, float] = defaultdict(float)

    def timed(part: str, function: BenchCall) -> BenchCall:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            synchronize(device)
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                synchronize(device)
                took[part] += time.perf_counter() - begun

        return call

    with ExitStack() as patches:
        for part, names in PARTS.items():
            for name in names:
                place, function = name.rsplit(".", 1)
                caller = importlib.import_module(f"sra_fast.{place}")
                replaced = timed(part, getattr(caller, function))
                patches.enter_context(mock.patch.object(caller, function, replaced))
        yield took

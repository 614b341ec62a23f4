"""List the sections in order with their share of the time, and run one in this process."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.gpu.harness.bench import BAD, Bench, Entry
from benchmarks.gpu.harness.failures import describe
from benchmarks.gpu.harness.sizes import FULL, QUICK

SectionStatus = Literal["running", "done", "failed", "stopped", "skipped"]


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes:
        name: its name on the command line and in the record.
        title: its heading in the report.
        function: ``module:function`` in the folder ``sections``, imported when it is run.
        share: its share of the time, in seconds of all shares together. Time that it leaves goes to
            later sections.
    """

    name: str
    title: str
    function: str
    share: float


SECTIONS = (
    Section("facts", "Which kernel PyTorch's attention runs here", "sdpa_kernels:run", 18),
    Section("ceilings", "Measured ceilings", "ceilings:run", 12),
    Section(
        "score",
        "sra_fast.score on a model of Llama-3-8B's shape, random weights",
        "model_scores:run",
        150,
    ),
    Section(
        "same_bits",
        "The same call again and again: the same bits, and offsets beyond 2³¹",
        "same_bits:run",
        30,
    ),
    Section("providers", "Attention with a logsumexp, by provider", "provider_table:run", 70),
    Section(
        "training",
        "LoRA steps of Llama-3-8B's shape: SRA watched, and in the loss",
        "training_steps:run",
        85,
    ),
    Section("grid", "The op's cases on this card, and a memory checker", "correctness:run", 75),
    Section("mass", "What the mass costs: rows asked for, and none", "mass_cost:run", 22),
    Section("decode", "One decoding step with mass against a long cache", "decoding:run", 20),
    Section("backward", "Backward: with a gradient of the mass and without", "gradients:run", 22),
    Section(
        "compiled",
        "Attention by providers that are compiled first or slow",
        "provider_table:run_slow",
        25,
    ),
    Section(
        "column_sums",
        "the profile of all keys, beside flash-colreduce",
        "column_sums:run",
        6,
    ),
)
"""The sections in the order in which they run: what decides most comes first."""


@dataclass(frozen=True)
class ReportSettings:
    """The settings that all sections of a run share.

    Attributes:
        device: ``"cuda"``, or ``"cpu"`` to try the report itself.
        quick: whether to use tiny sizes.
    """

    device: str
    quick: bool


@dataclass(frozen=True)
class SectionOutcome:
    """The outcome of a section.

    Attributes:
        name: the section's name.
        status: how the section ended; ``"stopped"`` says that it was ended from outside, and
            ``"skipped"`` that it was never begun.
        entries: what it found, as far as it came.
        reason: why it is not done.
        seconds: how long it took.
    """

    name: str
    status: SectionStatus
    entries: Sequence[Entry] = ()
    reason: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Return whether the whole section ran and was right."""
        return self.status == "done" and not any(BAD & entry.keys() for entry in self.entries)


def run_here(
    section: Section,
    settings: ReportSettings,
    ends: float,
    ceilings: Mapping[str, float],
    known: Sequence[Entry] = (),
    save: Callable[[SectionOutcome], None] = lambda outcome: None,
) -> SectionOutcome:
    """Run a section in this process.

    Args:
        section: the section to run.
        settings: the settings of the run.
        ends: the moment at which its time is over, by ``time.monotonic``.
        ceilings: the ceilings that were measured before.
        known: entries of an earlier process of this section, which are not measured again.
        save: gets the outcome so far after each entry.
    """
    start = time.monotonic()

    def so_far(status: SectionStatus, entries: Sequence[Entry], reason: str = "") -> SectionOutcome:
        everything = [*entries, *(old for old in known if old not in entries)]
        return SectionOutcome(section.name, status, everything, reason, time.monotonic() - start)

    bench = Bench(
        torch.device("cuda", 0) if settings.device == "cuda" else torch.device("cpu"),
        QUICK if settings.quick else FULL,
        ends,
        ceilings,
        lambda entries: save(so_far("running", entries)),
        known,
    )
    try:
        module, function = section.function.split(":")
        getattr(importlib.import_module(f"benchmarks.gpu.sections.{module}"), function)(bench)
    except Exception as error:  # the other sections go on
        return so_far("failed", bench.entries, describe(error))
    return so_far("done", bench.entries)


def known_ceilings(outcomes: Sequence[SectionOutcome]) -> dict[str, float]:
    """Return ``gemm_tflops`` and ``copy_gbs``, as far as they were measured."""
    return {
        name: entry[name]
        for outcome in outcomes
        if outcome.name == "ceilings"
        for entry in outcome.entries
        for name in ("gemm_tflops", "copy_gbs")
        if name in entry
    }

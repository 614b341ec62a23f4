"""List the sections in order with their share of the time, and run one in this process."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.gpu.harness.bench import FULL, QUICK, Bench, Entry
from benchmarks.gpu.harness.failures import describe

SectionStatus = Literal["running", "done", "failed", "stopped", "skipped"]


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes:
        name: its name on the command line and in the record.
        title: its heading in the report.
        function: ``module:function`` in the folder ``sections``, imported when it is run.
        share: its share of the time, in seconds of 520. Time that it leaves goes to later sections.
    """

    name: str
    title: str
    function: str
    share: float


SECTIONS = (
    Section(
        "correctness",
        "Correctness on this card",
        "correctness:run",
        150,
    ),
    Section(
        "ceilings",
        "Measured ceilings",
        "ceilings:run",
        10,
    ),
    Section(
        "forward",
        "Fused forward: rows asked for (on) and not (off), PyTorch's kernels",
        "prefill:run_fused",
        50,
    ),
    Section(
        "lse",
        "Flash attention of PyTorch with the epilogue, with mass and without",
        "prefill:run_lse",
        25,
    ),
    Section(
        "backward",
        "Fused backward: with a gradient of the mass and without",
        "gradients:run",
        40,
    ),
    Section(
        "decode",
        "One decoding step with mass against a long cache",
        "decoding:run",
        15,
    ),
    Section(
        "choice",
        'Backends against each other, for backend="auto"',
        "choice:run",
        30,
    ),
    Section(
        "column_sums",
        "flash-colreduce: all columns, and those of the rows asked for",
        "column_sums:run",
        10,
    ),
    Section(
        "model",
        "sra_fast.score on a model of Llama-3-8B's shape, random weights",
        "whole_model:run",
        80,
    ),
    Section(
        "training",
        "LoRA steps of Llama-3-8B's shape: SRA watched, and in the loss",
        "training_steps:run",
        110,
    ),
)


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
    """What came of a section.

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
        return self.status == "done" and not any(
            {"error", "skipped"} & entry.keys() for entry in self.entries
        )


def run_here(
    section: Section,
    settings: ReportSettings,
    ends: float,
    ceilings: Mapping[str, float],
    save: Callable[[SectionOutcome], None] = lambda outcome: None,
) -> SectionOutcome:
    """Run a section in this process.

    Args:
        section: the section to run.
        settings: the settings of the run.
        ends: the moment at which its time is over, by ``time.monotonic``.
        ceilings: the ceilings that were measured before.
        save: gets the outcome so far after each entry.
    """
    start = time.monotonic()

    def so_far(status: SectionStatus, entries: Sequence[Entry], reason: str = "") -> SectionOutcome:
        return SectionOutcome(section.name, status, list(entries), reason, time.monotonic() - start)

    bench = Bench(
        torch.device("cuda", 0) if settings.device == "cuda" else torch.device("cpu"),
        QUICK if settings.quick else FULL,
        ends,
        ceilings,
        lambda entries: save(so_far("running", entries)),
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

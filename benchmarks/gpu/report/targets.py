"""List the targets as data, and judge whether they were reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.gpu.harness.bench import FULL, Entry
from benchmarks.gpu.harness.schedule import SectionOutcome


@dataclass(frozen=True)
class Target:
    """One figure of one section that is to be reached, at one or several places.

    Attributes:
        what, against: what is measured and what it is compared with, for the reader.
        section, field: the section and the field that hold the figure.
        places: the places where it must be measured; an entry counts for a place if it has all the
            place's values.
        sense, bound: what is to be reached; with the bound None the figure is only shown.
    """

    what: str
    against: str
    section: str
    field: str
    places: tuple[Entry, ...]
    sense: Literal["at most", "at least"] = "at most"
    bound: float | None = None

    @property
    def to_reach(self) -> str:
        """Return the bound as text for the reader."""
        if self.bound is None:
            return "–"
        bound = f"{self.bound:.2f}" if isinstance(self.bound, float) else str(self.bound)
        return f"{'≤' if self.sense == 'at most' else '≥'} {bound}"


@dataclass(frozen=True)
class TargetVerdict:
    """A target and what came of it.

    Attributes:
        target: the target that is judged.
        values: the figure at each place, None where it was not measured.
        word: the verdict; ``"–"`` for a figure that was measured and has nothing to reach.
    """

    target: Target
    values: tuple[float | None, ...]
    word: Literal["met", "not met", "not measured", "–"]

    @property
    def worst(self) -> float | None:
        """Return the worst of the values that were measured, or None without any."""
        known = [value for value in self.values if value is not None]
        if not known:
            return None
        return max(known) if self.target.sense == "at most" else min(known)


def _at(key: str, values: Sequence[int], **more: object) -> tuple[Entry, ...]:
    return tuple({key: value, **more} for value in values)


_PREFILL = _at("T", FULL.prefill)
_BACKWARD = _at("T", FULL.backward)
_TRAINING = _at("T", FULL.training_lengths)
_MODEL = _at("T", FULL.model_lengths, beside="SDPA")

TARGETS = (
    Target("tests that failed on the card", "–", "correctness", "failed_tests",
           ({"what": "tests"}, {"what": "backend lse over the tests' grid"}), bound=0),
    Target("dense bf16 product, TFLOP/s", "–", "ceilings", "gemm_tflops", ({},)),
    Target("copy, GB/s", "–", "ceilings", "copy_gbs", ({},)),
    Target("fused forward, spans on: time", "spans off", "forward", "on/off", _PREFILL, bound=1.02),
    Target("fused forward at 16k: TFLOP/s", "dense product", "forward", "of_ceiling",
           ({"T": 16384},), "at least", 0.60),
    Target("fused forward at 16k: speed", "FlashAttention-2 of PyTorch", "forward", "speed/flash",
           ({"T": 16384},), "at least", 0.80),
    Target("backend lse with mass: time", "without", "lse", "with/without", _PREFILL, bound=1.02),
    Target("fused backward with dmass: time", "without", "backward", "with/without", _BACKWARD,
           bound=1.05),
    Target("fused backward: TFLOP/s", "dense product", "backward", "of_ceiling", _BACKWARD,
           "at least", 0.40),
    Target("fused backward: the same bits twice", "–", "backward", "same_bits",
           ({"check": "backend lse", "T": FULL.agreement},), "at least", 1),
    Target("decode with mass at 128k keys: time", "bytes of K and V at copy speed", "decode",
           "with/floor", _at("B", FULL.decode_batches, N=FULL.decode_keys),
           bound=1.30),
    Target("flash-colreduce, all columns: time", "our fused forward", "column_sums",
           "columns/fused", _at("T", FULL.column_sums), "at least"),
    Target("flash-colreduce, columns of the rows: time", "our epilogue", "column_sums",
           "rows' columns/epilogue", _at("T", FULL.column_sums), "at least"),
    Target("score, 8B shape: time", "SDPA base model", "model", "score/sdpa time", _MODEL,
           bound=1.00),
    Target("score, 8B shape: peak memory above the weights", "SDPA base model", "model",
           "score/sdpa memory", _MODEL, bound=1.02),
    Target("score, 8B shape: time", "eager, output_attentions", "model", "score/maps time",
           ({"beside": "maps", "T": FULL.eager_lengths[0]},)),
    Target("LoRA step with SRACallback: time", "without", "training", "callback/plain time",
           _TRAINING, bound=1.02),
    Target("LoRA step with SRACallback: peak memory", "without", "training",
           "callback/plain memory", _TRAINING, bound=1.02),
    Target("LoRA step with SRA in the loss: time", "without", "training",
           "regulariser/plain time", _TRAINING, bound=1.15),
    Target("LoRA of rank 128 at 8k, SRA in the loss: GB in all", "an 80 GB card", "training",
           "regulariser_total_gb", ({"T": FULL.training_lengths[0]},), bound=80.0),
)  # fmt: skip


def judge(
    outcomes: Sequence[SectionOutcome], targets: Sequence[Target] = TARGETS
) -> list[TargetVerdict]:
    """Judge every target: it is met only if every place was measured and reaches the bound."""
    return [_judge(target, outcomes) for target in targets]


def maps_end(outcomes: Sequence[SectionOutcome]) -> str:
    """Return at which length attention maps no longer fit, as text for the reader."""
    entries = [
        entry
        for outcome in outcomes
        if outcome.name == "model"
        for entry in outcome.entries
        if entry.get("beside") == "maps"
    ]
    died = [entry for entry in entries if "absent" in entry]
    if not died:
        return "not reached" if entries else "not measured"
    return f"at T = {died[0]['T']}: {died[0]['absent']}"


def _judge(target: Target, outcomes: Sequence[SectionOutcome]) -> TargetVerdict:
    entries = [
        entry
        for outcome in outcomes
        if outcome.name == target.section
        for entry in outcome.entries
        if isinstance(entry.get(target.field), int | float)
    ]
    values = tuple(
        next((entry[target.field] for entry in entries if place.items() <= entry.items()), None)
        for place in target.places
    )
    known = [value for value in values if value is not None]
    if target.bound is None:
        return TargetVerdict(target, values, "–" if known else "not measured")
    limit = target.bound
    missed = [v for v in known if not (v <= limit if target.sense == "at most" else v >= limit)]
    if missed:
        return TargetVerdict(target, values, "not met")
    return TargetVerdict(target, values, "met" if len(known) == len(values) else "not measured")

"""List the targets as data, and judge whether they were reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.gpu.harness.bench import Entry
from benchmarks.gpu.harness.places import (
    HALF,
    KINDS,
    MANY,
    ONE,
    PARTS_OF_A_SCORE,
    SPAN,
)
from benchmarks.gpu.harness.schedule import SectionOutcome
from benchmarks.gpu.harness.sizes import FULL


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


_LENGTHS = _at("T", FULL.model_lengths, what=ONE)
_PARTS = _at("T", FULL.part_lengths, what=PARTS_OF_A_SCORE)
_CAUSAL = _at("T", FULL.provider_lengths, form="causal", D=FULL.width)
_TRAINING = _at("T", FULL.training_lengths)
_STEPS = tuple(place for n in FULL.decode_keys for place in _at("B", FULL.decode_batches, N=n))
_BITS = tuple({"what": kind, "D": width} for width in FULL.widths for kind in KINDS)
_MILLISECONDS = 5.0

HEADLINES = (
    *(
        Target(f"score, 8B shape, T = {place['T']}: time", "SDPA forward", "score",
               "score/sdpa time", (place,), bound=1.00)
        for place in _LENGTHS
    ),
    Target("score, 8B shape, 64 replies: time", "SDPA forward", "score", "score/sdpa time",
           _at("T", FULL.scene_lengths, what=MANY), bound=1.00),
    Target("score, 8B shape, every row on half the prompt: time", "SDPA forward", "score",
           "score/sdpa time", _at("T", FULL.scene_lengths, what=HALF)),
    Target("score, 8B shape: peak memory above the weights", "SDPA forward", "score",
           "score/sdpa memory", _LENGTHS, bound=1.02),
    Target("score, 8B shape: time", "floor: its FLOPs at the dense product's speed", "score",
           "score/floor", _LENGTHS),
    Target("tests that failed on the card", "–", "grid", "failed_tests",
           ({"what": "tests"},), bound=0),
    Target("runs of the same call that differ in their bits", "–", "same_bits", "different", _BITS,
           bound=0),
    Target("best provider with mass, causal, D = 128: time", "SDPA", "providers", "fastest/sdpa",
           _CAUSAL, bound=1.02),
    Target("LoRA step with SRACallback: time", "without", "training", "callback/plain time",
           _TRAINING, bound=1.02),
    Target("LoRA step with SRA in the loss: time", "without", "training",
           "regulariser/plain time", _TRAINING, bound=1.15),
    Target("decoding step with mass: time", "floor: bytes of K and V at copy speed", "decode",
           "fastest/floor", _at("B", FULL.decode_batches, N=max(FULL.decode_keys)), bound=1.30),
)  # fmt: skip
"""The targets that the report judges, the most decisive first."""

DETAILS = (
    Target("dense bf16 product, TFLOP/s", "–", "ceilings", "gemm_tflops", ({},)),
    Target("copy, GB/s", "–", "ceilings", "copy_gbs", ({},)),
    Target("planning of a score, one reply, ms", "–", "score", "planning_ms", _PARTS,
           bound=_MILLISECONDS),
    Target("planning of a score, 64 replies, ms", "–", "score", "planning_ms of many", _PARTS,
           bound=_MILLISECONDS),
    Target("reduction of a score, 64 replies, ms", "–", "score", "reduction_ms of many", _PARTS),
    Target("kernel launches a layer beyond the SDPA forward's", "–", "score",
           "more launches a layer", _PARTS[:2], bound=3),
    Target("fused kernel, rows asked for: time", "none asked for", "mass", "triton on/off",
           _at("T", FULL.mass, what=SPAN), bound=1.02),
    Target("backend lse, rows asked for: time", "none asked for", "mass", "lse on/off",
           _at("T", FULL.mass, what=SPAN), bound=1.02),
    Target("forward and backward: time", "SDPA", "backward", "fastest/sdpa",
           _at("T", FULL.backward, work="training"), bound=1.02),
    Target("forward and backward, mass in the loss: time", "SDPA", "backward", "fastest/sdpa",
           _at("T", FULL.backward, work="mass_grad"), bound=1.15),
    Target("forward and backward: TFLOP/s", "dense product", "backward", "of_ceiling",
           _at("T", FULL.backward, work="training"), "at least", 0.40),
    Target("decoding step with mass: time", "SDPA", "decode", "fastest/sdpa", _STEPS, bound=1.02),
    Target("LoRA step with SRACallback: peak memory", "without", "training",
           "callback/plain memory", _TRAINING, bound=1.02),
    Target("LoRA step: time", "floor: its FLOPs at the dense product's speed", "training",
           "plain/floor", _TRAINING),
    Target("LoRA of rank 128 at 8k, SRA in the loss: GB in all", "an 80 GB card", "training",
           "regulariser_total_gb", ({"T": FULL.training_lengths[0]},), bound=80.0),
    Target("score, 8B shape: time", "eager, output_attentions", "score", "score/maps time",
           ({"beside": "maps", "T": FULL.eager_lengths[0]},)),
    Target("flash-colreduce, all columns: time", "our fused forward", "column_sums",
           "columns/fused", _at("T", FULL.column_sums), "at least"),
    Target("flash-colreduce, columns of the rows: time", "our profile of all keys", "column_sums",
           "rows' columns/profile", _at("T", FULL.column_sums), "at least"),
    Target("flash-colreduce, columns of the rows: time", "our epilogue", "column_sums",
           "rows' columns/epilogue", _at("T", FULL.column_sums), "at least"),
)  # fmt: skip

TARGETS = (*HEADLINES, *DETAILS)


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
        if outcome.name == "score"
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

"""Write the report to read, ``report.md``, and the short table that is printed last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.harness.bench import Entry
from benchmarks.gpu.harness.schedule import SECTIONS, SectionOutcome
from benchmarks.gpu.report.dispatch_table import unfit
from benchmarks.gpu.report.targets import TargetVerdict, maps_end
from sra_fast.tools.markdown_table import markdown_table

MOST_TROUBLES = 8  # lines about failures in the short table; the report has them all

PLACE = ("what", "check", "work", "beside", "T", "B", "N")  # says where figures were measured

# The columns of each section's table; those that no entry has are left out.
COLUMNS = {
    "correctness": "what, passed, failed_tests, skipped_tests, memory_errors, seconds",
    "ceilings": "what, dtype, gemm_tflops, copy_gbs",
    "forward": "T, on_ms, off_ms, on/off, off/off, on_tflops, flash_tflops, cudnn_tflops, "
    "speed/flash, of_ceiling",
    "lse": "T, kernel, with_ms, without_ms, with/without, without/without",
    "backward": "check, T, same_bits, with_ms, without_ms, with/without, without/without, "
    "with_tflops, flash_tflops, speed/flash, of_ceiling",
    "decode": "B, N, cache_gb, floor_ms, with_ms, without_ms, with/floor, with/without, "
    "without/without, speed/flash",
    "choice": "work, T, B, lse_ms, triton_ms, triton/lse, fastest",
    "column_sums": "T, columns_ms, rows' columns_ms, fused_ms, mass_ms, epilogue_ms, "
    "columns/fused, rows' columns/mass, rows' columns/epilogue",
    "model": "check, beside, T, score_ms, sdpa_ms, maps_ms, score/sdpa time, score/sdpa memory, "
    "score/sdpa memory in all, score_peak_gb, sdpa_peak_gb, maps_peak_gb, score/maps time, "
    "score/maps memory",
    "training": "T, plain_s, callback_s, regulariser_s, callback/plain time, "
    "regulariser/plain time, plain_peak_gb, callback/plain memory, regulariser/plain memory, "
    "plain_total_gb, regulariser_total_gb, rounds",
}

# The columns of what is printed by length; an entry is shown if it has the second one.
SHORT_COLUMNS = {
    "forward": ("T", "on_ms", "on/off", "on_tflops", "flash_tflops", "cudnn_tflops"),
    "model": ("T", "score_ms", "sdpa_ms", "maps_ms", "score/sdpa time", "score/sdpa memory"),
}

Rows = Sequence[Sequence[str]]


def as_markdown(
    facts: Mapping[str, Any],
    outcomes: Sequence[SectionOutcome],
    verdicts: Sequence[TargetVerdict],
    pictures: Sequence[str],
    notes: Sequence[str],
) -> str:
    """Return the whole report as Markdown.

    Args:
        facts: the description of the card.
        outcomes: the outcomes of the sections, in their order.
        verdicts: the verdicts on the targets.
        pictures: the names of picture files beside the report.
        notes: what else there is to say, a line each.
    """
    parts = [
        f"# GPU report: {facts['card']}",
        _introduction(facts),
        "## What is to be reached",
        _table(("what", "against", "measured", "to reach", ""), _verdict_rows(verdicts)),
        f"Attention maps end {maps_end(outcomes)}.",
        *(f"![{picture.removesuffix('.png')}]({picture})" for picture in pictures),
    ]
    for outcome in outcomes:
        parts += _section(outcome)
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def short(
    facts: Mapping[str, Any],
    outcomes: Sequence[SectionOutcome],
    verdicts: Sequence[TargetVerdict],
    notes: Sequence[str],
) -> str:
    """Return the summary for a terminal, in under 60 lines."""
    took = ", ".join(f"{o.name} {o.seconds:.0f} s" for o in outcomes if o.status != "skipped")
    wrong = troubles(outcomes)
    hidden = len(wrong) - MOST_TROUBLES
    lines = [_line(facts), f"sections: {took}"]
    for name, columns in SHORT_COLUMNS.items():
        entries = next((o.entries for o in outcomes if o.name == name), ())
        shown = [entry for entry in entries if columns[1] in entry]
        if shown:
            rows = [[number(entry.get(column)) for column in columns] for entry in shown]
            lines += ["", *_aligned([[f"{name}: {columns[0]}", *columns[1:]], *rows])]
    lines += [
        "",
        *_aligned([("what", "against", "measured", "to reach", ""), *_verdict_rows(verdicts)]),
        f"attention maps end {maps_end(outcomes)}",
        *(f"note: {note}" for note in notes),
    ]
    if wrong:
        lines += ["", "trouble:", *(f"  {_cut(line)}" for line in wrong[:MOST_TROUBLES])]
    if hidden > 0:
        lines.append(f"  and {hidden} more, in the report")
    return "\n".join(lines)


def troubles(outcomes: Sequence[SectionOutcome]) -> list[str]:
    """Return what failed, was wrong or found no time, one line each, whole sections first."""
    sections = [f"{o.name}: {o.status}: {o.reason}" for o in outcomes if o.status != "done"]
    return sections + [
        f"{outcome.name}, {_place(entry)}: {entry[key]}"
        for outcome in outcomes
        for entry in outcome.entries
        for key in ("error", "skipped")
        if key in entry
    ]


def number(value: object) -> str:
    """Return a figure as text: three digits or so, and ratios near 1 with three decimals."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    size = abs(value)
    if isinstance(value, int) or not math.isfinite(value) or size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if size >= 0.1 else f"{value:.3g}"


def _introduction(facts: Mapping[str, Any]) -> str:
    state = ", ".join(f"{name} {value}" for name, value in facts.get("state", {}).items())
    return f"""{_line(facts)}{f" ({state})" if state else ""}.

bfloat16, causal, one segment of T tokens, D = 128, Hq/Hkv = 32/8 unless said otherwise; random \
data throughout. Times are medians of calls that take turns, ratios are medians over the rounds; \
before each call a copy of gigabytes empties the L2 cache and gives the host time to enqueue it. \
"off/off" and "without/without" are one and the same call timed twice: what they differ from 1 is \
noise. Ratios are of times, but "speed/flash" is our speed over FlashAttention-2's, and \
"of_ceiling" our TFLOP/s over the dense product's. TFLOP/s count 4·D·Hq·T²/2 operations forward \
and 2.5 times that backward. A figure is given only if the result was right: outputs and masses \
against float64, gradients against float32 autograd. Redraw with `make gpu-report`."""


def _line(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['card']}, CUDA {facts.get('cuda', '–')}; {versions}; "
        f"commit {facts['commit']}, {facts['date']}"
    )


def _verdict_rows(verdicts: Sequence[TargetVerdict]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for verdict in verdicts:
        known = sum(value is not None for value in verdict.values)
        places = f" ({known} of {len(verdict.values)})" if 0 < known < len(verdict.values) else ""
        target = verdict.target
        rows.append(
            (
                target.what,
                target.against,
                number(verdict.worst) + places,
                target.to_reach,
                verdict.word,
            )
        )
    return rows


def _section(outcome: SectionOutcome) -> list[str]:
    section = next(section for section in SECTIONS if section.name == outcome.name)
    parts = [f"## {section.title}"]
    if outcome.status != "done":
        parts.append(f"**{outcome.status}**: {outcome.reason}")
    names = COLUMNS[section.name].split(", ")
    columns = [name for name in names if any(name in entry for entry in outcome.entries)]
    figures = [name for name in columns if name not in PLACE]
    shown = [entry for entry in outcome.entries if any(name in entry for name in figures)]
    if shown:
        cells = [[number(entry.get(name)) for name in columns] for entry in shown]
        parts.append(_table(columns, cells))
    notes = [
        f"- {_place(entry)}: {key}: {entry[key]}"
        for entry in outcome.entries
        for key in ("error", "skipped", "absent")
        if key in entry
    ]
    notes += [
        f"- {_place(entry)}: {name}: {reason}"
        for entry in outcome.entries
        for name, reason in {**entry.get("failed", {}), **entry.get("failures", {})}.items()
    ]
    notes += [f"- {line}" for line in unfit(outcome.entries)]
    return [*parts, "\n".join(notes), _errors(outcome.entries)]


def _errors(entries: Sequence[Entry]) -> str:
    """Return a line with the largest error of each kind, which says how right the results were."""
    worst: dict[str, float] = {}
    for entry in entries:
        for name, error in entry.get("errors", {}).items():
            if isinstance(error, int | float):
                worst[name] = max(worst.get(name, 0.0), error)
    if not worst:
        return ""
    return f"Largest errors: {', '.join(f'{name} {error:.1e}' for name, error in worst.items())}."


def _place(entry: Entry) -> str:
    return ", ".join(f"{key} = {entry[key]}" for key in PLACE if key in entry)


def _table(head: Sequence[str], rows: Rows) -> str:
    return "\n".join(markdown_table(head, rows, names=len(head))[:-1])


def _aligned(rows: Rows) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _cut(line: str, width: int = 200) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"

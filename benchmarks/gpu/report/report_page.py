"""Write the report to read, ``report.md``, and the short table that is printed last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.harness.bench import BAD, PLACE, Entry
from benchmarks.gpu.harness.opponents import SDPA
from benchmarks.gpu.harness.schedule import SECTIONS, SectionOutcome
from benchmarks.gpu.report.columns import MOST_SHORT, OURS, SHORT, TABLES, ReportTable
from benchmarks.gpu.report.dispatch_table import left_out
from benchmarks.gpu.report.targets import HEADLINES, TargetVerdict, maps_end
from sra_fast.tools.markdown_table import markdown_table

MOST_TROUBLES = 8  # lines about failures in the short table; the report has them all

EXPLANATION = """\
bfloat16, causal, one sequence of T tokens, D = 128, Hq/Hkv = 32/8 unless said otherwise; random
data throughout. "SDPA" is PyTorch's own attention by whatever kernel it chooses here (first table
below), and for a model its plain forward pass with it. Times are medians of calls that take turns;
ratios are of times, and medians over the rounds. Before each call of an op a copy of gigabytes
empties the L2 cache and gives the host time to enqueue it. "off/off" is one and the same call timed
twice: what it differs from 1 is noise.

A floor is what the card cannot go below: the operations over the dense product's speed (4·D·Hq·T²/2
for causal attention, twice the weights for each token besides), or the bytes of K and V over a
copy's speed. A provider's cell is its TFLOP/s and, in brackets, its time over SDPA's; its call
includes the mass of 256 rows. SDPA knows no window and no softcap: those are divided by its plain
causal call.

A time is given only if the result was right: outputs, masses and logsumexps against float64,
gradients against float32 autograd, the scores of a model, row by row, against masses from its own
SDPA pass. Make it again with `make gpu-report`."""

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
    headlines = [verdict for verdict in verdicts if verdict.target in HEADLINES]
    details = [verdict for verdict in verdicts if verdict.target not in HEADLINES]
    head = ("what", "against", "measured", "to reach", "")
    parts = [
        f"# GPU report: {facts['card']}",
        _line(facts),
        "## What it comes to",
        _table(head, _verdict_rows(headlines)),
        *(f"![{picture.removesuffix('.png')}]({picture})" for picture in pictures),
        "## How to read it",
        _introduction(facts),
        "## More that was to be reached",
        _table(head, _verdict_rows(details)),
        f"Attention maps end {maps_end(outcomes)}.",
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
    headlines = [verdict for verdict in verdicts if verdict.target in HEADLINES]
    lines += [
        "",
        *_aligned([("what", "against", "measured", "to reach", ""), *_verdict_rows(headlines)]),
        f"attention maps end {maps_end(outcomes)}",
        *(f"note: {note}" for note in notes),
    ]
    for name, table in SHORT.items():
        entries = next((o.entries for o in outcomes if o.name == name), ())
        head, rows = _cells(table, table.shown(entries)[:MOST_SHORT])
        if rows:
            lines += ["", *_aligned([[f"{name}: {head[0]}", *head[1:]], *rows])]
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
        for key in sorted(BAD)
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
    after = ", ".join(
        f"{name} {value}" for name, value in facts.get("state afterwards", {}).items()
    )
    clocks = [
        f"{when}: {said}." for when, said in (("Before", state), ("Afterwards", after)) if said
    ]
    return "\n\n".join([*clocks, EXPLANATION])


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
    for table in TABLES[section.name]:
        head, rows = _cells(table, table.shown(outcome.entries))
        if rows:
            parts.append(_table(head, rows))
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
    notes += [f"- {line}" for line in left_out(outcome.entries)]
    return [*parts, "\n".join(notes), _errors(outcome.entries)]


def _cells(table: ReportTable, entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Return the titles of the columns that there are figures for, and the cells of the entries."""
    rows = {name: [_cell(entry, name) for entry in entries] for name in table.columns}
    names = [name for name in table.columns if any(rows[name])]
    return names, [list(cells) for cells in zip(*(rows[name] for name in names), strict=True)]


def _cell(entry: Entry, name: str) -> str:
    """Return the text of a field, or of a provider: its TFLOP/s and its time over SDPA's."""
    if name not in (SDPA, *OURS):
        return number(entry[name]) if name in entry else ""
    if name in entry.get("wrong", {}):
        return "wrong"
    speed, ratio = entry.get(f"{name}_tflops"), entry.get(f"{name}/{SDPA}")
    if speed is None or ratio is None:
        return "" if speed is ratio is None else number(ratio if speed is None else speed)
    return f"{number(speed)} ({number(ratio)})"


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

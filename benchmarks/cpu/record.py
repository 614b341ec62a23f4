"""Write the recorded results of the CPU benchmark: ``cpu.json``, ``cpu.md`` and ``cpu.png``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.cpu.compare import ComparedAlternative, ComparedCase
from benchmarks.cpu.measure import OURS
from benchmarks.measuring.alternatives import ALTERNATIVES
from benchmarks.measuring.cases import RESPONSE, SPAN
from benchmarks.measuring.compact_json import compact_json
from sra_fast.tools.atomic import write_text
from sra_fast.tools.markdown_table import markdown_table

NAME = "cpu"


def write(rows: Sequence[ComparedCase], machine: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the JSON, the table and the plot into ``folder``, and return their paths."""
    from benchmarks.cpu.plot import draw

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{NAME}.{ending}" for ending in ("json", "md", "png")]
    write_text(paths[0], compact_json(as_json(rows, machine)))
    write_text(paths[1], as_markdown(rows, machine))
    draw(rows, paths[2])
    return paths


def as_json(rows: Sequence[ComparedCase], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results as JSON values, in seconds and bytes.

    A cell that is not "ok" has no time.
    """
    return {
        "machine": dict(machine),
        "alternatives": {key: alternative.label for key, alternative in ALTERNATIVES.items()},
        "rows": [
            {**asdict(row.case), "cells": {key: asdict(cell) for key, cell in row.cells.items()}}
            for row in rows
        ],
    }


def as_markdown(rows: Sequence[ComparedCase], machine: Mapping[str, Any]) -> str:
    """Return the page to read, with one table per model and dtype."""
    parts = [_introduction(machine)]
    for (model, dtype), members in groupby(rows, lambda row: (row.case.shape, row.case.dtype)):
        sizes = (
            f"{model.layers} layers, hidden {model.hidden}, {model.heads} heads, "
            f"{model.kv_heads} KV heads of width {model.head_width}"
        )
        parts.append(f"## {model.name}, {dtype}\n\n{sizes}.\n\n" + "\n".join(_table(members)))
    return "\n\n".join(parts) + "\n"


def _introduction(machine: Mapping[str, Any]) -> str:
    legend = "\n".join(f"- **({a.key})** {a.label}" for a in ALTERNATIVES.values())
    return f"""# SRA on a CPU: time, and peak memory above the loaded model

{machine["cpu"]}, {machine["cores"]} cores ({machine["threads"]} threads), \
{machine["memory_gib"]} GiB; Python {machine["python"]}, torch {machine["torch"]}, \
transformers {machine["transformers"]}; commit {machine["commit"]}.

{legend}

Random weights, batch 1, a span of {SPAN.stop - SPAN.start} tokens near the beginning, a response \
of {RESPONSE} at the end. All run the decoder alone, without logits and KV cache. Times are \
medians; ratios are medians over alternating pairs in one process, so they are steadier than the \
times and need not be the quotient of two of them. Memory is that of a call in a fresh \
process, with malloc set to give freed tensors back at once; of the second call for (c) and (d), \
since the first also loads code and compiles kernels, 10 to 20 MB once per process. \
A time is shown only if the alternative's numbers agree with the others' (in float32 \
within 1e-5; in bfloat16 within twice the error of eager attention in bfloat16). The score leaves \
out what comes after the last layer's attention weights, which shows where a model has few layers. \
Redraw with `make bench`."""


def _table(rows: Iterable[ComparedCase]) -> list[str]:
    members = list(rows)
    keys = [key for key in ALTERNATIVES if any(key in row.cells for row in members)]
    others = [key for key in keys if key != OURS]
    head = ["T", *(f"({key})" for key in keys), *(f"({OURS}) ÷ ({key})" for key in others)]
    cells = [
        [
            str(row.case.tokens),
            *(_shown(row.cells.get(key)) for key in keys),
            *(_ratio(row.cells.get(key)) for key in others),
        ]
        for row in members
    ]
    lines = [*markdown_table(head, cells, names=0), "Each: seconds · memory; the ratios likewise."]
    notes = [
        f"- T = {row.case.tokens}, ({key}): {cell.status}: {cell.note}"
        for row in members
        for key, cell in row.cells.items()
        if cell.status not in ("ok", "does not fit")
    ]
    return [*lines, "", *notes] if notes else lines


def _shown(cell: ComparedAlternative | None) -> str:
    if cell is None:
        return "not run"
    if cell.status == "does not fit" and cell.peak_bytes is not None:
        return f"does not fit ({memory(cell.peak_bytes)})"
    if cell.seconds is None or cell.peak_bytes is None:
        return f"**{cell.status}**"
    return f"{_three_digits(cell.seconds)} s · {memory(cell.peak_bytes)}"


def _ratio(cell: ComparedAlternative | None) -> str:
    if cell is None or cell.time_ratio is None:
        return "–"
    return f"{_small(cell.time_ratio)} · {_small(cell.peak_ratio) if cell.peak_ratio else '–'}"


def memory(count: float) -> str:
    """Return a number of bytes as text in MB or GB, powers of ten."""
    if count >= 1e9:
        return f"{_three_digits(count / 1e9)} GB"
    return f"{_three_digits(count / 1e6)} MB"


def _small(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"

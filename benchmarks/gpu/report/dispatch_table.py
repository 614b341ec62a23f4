"""Turn the times of the backends into the table that ``backend="auto"`` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from sra_fast.tools.atomic import write_json

Table = dict[str, dict[str, str]]
"""Architecture -> kind of work -> backend, as in ``kernels/span_attention/measured.json``."""

WORKS = ("prefill", "decode", "mass_grad")


def chosen(entries: Sequence[dict[str, Any]]) -> Table:
    """Return per kind of work the backend that fits everywhere and is fastest.

    The fastest is told by the geometric mean of the ratios. A kind of work with a place that was
    not measured is left out.
    """
    table: Table = {}
    for work in WORKS:
        places = [entry for entry in entries if entry.get("work") == work]
        if not places or any("fastest" not in entry for entry in places):
            continue
        excluded = {backend for entry in places for backend in entry.get("unfit", {})}
        ratios = [entry["triton/lse"] for entry in places if entry.get("triton/lse")]
        if excluded == {"triton", "lse"}:
            continue
        if excluded:
            backend = ({"triton", "lse"} - excluded).pop()
        else:
            backend = "triton" if prod(ratios) <= 1 else "lse"
        table.setdefault(places[0]["architecture"], {})[work] = backend
    return table


def unfit(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for the report on each backend that was excluded, with the reason."""
    return [
        f"{entry['work']}, T = {entry['T']}, B = {entry['B']}: {backend}: {reason}"
        for entry in entries
        for backend, reason in entry.get("unfit", {}).items()
    ]


def merge(table: Table, path: Path) -> None:
    """Write a table into the one at ``path``, where all other entries stay."""
    known: Table = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for architecture, works in table.items():
        known[architecture] = {**known.get(architecture, {}), **works}
    ordered = {name: dict(sorted(known[name].items())) for name in sorted(known)}
    write_json(path, ordered)

"""Keep what was measured of layer-by-layer scores, and write it as a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.cpu.layerwise_sizes import EXAMPLES, TOKENS, layerwise_sizes
from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.markdown_table import markdown_table

RESULTS = Path(__file__).resolve().parents[1] / "results"
_MB, _GB = 1e6, 1e9


def record(part: str, measured: dict[str, Any], folder: Path = RESULTS) -> None:
    """Put one part of the measurements in the place of its last one, and write the page anew.

    Args:
        part: ``"cost"`` or ``"limit"``.
        measured: what was measured, as values of JSON.
        folder: the folder of ``layerwise.json`` and ``layerwise.md``.
    """
    file = folder / "layerwise.json"
    parts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    parts[part] = measured
    write_json(file, parts)
    write_text(folder / "layerwise.md", "\n".join(page(parts)))


def page(parts: dict[str, Any]) -> list[str]:
    """Return the lines of the page about the measured parts, and the counted table."""
    lines = ["# Scoring layer by layer", ""]
    if (cost := parts.get("cost")) is not None:
        lines += _cost(cost)
    if (limit := parts.get("limit")) is not None:
        lines += _limit(limit)
    return lines + _counted()


def _cost(cost: dict[str, Any]) -> list[str]:
    rows = [
        (
            way,
            f"{cost[way]['anonymous'] / _MB:.0f}",
            f"{cost[way]['clock']:.0f}",
            f"{cost[way]['processor']:.0f}",
        )
        for way in ("whole", "layerwise")
    ]
    whole, layers = cost["whole"], cost["layerwise"]
    return [
        "## Beside the whole model",
        "",
        f"{cost['model']}, {cost['texts']} texts of {cost['tokens']} tokens each, on "
        f"{cost['cpu']} with {cost['threads']} thread, torch {cost['torch']}; each run in a fresh "
        "process, loading and the self-check included. Largest difference of a mass: "
        f"{cost['difference']:.1e}. Anonymous memory is what the system cannot drop: pages of the "
        "weights' own file, which it can, are not in it. Layer by layer takes "
        f"{layers['anonymous'] / whole['anonymous']:.2f} of the memory and "
        f"{layers['processor'] / whole['processor']:.2f} of the processor time.",
        "",
        *markdown_table(("way", "peak anonymous memory, MB", "time, s", "processor time, s"), rows),
        "Measure again with `python -m benchmarks.cpu.layerwise_cost --record`.",
        "",
    ]


def _limit(limit: dict[str, Any]) -> list[str]:
    return [
        "## Under a memory limit below the weights",
        "",
        f"{limit['weights'] / _GB:.2f} GB of random bfloat16 weights, made like a Llama of "
        f"{limit['layers']} layers, and {limit['texts']} texts of {limit['tokens']} tokens, in a "
        f"process that may have {limit['limit'] / _GB:.2f} GB of data (`RLIMIT_DATA`: anonymous "
        "memory and writable private mappings; pages that are mapped for reading do not count). "
        f"It ended after {limit['clock']:.0f} s ({limit['processor']:.0f} s of processor time), "
        f"with a peak of {limit['anonymous'] / _MB:.0f} MB of anonymous memory over what a "
        f"process without a model holds. Self-check: {limit['checked']}. Loading the whole model "
        f"under the same limit: {limit['whole']}.",
        "",
        "Measure again with `python -m benchmarks.cpu.layerwise_limit --record`.",
        "",
    ]


def _counted() -> list[str]:
    rows = []
    for name, config in EXAMPLES.items():
        sizes = layerwise_sizes(config)
        counts = (sizes.whole, sizes.layer, sizes.read, sizes.hidden)
        rows.append((name, *(f"{count / _GB:.2f}" for count in counts)))
    return [
        "## Counted for larger models",
        "",
        "From their configurations, in bfloat16 (`benchmarks/cpu/layerwise_sizes.py`), in GB. A "
        f"pass reads its weights once, whatever the number of its tokens, and holds one layer and "
        f"the hidden states of its tokens, here {TOKENS:,}.",
        "",
        *markdown_table(
            ("model", "all weights", "one layer", "read in a pass", "hidden states"), rows
        ),
    ]

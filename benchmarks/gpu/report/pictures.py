"""Draw the report's pictures: speed against length, ratios against their bounds, and the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.harness.bench import Entry
from benchmarks.gpu.harness.schedule import SectionOutcome, known_ceilings
from benchmarks.gpu.report.targets import TargetVerdict
from sra_fast.report.drawing import save_figure
from sra_fast.report.palette import BLUE, DARK_GREY, GRID, ORANGE, YELLOW

# Line and marker differ as well as the colour.
OURS = {"color": BLUE, "marker": "o", "linestyle": "-"}
OURS_PLAIN = {"color": BLUE, "marker": "s", "linestyle": ":", "fillstyle": "none"}
FLASH = {"color": ORANGE, "marker": "^", "linestyle": "--"}
CUDNN = {"color": YELLOW, "marker": "v", "linestyle": "--"}
PLAIN = {"color": DARK_GREY, "marker": "s", "linestyle": "--", "fillstyle": "none"}


def draw(
    card: str, outcomes: Sequence[SectionOutcome], verdicts: Sequence[TargetVerdict], folder: Path
) -> list[str]:
    """Draw the pictures for which there are figures, and return the names of the files."""
    entries = {outcome.name: outcome.entries for outcome in outcomes}
    drawn = []
    for name, figure in {
        "speed.png": _speed(card, entries, known_ceilings(outcomes).get("gemm_tflops")),
        "ratios.png": _ratios(card, verdicts),
        "model.png": _model(card, entries.get("model", ())),
    }.items():
        if figure is not None:
            save_figure(figure, folder / name)
            drawn.append(name)
    return drawn


def _speed(card: str, entries: Mapping[str, Sequence[Entry]], ceiling: float | None) -> Any | None:
    panels = {
        "forward": {
            "on_tflops": ("fused, rows asked for", OURS),
            "off_tflops": ("fused, none asked for", OURS_PLAIN),
            "flash_tflops": ("FlashAttention-2 of PyTorch", FLASH),
            "cudnn_tflops": ("cuDNN", CUDNN),
        },
        "backward": {
            "with_tflops": ("fused, with dmass", OURS),
            "without_tflops": ("fused, without", OURS_PLAIN),
            "flash_tflops": ("FlashAttention-2 of PyTorch", FLASH),
        },
    }
    if not any(_points(entries.get(name, ()), key) for name in panels for key in panels[name]):
        return None
    figure = _figure(f"{card}: attention, bf16, causal, D = 128, 32/8 heads")
    for axes, (name, lines) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for key, (label, style) in lines.items():
            _line(axes, entries.get(name, ()), key, label, style)
        if ceiling:
            axes.axhline(ceiling, color=DARK_GREY, linewidth=1.2)
            axes.annotate("dense product", (0.02, ceiling), xycoords=("axes fraction", "data"),
                          xytext=(0, -11), textcoords="offset points", color=DARK_GREY)  # fmt: skip
        _lengths(axes, entries.get(name, ()))
        axes.set_ylim(bottom=0)
        axes.set(title=name, ylabel="TFLOP/s")
        axes.legend(frameon=False)
    return figure


def _ratios(card: str, verdicts: Sequence[TargetVerdict]) -> Any | None:
    shown = [
        verdict
        for verdict in verdicts
        if verdict.target.bound and verdict.worst is not None and verdict.word != "–"
    ]
    if not shown:
        return None
    figure = _figure(f"{card}: worst figure over its bound")
    axes = figure.subplots()
    places = list(range(len(shown)))[::-1]
    parts = [(verdict.worst or 0.0) / (verdict.target.bound or 1.0) for verdict in shown]
    colours = [ORANGE if verdict.word == "not met" else BLUE for verdict in shown]
    axes.barh(places, parts, color=colours, height=0.6)
    for place, part, verdict in zip(places, parts, shown, strict=True):
        text = f" {verdict.worst:.3g} ({verdict.target.to_reach})"
        axes.annotate(text, (max(part, 1.0), place), va="center")
    axes.axvline(1.0, color=DARK_GREY, linewidth=1.2)
    labels = [_label(verdict) for verdict in shown]
    axes.set_yticks(places, labels, fontsize=7)
    axes.set_xlim(0, 1.35 * max(*parts, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _label(verdict: TargetVerdict) -> str:
    against = verdict.target.against
    return verdict.target.what if against == "–" else f"{verdict.target.what}\nvs {against}"


def _model(card: str, entries: Sequence[Entry]) -> Any | None:
    lines = {"score": ("sra_fast.score", OURS), "sdpa": ("SDPA base model, no SRA", PLAIN),
             "maps": ("eager, output_attentions", FLASH)}  # fmt: skip
    if not _points(entries, "score_ms"):
        return None
    figure = _figure(f"{card}: model of Llama-3-8B's shape, bf16, random weights")
    time_axes, memory_axes = figure.subplots(1, 2)
    for name, (label, style) in lines.items():
        _line(time_axes, entries, f"{name}_ms", label, style, 1e-3)
        _line(memory_axes, entries, f"{name}_peak_gb", label, style)
    time_axes.set(yscale="log", ylabel="time of one call (s)")
    memory_axes.set(ylabel="peak memory above the weights (GB)")
    if _points(entries, "score_peak_gb"):
        memory_axes.set(yscale="log")
    for axes in (time_axes, memory_axes):
        _lengths(axes, entries)
    time_axes.legend(frameon=False)
    return figure


def _figure(title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle(title)
    return figure


def _points(entries: Sequence[Entry], key: str) -> list[tuple[int, float]]:
    """Return the points ``(T, figure)``, ascending, one per length."""
    found = {
        entry["T"]: entry[key]
        for entry in entries
        if "T" in entry and isinstance(entry.get(key), int | float)
    }
    return sorted(found.items())


def _line(
    axes: Any,
    entries: Sequence[Entry],
    key: str,
    label: str,
    style: Mapping[str, Any],
    factor: float = 1.0,
) -> None:
    points = _points(entries, key)
    if points:
        at, values = zip(*points, strict=True)
        axes.plot(at, [value * factor for value in values], label=label, **style)


def _lengths(axes: Any, entries: Sequence[Entry]) -> None:
    lengths = sorted({entry["T"] for entry in entries if "T" in entry and "check" not in entry})
    axes.set(xscale="log", xlabel="tokens T")
    if lengths:
        labels = [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in lengths]
        axes.set_xticks(lengths, labels)
    axes.minorticks_off()
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

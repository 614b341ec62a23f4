"""Draw the report's pictures: the score over SDPA, ratios over their bounds, providers' speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.harness.bench import Entry
from benchmarks.gpu.harness.opponents import SDPA
from benchmarks.gpu.harness.places import HALF, MANY, ONE
from benchmarks.gpu.harness.schedule import SectionOutcome, known_ceilings
from benchmarks.gpu.report.report_page import number
from benchmarks.gpu.report.targets import TargetVerdict
from sra_fast.report.drawing import save_figure
from sra_fast.report.palette import BLUE, DARK_GREY, GRID, ORANGE, YELLOW

# Line and marker differ as well as the colour.
OURS_STYLE = {"color": BLUE, "marker": "o", "linestyle": "-"}
MAPS = {"color": ORANGE, "marker": "^", "linestyle": "--"}
PLAIN = {"color": DARK_GREY, "marker": "s", "linestyle": "--", "fillstyle": "none"}
FLOOR = {"color": DARK_GREY, "linestyle": ":"}
PROVIDER_STYLES = {
    SDPA: PLAIN,
    "fused": OURS_STYLE,
    "cudnn": {"color": YELLOW, "marker": "v", "linestyle": "--"},
    "varlen": {"color": ORANGE, "marker": "^", "linestyle": "--"},
    "flash_3": {"color": ORANGE, "marker": "D", "linestyle": ":"},
    "flash_4": {"color": ORANGE, "marker": "*", "linestyle": "-."},
    "cpu_flash": {"color": YELLOW, "marker": "P", "linestyle": ":"},
}


def draw(
    card: str, outcomes: Sequence[SectionOutcome], verdicts: Sequence[TargetVerdict], folder: Path
) -> list[str]:
    """Draw the pictures for which there are figures, and return the names of the files."""
    entries = {outcome.name: outcome.entries for outcome in outcomes}
    drawn = []
    ceiling = known_ceilings(outcomes).get("gemm_tflops")
    for name, figure in {
        "score.png": _score(card, entries.get("score", ())),
        "ratios.png": _ratios(card, verdicts),
        "providers.png": _providers(card, entries.get("providers", ()), ceiling),
    }.items():
        if figure is not None:
            save_figure(figure, folder / name)
            drawn.append(name)
    return drawn


def _providers(card: str, entries: Sequence[Entry], ceiling: float | None) -> Any | None:
    """Draw speed over length for causal attention, and by form at the first length measured."""
    timed = [entry for entry in entries if f"{SDPA}_tflops" in entry]
    if not timed:
        return None
    width, tokens = timed[0]["D"], timed[0]["T"]
    of_width = [entry for entry in timed if entry["D"] == width]
    causal = [entry for entry in of_width if entry["form"] == "causal"]
    figure = _figure(f"{card}: attention with the mass of 256 rows, by provider, D = {width}")
    by_length, by_form = figure.subplots(1, 2, sharey=True)
    forms = [entry for entry in of_width if entry["T"] == tokens]
    for name, style in PROVIDER_STYLES.items():
        label = "SDPA, no mass" if name == SDPA else name
        _line(by_length, causal, f"{name}_tflops", label, style)
        of_form = [(at, one[f"{name}_tflops"]) for at, one in enumerate(forms)
                   if f"{name}_tflops" in one]  # fmt: skip
        if of_form:
            by_form.plot(*zip(*of_form, strict=True), **{**style, "linestyle": "none"})
    _lengths(by_length, causal)
    by_length.set(title="causal", ylabel="TFLOP/s of the pairs that are seen")
    by_form.set_xticks(range(len(forms)), [entry["form"] for entry in forms])
    by_form.set(title=f"T = {_tokens(tokens)}")
    for axes in (by_length, by_form):
        _bare(axes)
        if ceiling:
            axes.axhline(ceiling, color=DARK_GREY, linewidth=1.2)
    if ceiling:
        by_form.annotate("dense product", (0.02, ceiling), xycoords=("axes fraction", "data"),
                         xytext=(0, -11), textcoords="offset points", color=DARK_GREY)  # fmt: skip
    by_length.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=7, frameon=False)
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
        text = f" {number(verdict.worst)} ({verdict.target.to_reach})"
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


def _score(card: str, entries: Sequence[Entry]) -> Any | None:
    """Draw the time of a score over that of the SDPA forward pass, and both in seconds."""
    one = [entry for entry in entries if entry.get("what") == ONE and "score_ms" in entry]
    if not one:
        return None
    figure = _figure(f"{card}: sra_fast.score, Llama-3-8B's shape, bf16, random weights")
    ratio_axes, time_axes = figure.subplots(1, 2)
    scenes = {ONE: OURS_STYLE, MANY: {**MAPS, "linestyle": "none"},
              HALF: {**PLAIN, "linestyle": "none"}}  # fmt: skip
    for what, style in scenes.items():
        of_scene = [entry for entry in entries if entry.get("what") == what]
        _line(ratio_axes, of_scene, "score/sdpa time", what, style)
    ratio_axes.axhline(1.0, color=DARK_GREY, linewidth=1.2)
    ratio_axes.set(ylabel="time over the SDPA forward pass")
    maps = [entry for entry in entries if entry.get("beside") == "maps"]
    for of, key, label, style in (
        (one, "score_ms", "sra_fast.score", OURS_STYLE),
        (one, "sdpa_ms", "SDPA forward, no SRA", PLAIN),
        (one, "floor_ms", "floor: FLOPs at the dense product's speed", FLOOR),
        (maps, "maps_ms", "eager, output_attentions", MAPS),
    ):
        _line(time_axes, of, key, label, style, 1e-3)
    time_axes.set(yscale="log", ylabel="time of one call (s)")
    for axes in (ratio_axes, time_axes):
        _lengths(axes, [*one, *maps] if axes is time_axes else entries)
        _bare(axes)
        axes.legend(frameon=False)
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
    lengths = sorted({entry["T"] for entry in entries if "T" in entry and "times" in entry})
    axes.set(xscale="log", xlabel="tokens T")
    if lengths:
        axes.set_xticks(lengths, [_tokens(n) for n in lengths])
    axes.minorticks_off()


def _tokens(n: int) -> str:
    return f"{n // 1024}k" if n % 1024 == 0 else str(n)


def _bare(axes: Any) -> None:
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

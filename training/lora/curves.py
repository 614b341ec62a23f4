"""Draw the curves of a training run: loss and SRA over steps, in training and evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sra_fast.report.drawing import save_figure
from sra_fast.report.palette import BLUE, DARK_GREY, GRID, ORANGE
from sra_fast.tools.missing_extra import needed

CURVES = "curves.png"

_TRAIN, _EVAL, _CHOSEN = BLUE, ORANGE, DARK_GREY


def write_curves(
    log_history: Iterable[Mapping[str, Any]], folder: Path, *, chosen_step: int | None = None
) -> str:
    """Draw the log of ``Trainer`` as a picture in a folder, and return the file's name.

    Args:
        log_history: the entries of the log, each with its ``step`` and any of ``loss``,
            ``lm_loss``, ``sra``, ``eval_loss`` and ``eval_sra``; losses are in nats per token.
        folder: the folder where the picture goes.
        chosen_step: the step whose adapter was kept, which is marked; None for no mark.
    """
    with needed("train", "matplotlib"):
        from matplotlib.figure import Figure

    logs = list(log_history)
    figure = Figure(figsize=(8.0, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    _draw(upper, logs, "lm_loss" if any("lm_loss" in log for log in logs) else "loss", "eval_loss")
    _draw(lower, logs, "sra", "eval_sra")
    upper.set_ylabel("loss per token (nats)")
    lower.set_ylabel("SRA (attention per strategy token)")
    lower.set_xlabel("optimizer step")
    lower.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    for axes in (upper, lower):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        if chosen_step is not None:
            axes.axvline(chosen_step, color=_CHOSEN, linestyle=":", linewidth=1)
    subtitle = "dots: evaluations of the held-out conversations"
    if chosen_step is not None:
        subtitle += f"; dotted line: step {chosen_step}, whose adapter was kept"
    upper.set_title(subtitle, loc="left", fontsize=9.5, color=DARK_GREY, pad=8)
    figure.suptitle("Loss and SRA over training", x=0.01, ha="left", fontsize=13, weight="bold")
    handles, labels = upper.get_legend_handles_labels()
    if handles:
        upper.legend(handles, labels, frameon=False, fontsize=9)
    save_figure(figure, folder / CURVES)
    return CURVES


def _draw(axes: Any, logs: list[Mapping[str, Any]], train: str, evaluation: str) -> None:
    steps, values = _points(logs, train)
    few = len(steps) < 2
    axes.plot(steps, values, "." if few else "-", color=_TRAIN, linewidth=1.2, label="training")
    steps, values = _points(logs, evaluation)
    if steps:
        axes.plot(steps, values, "o-", color=_EVAL, linewidth=1.6, label="evaluation")


def _points(logs: list[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    found = [
        (int(log["step"]), float(log[name]))
        for log in logs
        if isinstance(log.get(name), (int, float)) and math.isfinite(log[name])
    ]
    return [step for step, _ in found], [value for _, value in found]

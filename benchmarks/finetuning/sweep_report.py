"""Write the report on the fine-tuning runs: a table, the curves, and what each weight did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.finetuning.chosen import Chosen
from benchmarks.finetuning.sweep import WeightOutcome, ratio_interval
from benchmarks.measuring.compact_json import compact_json
from sra_fast.report.drawing import save_figure
from sra_fast.report.palette import BLUE, DARK_GREY, ORANGE
from sra_fast.tools.atomic import write_text
from sra_fast.tools.markdown_table import markdown_table
from sra_fast.training.lora.settings import TrainingConfig, settings_of

RAISED = 1.25  # the SRA to reach, as a multiple of that of the run with weight 0
HARMED = 1.02  # the largest held-out loss to accept, as a multiple of that run's
EDGE = 10  # steps at the beginning and at the end, whose training losses are shown

_COLUMNS = (
    "weight",
    "steps",
    "minutes",
    "training loss",
    "held-out loss",
    "SRA",
    "log SRA",
    "loss / weight 0",
    "SRA / weight 0 (95%)",
)


def write(
    outcomes: Sequence[WeightOutcome],
    chosen: Chosen,
    dialogues: Sequence[str],
    config: TrainingConfig,
    facts: Mapping[str, Any],
    folder: Path,
) -> str:
    """Write ``results.json``, ``report.md`` and ``sweep.png``, and return the report.

    Args:
        outcomes: what came of each weight; the first is weight 0.
        chosen: the conversations that were trained on and held out.
        dialogues: the dialogue of each held-out conversation.
        config: the settings that all runs share, apart from the weight.
        facts: the description of the machine.
        folder: where the files are written.
    """
    compared = [_compared(outcome, outcomes[0], dialogues) for outcome in outcomes]
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": dict(facts),
        "conversations": {"rule": chosen.rule, **chosen.counts},
        "config": {
            name: value for name, value in settings_of(config).items() if name != "eval_data"
        },
        "runs": [
            {**asdict(outcome), "log": log_columns(outcome.log), "against_weight_0": one}
            for outcome, one in zip(outcomes, compared, strict=True)
        ],
        "dialogues": list(dialogues),
    }
    write_text(folder / "results.json", compact_json(record))
    _draw(outcomes, compared, folder / "sweep.png")
    text = _text(outcomes, compared, chosen, config, facts)
    write_text(folder / "report.md", text)
    return text


def log_columns(log: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Return the log of a run as a list per quantity, of training steps and of evaluations.

    A quantity is None at a step that did not log it, as SRA of a strategy that no reply had.
    """
    kinds = {
        "training": [entry for entry in log if "eval_loss" not in entry],
        "held-out": [entry for entry in log if "eval_loss" in entry],
    }
    return {
        kind: {
            name: [entry.get(name) for entry in entries]
            for name in dict.fromkeys(["step", *(name for entry in entries for name in entry)])
        }
        for kind, entries in kinds.items()
    }


def best(outcomes: Sequence[WeightOutcome]) -> WeightOutcome:
    """Return the outcome with the highest SRA among those whose loss is unharmed."""
    allowed = HARMED * outcomes[0].result["after"]["loss"]
    unharmed = [outcome for outcome in outcomes if outcome.result["after"]["loss"] <= allowed]
    return max(unharmed, key=lambda outcome: outcome.rescored)


def _compared(
    outcome: WeightOutcome, base: WeightOutcome, dialogues: Sequence[str]
) -> dict[str, Any]:
    low, high = ratio_interval(outcome.scores, base.scores, dialogues)
    return {
        "sra_ratio": outcome.rescored / base.rescored,
        "sra_ratio_interval": [low, high],
        "loss_ratio": outcome.result["after"]["loss"] / base.result["after"]["loss"],
    }


def _text(
    outcomes: Sequence[WeightOutcome],
    compared: Sequence[Mapping[str, Any]],
    chosen: Chosen,
    config: TrainingConfig,
    facts: Mapping[str, Any],
) -> str:
    base = outcomes[0].result
    counts = {
        name: f"{part['conversations']} conversations of {part['dialogues']} dialogues"
        for name, part in chosen.counts.items()
    }
    rows = [["base model", "–", "–", "–", *_measured(base["before"]), "–", "–"]]
    for outcome, one in zip(outcomes, compared, strict=True):
        minutes = "–" if outcome.seconds is None else f"{outcome.seconds / 60:.1f}"
        first, last = _training_losses(outcome)
        low, high = one["sra_ratio_interval"]
        interval = " (–)" if low is None else f" ({low:.3f} … {high:.3f})"
        rows.append(
            [
                f"{outcome.weight:g}",
                f"{outcome.result['chosen_step']} of {outcome.result['steps']}",
                minutes,
                f"{first:.3f} → {last:.3f}",
                *_measured(outcome.result["after"]),
                f"{one['loss_ratio']:.4f}",
                f"{one['sra_ratio']:.3f}{interval}",
            ]
        )
    top = best(outcomes)
    ratio = top.rescored / outcomes[0].rescored
    verdict = (
        f"Within {HARMED - 1:.0%} of the loss without it, weight {top.weight:g} has the highest "
        f"SRA, {ratio:.2f} times that of weight 0; "
        f"{RAISED:g} times was to be reached: {'met' if ratio >= RAISED else 'not met'}."
    )
    worst = max(outcome.difference for outcome in outcomes)
    return f"""# Fine-tuning {base["model"]} on ESConv, with SRA watched and in the loss

{facts["cpu"]}, {facts["cores"]} cores ({facts["threads"]} threads), torch {facts["torch"]}, \
transformers {facts["transformers"]}, commit {facts["commit"]}.

Training: {counts["training"]}; held out: {counts["held-out"]}: {chosen.rule}. LoRA of rank \
{config.rank}, learning rate {config.learning_rate:g}, {base["epochs"]:.2g} × all of them in steps \
of {config.batch_size * config.accumulation} conversations, `{config.template}` template, \
{config.dtype}; ESConv's own eight strategies. SRA is the paper's definition; intervals are 95 % \
intervals over held-out dialogues. A row is of the step with the lowest held-out loss \
(for a weight above 0, the language model's part alone); the training loss is the mean of the \
first and of the last {EDGE} steps.

{chr(10).join(markdown_table(_COLUMNS, rows, names=0))}
{verdict} After training, each adapter was loaded anew and the held-out replies scored by \
`sra_fast.score`: the means differ from what `SRACallback` had logged by at most {worst:.1e} of \
them.

![What each weight does](sweep.png)

![Weight 0](curves-0.png)

![Weight {top.weight:g}](curves-{top.weight:g}.png)

Redraw with `python -m benchmarks.finetuning.esconv_sweep ESCONV.json`.
"""


def _measured(on_held_out: Mapping[str, float]) -> list[str]:
    """Return the cells of held-out loss, SRA and log SRA."""
    return [
        f"{on_held_out['loss']:.4f}",
        f"{on_held_out['sra']:.3e}",
        f"{on_held_out['log_sra']:.3f}",
    ]


def _training_losses(outcome: WeightOutcome) -> tuple[float, float]:
    """Return the language model's mean loss over the first and over the last steps."""
    losses = [log.get("lm_loss", log["loss"]) for log in outcome.log if "loss" in log]
    return fmean(losses[:EDGE]), fmean(losses[-EDGE:])


def _draw(
    outcomes: Sequence[WeightOutcome], compared: Sequence[Mapping[str, Any]], path: Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = range(len(outcomes))
    labels = [f"{outcome.weight:g}" for outcome in outcomes]
    ratios = [one["sra_ratio"] for one in compared]
    ends = [
        one["sra_ratio_interval"] if one["sra_ratio_interval"][0] is not None else [ratio, ratio]
        for one, ratio in zip(compared, ratios, strict=True)
    ]
    spread = [
        [ratio - low for ratio, (low, _) in zip(ratios, ends, strict=True)],
        [high - ratio for ratio, (_, high) in zip(ratios, ends, strict=True)],
    ]
    left.errorbar(at, ratios, spread, fmt="o-", color=BLUE, capsize=3, linewidth=1.6)
    left.axhline(RAISED, color=DARK_GREY, linestyle=":", linewidth=1.2, label=f"{RAISED:g}")
    left.set_ylabel("held-out SRA / that of weight 0")
    if max(ratios) > 4 * min(ratios):
        left.set_yscale("log")
    losses = [outcome.result["after"]["loss"] for outcome in outcomes]
    right.plot(at, losses, "o-", color=ORANGE, linewidth=1.6)
    right.axhline(
        HARMED * losses[0], color=DARK_GREY, linestyle=":", linewidth=1.2,
        label=f"{HARMED - 1:.0%} above weight 0",
    )  # fmt: skip
    right.set_ylabel("held-out loss per token (nats)")
    for axes in (left, right):
        axes.set_xticks(list(at), labels)
        axes.set_xlabel("weight of SRA in the loss")
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.legend(frameon=False)
    figure.suptitle(f"{outcomes[0].result['model']}, ESConv; bars: 95% over held-out dialogues")
    save_figure(figure, path)

"""Write the report of a reproduction: ``report.md``, ``results.json`` and the figures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sra_fast.files.models import choose_device
from sra_fast.files.provenance import file_sha256, versions
from sra_fast.report.markdown import number
from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.estimates import Correlation, Estimate
from sra_fast.tools.markdown_table import markdown_table, markdown_text
from sra_fast.tools.missing_extra import needed

from ...lora.curves import CURVES
from ...lora.settings import settings_of
from ..classifiers.training_folder import CONFUSION
from ..evaluation.analysis import Analysis
from ..evaluation.evaluate import TUNED as TUNED_CONDITION
from ..evaluation.evaluation_report import REPORT as EVALUATION_REPORT
from ..evaluation.evaluation_report import RESULTS, plain
from ..evaluation.published import PUBLISHED, published_relation
from ..evaluation.report_tables import coefficient, figure, rate
from ..extension.counts import as_markdown
from .opinions import Opinions
from .stages import CLASSIFIER, EVALUATION, TUNED, Reproduction

REPORT = "report.md"
FORMAT = "sra_fast.reproduction/1"

_PACKAGES = ("sra_fast", "torch", "transformers", "peft", "datasets", "sklearn", "numpy")


@dataclass(frozen=True)
class Reproduced:
    """The results of all stages, from which the report is written.

    Attributes:
        reproduction: the settings.
        commits: the commits of this project that worked on the reproduction.
        extended: the statistics of the extended data.
        classified: the report of the trained classifier.
        opinions: how two classifiers agree with the labels of the model's replies.
        tuned: the result of the fine-tuning.
        evaluation: the results of the evaluation.
        by_plain: the evaluation's analysis with adherence by the ``plain`` classifier, or None if
            that does not know the strategies.
        deviations: how the reproduction differs from the paper.
    """

    reproduction: Reproduction
    commits: Sequence[str]
    extended: Mapping[str, Any]
    classified: Mapping[str, Any]
    opinions: Opinions
    tuned: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    by_plain: Analysis | None
    deviations: Sequence[str]


def write_report(reproduced: Reproduced) -> dict[str, Any]:
    """Write ``report.md`` and ``results.json``, and copy the figures of the stages.

    Returns:
        The content of ``results.json``.

    Raises:
        OSError: a file cannot be read or written.
    """
    out = reproduced.reproduction.out
    for folder, names in (
        (CLASSIFIER, [CONFUSION]),
        (TUNED, [CURVES]),
        (EVALUATION, sorted(one.name for one in (out / EVALUATION).glob("*.png"))),
    ):
        for name in names:
            shutil.copyfile(out / folder / name, out / name)
    found = results(reproduced)
    write_json(out / RESULTS, found)
    write_text(out / REPORT, markdown(reproduced, found))
    return found


def results(reproduced: Reproduced) -> dict[str, Any]:
    """Return the content of ``results.json``, without texts and paths."""
    needed("pipeline", "peft", "datasets", "sklearn")
    run = reproduced.reproduction
    opinions = reproduced.opinions
    training = settings_of(run.training)
    for name in ("eval_data", "template", "strategies", "report_to"):
        del training[name]
    return {
        "format": FORMAT,
        "model": run.base.fingerprint(),
        "data": {"file": run.file.name, "sha256": file_sha256(run.file)},
        "seeds": seeds(run),
        "versions": versions(*_PACKAGES),
        "commits": list(reproduced.commits),
        "device": _device(run),
        "dtype": run.dtype,
        "settings": {
            "strategies": list(run.strategies),
            "cutting": asdict(run.cutting),
            "sampling": asdict(run.sampling),
            "test": run.test,
            "validation": run.validation,
            "classifier": {"kind": run.classifier, **run.classifier_settings},
            "training": training,
            "items": run.items,
            "ablate": run.ablate,
        },
        "deviations": list(reproduced.deviations),
        "extended": dict(reproduced.extended),
        "classifier": {
            **reproduced.classified,
            "on_own_replies": opinions.trained and opinions.trained.to_json(),
            "plain_on_own_replies": opinions.plain and opinions.plain.to_json(),
            "plain_on_plain_replies": opinions.plain_on_plain.to_json(),
            "label_noise": plain(opinions.noise),
        },
        "training": {k: v for k, v in reproduced.tuned.items() if k not in ("out", "files")},
        "evaluation": dict(reproduced.evaluation),
        "evaluation_by_plain": plain(reproduced.by_plain),
    }


def seeds(run: Reproduction) -> dict[str, int]:
    """Return the seed of each stage that draws at random, by the name of the stage."""
    return {
        "cutting": run.cutting.seed,
        "sampling": run.sampling.seed,
        "training": run.training.seed,
        **({"classifier": own["seed"]} if "seed" in (own := run.classifier_settings) else {}),
    }


def markdown(reproduced: Reproduced, found: Mapping[str, Any]) -> str:
    """Return the text of ``report.md``; ``found`` is the content of ``results.json``."""
    run, evaluation = reproduced.reproduction, reproduced.evaluation
    stages = (run.out / EVALUATION / EVALUATION_REPORT).read_text(encoding="utf-8")
    lines = [
        f"# The paper's experiments with {markdown_text(run.base.name)}",
        "",
        *_facts(reproduced, found),
        "## In brief",
        "",
        *(f"- {one}" for one in _brief(reproduced)),
        "",
        "## The extended data",
        "",
        as_markdown(reproduced.extended),
        "## The strategy classifier",
        "",
        *_classifier(reproduced),
        "## The fine-tuning",
        "",
        *_training(reproduced.tuned),
    ]
    if reproduced.by_plain is not None:
        lines += ["## Two classifiers", "", *_two(evaluation, reproduced.by_plain)]
    # The report of the evaluation without its title; its headings go one level down.
    lines += ["## The evaluation", "", re.sub(r"^#(#+) ", r"##\1 ", _body(stages), flags=re.M)]
    return "\n".join(lines)


def _body(page: str) -> str:
    return page.split("\n", 1)[1].lstrip("\n")


def _device(run: Reproduction) -> str:
    device = choose_device(run.device)
    return device if device == "cpu" else torch.cuda.get_device_name()


def _facts(reproduced: Reproduced, found: Mapping[str, Any]) -> list[str]:
    run = reproduced.reproduction
    weights = str(found["model"]["weights"] or "unknown")
    named = {
        "model": f"{run.base.name}, weights {weights[:12]}, {run.dtype}, on {found['device']}",
        "data": f"{run.file.name}, SHA-256 {found['data']['sha256'][:12]}",
        "seeds": ", ".join(f"{name} {seed}" for name, seed in found["seeds"].items()),
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "commit": ", ".join(reproduced.commits),
    }
    return markdown_table(("", ""), named.items(), names=2)


def _brief(reproduced: Reproduced) -> list[str]:
    """Sum up the main results in sentences."""
    evaluation, by_plain = reproduced.evaluation, reproduced.by_plain
    guessing = 1 / len(reproduced.reproduction.strategies)
    conditions = {one["row"]: one for one in evaluation["analysis"]["rows"]}
    known = {name: one for name, one in conditions.items() if one["accuracy"]["value"] is not None}
    lines = []
    if known:
        best = max(known, key=lambda name: known[name]["accuracy"]["value"])
        least = min(known, key=lambda name: known[name]["accuracy"]["value"])
        lines.append(
            f"Strategy following, by the classifier, lies between {_of(known[least]['accuracy'])} "
            f"({markdown_text(least)}) and {_of(known[best]['accuracy'])} ({markdown_text(best)}); "
            f"guessing reaches {rate(guessing)}."
        )
    if TUNED_CONDITION in conditions:
        tuned = conditions[TUNED_CONDITION]
        definition = evaluation["definition"]
        lines.append(
            "Fine-tuning changes it, under the standard prompt, by "
            f"{_of(tuned['accuracy_difference'], signed=True)}, and SRA by "
            f"{_of(tuned['score_differences'][definition], number, signed=True)}."
        )
        language = {one["row"]: one for one in (evaluation["quality"] or {"rows": []})["rows"]}
        if TUNED_CONDITION in language:
            repeated = language[TUNED_CONDITION]["repetition_difference"]
            lines.append(f"Repetition within its replies changes by {_of(repeated, signed=True)}.")
    relation = evaluation["analysis"]["over_rows"]["table1"]
    published = " and ".join(
        f"{_r(plain(published_relation(model).pearson))} ({model})" for model in PUBLISHED
    )
    lines.append(
        f"SRA (`table1`) against accuracy over the {len(conditions)} conditions: "
        f"r = {_r(relation['pearson'])}; from the published tables: {published}."
    )
    without = {name: r for name, r in relation["without"].items() if r is not None}
    if without and relation["pearson"]["r"] is not None:
        most = max(without, key=lambda name: abs(without[name] - relation["pearson"]["r"]))
        lines.append(
            f"The condition that this hangs on most is {markdown_text(most)}: without it r = "
            f"{'−' if without[most] < 0 else ''}{rate(abs(without[most]))}."
        )
    if by_plain is not None:
        other = plain(by_plain.over_rows["table1"].pearson)
        lines.append(f"With adherence by the `plain` classifier: r = {_r(other)}.")
    return lines


def _of(estimate: Mapping[str, Any], shown: Any = rate, *, signed: bool = False) -> str:
    def text(value: float) -> str:
        return f"{'−' if value < 0 else '+' if signed else ''}{shown(abs(value))}"

    if estimate["value"] is None:
        return f"an undefined figure ({estimate['why']})"
    if estimate["low"] is None:
        return f"{text(estimate['value'])} [–]"
    return f"{text(estimate['value'])} [{text(estimate['low'])}, {text(estimate['high'])}]"


def _r(correlation: Mapping[str, Any]) -> str:
    return _of({**correlation, "value": correlation["r"]})


def _classifier(reproduced: Reproduced) -> list[str]:
    kind, opinions = reproduced.classified["kind"], reproduced.opinions
    folds = reproduced.classified["all_folds"]
    rows = [_quality_cells(f"{kind}, cross-validated on the training part", folds)]
    for name, measured in (
        (f"{kind}, on the test part", opinions.trained),
        ("plain, on the test part", opinions.plain),
        ("plain, cross-validated on its own plain replies", opinions.plain_on_plain),
    ):
        rows.append(_quality_cells(name, None if measured is None else measured.to_json()))
    lines = [
        "Accuracy is agreement with the strategy that the model was told to follow, which it may "
        f"not have followed. `{kind}` has learnt from the replies of the training part, `plain` "
        "from the library's own plainly worded replies.",
        "",
        *markdown_table(
            ("classifier", "responses", "accuracy", "macro F1", "most frequent", "guessing"), rows
        ),
    ]
    noise = opinions.noise
    if noise is None:
        lines.append("The noise of the labels is unknown: `plain` does not know the strategies.")
    else:
        lines.append(
            f"Noise of the labels: at most {figure(noise.noise)} of the replies do not follow the "
            f"strategy they are labelled with. `plain` names the label for {rate(noise.agreement)} "
            f"of them, would by chance for {rate(noise.by_chance)}, and is right for "
            f"{rate(noise.when_plain)} where the strategy is plain; (c − A) / (c − e) of these. "
            "An upper bound, because these replies are harder to name than plain ones."
        )
    return [*lines, "", f"![confusion matrix]({CONFUSION})", ""]


def _quality_cells(name: str, measured: Mapping[str, Any] | None) -> list[str]:
    if measured is None:
        return [name, *["–"] * 5]
    low, high = measured["low"], measured["high"]
    interval = "[–]" if low is None else f"[{rate(low)}, {rate(high)}]"
    return [
        name,
        f"{measured['responses']:,}",
        f"{rate(measured['accuracy'])} {interval}",
        rate(measured["macro_f1"]),
        rate(measured["majority"]),
        rate(measured["uniform"]),
    ]


def _training(tuned: Mapping[str, Any]) -> list[str]:
    steps = {"base model": tuned["before"], f"step {tuned['chosen_step']}": tuned["after"]}
    examples = tuned["examples"]
    lines = [
        f"{examples['train']:,} conversations, {tuned['steps']} steps "
        f"({tuned['epochs']:.2f} epochs); held out: {examples['eval']:,}. The adapter with the "
        "lowest held-out loss is evaluated.",
        "",
    ]
    if tuned["after"] is not None:
        cells = [
            [name, *(_value(one, key) for key in ("loss", "sra", "log_sra"))]
            for name, one in steps.items()
        ]
        lines += markdown_table(("", "held-out loss", "SRA", "log SRA"), cells)
    lines += [f"- {markdown_text(note)}" for note in tuned["notes"]]
    return [*lines, "", f"![curves of the training]({CURVES})", ""]


def _value(measured: Mapping[str, float | None] | None, key: str) -> str:
    value = measured and measured[key]
    return "–" if value is None else f"{value:.4g}"


def _two(evaluation: Mapping[str, Any], by_plain: Analysis) -> list[str]:
    """Compare accuracies and correlations by the trained classifier with those by ``plain``."""
    trained = {one["row"]: one["accuracy"] for one in evaluation["analysis"]["rows"]}
    rows = [
        [one.row, f"{one.n:,}", figure(Estimate(**trained[one.row])), figure(one.accuracy)]
        for one in by_plain.rows
    ]
    relations = evaluation["analysis"]["over_rows"]
    over = [
        [
            name,
            coefficient(Correlation(**relations[name]["pearson"])),
            coefficient(one.pearson),
            coefficient(Correlation(**relations[name]["pearson_log"])),
            coefficient(one.pearson_log),
        ]
        for name, one in by_plain.over_rows.items()
    ]
    return [
        "The same replies, adherence named by the classifier that was trained on the model's own "
        "replies, and by `plain`, which has seen none of them.",
        "",
        *markdown_table(("condition", "n", "accuracy, trained", "accuracy, plain"), rows),
        "Pearson's r of each score with accuracy over the conditions, raw and of the logarithm:",
        "",
        *markdown_table(
            ("score", "r, trained", "r, plain", "log r, trained", "log r, plain"), over
        ),
    ]

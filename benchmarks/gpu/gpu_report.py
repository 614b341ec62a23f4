"""Check and measure this project on a GPU, in under nine minutes.

The command is ``python -m benchmarks.gpu``. It needs a checkout and what is installed of torch,
triton, transformers, numpy and pytest; nothing of this project has to be installed. It writes
``results.json``, ``report.md``, ``dispatch.json`` and pictures, and prints a short table last. Run
again with the same folder, it measures what is missing there or was not good. The exit status is 0
if everything ran and was right, 1 if not, and 2 without a GPU or with a folder that holds another
report.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.harness import card
from benchmarks.gpu.harness.failures import describe
from benchmarks.gpu.harness.process import GRACE, LEAST_SECONDS, ROOT, run_apart, write
from benchmarks.gpu.harness.resuming import (
    OtherReportError,
    code_digest,
    earlier,
    good_entries,
    partial_file,
)
from benchmarks.gpu.harness.schedule import (
    SECTIONS,
    ReportSettings,
    Section,
    SectionOutcome,
    SectionTask,
    known_ceilings,
)
from benchmarks.gpu.harness.sizes import FULL, QUICK
from benchmarks.gpu.report import dispatch_table, report_page, targets
from sra_fast.kernels.measured_table import MeasuredCall, as_json
from sra_fast.tools.atomic import write_text

RESULTS = ROOT / "benchmarks" / "results"
MEASURED = ROOT / "kernels" / "span_attention" / "measured.json"
SECONDS = 540.0
LAST_SECONDS = 12.0  # kept at the end for the report and the pictures

SectionRunner = Callable[[SectionTask], SectionOutcome]


def execute(
    sections: Sequence[Section],
    settings: ReportSettings,
    ends: float,
    run: SectionRunner,
    keep: Callable[[Sequence[SectionOutcome]], None],
    before: Mapping[str, SectionOutcome] | None = None,
) -> list[SectionOutcome]:
    """Run sections in order, each with its share of the time that is left.

    Args:
        sections: the sections to run.
        settings: the settings of the run.
        ends: the moment at which the time is over, by ``time.monotonic``.
        run: the function that runs one section.
        keep: called with all outcomes after each section.
        before: the outcomes of an earlier run by section. Good ones stay as they are, and of the
            others their good entries.

    Returns:
        The outcomes in the order of :data:`SECTIONS`, those of ``before`` among them that are of
        none of ``sections``.
    """
    outcomes = dict(before or {})
    wanted = [s for s in sections if s.name not in outcomes or not outcomes[s.name].good]
    for section in sections:
        if section not in wanted:
            print(f"{section.name}: kept from before", file=sys.stderr, flush=True)
    for number, section in enumerate(wanted):
        known = good_entries(outcomes.get(section.name))
        left = ends - time.monotonic()
        share = section.share / sum(later.share for later in wanted[number:])
        if left < LEAST_SECONDS:
            reason = f"out of time: {max(left, 0.0):.0f} s left"
            outcome = SectionOutcome(section.name, "skipped", known, reason)
        else:
            until = time.monotonic() + max(share * left, LEAST_SECONDS)
            try:
                ceilings = known_ceilings(list(outcomes.values()))
                outcome = run(SectionTask(section, settings, until, ceilings, known))
            except Exception as error:  # the other sections go on
                outcome = SectionOutcome(section.name, "failed", known, describe(error))
        outcomes[section.name] = outcome
        took = f"{outcome.seconds:.0f} s"
        print(f"{outcome.name}: {outcome.status}, {took}", file=sys.stderr, flush=True)
        keep(_in_order(outcomes))
    return _in_order(outcomes)


def _in_order(outcomes: Mapping[str, SectionOutcome]) -> list[SectionOutcome]:
    order = {section.name: place for place, section in enumerate(SECTIONS)}
    return sorted(outcomes.values(), key=lambda outcome: order.get(outcome.name, -1))


def report(
    facts: Mapping[str, Any], outcomes: Sequence[SectionOutcome], folder: Path, notes: Sequence[str]
) -> str:
    """Write everything that is made of the outcomes, and return the short table."""
    notes = list(notes)
    verdicts = targets.judge(outcomes)
    pictures: list[str] = []
    try:
        from benchmarks.gpu.report.pictures import draw

        pictures = draw(facts["card"], outcomes, verdicts, folder)
    except Exception as error:  # matplotlib may be missing, or another version
        notes.append(f"no pictures: {describe(error)}")
    write(as_json({facts["dispatch_card"]: _chosen(facts, outcomes)}), folder / "dispatch.json")
    text = report_page.as_markdown(facts, outcomes, verdicts, pictures, notes)
    write_text(folder / "report.md", text)
    return report_page.short(facts, outcomes, verdicts, notes)


def record(facts: Mapping[str, Any], outcomes: Sequence[SectionOutcome], folder: Path) -> None:
    """Write ``results.json`` with the outcomes so far."""
    verdicts = [{**asdict(verdict), "worst": verdict.worst} for verdict in targets.judge(outcomes)]
    sections = {outcome.name: asdict(outcome) for outcome in outcomes}
    write({"facts": facts, "targets": verdicts, "sections": sections}, folder / "results.json")
    for name in sections:  # what is in there is in the results now
        partial_file(folder, name).unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    begun = time.monotonic()
    options = _options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "gpu-report: no GPU: torch.cuda.is_available() is false here, so there is nothing to "
            "measure; run it on a machine with an NVIDIA GPU of compute capability 8.0 or newer",
            file=sys.stderr,
        )
        return 2
    facts = card.facts(options.device) | {"quick": options.quick, "code": code_digest()}
    folder: Path = options.out or RESULTS / _folder_name(facts, options.only)
    try:
        before = earlier(folder, facts)
    except OtherReportError as error:
        print(f"gpu-report: {error}", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    record(facts, _in_order(before), folder)  # so that a run that is killed can go on
    outcomes = execute(
        [s for s in SECTIONS if not options.only or s.name in options.only],
        ReportSettings(options.device, options.quick),
        begun + options.seconds - LAST_SECONDS - GRACE,
        lambda task: run_apart(task, partial_file(folder, task.section.name)),
        lambda outcomes: record(facts, outcomes, folder),
        before,
    )
    if options.device == "cuda":
        facts["state afterwards"] = card.state()
    record(facts, outcomes, folder)
    notes = ["tiny sizes (--quick): nothing here is a measurement"] if options.quick else []
    if options.write_dispatch:
        notes.append(_write_dispatch(facts, outcomes))
    print(report(facts, outcomes, folder, notes))
    return int(not all(outcome.good for outcome in outcomes))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="The folder that the results are written into (default benchmarks/results/CARD-DATE). "
        "If it holds a report of the same card, versions and code, that one is completed.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="SECTION",
        choices=[section.name for section in SECTIONS],
        help="Run only these sections, of "
        f"{', '.join(section.name for section in SECTIONS)}. Figures that are compared with a "
        "ceiling need the section ceilings too.",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="Use at most this many seconds in all (default %(default)s).",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="Try the report with tiny sizes, which measure nothing and reach no target.",
    )
    parser.add_argument(
        "--write-dispatch",
        action="store_true",
        help='Write what backend="auto" should take into kernels/span_attention/measured.json.',
    )
    # On a CPU the report itself can be tried, with interpreted kernels.
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _folder_name(facts: Mapping[str, Any], only: Sequence[str] | None) -> str:
    return "-".join([card.slug(facts["card"]), facts["date"], *(only or [])])


def _chosen(facts: Mapping[str, Any], outcomes: Sequence[SectionOutcome]) -> list[MeasuredCall]:
    on_gpu = facts["device"] == "cuda"
    dtype = "bfloat16" if on_gpu else "float32"
    return dispatch_table.chosen(outcomes, QUICK if facts["quick"] else FULL, dtype)


def _write_dispatch(facts: Mapping[str, Any], outcomes: Sequence[SectionOutcome]) -> str:
    entries = _chosen(facts, outcomes)
    if facts["quick"] or facts["device"] != "cuda" or not entries:
        return "measured.json was left as it is: there was nothing measured to write into it"
    dispatch_table.write(facts["dispatch_card"], entries, MEASURED)
    return f"measured.json now holds {len(entries)} kinds of call as measured here"

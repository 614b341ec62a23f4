"""The command ``sra-fast compare``, which scores conversations under several templates."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from sra_fast.cli import options
from sra_fast.cli.inputs import RESULTS, choose_strategies, choose_templates, make_scorer
from sra_fast.cli.session import session
from sra_fast.names import FORWARD_TOKENS

TEMPLATE_FOLDERS = "templates"
_ALL_SEVEN = "standard,c5_hf,c3_hf,c1_hf,c5_hl,c3_hl,c1_hl"


def compare(
    file: options.ConversationFile,
    model: options.ModelName,
    templates: options.TemplateNames = _ALL_SEVEN,
    strategies: options.StrategyFile = None,
    turns: options.TurnsOption = "all",
    layout: options.LayoutOption = "as_generated",
    thoughts: options.ThoughtsOption = None,
    definition: options.DefinitionOption = "paper",
    out: options.OutFolder = None,
    batch_tokens: options.BatchTokens = FORWARD_TOKENS,
    dtype: options.DTypeOption = "auto",
    device: options.DeviceOption = "auto",
    backend: options.BackendOption = "auto",
    allow_missing: options.AllowMissing = False,
    check: options.CheckOption = True,
    share_prefixes: options.SharePrefixes = True,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Score conversations under several prompt templates, and compare their SRA.

    It writes compare.md, compare.json and three pictures into a folder of their own, which is
    sra-results/NAME-compare for an input NAME.jsonl unless --out names another, and the scores of
    each template below it. If it is interrupted, the same command continues, and does not score
    finished templates again.
    """
    with session(as_json, debug, continues=True) as current:
        chosen = choose_templates(templates, "--templates")

        from sra_fast.chat.conversations import read_conversations
        from sra_fast.cli.progress import token_progress
        from sra_fast.cli.tables import comparison_tables
        from sra_fast.files.run_date import DATE, first_day
        from sra_fast.files.run_folder import RunFolder
        from sra_fast.files.scoring_options import ScoringOptions
        from sra_fast.report.comparison import compare as compared
        from sra_fast.report.comparison import interval_note, undefined_note
        from sra_fast.report.write import REPORT_FILES, write_report
        from sra_fast.result import PASSED

        conversations = read_conversations(file, several_strategies=True)
        folder = out or RESULTS / f"{file.stem}-compare"
        wanted = ScoringOptions(
            definition=definition,
            strategies=choose_strategies(strategies),
            batch_tokens=batch_tokens,
            dtype=dtype,
            device=device,
            backend=backend,
            layout=layout,
            thoughts=thoughts,
            check=check,
            share_prefixes=share_prefixes,
        )
        scorer = make_scorer(file, model, wanted, allow_missing=allow_missing)
        day = first_day(folder, scorer.source)
        dated = {} if day is None else {DATE: day}
        whole = RunFolder(folder, scorer.settings("compare", turns=turns, **dated))
        whole.check()
        jobs = [
            scorer.prepare(
                "compare template",
                template_folder(folder, one.name),
                conversations,
                one,
                turns,
                part_of=folder,
            )
            for one in chosen
        ]
        scorer.check(jobs)
        with whole.opened():
            with token_progress(current, jobs) as on_progress:
                scored = scorer.run(jobs, on_progress)
            checked = "; ".join(dict.fromkeys(one.result.checked for one in scored))
            rows = [row for one in scored for row in one.rows]
            names = [template.name for template in chosen]
            comparison = compared(definition, names, rows, rows)
            model_name = scorer.source.name
            write_report(comparison, folder, [f"Model {model_name}, input {file.name}."])
            whole.finish()
        for table in comparison_tables(comparison):
            current.show(table)
        if undefined := undefined_note(definition, comparison.by_template.values()):
            current.say(undefined)
        if missing := interval_note(comparison.estimates):
            current.say(missing)
        if checked != PASSED:
            current.say(f"self-check of the model: {checked}")
        current.say(f"written to {folder}: {', '.join(REPORT_FILES)}")
        current.result = {
            "command": "compare",
            "out": str(folder),
            "files": list(REPORT_FILES),
            "model": model_name,
            "checked": checked,
            **comparison.to_json(),
        }


def template_folder(folder: Path, template: str) -> Path:
    """Return where a comparison in ``folder`` keeps the scores of a template.

    The name of a user's own template may be any text; no two names share a folder.
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", template)[:40]
    if safe != template:
        safe = f"{safe}-{hashlib.sha256(template.encode()).hexdigest()[:8]}"
    return folder / TEMPLATE_FOLDERS / safe

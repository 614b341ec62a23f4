"""Show the scores of a run: their means by strategy, and the object of ``--json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sra_fast.cli.session import Session

if TYPE_CHECKING:
    from sra_fast.files.score_tables import ScoreRow


def show_scores(
    session: Session,
    command: str,
    folder: Path,
    rows: Sequence[ScoreRow],
    *,
    model: str,
    template: str,
    definition: str,
    checked: str,
) -> None:
    """Show the mean scores of a run as a table, and make them the command's result.

    Args:
        session: the output of the command.
        command: its name.
        folder: the folder of the run.
        rows: what the tables say of each response.
        model: name of the model.
        template: name of the prompt template.
        definition: the definition that the column ``sra`` gives.
        checked: how the check of the model went (:attr:`sra_fast.SRAResult.checked`).
    """
    from sra_fast.cli.tables import estimates_table
    from sra_fast.files.run_record import RUN
    from sra_fast.files.score_folder import MASSES
    from sra_fast.files.score_tables import SCORES_JSONL, SCORES_PARQUET
    from sra_fast.report.comparison import groups, interval_note, mean_sra, undefined_note
    from sra_fast.result import PASSED

    whole = mean_sra(rows)
    by_strategy = groups(rows, lambda row: row["strategy"])
    estimates = {name: mean_sra(by_strategy[name]) for name in sorted(by_strategy)}
    session.show(
        estimates_table(
            f"SRA ({definition} definition), template {template}",
            ("strategy",),
            [*(((name,), e) for name, e in estimates.items()), (("all",), whole)],
        )
    )
    if undefined := undefined_note(definition, [whole]):
        session.say(undefined)
    if missing := interval_note([whole, *estimates.values()]):
        session.say(missing)
    if checked != PASSED:
        session.say(f"self-check of the model: {checked}")
    session.say(f"written to {folder}")
    result: dict[str, Any] = {
        "command": command,
        "out": str(folder),
        "files": [SCORES_JSONL, SCORES_PARQUET, MASSES, RUN],
        "model": model,
        "template": template,
        "definition": definition,
        "checked": checked,
        **whole.to_json(),
        "by_strategy": [{"strategy": name, **e.to_json()} for name, e in estimates.items()],
        "scores": list(rows),
    }
    session.result = result

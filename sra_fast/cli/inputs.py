"""Turn the options of a command into what it works on; wrong values are reported as wrong use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from sra_fast.chat.templates import PromptTemplate
    from sra_fast.files.batch_scorer import ScoringWorkers
    from sra_fast.files.score_file import FileScorer
    from sra_fast.files.scoring_options import ScoringOptions

RESULTS = Path("sra-results")


def choose_template(name: str, option: str) -> PromptTemplate:
    """Return one of the seven templates by name, or a user's own from a file."""
    from sra_fast.chat.templates import TEMPLATES, PromptTemplateError, get_template, read_template

    if name not in TEMPLATES and Path(name).is_file():
        return read_template(name)
    try:
        return get_template(name)
    except PromptTemplateError as error:
        raise typer.BadParameter(
            f"{error}; a template of your own is a JSON file, and there is none of that name",
            param_hint=f"'{option}'",
        ) from error


def choose_templates(names: str, option: str) -> list[PromptTemplate]:
    """Return the templates of a list separated by commas, in which each may stand once."""
    chosen = [choose_template(name.strip(), option) for name in names.split(",") if name.strip()]
    if not chosen:
        raise typer.BadParameter("names no template", param_hint=f"'{option}'")
    seen: set[str] = set()
    for template in chosen:
        if template.name in seen:
            raise typer.BadParameter(
                f"template {template.name!r} stands there twice", param_hint=f"'{option}'"
            )
        seen.add(template.name)
    return chosen


def make_scorer(
    file: Path,
    model: str,
    wanted: ScoringOptions,
    *,
    allow_missing: bool,
    workers: ScoringWorkers | None = None,
) -> FileScorer:
    """Return the scorer for a file, whose model is not loaded yet.

    Args:
        file: where the conversations were read from.
        model: name or folder of the model.
        wanted: how to score.
        allow_missing: whether weights that the model's files lack are only told.
        workers: the processes that score instead of this one; None to score in this one.
    """
    from sra_fast.files.models import choose_device, find_model
    from sra_fast.files.score_file import FileScorer

    if workers is None:
        choose_device(wanted.device)
    return FileScorer(find_model(model, allow_missing=allow_missing), file, wanted, workers)


def choose_strategies(file: Path | None) -> Mapping[str, str]:
    """Return the strategies in a user's file, or the library's own if there is none."""
    from sra_fast.chat.strategies import DEFAULT_STRATEGIES, read_strategies

    return DEFAULT_STRATEGIES if file is None else read_strategies(file)

"""Keep the day on which a run first started, so that a template with a date writes it to the end.

Some chat templates write today's date into every prompt. ``run.json`` then holds the day as the
setting "date"; a run that is continued on another day, and every stage of a longer run, takes it
from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from functools import lru_cache
from pathlib import Path

from sra_fast.chat.template_date import has_date
from sra_fast.files.models import ModelSource
from sra_fast.files.run_folder import RUN

DATE = "date"
"""The name of the setting."""


def first_day(folder: Path | Sequence[Path] | None, *models: ModelSource | None) -> str | None:
    """Return the day on which the run in a folder first started, such as "2026-03-31".

    It is today for a folder without a run, and None where no prompt holds a date.

    Args:
        folder: the folder of the run; None for one that is begun anew. Of several, the first that
            holds a run counts.
        models: the models whose chat templates write the prompts; None for one that is not here.
    """
    if not any(writes_date(model) for model in models if model is not None):
        return None
    today = date.today().isoformat()
    folders = [] if folder is None else [folder] if isinstance(folder, Path) else folder
    for one in folders:
        try:
            settings = json.loads((one / RUN).read_text(encoding="utf-8"))["settings"]
            recorded = settings.get(DATE)
            return None if recorded is None else date.fromisoformat(recorded).isoformat()
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return today  # whoever opens the folder says what is wrong with it
    return today


def start_of(day: str | None) -> datetime | None:
    """Return the moment at which a day begins, for templates that write the date.

    Args:
        day: what :func:`first_day` returns.
    """
    return None if day is None else datetime.combine(date.fromisoformat(day), time.min)


@lru_cache(maxsize=16)
def writes_date(model: ModelSource) -> bool:
    """Return whether the chat template of a model writes the date.

    Args:
        model: the model; one without a tokenizer or a template writes none.
    """
    try:
        found = getattr(model.tokenizer(), "chat_template", None)
    except (OSError, ValueError):
        return False  # whoever needs the tokenizer says what is wrong with it
    templates = found.values() if isinstance(found, Mapping) else [found]
    return any(has_date(str(template)) for template in templates)

"""Keep the day on which a run first started, so that a template with a date writes it to the end.

``run.json`` holds it as the setting "date". A run that is continued on another day, and every stage
of a longer run, takes it from there.
"""

from __future__ import annotations

import json
from datetime import date, datetime, time
from pathlib import Path

from sra_fast.files.run_folder import RUN

DATE = "date"
"""The name of the setting."""


def first_day(folder: Path) -> str | None:
    """Return the day on which the run in a folder first started, such as "2026-03-31".

    It is today for a folder without a run, and None for a run that recorded no day, as those of
    earlier versions.

    Args:
        folder: the folder of the run.
    """
    try:
        settings = json.loads((folder / RUN).read_text(encoding="utf-8"))["settings"]
        return (
            None if settings.get(DATE) is None else date.fromisoformat(settings[DATE]).isoformat()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return date.today().isoformat()  # whoever opens the folder says what is wrong with it


def start_of(day: str | None) -> datetime | None:
    """Return the moment at which a day begins, for templates that write the date.

    Args:
        day: what :func:`first_day` returns.
    """
    return None if day is None else datetime.combine(date.fromisoformat(day), time.min)

"""Read what ``run.json`` in a run's folder says, and tell in which setting two runs differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.tools.argument_error import ArgumentError

RUN = "run.json"
DIGESTS = "digests"
"""The key of ``run.json`` with the SHA-256 of each file of a finished run."""

FORMAT = "sra_fast.run/1"
_SHOWN = 60  # the most characters of a setting that an error shows


class RunFolderError(ArgumentError):
    """Raised when a folder cannot take a run; the message says why, and the way out."""


@dataclass(frozen=True)
class RunRecord:
    """The contents of ``run.json``.

    Attributes:
        settings: everything that the results depend on.
        finished: whether the run is done.
        digests: the SHA-256 of each file of a finished run, by its path inside the folder; empty in
            folders of earlier versions.
    """

    settings: dict[str, Any]
    finished: bool
    digests: dict[str, str]


def read_record(folder: Path, beside: Collection[str] = ()) -> RunRecord | None:
    """Return what ``run.json`` of a folder holds, or None if the folder is free for a run.

    Args:
        folder: the folder; it is free if it does not exist or is empty.
        beside: names of files and folders that may lie in a free folder.

    Raises:
        RunFolderError: the folder holds other things, or its ``run.json`` is not one of ours.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; give another folder", "out")
    file = folder / RUN
    if not file.exists():
        # A run killed while it wrote its first file leaves only that behind.
        names = {other.name for other in folder.iterdir()} if folder.exists() else set()
        if all(name.startswith(f".{RUN}.") or name in beside for name in names):
            return None
        if RUN not in names:  # another process may just have written it
            raise RunFolderError(
                f"{folder} is not empty and holds no run ({RUN} is missing), so it is left alone; "
                "give another folder, or empty that one",
                "out",
            )
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
        digests = recorded.get(DIGESTS, {})
        if (
            recorded["format"] == FORMAT
            and isinstance(recorded["settings"], dict)
            and isinstance(digests, dict)
        ):
            return RunRecord(recorded["settings"], recorded["finished"] is True, digests)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise RunFolderError(
        f"{file} was not written by this version of sra_fast; give another folder, or delete that "
        "one",
        "out",
    )


def record_of(
    settings: Mapping[str, Any], finished: bool, digests: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what :func:`read_record` reads, in the order of the file."""
    return {
        "format": FORMAT,
        "finished": finished,
        "settings": dict(settings),
        **({DIGESTS: dict(digests)} if digests else {}),
    }


def setting_apart(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Return the name of the first setting that differs, in the order of ``now``, and both values.

    The values are as an error shows them. None if all are the same.
    """
    difference = _first_difference(dict(before), dict(now))
    if difference is None:
        return None
    name, one, other = difference
    return name, _shown(one), _shown(other)


def _first_difference(before: Any, now: Any, name: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *(key for key in before if key not in now)]:
            inner = f"{name}.{key}" if name else key
            found = _first_difference(before.get(key), now.get(key), inner)
            if found is not None:
                return found
        return None  # strategies in another order are the same strategies
    return None if before == now and type(before) is type(now) else (name, before, now)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

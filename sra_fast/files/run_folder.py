"""Keep work in run folders, so that it can be killed at any moment and continued later.

``run.json`` holds the settings that the results depend on, and "finished" once everything else is
there, with the digests of what was finished. Whoever comes with other settings is refused, and one
process at a time works in a folder.
What a run computes piece by piece lies beside it, see :mod:`~sra_fast.files.kept_parts` and
:mod:`~sra_fast.files.appended_lines`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sra_fast.files.provenance import file_sha256
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.atomic import write_json

RUN = "run.json"
DIGESTS = "digests"
"""The key of ``run.json`` with the SHA-256 of each file of a finished run."""

_FORMAT = "sra_fast.run/1"
_SHOWN = 60  # the most characters of a setting that an error shows


class RunFolderError(ArgumentError):
    """Raised when a folder cannot take a run; the message says why, and the way out."""


class RunFolder:
    """A folder that holds one run and the settings it was made with.

    Args:
        path: the folder; it is made when the run begins, its parents too.
        settings: everything that the results depend on, as values of JSON. A folder whose
            ``run.json`` holds other settings is left alone.
        temporary: names of files and folders in it that nobody needs once the run is finished.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], temporary: Sequence[str] = ()
    ) -> None:
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._temporary = tuple(temporary)

    def check(self) -> None:
        """Check that the folder is free or holds this very run, and change nothing.

        Raises:
            RunFolderError: the folder holds something else.
        """
        recorded = self._record()
        if recorded is None:
            return
        difference = _first_difference(recorded["settings"], self.settings)
        if difference is not None:
            name, before, now = difference
            raise RunFolderError(
                f"{self.path} holds another run: its setting {name!r} is {_shown(before)}, and now "
                f"it is {_shown(now)}; give another folder, or delete that one",
                "out",
            )

    @contextmanager
    def opened(self, replacing: Sequence[str] | None = None) -> Iterator[None]:
        """Make the folder this run's, and keep other processes out of it inside the block.

        Args:
            replacing: if given, an earlier run of the same kind is replaced, whatever its settings:
                these files and folders, which such a run writes beside ``run.json``, are removed.
                Anything else in the folder stays.

        Raises:
            RunFolderError: the folder holds something else, or another process works in it.
        """
        check = self.check if replacing is None else self._check_kind
        check()
        self.path.mkdir(parents=True, exist_ok=True)
        with _locked(self.path):
            check()
            if replacing is not None and self._record() is not None:
                self._remove(replacing)
                self._write_record(finished=False)
            for leftover in self.path.glob(".*.tmp"):  # a run was killed while it wrote these
                leftover.unlink(missing_ok=True)
            recorded = self._record()
            if recorded is None:
                self._write_record(finished=False)
            elif recorded["finished"]:
                self._remove(self._temporary)
            yield

    def is_finished(self) -> bool:
        """Tell whether this very run was finished here.

        Raises:
            RunFolderError: the folder holds something else.
        """
        self.check()
        recorded = self._record()
        return recorded is not None and recorded["finished"]

    def damaged(self) -> list[str]:
        """Return which files of this finished run are missing, or are not as they were finished.

        Runs of earlier versions recorded no digests, and give an empty list.

        Raises:
            RunFolderError: the folder holds something else.
        """
        self.check()
        recorded = self._record()
        return [] if recorded is None else changed_files(self.path, recorded["digests"])

    def finish(self, files: Sequence[str] = ()) -> None:
        """Note in ``run.json`` that the run is done; call it inside :meth:`opened`.

        Args:
            files: the files that make the finished run, and folders all of whose files do, as paths
                inside the folder. Their digests are recorded.
        """
        self._write_record(finished=True, digests=_digests(self.path, files))
        self._remove(self._temporary)

    def _check_kind(self) -> None:
        recorded = self._record()
        if recorded is None:
            return
        before, now = recorded["settings"].get("kind"), self.settings["kind"]
        if before != now:
            raise RunFolderError(
                f"{self.path} holds another run, of kind {before!r} and not {now!r}; give another "
                "folder, or delete that one",
                "out",
            )

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            target = self.path / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def _record(self) -> dict[str, Any] | None:
        """Return what ``run.json`` holds, or None if the folder is empty or does not exist.

        Raises:
            RunFolderError: the folder holds other things, or its ``run.json`` is not one of ours.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; give another folder", "out")
        file = self.path / RUN
        if not file.exists():
            # A run killed while it wrote its first file leaves only that behind.
            others = self.path.iterdir() if self.path.exists() else iter(())
            if all(other.name.startswith(f".{RUN}.") for other in others):
                return None
            raise RunFolderError(
                f"{self.path} is not empty and holds no run ({RUN} is missing), so it is left "
                "alone; give another folder, or empty that one",
                "out",
            )
        try:
            recorded = json.loads(file.read_text(encoding="utf-8"))
            digests = recorded.get(DIGESTS, {})
            if (
                recorded["format"] == _FORMAT
                and isinstance(recorded["settings"], dict)
                and isinstance(digests, dict)
            ):
                finished = recorded["finished"] is True
                return {"settings": recorded["settings"], "finished": finished, DIGESTS: digests}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise RunFolderError(
            f"{file} was not written by this version of sra_fast; give another folder, or delete "
            "that one",
            "out",
        )

    def _write_record(self, *, finished: bool, digests: Mapping[str, str] | None = None) -> None:
        record = {
            "format": _FORMAT,
            "finished": finished,
            "settings": self.settings,
            **({DIGESTS: dict(digests)} if digests else {}),
        }
        write_json(self.path / RUN, record)


def damaged_files(folder: Path) -> list[str]:
    """Return which files of a finished run, whatever its settings, are missing or changed.

    It is for whoever reads the results of a run: an empty list for a folder without a run, too.

    Args:
        folder: the folder.
    """
    try:
        recorded = json.loads((folder / RUN).read_text(encoding="utf-8"))
        return changed_files(folder, recorded.get(DIGESTS, {}))
    except (OSError, ValueError, AttributeError):
        return []


def changed_files(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Return which files of a folder are missing, or do not have the digest that was recorded.

    Args:
        folder: the folder.
        digests: the SHA-256 of each file, by its path inside the folder.
    """
    return [
        name
        for name, digest in digests.items()
        if not (folder / name).is_file() or file_sha256(folder / name) != digest
    ]


def _digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        place = folder / name
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        found |= {
            file.relative_to(folder).as_posix(): file_sha256(file)
            for file in files
            if file.is_file()
        }
    return found


def _first_difference(before: Any, now: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return name and both values of the first setting that differs, in the order of ``now``."""
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


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; the lock of a killed process ends with it."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs at once would only do each other's work again
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise RunFolderError(
                    f"another process is working in {folder}; wait for it, or give another folder",
                    "out",
                ) from error
            # Any other error means that the file system has no locks.
        yield
    finally:
        os.close(descriptor)

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
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sra_fast.files.provenance import file_sha256
from sra_fast.files.run_record import DIGESTS as DIGESTS
from sra_fast.files.run_record import RUN as RUN
from sra_fast.files.run_record import RunFolderError as RunFolderError
from sra_fast.files.run_record import RunRecord, read_record, record_of, setting_apart
from sra_fast.tools.atomic import write_json

_PAUSE = 0.1  # seconds between two attempts to lock a folder


class FolderBusyError(RunFolderError):
    """Raised when another process works in a folder."""


class RunFolder:
    """A folder that holds one run and the settings it was made with.

    Args:
        path: the folder; it is made when the run begins, its parents too.
        settings: everything that the results depend on, as values of JSON. A folder whose
            ``run.json`` holds other settings is left alone.
        temporary: names of files and folders in it that nobody needs once the run is finished.
        beside: names of files and folders that may lie in it before the run begins.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        temporary: Sequence[str] = (),
        beside: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._temporary = tuple(temporary)
        self._beside = frozenset(beside)

    def check(self) -> None:
        """Check that the folder is free or holds this very run, and change nothing.

        Raises:
            RunFolderError: the folder holds something else.
        """
        recorded = self._record()
        if recorded is None:
            return
        apart = setting_apart(recorded.settings, self.settings)
        if apart is not None:
            name, before, now = apart
            raise RunFolderError(
                f"{self.path} holds another run: its setting {name!r} is {before}, and now it is "
                f"{now}; give another folder, or delete that one",
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
        with locked(self.path):
            check()
            if replacing is not None and self._record() is not None:
                self._remove(replacing)
                self._write_record(finished=False)
            for leftover in self.path.glob(".*.tmp"):  # a run was killed while it wrote these
                leftover.unlink(missing_ok=True)
            recorded = self._record()
            if recorded is None:
                self._write_record(finished=False)
            elif recorded.finished:
                self._remove(self._temporary)
            yield

    def is_finished(self) -> bool:
        """Tell whether this very run was finished here.

        Raises:
            RunFolderError: the folder holds something else.
        """
        self.check()
        recorded = self._record()
        return recorded is not None and recorded.finished

    def damaged(self) -> list[str]:
        """Return which files of this finished run are missing, or are not as they were finished.

        Runs of earlier versions recorded no digests, and give an empty list.

        Raises:
            RunFolderError: the folder holds something else.
        """
        self.check()
        recorded = self._record()
        return [] if recorded is None else changed_files(self.path, recorded.digests)

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
        before, now = recorded.settings.get("kind"), self.settings["kind"]
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

    def _record(self) -> RunRecord | None:
        return read_record(self.path, self._beside)

    def _write_record(self, *, finished: bool, digests: Mapping[str, str] | None = None) -> None:
        write_json(self.path / RUN, record_of(self.settings, finished, digests))


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


@contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder against other processes; the lock of a killed process ends with it.

    Args:
        folder: the folder.
        patience: for how many seconds to wait until another process leaves it.

    Raises:
        FolderBusyError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two runs at once would only do each other's work again
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    end = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                held = error.errno in (errno.EWOULDBLOCK, errno.EACCES)
                if held and time.monotonic() < end:
                    time.sleep(_PAUSE)
                    continue
                if held:
                    raise FolderBusyError(
                        f"another process is working in {folder}; wait for it, or give another "
                        "folder",
                        "out",
                    ) from error
                # Any other error means that the file system has no locks.
            break
        yield
    finally:
        os.close(descriptor)

"""Parts of a run: each is computed once and kept in a file that appears whole or not at all.

So whatever is found after a crash is right. What is missing is computed again, and so is what
cannot be read, which is said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from sra_fast.tools.printable import printable

_logger = logging.getLogger(__name__)

_SHOWN = 200  # the most characters of a reason that a warning shows

Part = TypeVar("Part")


class KeptParts(Generic[Part]):
    """The parts of one kind, a file each, in a folder of a run.

    Args:
        folder: where the files lie; made when the first is written.
        suffix: the end of their names, with the dot.
        read: gives back what a file holds. OSError, ValueError, KeyError or TypeError say that the
            file is missing or damaged.
        write: writes a file, whole or not at all.
    """

    def __init__(
        self,
        folder: Path,
        suffix: str,
        read: Callable[[Path], Part],
        write: Callable[[Path, Part], None],
    ) -> None:
        self._folder, self._suffix = folder, suffix
        self._read, self._write = read, write
        self._said: set[Path] = set()

    def get(self, name: str) -> Part | None:
        """Return the part with this name, or None if it is not there or cannot be read."""
        return self._read_whole(self._path(name))

    def put(self, name: str, part: Part) -> None:
        """Store a part under a name, and replace a part that had this name before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write(self._path(name), part)

    def get_or_compute(
        self, name: str, accepts: Callable[[Part], bool], compute: Callable[[], Part]
    ) -> Part:
        """Return the stored part if it is accepted; otherwise compute a part and store it."""
        part = self.get(name)
        if part is None or not accepts(part):
            part = compute()
            self.put(name, part)
        return part

    def append(self, part: Part) -> None:
        """Store a part under the next free number."""
        stems = [file.stem for file in self._folder.glob(f"*{self._suffix}")]
        numbers = [int(stem) for stem in stems if stem.isdigit()]
        self.put(part_name(max(numbers, default=-1) + 1), part)

    def all(self) -> list[Part]:
        """Return every part that can be read, in the order of the names."""
        found = map(self._read_whole, sorted(self._folder.glob(f"*{self._suffix}")))
        return [part for part in found if part is not None]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{self._suffix}"

    def _read_whole(self, path: Path) -> Part | None:
        try:
            return self._read(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if path not in self._said:
                self._said.add(path)
                reason = printable(" ".join(str(error).split()))[:_SHOWN]
                _logger.warning("%s cannot be read (%s), so it is computed again", path, reason)
            return None


def part_name(number: int) -> str:
    """Return the name of the part with a number, such that names sort as numbers do."""
    return f"{number:05d}"

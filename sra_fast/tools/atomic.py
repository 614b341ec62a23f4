"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place if the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~umask())  # some writers keep their files to their owner
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def umask() -> int:
    """The permissions that new files of this process go without."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

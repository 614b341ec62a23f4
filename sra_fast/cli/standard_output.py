"""Write to standard output, which may be full or closed, and end without a traceback if it is.

``sra-fast … | head -0`` closes the pipe before anything is written, and a full disk refuses what a
shell sends to a file. What is left in a buffer would fail once more when the interpreter ends.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

FAILED = 1
"""The exit status of a command whose result could not be written."""


def print_result(text: str) -> bool:
    """Print a line to standard output, and tell whether it could be written.

    If not, this is said on standard error, and nothing more goes to standard output.

    Args:
        text: the line.
    """
    return written(lambda: print(text, flush=True))


def written(write: Callable[[], object]) -> bool:
    """Write to standard output, and tell whether that could be done.

    Args:
        write: what writes; an OSError says that standard output takes nothing more.
    """
    try:
        write()
    except OSError as error:
        _give_up(sys.stdout, error)
        return False
    return True


def run_to_the_end(command: Callable[[], object]) -> None:
    """Run a command line, and end with a status if an output takes nothing more.

    Args:
        command: the command line, which ends by raising SystemExit, as click's do.

    Raises:
        SystemExit: always; the status is 1 if the command's output could not be written.
    """
    _replace_closed()
    status: str | int | None = 0
    try:
        command()
    except SystemExit as end:
        status = end.code
    except OSError as error:
        if not _is_of_output(error):
            raise
        _give_up(sys.stdout, error)
        status = FAILED
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            _give_up(stream, error)
            status = status or FAILED
    raise SystemExit(status)


class _ClosedOutput(io.TextIOBase):
    """A stream in the place of one that was closed before the program began, as by ``>&-``."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _replace_closed() -> None:
    """Put a stream in the place of a closed one, and hold its number against other files."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, _ClosedOutput())


def _is_of_output(error: OSError) -> bool:
    """Tell whether an error is of a stream: one of a file names it."""
    return error.filename is None and error.errno is not None


def _give_up(stream: TextIO, error: Exception) -> None:
    """Say why an output takes nothing more, and send what is still written to it nowhere."""
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
    if stream is sys.stdout:
        with contextlib.suppress(OSError, ValueError):
            line = f"error: the result could not be written to standard output ({reason})"
            print(line, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

"""Describe what went wrong in words that can be published: no folder, no machine, not too long."""

from __future__ import annotations

import gc
import re
import traceback

import torch

LONGEST = 600  # characters
# The folders of absolute paths; "1/2" and "tests/a.py" stay.
_FOLDERS = re.compile(r"(?<![\w.)/\\])(?:[A-Za-z]:)?[/\\](?:[\w.+@-]+[/\\])*(?=[\w.+@-])")


class WrongResultError(RuntimeError):
    """Raised when a result is wrong, so that its time does not count."""


class DeviceLostError(RuntimeError):
    """Raised when the device no longer answers in this process."""


def describe(error: BaseException) -> str:
    """Return kind, message and innermost places of an error as one line."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    if isinstance(error, WrongResultError):
        return plain(str(error))
    return plain(f"{type(error).__name__}: {error}") + (f" [{plain(places)}]" if places else "")


def plain(text: str) -> str:
    """Return the text as one line without folders; the middle of a long text is left out."""
    text = " ".join(_FOLDERS.sub("", text).split())
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def last_lines(text: str, count: int = 6) -> str:
    """Return the last lines of a program's output, joined into one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    return plain(" | ".join(lines[-count:]))


def recover(device: torch.device) -> None:
    """Give back the memory that a failed call left behind.

    Raises:
        DeviceLostError: an error, such as an illegal access, that ends every later call too.
    """
    gc.collect()
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except Exception as error:
        raise DeviceLostError(f"the device is lost to this process: {describe(error)}") from error

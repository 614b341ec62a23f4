"""Read files that a URI names, such as ``s3://bucket/chats.jsonl``, by the package fsspec.

fsspec knows the protocols, and which package serves each; nothing of that is known here.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.missing_extra import needed

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")
_FLATTENED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class RemoteFileError(ArgumentError):
    """Raised when the file of a URI cannot be read; the message names the URI and the way out."""


def is_uri(place: str) -> bool:
    """Tell whether a text is a URI, such as ``s3://bucket/file``, and no path.

    Args:
        place: the text.
    """
    return _URI.match(place) is not None


def was_uri(path: Path) -> bool:
    """Tell whether a path was made of a URI, which took one of its two slashes away.

    Args:
        path: the path.
    """
    return _FLATTENED.match(path.as_posix()) is not None


def name_of(place: str) -> str:
    """Return the name of a file without its folder, for a path or a URI.

    Args:
        place: the path or the URI.
    """
    if not is_uri(place):
        return Path(place).name
    return PurePosixPath(place.rpartition("::")[2] or place).name


@contextmanager
def local_copy(place: str) -> Iterator[Path]:
    """Give a path to the bytes of a file: its own, or that of a copy that lasts for the block.

    A remote file is read once, so that everything inside the block sees the same bytes.

    Args:
        place: a path, or a URI of a single file.

    Raises:
        RemoteFileError: no package serves the protocol, or the file cannot be read.
        MissingExtraError: fsspec is not installed.
    """
    if not is_uri(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="sra-fast-") as folder:
        copy = Path(folder) / (name_of(place) or "file")
        _download(place, copy)
        yield copy


def _download(uri: str, copy: Path) -> None:
    with needed("ray", "fsspec"):
        import fsspec
    try:
        with fsspec.open(uri, "rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
    except Exception as error:  # each protocol raises errors of its own package
        raise RemoteFileError(f"{uri}: {_problem(uri, error)}") from error


def _problem(uri: str, error: Exception) -> str:
    protocol = re.split("::|://", uri)[0]
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "this is a folder; give a file of conversations"
    text = " ".join(str(error).split()) or "no more is known"
    if isinstance(error, ImportError):
        return f"a package for {protocol}:// is missing ({text})"
    if isinstance(error, ValueError) and "protocol" in text.lower():
        return (
            f"no package is known that reads {protocol}:// ({text}); copy the file here, or "
            "install a package that adds the protocol to fsspec"
        )
    return f"cannot be read ({type(error).__name__}: {text})"

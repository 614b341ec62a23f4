"""Errors that say more than their text, so that a command line can name its own way out."""

from __future__ import annotations

from pathlib import Path


class ArgumentError(ValueError):
    """Raised when an argument, or the file that it names, cannot be used.

    The message says what is wrong and the way out in words of the library: "give another folder",
    never "give another --out". The command line adds the options of the same names.

    Args:
        message: what is wrong, and the way out.
        arguments: names of the Python arguments at fault, if there are any.

    Attributes:
        arguments: names of the Python arguments at fault; empty if no other value would help.
    """

    def __init__(self, message: str, *arguments: str) -> None:
        super().__init__(message)
        self.arguments = arguments


class UnconvertedError(ArgumentError):
    """Raised when a file has to be converted first; the message names the format that was found.

    Args:
        message: what is wrong, and the way out.
        path: the file.
        arguments: names of the Python arguments that the conversion cannot do without.

    Attributes:
        path: the file, for the command that converts it.
    """

    def __init__(self, message: str, *, path: Path, arguments: tuple[str, ...] = ()) -> None:
        super().__init__(message, *arguments)
        self.path = path

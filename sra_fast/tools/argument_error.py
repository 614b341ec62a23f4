"""Errors that name the argument at fault, so that a command line can name its option."""

from __future__ import annotations


class ArgumentError(ValueError):
    """Raise this when an argument, or the file it names, cannot be used.

    The message says what is wrong and the way out in words of the library: "give another folder",
    never "give another --out". The command line adds the options of the same names.

    Attributes:
        arguments: names of the Python arguments that mend it; empty if none does.
    """

    def __init__(self, message: str, *arguments: str) -> None:
        super().__init__(message)
        self.arguments = arguments

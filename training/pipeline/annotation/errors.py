"""Define the error for sheets, keys and filled-in files that cannot be used."""

from __future__ import annotations

from sra_fast.tools.argument_error import ArgumentError


class AnnotationError(ArgumentError):
    """Raised when a file cannot be used; the message names the file, the place and the way out."""

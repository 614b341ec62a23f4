"""What is wrong with sheets, keys and filled-in files."""

from __future__ import annotations

from sra_fast.tools.argument_error import ArgumentError


class AnnotationError(ArgumentError):
    """A file cannot be used; the message names the file, the line or item, and the way out."""

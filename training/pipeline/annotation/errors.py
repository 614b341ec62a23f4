"""What is wrong with sheets, keys and filled-in files."""

from __future__ import annotations


class AnnotationError(ValueError):
    """A file cannot be used; the message names the file, the line or item, and the way out."""

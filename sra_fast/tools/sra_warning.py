"""The category of this library's warnings, so that they are told from those of other libraries."""

from __future__ import annotations


class SRAWarning(UserWarning):
    """A warning of something that works, but perhaps not as the user meant it."""

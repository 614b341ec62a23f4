"""Define the errors that say, by name, what cannot be scored and why."""

from __future__ import annotations


class UnservedModelError(ValueError):
    """Raised when a model cannot be scored; the message names it and says why."""


class UnservedAttentionError(ValueError):
    """Raised when a layer asks the attention for something that it cannot do exactly."""

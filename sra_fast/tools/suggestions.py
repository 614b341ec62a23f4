"""Suggest, in error messages, which known name somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, options: Iterable[str]) -> str:
    """Return ``"; did you mean 'Offer Hope'?"`` for a name near one of ``options``, else ``""``."""
    near = nearest(name, options)
    return "" if near is None else f"; did you mean {near!r}?"


def nearest(name: object, options: Iterable[str]) -> str | None:
    """Return the one of ``options`` that a name is nearest to, or None if it is near to none."""
    folded = {option.casefold(): option for option in options}
    wanted = str(name).strip().casefold()
    near = [wanted] if wanted in folded else []
    near += [option for option in folded if len(wanted) > 2 and wanted in option]
    near += difflib.get_close_matches(wanted, folded, n=1, cutoff=0.6)
    return folded[near[0]] if near else None

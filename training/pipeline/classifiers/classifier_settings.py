"""From named values to the settings of a kind, checked against the types of its defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from sra_fast.tools.suggestions import did_you_mean

from .interface import ClassifierError

Settings = TypeVar("Settings")


def checked_settings(kind: type[Settings], given: Mapping[str, Any]) -> Settings:
    """The settings dataclass ``kind`` with the given values, as JSON or Python can say them.

    Raises:
        ClassifierError: an unknown name, a value of another type or out of range.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {}
    for name, value in given.items():
        if name not in defaults:
            hint = did_you_mean(name, defaults) or f"; the settings are {', '.join(defaults)}"
            raise ClassifierError(f"unknown setting {name!r}{hint}")
        values[name] = _as(value, defaults[name], name)
    return kind(**values)


def _as(value: Any, default: Any, name: str) -> Any:
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    fits = type(value) is type(default)
    if fits and isinstance(default, tuple):
        fits = [type(one) for one in value] == [type(one) for one in default]
    if fits and isinstance(default, float):
        fits = math.isfinite(value)
    if not fits:
        raise ClassifierError(f"setting {name!r} must be like {default!r}, found {value!r}")
    return value

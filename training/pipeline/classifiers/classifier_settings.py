"""Turn named values into the settings of a kind of classifier, checking their types."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from sra_fast.tools.suggestions import did_you_mean

from .interface import ClassifierError

Settings = TypeVar("Settings")


def checked_settings(kind: type[Settings], given: Mapping[str, Any]) -> Settings:
    """Make a settings dataclass from named values, checked against the types of its defaults.

    Args:
        kind: the dataclass, every field of which has a default.
        given: values by the name of the setting, from Python or JSON: a list may stand for a tuple
            and a whole number for a float.

    Raises:
        ClassifierError: a name is unknown, or a value has another type or is out of range.
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
        raise ClassifierError(
            f"setting {name!r} must be of the type of {default!r}, found {value!r}"
        )
    return value

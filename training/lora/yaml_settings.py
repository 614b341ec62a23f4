"""Read a YAML file of settings strictly, and hold its values to the types that are wanted."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.number_text import finite_number, whole_number


class TrainingConfigError(ArgumentError):
    """Raised when a setting is unknown or out of range; the message names it and the way out."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that maps names to values; an empty file holds none.

    Args:
        path: the file.

    Raises:
        TrainingConfigError: it is no such mapping, a name stands there twice, or a number is not
            written in plain decimal digits; the message names the line.
        MissingExtraError: PyYAML is not installed.
        OSError: the file cannot be read.
    """
    with needed("train", "yaml"):
        import yaml

    class UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
        """A YAML loader that refuses a key given twice, as YAML demands and PyYAML does not."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise TrainingConfigError(f"{path.name}: {key!r} is given twice; keep one")
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    def decimal(loader: Any, node: Any) -> int | float:
        """Read a number in decimal digits: to YAML 1.1 ``1_0`` is 10, ``010`` 8, ``1:30`` 90."""
        whole, number = whole_number(node.value), finite_number(node.value)
        if number is None or (whole is not None and node.value.lstrip("+-") != str(abs(whole))):
            raise TrainingConfigError(
                f"{path.name} line {node.start_mark.line + 1}: {node.value!r} is not a finite "
                "number in plain decimal digits; write it as 10, 0.5 or 1e-4, or a text in quotes"
            )
        return number if whole is None else whole

    for kind in ("int", "float"):
        UniqueKeys.add_constructor(f"tag:yaml.org,2002:{kind}", decimal)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except UnicodeDecodeError as error:
        raise TrainingConfigError(
            f"{path.name}: is not in UTF-8; save the file as UTF-8"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise TrainingConfigError(f"{path.name}{place}: not valid YAML ({problem})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise TrainingConfigError(
            f"{path.name}: expected settings, one 'name: value' a line, found "
            f"{type(content).__name__}"
        )
    return content


def as_type(value: Any, wanted: Any, what: str) -> Any:
    """Convert a value of YAML to the type of a setting, where that changes no meaning.

    Args:
        value: the value.
        wanted: the type, as a dataclass annotates it.
        what: the name of the setting and its place, with which the error begins.

    Raises:
        TrainingConfigError: the value is of another type.
    """
    for option in _options(wanted):
        found = _as_one(value, option)
        if found is not _NOT:
            return found
    names = " or ".join(_shown(option) for option in _options(wanted))
    raise TrainingConfigError(f"{what} must be {names}, found {value!r}")


_NOT: Any = object()


def _as_one(value: Any, wanted: Any) -> Any:
    if typing.get_origin(wanted) is Literal:
        return value if value in typing.get_args(wanted) else _NOT
    if typing.get_origin(wanted) is tuple:
        (kind, _) = typing.get_args(wanted)
        if isinstance(value, str) and kind is str:
            return (value,)
        if not isinstance(value, Sequence) or isinstance(value, str):
            return _NOT
        items = [_as_one(item, kind) for item in value]
        return _NOT if any(item is _NOT for item in items) else tuple(items)
    if wanted is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a text
        value = finite_number(value)
    if isinstance(value, bool) and wanted is not bool:
        return _NOT
    if wanted is float and isinstance(value, int):
        value = float(value)
    if not isinstance(value, wanted) or (wanted is float and not math.isfinite(value)):
        return _NOT
    return value


def _options(wanted: Any) -> tuple[Any, ...]:
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return typing.get_args(wanted)
    return (wanted,)


def _shown(wanted: Any) -> str:
    if typing.get_origin(wanted) is Literal:
        return f"one of {', '.join(typing.get_args(wanted))}"
    if typing.get_origin(wanted) is tuple:
        return f"a list of {_shown(typing.get_args(wanted)[0]).removeprefix('a ')}s"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(wanted, "null")

"""Packages whose names are loaded when they are first used, from one table."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping


def lazy_names(
    package: str, homes: Mapping[str, Iterable[str]], modules: Iterable[str]
) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__all__``, ``__getattr__`` and ``__dir__`` of a package that loads nothing yet.

    Args:
        package: the ``__name__`` of the package.
        homes: module, relative to the package, to the names that it gives the package.
        modules: the public modules and subpackages, which ``dir`` shows beside those names.
    """
    home_of = {name: module for module, names in homes.items() for name in names}
    public_modules = frozenset(modules)

    def get_attribute(name: str) -> object:
        if name in home_of:
            value: object = getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)
        elif name in public_modules:
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        return sorted({*home_of, *public_modules})

    return sorted(home_of), get_attribute, list_names

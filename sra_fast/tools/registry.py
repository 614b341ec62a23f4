"""Registries of what users add under names of their own: definitions and backends.

A name that is neither built in nor registered is looked for among the entry points of installed
packages, once it is asked for. Nothing here imports torch, so that a command line can check a name
at once.
"""

from __future__ import annotations

import keyword
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

from sra_fast.tools.suggestions import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Thing = TypeVar("Thing")

DEFINITIONS_GROUP = "sra_fast.definitions"
"""The group of entry points under which packages offer definitions of SRA."""

BACKENDS_GROUP = "sra_fast.backends"
"""The group of entry points under which packages offer backends of the op."""

RESULT_COLUMNS = (
    "conversation",
    "conversation_id",
    "dialogue",
    "turn",
    "strategy",
    "template",
    "prompt_tokens",
    "response_tokens",
    "layout",
    "strategy_tokens",
    "span_tokens",
    "definition",
    "sra",
    "log_sra",
)
"""The columns of the tables in which each definition has a column of its own."""

_KINDS = {DEFINITIONS_GROUP: "definition", BACKENDS_GROUP: "backend"}
_RESERVED = {DEFINITIONS_GROUP: (*RESULT_COLUMNS, "auto"), BACKENDS_GROUP: ("auto",)}
_REGISTRIES: dict[str, Registry[object]] = {}


class Registry(Generic[Thing]):
    """The things of one kind that users added, by name.

    Args:
        group: the group of entry points that may add more.
        built_in: the names that the library itself has given away.
        check: raises TypeError for a thing that is not of this kind.
    """

    def __init__(
        self,
        group: str,
        *,
        built_in: Sequence[str],
        check: Callable[[Thing], None],
    ) -> None:
        self._kind = _KINDS[group]
        self._group = group
        self._built_in = tuple(built_in)
        self._check = check
        self._things: dict[str, Thing] = {}
        _REGISTRIES[group] = self  # type: ignore[assignment]

    @property
    def registered(self) -> Mapping[str, Thing]:
        """The things that are registered by now, sorted by name."""
        return dict(sorted(self._things.items()))

    def register(self, name: str, thing: Thing) -> None:
        """Add ``thing`` under ``name``; the same thing may be added again.

        Raises:
            TypeError: the thing is not of this kind.
            ValueError: the name is taken, reserved, a keyword, or not an identifier.
        """
        if problem := _why_no_name(name, self._built_in, self._group):
            raise ValueError(problem)
        self._check(thing)
        if self._things.setdefault(name, thing) != thing:
            raise ValueError(f"the name {name!r} is taken by another {self._kind}")

    def find(self, name: str) -> Thing | None:
        """Return what is registered under ``name``, or what an installed package offers; or None.

        Raises:
            ValueError: what a package offers cannot be used, or several offer the name.
        """
        if name not in self._things:
            offered = _offered(self._group).get(name)
            if offered is None:
                return None
            if problem := why_refused(name, self._built_in, self._group):
                raise ValueError(problem)
            self.register(name, self._loaded(name, offered))
        return self._things[name]

    def check_built_in(self, name: str) -> None:
        """Check that no installed package offers something under a built-in name.

        Packages installed after the first check are not seen, so that a check costs nothing.

        Raises:
            ValueError: one does; the message names the package.
        """
        if name in _names_offered(self._group, tuple(sys.path)):
            raise ValueError(why_refused(name, self._built_in, self._group))

    def unknown(self, name: object) -> str:
        """Return the message for a name that is not known, with the known ones and the nearest."""
        known = known_names(self._built_in, self._group)
        return f"no {self._kind} {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}"

    def _loaded(self, name: str, offered: Sequence[EntryPoint]) -> Thing:
        what = f"the {self._kind} {name!r} of the entry points {self._group!r}"
        if len({point.value for point in offered}) > 1:
            places = " and ".join(point.value for point in offered)
            raise ValueError(f"{what} is offered more than once: {places} ({_packages(offered)})")
        try:
            thing: Thing = offered[0].load()
            self._check(thing)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            place = f"of {_packages(offered)} cannot be used ({offered[0].value})"
            raise ValueError(f"{what} {place}: {problem}") from error
        return thing


def known_names(built_in: Sequence[str], group: str) -> tuple[str, ...]:
    """Return the built-in names, then those registered in ``group`` or offered by packages.

    Names that cannot be given are left out. Nothing is loaded for it.
    """
    registry = _REGISTRIES.get(group)
    registered: Mapping[str, object] = {} if registry is None else registry.registered
    offered = {name for name in _offered(group) if not _why_no_name(name, built_in, group)}
    return (*built_in, *sorted({*registered, *offered}))


def why_refused(name: str, built_in: Sequence[str], group: str) -> str | None:
    """Return why a name under which a package offers something cannot be given, or None."""
    offered = _offered(group).get(name)
    problem = _why_no_name(name, built_in, group) if offered else None
    if not offered or problem is None:
        return None
    return (
        f"{problem}; {_packages(offered)} offers a {_KINDS[group]} under it "
        f"({', '.join(point.value for point in offered)}): rename its entry point, or uninstall it"
    )


def _why_no_name(name: object, built_in: Sequence[str], group: str) -> str | None:
    """Return why no thing of users' own can have this name, or None if one can."""
    kind = _KINDS[group]
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        return f"a {kind}'s name must be a Python identifier and no keyword, got {name!r}"
    if name in built_in:
        return f"the name {name!r} is taken by the built-in {kind}"
    if name in _RESERVED[group]:
        return f"the name {name!r} is reserved; give the {kind} another"
    return None


def _packages(offered: Sequence[EntryPoint]) -> str:
    names = [point.dist.name if point.dist else "unknown" for point in offered]
    which = ", ".join(repr(name) for name in dict.fromkeys(names))
    return f"package {which}" if len(set(names)) == 1 else f"packages {which}"


@lru_cache(maxsize=8)
def _names_offered(group: str, path: tuple[str, ...]) -> frozenset[str]:
    """Return the names in a group of entry points, for one state of the import path."""
    return frozenset(_offered(group))


def _offered(group: str) -> dict[str, list[EntryPoint]]:
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found

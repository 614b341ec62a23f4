"""Registries of what users add under names of their own: definitions and backends.

A name that is neither built in nor registered is looked for among the entry points of installed
packages, once it is asked for. Nothing here imports torch, so that a command line can check a name
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from sra_fast.tools.suggestions import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Thing = TypeVar("Thing")

DEFINITIONS_GROUP = "sra_fast.definitions"
"""The group of entry points under which packages offer definitions of SRA."""

BACKENDS_GROUP = "sra_fast.backends"
"""The group of entry points under which packages offer backends of the op."""

_REGISTRIES: dict[str, Registry[object]] = {}


class Registry(Generic[Thing]):
    """The things of one kind that users added, by name.

    Args:
        kind: what error messages call one of them: ``"definition"``.
        group: the group of entry points that may add more.
        built_in: the names that the library itself has given away.
        reserved: further names that none may have.
        check: raises TypeError for a thing that is not of this kind.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        *,
        built_in: Sequence[str],
        reserved: Sequence[str] = (),
        check: Callable[[Thing], None],
    ) -> None:
        self._kind = kind
        self._group = group
        self._built_in = tuple(built_in)
        self._reserved = (*reserved, "auto")
        self._check = check
        self._things: dict[str, Thing] = {}
        _REGISTRIES[group] = self  # type: ignore[assignment]

    @property
    def registered(self) -> Mapping[str, Thing]:
        """What is registered by now, sorted by name."""
        return dict(sorted(self._things.items()))

    def register(self, name: str, thing: Thing) -> None:
        """Add ``thing`` under ``name``; the same thing may be added again.

        Raises:
            TypeError: the thing is not of this kind.
            ValueError: the name is taken, reserved, or not an identifier.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"a {self._kind}'s name must be a Python identifier, got {name!r}")
        if name in self._built_in:
            raise ValueError(f"the name {name!r} is taken by the built-in {self._kind}")
        if name in self._reserved:
            raise ValueError(f"the name {name!r} is reserved; give the {self._kind} another")
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
            self.register(name, self._loaded(name, offered))
        return self._things[name]

    def unknown(self, name: object) -> str:
        """Return the message for a name that is not known, with the known ones and the nearest."""
        known = known_names(self._built_in, self._group)
        return f"no {self._kind} {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}"

    def _loaded(self, name: str, offered: Sequence[EntryPoint]) -> Thing:
        what = f"the {self._kind} {name!r} of the entry points {self._group!r}"
        if len({point.value for point in offered}) > 1:
            places = " and ".join(point.value for point in offered)
            raise ValueError(f"{what} is offered more than once: {places}")
        try:
            thing: Thing = offered[0].load()
            self._check(thing)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            raise ValueError(f"{what} cannot be used ({offered[0].value}): {problem}") from error
        return thing


def known_names(built_in: Sequence[str], group: str) -> tuple[str, ...]:
    """Return the built-in names, then those registered in ``group`` or offered by packages.

    Nothing is loaded for it.
    """
    registry = _REGISTRIES.get(group)
    registered: Mapping[str, object] = {} if registry is None else registry.registered
    own = {*registered, *_offered(group)}.difference(built_in)
    return (*built_in, *sorted(own))


def _offered(group: str) -> dict[str, list[EntryPoint]]:
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found

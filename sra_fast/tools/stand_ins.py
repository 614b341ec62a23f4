"""Let functions stand in for methods of one object inside a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def standing_in(owner: Any, functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Put functions in the place of an object's methods, and take them away after the block.

    Args:
        owner: the object; other objects of its class keep their methods.
        functions: the function that stands in for each method, by the method's name.
    """
    own = {name: vars(owner)[name] for name in functions if name in vars(owner)}
    for name, function in functions.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for name in functions:
            delattr(owner, name)
        for name, method in own.items():
            setattr(owner, name, method)

"""Let functions stand in for methods of one object inside a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_Functions = Mapping[str, Callable[..., Any]]

_STANDING_IN: WeakKeyDictionary[Any, list[_Functions]] = WeakKeyDictionary()
"""For each object: its own methods that were set on it, then what stands in for them, in order."""


@contextmanager
def standing_in(owner: Any, functions: _Functions) -> Iterator[None]:
    """Put functions in the place of an object's methods, and take them away after the block.

    Several blocks may be left in any order; of two functions for a method, the later one counts.

    Args:
        owner: the object; other objects of its class keep their methods.
        functions: the function that stands in for each method, by the method's name.
    """
    layers = _STANDING_IN.setdefault(owner, [{}])
    known = {name for layer in layers[1:] for name in layer}
    new = {name: vars(owner)[name] for name in functions if name in vars(owner)}
    layers[0] = {**layers[0], **{name: own for name, own in new.items() if name not in known}}
    layers.append(functions)
    for name, function in functions.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        place = next(at for at, layer in enumerate(layers) if layer is functions)
        del layers[place]
        for name in functions:
            below = next((layer[name] for layer in reversed(layers) if name in layer), None)
            if below is None:
                delattr(owner, name)
            else:
                setattr(owner, name, below)
        if len(layers) == 1:
            _STANDING_IN.pop(owner, None)

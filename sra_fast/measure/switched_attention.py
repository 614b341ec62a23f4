"""Switch the attention of a model for a while, and give it back what it was found with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedConfig

from sra_fast.measure import attention, compat

if TYPE_CHECKING:
    from sra_fast.measure.served import ServedModel


@dataclass(eq=False)
class _Switch:
    """A change of a decoder's attention that lasts for some blocks, and what was before.

    Attributes:
        before: the configs and the implementations that they named.
        outer: the change that was in force before.
        blocks: how many blocks there are.
    """

    before: list[tuple[Any, str | None]]
    outer: _Switch | None
    blocks: int = 0


_IN_FORCE: WeakKeyDictionary[nn.Module, _Switch] = WeakKeyDictionary()  # by decoder
_CHANGING = RLock()


@contextmanager
def switched(served: ServedModel, name: str = attention.NAME) -> Iterator[None]:
    """Let the decoder attend by ``name`` inside the block; restore all configs afterwards.

    A block under the name that is in force joins the one that is there. Such blocks may be left in
    any order, by several threads: the last one restores.
    """
    with _CHANGING:
        mine = _entered(served, name)
    try:
        yield
    finally:
        with _CHANGING:
            _leave(served, mine)


def _entered(served: ServedModel, name: str) -> _Switch:
    """Return the change that a block under ``name`` is part of, made if it is not there."""
    outer = _IN_FORCE.get(served.decoder)
    if outer is not None and compat.attn_implementation(served.config) == name:
        outer.blocks += 1
        return outer
    configs = _configs(served.top)
    before = [(config, compat.stored_attn_implementation(config)) for config in configs]
    mine = _IN_FORCE[served.decoder] = _Switch(before, outer, 1)
    try:
        served.decoder.set_attn_implementation(name)
    except BaseException:
        _leave(served, mine)
        raise
    return mine


def _leave(served: ServedModel, mine: _Switch) -> None:
    """Take a block out of a change; the last one restores what was before."""
    mine.blocks -= 1
    if mine.blocks:
        return
    for config, implementation in mine.before:
        compat.store_attn_implementation(config, implementation)
    if mine.outer is None:
        _IN_FORCE.pop(served.decoder, None)
    else:
        _IN_FORCE[served.decoder] = mine.outer


def _configs(model: nn.Module) -> list[Any]:
    """Return every config object that a module of the model holds, sub-configs too, each once."""
    found: dict[int, Any] = {}
    waiting = [getattr(module, "config", None) for module in model.modules()]
    while waiting:
        config = waiting.pop()
        if id(config) in found or not isinstance(config, PreTrainedConfig):
            continue
        found[id(config)] = config
        waiting += [getattr(config, key, None) for key in getattr(config, "sub_configs", ())]
    return list(found.values())

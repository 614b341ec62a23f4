"""Which sequences share a forward pass, so that no work is done on padding and no score changes.

Sequences lie one after the other in a single row, each with positions from 0: the same hidden
states as one by one, in every model whose layers look at positions only. Where that does not hold:

- layers that carry a state (hybrids) take rows of like length, padded on the right;
- ``dynamic`` RoPE fits its frequencies to the longest sequence: one sequence per forward, and so
  for a decoder that takes no ``position_ids``;
- ``longrope`` has two sets of factors and takes the longest's: both sides of the limit stay apart;
- temperature tuning by place in the row (Llama 4) is 1 up to ``floor_scale``: longer ones go alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from sra_fast.measure.served import ServedModel, rope_types

_LIKE_LENGTH = 0.9  # rows of one padded forward differ by at most this ratio


@dataclass(frozen=True)
class Forward:
    """The sequences (indices into the caller's list) that share one forward pass.

    Attributes:
        packed: in one row; otherwise one row each, padded on the right.
    """

    members: tuple[int, ...]
    packed: bool


def forwards(served: ServedModel, lengths: Sequence[int], tokens: int) -> list[Forward]:
    """Groups sequences of ``lengths`` into forwards of at most ``tokens`` tokens, or of one."""
    kinds = rope_types(served.config)
    if "dynamic" in kinds or not (served.takes_positions or served.stateful):
        tokens = 0
    if getattr(served.config, "attn_temperature_tuning", False):
        tokens = min(tokens, int(served.config.floor_scale) - 1)
    everyone = range(len(lengths))
    classes: list[Sequence[int]] = [everyone]
    if "longrope" in kinds:
        limit = _original_length(served)
        classes = [
            [i for i in everyone if lengths[i] <= limit],
            [i for i in everyone if lengths[i] > limit],
        ]
    fill = _padded if served.stateful else _packed
    return [group for members in classes for group in fill(members, lengths, tokens)]


@contextmanager
def fresh_rope(decoder: nn.Module) -> Iterator[None]:
    """``dynamic`` RoPE keeps the longest prompt's frequencies; inside, it has seen none."""
    before = []
    for module in decoder.modules():
        if not hasattr(module, "original_max_seq_len"):
            continue
        names = [*vars(module), *(name for name, _ in module.named_buffers(recurse=False))]
        for name in [name for name in names if name.endswith("original_inv_freq")]:
            prefix = name.removesuffix("original_inv_freq")
            cached = getattr(module, f"{prefix}max_seq_len_cached", None)
            before.append((module, prefix, getattr(module, f"{prefix}inv_freq"), cached))
            # A copy: longrope writes into the buffer in place.
            frequencies = getattr(module, name).to(before[-1][2].device, copy=True)
            _set_rope(module, prefix, frequencies, module.original_max_seq_len)
    try:
        yield
    finally:
        for module, prefix, frequencies, cached in before:
            _set_rope(module, prefix, frequencies, cached)


def _set_rope(module: nn.Module, prefix: str, frequencies: object, cached: object) -> None:
    setattr(module, f"{prefix}inv_freq", frequencies)
    if cached is None:
        if hasattr(module, f"{prefix}max_seq_len_cached"):
            delattr(module, f"{prefix}max_seq_len_cached")
    else:
        setattr(module, f"{prefix}max_seq_len_cached", cached)


def _packed(members: Sequence[int], lengths: Sequence[int], tokens: int) -> list[Forward]:
    groups: list[list[int]] = []
    room = 0
    for index in members:
        if lengths[index] > room:
            groups.append([])
            room = tokens
        groups[-1].append(index)
        room -= lengths[index]
    return [Forward(tuple(group), packed=True) for group in groups]


def _padded(members: Sequence[int], lengths: Sequence[int], tokens: int) -> list[Forward]:
    groups: list[list[int]] = []
    for index in sorted(members, key=lambda i: (-lengths[i], i)):
        longest = lengths[groups[-1][0]] if groups else 0
        fits = groups and (len(groups[-1]) + 1) * longest <= tokens
        if fits and lengths[index] >= _LIKE_LENGTH * longest:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [Forward(tuple(group), packed=False) for group in groups]


def _original_length(served: ServedModel) -> int:
    parameters = served.config.rope_parameters
    for part in [parameters, *parameters.values(), vars(served.config)]:
        if isinstance(part, dict) and part.get("original_max_position_embeddings"):
            return int(part["original_max_position_embeddings"])
    raise ValueError(f"{served.name}: longrope without original_max_position_embeddings")

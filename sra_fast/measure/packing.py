"""Choose which sequences share a forward pass, so that no work is done on padding.

No score depends on the choice. Sequences lie one after the other in a single row, each with
positions from 0. That gives the same hidden states as one by one in every model whose layers look
at positions only. Where that does not hold:

- layers that carry a state (hybrids) take rows of similar length, padded on the right; so does a
  decoder whose own positions do not count from 0 (RoBERTa's kind), which then makes them itself;
- ``dynamic`` RoPE fits its frequencies to the longest sequence: one sequence per forward pass, and
  the same for a decoder that takes no ``position_ids``, or whose masks of packed rows count chunks
  from the row's start;
- ``longrope`` has two sets of factors and takes that of the longest sequence: those below and those
  above its limit stay apart;
- temperature tuning by place in the row (Llama 4) is 1 up to ``floor_scale``: longer sequences go
  alone.

Sequences that share a beginning lie next to each other, with that beginning once before them. Where
they do not fit one forward pass, it is computed once in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import nn
from transformers import masking_utils

from sra_fast.measure.prefixes import PackedPrefix, SharedPrefix
from sra_fast.measure.served import ServedModel, rope_types

# Masks of packed rows count chunks from the row's start in versions without this function.
_CHUNKS_COUNT_FROM_THE_SEQUENCE = hasattr(masking_utils, "remap_positions_for_packed_sequence")
_LIKE_LENGTH = 0.9  # the least length, relative to the longest, of a row in a padded forward pass


@dataclass(frozen=True)
class Forward:
    """The sequences that share one forward pass.

    Attributes:
        members: their indices in the caller's list.
        packed: True if they lie in one row; False if each has a row, padded on the right.
        prefixes: the beginnings that some of them share, in their order.
    """

    members: tuple[int, ...]
    packed: bool
    prefixes: tuple[PackedPrefix, ...] = ()


def forwards(
    served: ServedModel,
    lengths: Sequence[int],
    tokens: int,
    shared: Sequence[SharedPrefix] = (),
) -> list[Forward]:
    """Group sequences into forward passes of at most ``tokens`` tokens, or of one sequence.

    Args:
        served: the model.
        lengths: number of tokens of each sequence.
        tokens: the most tokens of one forward pass, padding included.
        shared: beginnings that the model may compute once for several sequences, which are packed.
    """
    kinds = rope_types(served.config)
    if "dynamic" in kinds or not (served.takes_positions or served.stateful):
        tokens = 0
    if _chunked(served) and not _CHUNKS_COUNT_FROM_THE_SEQUENCE:
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
    if not served.counts_from_zero or served.stateful:
        return [group for members in classes for group in _padded(members, lengths, tokens)]
    return [group for members in classes for group in _packed(members, lengths, tokens, shared)]


@contextmanager
def fresh_rope(decoder: nn.Module) -> Iterator[None]:
    """Reset ``dynamic`` RoPE inside the block, and put its frequencies back afterwards.

    It keeps the frequencies of the longest prompt it has seen; inside, it has seen none.
    """
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


def _packed(
    members: Sequence[int], lengths: Sequence[int], tokens: int, shared: Sequence[SharedPrefix]
) -> list[Forward]:
    groups: list[list[tuple[int, int]]] = []  # of members, and what each shares with the last
    room = 0
    chosen = set(members)
    families = {}
    for prefix in shared:
        family = tuple(one for one in prefix.members if one in chosen)
        families.update(dict.fromkeys(family, (family, prefix.length)))
    done: set[int] = set()
    for index in members:
        if index in done:
            continue
        family, length = families.get(index, ((index,), 0))
        done.update(family)
        whole = length + sum(lengths[one] - length for one in family)
        begun = False  # whether the prefix is in the last group
        for one in family:
            if (not begun and whole > room) or lengths[one] - length * begun > room:
                groups.append([])
                room, begun = tokens, False
            groups[-1].append((one, length if begun else 0))
            room -= lengths[one] - length * begun
            begun = True
    return [_forward(group) for group in groups]


def _forward(group: Sequence[tuple[int, int]]) -> Forward:
    """Return the packed forward pass of some members, each with what it shares with the last."""
    prefixes: list[PackedPrefix] = []
    for number, (_, length) in enumerate(group):
        if length and group[number - 1][1]:
            prefixes[-1] = replace(prefixes[-1], end=number + 1)
        elif length:
            prefixes.append(PackedPrefix(number - 1, number + 1, length))
    return Forward(tuple(member for member, _ in group), True, tuple(prefixes))


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


def _chunked(served: ServedModel) -> bool:
    return "chunked_attention" in (getattr(served.config, "layer_types", None) or ())


def _original_length(served: ServedModel) -> int:
    parameters = served.config.rope_parameters
    for part in [parameters, *parameters.values(), vars(served.config)]:
        if isinstance(part, dict) and part.get("original_max_position_embeddings"):
            return int(part["original_max_position_embeddings"])
    raise ValueError(
        f"{served.name} has longrope positions, but its configuration has no "
        "original_max_position_embeddings; set it to the length that the model was first trained on"
    )

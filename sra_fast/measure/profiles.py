"""Ask for attention profiles beside the masses, and keep what each layer brings of them.

The op gives the profiles of P groups of rows over all N keys of a forward pass. Of these a response
needs the keys from the beginning of its sequence up to its last row. Sequences of one batch row
have no key in common, so their responses share groups: with c rows of a response in a group of C,

    profile of the response = C / c · profile of the group, on the keys of its own sequence

Sequences that share a beginning have its keys in common, so each of their responses has a group of
its own among them.

Only these entries are kept, layer by layer, on the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, get_args

import torch
from torch import Tensor

from sra_fast.kernels.contract import ProfileQuery, SpanQuery
from sra_fast.measure.marked_query import Placed
from sra_fast.measure.one_copy import fetched, sent
from sra_fast.measure.prefixes import PlacedPrefix
from sra_fast.measure.source_ids import SourceMarks
from sra_fast.measure.spans import MarkedBatch
from sra_fast.names import ProfileKind
from sra_fast.result import SRAResult

WITHOUT_PROFILE = (
    "source_ids: what a response pays to a source is a sum over its profile, and none is asked "
    'for; give profile="mean" ("layers", "heads"), or leave the sources out'
)


@dataclass(frozen=True)
class ProfilePlaces:
    """The entries of a forward pass's profiles that are kept, one response after another.

    Attributes:
        groups: ``[E]`` int64, the group of each entry.
        keys: ``[E]`` int64, its place on the key axis.
        factors: ``[E]`` float32, what turns the group's mean into the response's.
        counts: ``[n]`` int64, how many entries each response has.
    """

    groups: Tensor
    keys: Tensor
    factors: Tensor
    counts: Tensor


class TakenProfiles(Protocol):
    """Profiles of n responses, one after another, whose keys are E in all."""

    counts: Tensor

    def taken(self, layers: Sequence[int]) -> Tensor:
        """Return the profiles in the host's memory, ``[E]``, ``[E, L]`` or ``[E, L, H]``."""
        ...


class ProfileRecord:
    """The profiles that layers have brought so far.

    Args:
        kind: what is kept of them.
        places: the entries that are kept.
    """

    def __init__(self, kind: ProfileKind, places: ProfilePlaces) -> None:
        self.kind = kind
        self.counts = places.counts
        self._places = places
        self._on: dict[torch.device, list[Tensor]] = {}
        self._layers: dict[int, Tensor] = {}
        self._sums: dict[torch.device, Tensor] = {}

    def add(self, layer: int, profile: Tensor) -> None:
        """Keep a layer's profiles: ``[P, Hq, N]`` of kind "heads", else ``[P, N]``."""
        device = profile.device
        if device not in self._on:
            places = self._places
            groups, keys = sent([places.groups, places.keys], device)
            self._on[device] = [groups, keys, *sent([places.factors], device)]
        groups, keys, factors = self._on[device]
        if self.kind == "heads":
            self._layers[layer] = profile.detach().transpose(1, 2)[groups, keys] * factors[:, None]
            return
        kept = profile.detach()[groups, keys] * factors
        if self.kind == "layers":
            self._layers[layer] = kept
        elif device in self._sums:
            self._sums[device] += kept
        else:
            self._sums[device] = kept

    def state(self) -> dict[str, Tensor]:
        """Return what was kept so far, by names that :meth:`restore` knows."""
        found = {f"layer.{layer}": one for layer, one in self._layers.items()}
        return found | {f"sum.{number}": one for number, one in enumerate(self._sums.values())}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`state` of another record of the same places returned."""
        for name, one in state.items():
            kind, _, layer = name.partition(".")
            if kind == "layer":
                self._layers[int(layer)] = one
            else:
                self._sums[one.device] = one

    def taken(self, layers: Sequence[int]) -> Tensor:
        """Return what was kept, in the host's memory, float32.

        ``[E]`` of kind "mean", ``[E, L]`` of kind "layers", ``[E, L, H]`` of kind "heads".
        """
        if self.kind == "mean":
            return (
                torch.stack(fetched(list(self._sums.values()))).sum(dim=0) / len(layers)
            ).float()
        found = fetched([self._layers[layer].float() for layer in layers])
        return torch.stack(found, dim=1)


def with_profiles(
    query: SpanQuery,
    placed: Placed,
    batch: MarkedBatch,
    members: Sequence[int],
    places: Sequence[tuple[int, int]],
    kind: ProfileKind,
    prefixes: Sequence[PlacedPrefix] = (),
) -> tuple[SpanQuery, ProfileRecord]:
    """Ask in a query for the profile of each response, and return where they are recorded.

    Args:
        query: a query that :func:`build_query` made, and ``placed`` with it.
        placed: where the responses' rows are among the R.
        batch, members, places, prefixes: as :func:`build_query` took them.
        kind: what is kept.
    """
    groups, keys = [], []
    sharing = {at: one for one in prefixes for at in range(len(places))[one.members]}
    offsets = _first_groups(batch, members, places, prefixes)
    for at, (member, (_, start)) in enumerate(zip(members, places, strict=True)):
        for number, response in enumerate(batch.sequences[member].responses):
            groups.append(offsets[at] + number)
            seen = start + torch.arange(int(response.measured[-1]) + 1)
            if prefix := sharing.get(at):
                seen[: prefix.length] = prefix.start + torch.arange(prefix.length)
            keys.append(seen)
    of_response = torch.tensor(groups)
    row_groups = torch.full((len(query.rows),), -1, dtype=torch.int32)
    row_groups[placed.tokens] = of_response.to(torch.int32).repeat_interleave(placed.counts)
    total = int(of_response.max()) + 1
    of_group = torch.zeros(total, dtype=torch.int64).index_add_(0, of_response, placed.counts)
    factors = of_group[of_response] / placed.counts
    counts = torch.tensor([len(one) for one in keys])
    kept = ProfilePlaces(
        groups=of_response.repeat_interleave(counts),
        keys=torch.cat(keys),
        factors=factors.float().repeat_interleave(counts),
        counts=counts,
    )
    asked = ProfileQuery(row_groups, total, by_head=kind == "heads")
    return replace(query, profile=asked), ProfileRecord(kind, kept)


def attach_profiles(
    result: SRAResult,
    record: TakenProfiles,
    batch: MarkedBatch,
    members: Sequence[int],
    input_ids: Tensor | None,
    sources: SourceMarks | None,
) -> SRAResult:
    """Return a result with the profiles of its responses, their tokens and sources.

    Args:
        result: the result of the forward pass.
        record: what its layers brought.
        batch: the batch that was read.
        members: indices of those of its sequences that the forward pass held.
        input_ids: ``[B, T]`` of the batch; None if it has embeddings instead.
        sources: the sources of the batch, if it has any.
    """
    tokens, spans, ids, names, ranges = [], [], [], [], []
    of_span = torch.arange(len(batch.names), dtype=torch.int32)[:, None]
    for member in members:
        sequence = batch.sequences[member]
        bits = (sequence.spans.to(torch.int32) << of_span).sum(dim=0, dtype=torch.int32)
        for response in sequence.responses:
            here = slice(sequence.start, sequence.start + int(response.measured[-1]) + 1)
            own = response.tokens.tolist()
            ranges.append((own[0], own[-1] + 1) if own else (response.after, response.after))
            spans.append(bits[: here.stop - here.start])
            if input_ids is not None:
                tokens.append(input_ids[sequence.row, here].cpu().to(torch.int32))
            if sources is not None:
                ids.append(sources.ids[sequence.row, here])
                names.append(sources.names[sequence.row])
    return replace(
        result,
        profiles=record.taken(result.layers),
        profile_counts=record.counts,
        profile_tokens=torch.cat(tokens) if tokens else None,
        profile_spans=torch.cat(spans),
        response_ranges=torch.tensor(ranges),
        profile_sources=torch.cat(ids) if ids else None,
        source_names=tuple(names),
    )


def _first_groups(
    batch: MarkedBatch,
    members: Sequence[int],
    places: Sequence[tuple[int, int]],
    prefixes: Sequence[PlacedPrefix],
) -> list[int]:
    """Return the first group of each sequence: those of a row share groups, if they may."""
    replies = [len(batch.sequences[member].responses) for member in members]
    before = [0] * len(replies)  # groups of the sequences before it under the same prefix
    for prefix in prefixes:
        totals = itertools.accumulate(replies[prefix.members], initial=0)
        before[prefix.members] = list(totals)[:-1]
    most: dict[int, int] = {}
    for (b, _), first, count in zip(places, before, replies, strict=True):
        most[b] = max(most.get(b, 0), first + count)
    of_row = dict(zip(most, itertools.accumulate(most.values(), initial=0), strict=False))
    return [of_row[b] + first for (b, _), first in zip(places, before, strict=True)]


def check_profile_kind(kind: str) -> None:
    """Refuse a kind of profile that there is not."""
    if kind not in get_args(ProfileKind):
        words = ", ".join(map(repr, get_args(ProfileKind)))
        raise ValueError(f"profile: expected {words} or None, got {kind!r}")


def profile_keys(batch: MarkedBatch) -> list[int]:
    """Return how many keys the profile of each response of a batch is kept over."""
    return [
        int(response.measured[-1]) + 1
        for sequence in batch.sequences
        for response in sequence.responses
    ]


def check_profile_size(
    kept: Sequence[int], kind: ProfileKind, shape: tuple[int, int], most: int
) -> None:
    """Refuse profiles that would take too much memory, before anything runs.

    Args:
        kept: how many keys the profile of each response is kept over.
        kind: what is to be kept.
        shape: the numbers of attention layers and of heads in each.
        most: the most bytes.

    Raises:
        ValueError: they take more; the kinds that take less are named, with their sizes.
    """
    keys, (layers, heads) = sum(kept), shape
    sizes = {"mean": 4 * keys, "layers": 4 * keys * layers, "heads": 4 * keys * layers * heads}
    if sizes[kind] <= most:
        return
    smaller = [f"{name!r} takes {_size(size)}" for name, size in sizes.items() if size <= most]
    raise ValueError(
        f"profile={kind!r} of {len(kept)} responses takes {_size(sizes[kind])}, more than the "
        f"{_size(most)} of profile_bytes; "
        + (", ".join(smaller) if smaller else "give fewer responses at once")
        + ", or allow more with profile_bytes"
    )


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"

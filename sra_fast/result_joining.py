"""Take responses out of a result, and join results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sra_fast.result_tensors import IN_PARTS, OF_RESPONSES, TENSORS, part

if TYPE_CHECKING:
    from sra_fast.result import SRAResult


def taken(result: SRAResult, indices: Sequence[int]) -> SRAResult:
    """Return a result with the responses at ``indices``, in that order.

    Raises:
        TypeError: the indices are no integers.
        IndexError: no such response.
    """
    at = torch.as_tensor([*indices])
    if at.numel() and (at.is_floating_point() or at.dtype == torch.bool):
        raise TypeError(
            f"indices: expected the numbers of responses, got {at.dtype}; of a mask, give "
            "mask.nonzero().flatten()"
        )
    at = at.cpu().to(torch.int64)
    if torch.equal(at, torch.arange(len(result))):
        return result
    changed: dict[str, Any] = {
        name: getattr(result, name)[at]
        for name in TENSORS
        if name not in IN_PARTS and getattr(result, name) is not None
    }
    for name, counts in IN_PARTS.items():
        whole = getattr(result, name)
        if whole is not None:
            parts = [whole[part(getattr(result, counts), i)] for i in at.tolist()]
            changed[name] = torch.cat(parts) if parts else whole[:0]
    for name in OF_RESPONSES:
        values = getattr(result, name)
        if values:
            changed[name] = tuple(values[i] for i in at.tolist())
    changed["by_layer"] = {name: value[at] for name, value in result.by_layer.items()}
    return replace(result, **changed)


def concatenated(results: Sequence[SRAResult], *, renumber: bool) -> SRAResult:
    """Join several results into one as :meth:`sra_fast.SRAResult.concatenate` does.

    Raises:
        ValueError: there is nothing to join, the results do not belong together, or, without
            ``renumber``, two of them have the same turn of the same conversation.
    """
    if renumber:
        return joined(_renumbered(results))
    whole = joined(results)  # it says whether they belong together
    apart = kept_apart(results)
    seen: dict[tuple[int, int], int] = {}
    for index, result in enumerate(apart):
        places = zip(result.conversation.tolist(), result.turn.tolist(), _ids(result), strict=True)
        for number, turn, identity in places:
            if seen.setdefault((number, turn), index) != index:
                name = number if identity is None else repr(identity)
                raise ValueError(
                    f"turn {turn} of conversation {name} is in results {seen[number, turn]} and "
                    f"{index}, so they cannot be told apart once joined; if these are "
                    "different conversations, give each batch its own numbers in "
                    "`conversation`, or take concatenate(results, renumber=True)"
                )
    changed = any(one is not other for one, other in zip(apart, results, strict=True))
    return joined(apart) if changed else whole


def kept_apart(results: Sequence[SRAResult]) -> list[SRAResult]:
    """Number conversations such that those with different ids have different numbers.

    A result that uses no number for another id than those before it did is left as it is. In any
    other, conversations that were seen before get the number that they have, and new ones are
    numbered on, so that the halves of a file become the whole.

    Raises:
        ValueError: a number stands for a conversation with an id in one result, and for one without
            in another.
    """
    called: dict[int, str | None] = {}
    number_of: dict[str | None, int] = {}
    first: dict[int, int] = {}
    found: list[SRAResult] = []
    for index, result in enumerate(results):
        here: dict[int, str | None] = dict(
            zip(result.conversation.tolist(), _ids(result), strict=True)
        )
        for number, identity in here.items():
            other = called.get(number, identity)
            if (identity is None) != (other is None):
                raise ValueError(
                    f"conversation {number} has the id {identity or other!r} in one of results "
                    f"{first[number]} and {index} and none in the other, so they may be the same; "
                    "take concatenate(results, renumber=True) if they are not"
                )
        clashes = any(called.get(number, identity) != identity for number, identity in here.items())
        moved = _numbered_on(here, called, number_of) if clashes else {}
        for number, identity in here.items():
            place = moved.get(number, number)
            called.setdefault(place, identity)
            number_of.setdefault(identity, place)
            first.setdefault(place, index)
        found.append(_moved(result, moved) if moved else result)
    return found


def _numbered_on(
    here: Mapping[int, str | None],
    called: Mapping[int, str | None],
    number_of: Mapping[str | None, int],
) -> dict[int, int]:
    """Return another number for each conversation of a result that was not seen under its own.

    Args:
        here: the ids of the result's conversations by number.
        called: those of the results before.
        number_of: the number that each id was first seen under.
    """
    moved: dict[int, int] = {}
    following = 1 + max(called)
    for number, identity in here.items():
        if number in called and called[number] == identity:
            continue
        known = None if identity is None else number_of.get(identity)
        moved[number] = following if known is None else known
        following += known is None
    return moved


def _moved(result: SRAResult, moved: Mapping[int, int]) -> SRAResult:
    """Return a result with other numbers for some of its conversations."""
    numbers = [moved.get(number, number) for number in result.conversation.tolist()]
    return replace(result, conversation=torch.tensor(numbers, dtype=torch.int64))


def _ids(result: SRAResult) -> tuple[str | None, ...]:
    """Return the id of each response's conversation, None where it is not known."""
    return result.conversation_ids or (None,) * len(result)


def joined(results: Sequence[SRAResult]) -> SRAResult:
    """Join results as :meth:`SRAResult.concatenate` does, whatever their conversations are called.

    Raises:
        ValueError: there is nothing to join, or the results do not belong together.
    """
    if not results:
        raise ValueError("no results to join")
    first = results[0]
    for other in results[1:]:
        if (other.layers, other.names) != (first.layers, first.names):
            raise ValueError("results of different models or spans cannot be joined")
        if other.definition != first.definition:
            raise ValueError("results under different definitions cannot be joined")
        if apart := set(other.by_layer) ^ set(first.by_layer):
            raise ValueError(
                f"only some of the results have scores under {', '.join(sorted(apart))}, so "
                "they cannot be joined; register the same definitions for all of them"
            )
        if (other.row_masses is None) != (first.row_masses is None):
            raise ValueError("results with and without their rows cannot be joined")
        if (other.as_written is None) != (first.as_written is None):
            raise ValueError("results with and without a known layout cannot be joined")
        optional = ("by_head", "profiles", "profile_tokens", "profile_spans", "profile_sources")
        for name in (*optional, "response_ranges"):
            ours, theirs = getattr(first, name), getattr(other, name)
            kinds = [None if one is None else one.shape[1:] for one in (ours, theirs)]
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"only some of the results have {name}, or of another kind, so they cannot be "
                    "joined"
                )

    def together(name: str) -> Tensor | None:
        if getattr(first, name) is None:
            return None
        return torch.cat([getattr(result, name) for result in results])

    changed: dict[str, Any] = {name: together(name) for name in TENSORS}
    changed["by_layer"] = {
        name: torch.cat([result.by_layer[name] for result in results]) for name in first.by_layer
    }
    changed["source_names"] = tuple(names for result in results for names in result.source_names)
    if any(result.conversation_ids for result in results):
        changed["conversation_ids"] = tuple(one for result in results for one in _ids(result))
    if any(result.meta for result in results):
        changed["meta"] = tuple(
            one for result in results for one in result.meta or ({},) * len(result)
        )
    changed["checked"] = "; ".join(dict.fromkeys(result.checked for result in results))
    return replace(first, **changed)


def _renumbered(results: Sequence[SRAResult]) -> list[SRAResult]:
    """Shift the conversations of each result behind those of the one before it."""
    shifted: list[SRAResult] = []
    following: int | None = None
    for result in results:
        numbers = result.conversation
        if following is not None and len(result):
            numbers = numbers + (following - int(numbers.min()))
        if len(result):
            following = int(numbers.max()) + 1
        shifted.append(replace(result, conversation=numbers))
    return shifted

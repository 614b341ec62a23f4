"""Tell for which models packed rows are exact, and choose which examples share a row."""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Sequence

from torch import nn
from torch.utils.data import Sampler

from sra_fast.measure.packing import forwards
from sra_fast.measure.served import rope_types, serve


def why_not_packed(
    model: nn.Module, *, max_length: int, row_tokens: int | None = None
) -> str | None:
    """Return why a model's packed rows would differ from single sequences, or None if they do not.

    This is for models that attend by "sra_fast", as watched ones do (:func:`sra_fast.monitor`, the
    training callback). transformers' own masks keep packed sequences apart in most families only.

    Args:
        model: as ``from_pretrained`` gives it, PEFT-wrapped or not.
        max_length: the longest sequence, in tokens.
        row_tokens: the most tokens of a row; two of the longest sequences if None.

    Returns:
        The reason and the way out, in one sentence, or None.

    Raises:
        UnservedModelError: the model does not follow transformers' attention interface.
    """
    served = serve(model)
    row_tokens = 2 * max_length if row_tokens is None else row_tokens
    longest = min(max_length, row_tokens - 1)
    rest = row_tokens - 1 - longest
    first, *others = forwards(served, [1, longest, *[rest] * (rest > 0)], row_tokens)
    if first.packed and not others:
        return None
    if served.stateful:
        return (
            f"{served.name} has layers that carry a state from one packed sequence to the next; "
            "pad its batches (PaddingCollator)"
        )
    if not served.takes_positions:
        return f"{served.name} takes no position_ids; pad its batches (PaddingCollator)"
    kinds = rope_types(served.config) & {"dynamic", "longrope"}
    if kinds:
        return (
            f"{served.name} has rotary embeddings ({', '.join(sorted(kinds))}) that follow the "
            f"longest sequence of a batch, here up to {max_length} tokens; train on one sequence "
            "per batch"
        )
    return (
        f"{served.name} scales its queries by their place in the row, here up to {row_tokens} "
        "tokens; pack shorter rows, or pad its batches (PaddingCollator)"
    )


class TokenBudgetSampler(Sampler[list[int]]):
    """Batches of examples whose lengths add up to a budget at most.

    Which examples share a batch depends on the seed alone (best fit, the longest first), the order
    of the batches on seed and epoch. So every epoch has as many batches, as schedules and resumed
    runs count on, and few tokens of the budget stay unused.

    Use it as the ``batch_sampler`` of a ``DataLoader``; accelerate hands the epoch on by itself.

    Args:
        lengths: of the examples, in tokens.
        budget: most tokens of a batch.
        seed: of the batches and their order.

    Raises:
        ValueError: no example, or one longer than the budget.
    """

    def __init__(self, lengths: Sequence[int], budget: int, seed: int = 0) -> None:
        if not lengths:
            raise ValueError("there is no example to make batches of")
        too_long = [index for index, length in enumerate(lengths) if length > budget]
        if too_long:
            raise ValueError(
                f"{len(too_long)} examples are longer than the budget of {budget} tokens, the "
                f"first is number {too_long[0]} with {lengths[too_long[0]]}; raise the budget, or "
                "lower max_length"
            )
        self.seed = seed
        self.epoch = 0
        self._batches = _best_fit(lengths, budget, random.Random(seed))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass."""
        self.epoch = epoch

    @property
    def sampler(self) -> TokenBudgetSampler:
        """Itself: where accelerate looks for ``set_epoch`` when several processes share batches."""
        return self

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self._batches)
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        return iter([list(batch) for batch in order])

    def __len__(self) -> int:
        return len(self._batches)


def _best_fit(lengths: Sequence[int], budget: int, generator: random.Random) -> list[list[int]]:
    """Each example, the longest first, into the batch that it leaves the least room in."""
    order = list(range(len(lengths)))
    generator.shuffle(order)  # examples of one length meet by chance
    order.sort(key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, batch), ascending
    for index in order:
        place = bisect.bisect_left(rooms, (lengths[index], 0))
        if place == len(rooms):
            room, batch = budget, len(batches)
            batches.append([])
        else:
            room, batch = rooms.pop(place)
        batches[batch].append(index)
        bisect.insort(rooms, (room - lengths[index], batch))
    for batch_members in batches:
        generator.shuffle(batch_members)
    return batches

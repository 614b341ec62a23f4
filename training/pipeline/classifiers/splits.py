"""Split responses for training and testing, so that no dialogue is on both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from sra_fast.tools.grouped import numbered
from sra_fast.tools.missing_extra import needed

from .interface import ClassifierError
from .labelled import LabelledResponse

Indices = NDArray[numpy.int64]

_HOLD_OUT_MORE = "hold out more, at most 0.5"


def holdout(
    labelled: Sequence[LabelledResponse], fraction: float, seed: int
) -> tuple[Indices, Indices]:
    """Split responses into a part to train on and a part to test on, alike in their strategies.

    Where responses share dialogues, whole dialogues are held out, and the fraction is met only
    roughly.

    Args:
        labelled: the responses, all with a strategy.
        fraction: the share to test on, in (0, 0.5].
        seed: the seed of the split.

    Returns:
        The indices to train on, and those to test on.

    Raises:
        ClassifierError: the fraction is out of range, or a strategy has too few responses or
            dialogues for it.
    """
    with needed("pipeline", "sklearn"):
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

    if not 0 < fraction <= 0.5:
        raise ClassifierError(
            f"the test fraction must be above 0 and at most 0.5, found {fraction}",
            "test_fraction",
        )
    _need(labelled, 2, "a held-out part", _HOLD_OUT_MORE, "test_fraction")
    groups, strategies = _groups(labelled), [one.label for one in labelled]
    if groups is not None:
        parts = holdout_parts(fraction)
        what = f"a held-out part of {fraction:.0%}, whole dialogues,"
        _need(labelled, parts, what, _HOLD_OUT_MORE, "test_fraction")
        splitter: Any = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    else:
        classes = len(set(strategies))
        if not classes <= fraction * len(labelled):
            raise ClassifierError(
                f"{fraction:.0%} of {len(labelled)} responses is less than one for each of the "
                f"{classes} strategies; add responses, or hold out more",
                "test_fraction",
            )
        splitter = StratifiedShuffleSplit(1, test_size=fraction, random_state=seed)
    train, test = next(iter(splitter.split(strategies, strategies, groups)))
    _complete(train, strategies)
    return train, test


def folds(
    labelled: Sequence[LabelledResponse], count: int, seed: int
) -> list[tuple[Indices, Indices]]:
    """Split responses into folds, each of which is tested on once.

    Args:
        labelled: the responses, all with a strategy.
        count: the number of folds, from 2.
        seed: the seed of the split.

    Returns:
        For each fold the indices to train on, and those to test on.

    Raises:
        ClassifierError: a strategy has too few responses or dialogues.
    """
    with needed("pipeline", "sklearn"):
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    _need(labelled, count, f"{count} folds", "ask for fewer", "folds")
    groups, strategies = _groups(labelled), [one.label for one in labelled]
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(count, shuffle=True, random_state=seed)
    found = list(splitter.split(strategies, strategies, groups))
    for train, _ in found:
        _complete(train, strategies)
    return found


def holdout_parts(fraction: float) -> int:
    """Return how many parts whole dialogues are split into, one of which is held out."""
    return max(2, round(1 / fraction))


def dialogues_by_strategy(labelled: Sequence[LabelledResponse]) -> dict[str, int]:
    """Count the dialogues in which each strategy occurs; splits need enough of them."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for one, number in zip(labelled, dialogue_of(labelled), strict=True):
        found[one.label].add(number)
    return {strategy: len(numbers) for strategy, numbers in sorted(found.items())}


def dialogue_of(labelled: Sequence[LabelledResponse]) -> list[int]:
    """Number the dialogue of each response, from 0; an unknown dialogue is one of its own."""
    keys = [
        ("response", str(index)) if one.dialogue is None else ("dialogue", one.dialogue)
        for index, one in enumerate(labelled)
    ]
    numbers: list[int] = numbered(keys)[0].tolist()
    return numbers


def _groups(labelled: Sequence[LabelledResponse]) -> list[int] | None:
    """Return the dialogue of each response, or None if no two responses share one."""
    numbers = dialogue_of(labelled)
    return numbers if len(set(numbers)) < len(numbers) else None


def _need(
    labelled: Sequence[LabelledResponse], least: int, what: str, way: str, argument: str
) -> None:
    unit = "responses" if _groups(labelled) is None else "dialogues"
    for strategy, found in dialogues_by_strategy(labelled).items():
        if found < least:
            raise ClassifierError(
                f"strategy {strategy!r} has {found} {unit}, and {what} needs {least} of each "
                f"strategy; add some, leave the strategy out, or {way}",
                argument,
            )


def _complete(train: Indices, strategies: Sequence[str]) -> None:
    missing = set(strategies) - {strategies[index] for index in train}
    if missing:
        raise ClassifierError(
            f"strategy {min(missing)!r} has all its responses in the held-out dialogues; add "
            "dialogues with it, or take another seed",
            "seed",
        )

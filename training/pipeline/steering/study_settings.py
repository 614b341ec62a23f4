"""Choose the settings of a steering study: which span is steered, how strongly, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

StudyPart = Literal["strategy", "control", "groups"]
PARTS: tuple[StudyPart, ...] = get_args(StudyPart)
"""The parts of a study: steering the strategy, the control, and groups of layers and heads."""

Span = Literal["strategy", "situation"]

UNSTEERED = "unsteered"
"""The name of the setting in which nothing is steered."""
OF_CONTROL = "situation, "
"""The beginning of a control's name; the name of the setting that it is compared with follows."""
BIASES = (-2.0, -1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
"""The biases β that are studied; the unsteered model is 0."""
SHARES = (0.01, 0.03, 0.1, 0.3)  # at .6 a small model forgets its language
"""The shares of the attention that are studied."""
GROUP_BIASES = (2.0, 4.0)
"""The two strengths at which groups of layers and of heads are steered."""
GROUP_DIALOGUES = 40
"""The number of dialogues on which groups are steered, the first ones of the study."""

_LAYER_GROUPS, _HEAD_GROUPS = 5, 3


@dataclass(frozen=True)
class StudySetting:
    """One setting of a study: the arguments of :func:`sra_fast.steer`, and what it is called.

    Attributes:
        name: the name, unique in the study.
        part: the part of the study that it belongs to; None for the unsteered model.
        span: the span that is steered.
        bias, share: its strength; both None if it is knocked out, or nothing is steered.
        knock_out: whether nobody attends to the span.
        layers, heads: those that are steered; None for all.
    """

    name: str
    part: StudyPart | None
    span: Span = "strategy"
    bias: float | None = None
    share: float | None = None
    knock_out: bool = False
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None

    @property
    def arguments(self) -> dict[str, Any] | None:
        """The arguments of :func:`sra_fast.steer`; None if nothing is steered."""
        if self.part is None:
            return None
        given: dict[str, Any] = {"span": self.span, "knock_out": self.knock_out}
        for name in ("bias", "share", "layers", "heads"):
            if getattr(self, name) is not None:
                given[name] = getattr(self, name)
        return given


def strengths(
    prefix: str, part: StudyPart, span: Span, biases: Sequence[float], shares: Sequence[float]
) -> list[StudySetting]:
    """Return the settings that steer one span: knocked out, by every bias and to every share."""
    return [
        StudySetting(f"{prefix}knock-out", part, span, knock_out=True),
        *(StudySetting(f"{prefix}bias {b:g}", part, span, bias=b) for b in biases),
        *(StudySetting(f"{prefix}share {s:g}", part, span, share=s) for s in shares),
    ]


def study_settings(
    layers: Sequence[int],
    heads: int,
    parts: Sequence[StudyPart] = PARTS,
    *,
    biases: Sequence[float] = BIASES,
    shares: Sequence[float] = SHARES,
    group_biases: Sequence[float] = GROUP_BIASES,
) -> list[StudySetting]:
    """Return the settings of some parts of a study; the unsteered model is always the first.

    Args:
        layers: the attention layers of the model, which are cut into five groups.
        heads: the number of query heads of a layer, which are cut into three groups.
        parts: the parts.
        biases, shares: the strengths at which the strategy and the control are steered.
        group_biases: the biases at which groups are steered.
    """
    found = [StudySetting(UNSTEERED, None)]
    if "strategy" in parts:
        found += strengths("", "strategy", "strategy", biases, shares)
    if "control" in parts:
        found += strengths(OF_CONTROL, "control", "situation", biases, shares)
    if "groups" in parts:
        for beta in group_biases:
            for group in cut(layers, _LAYER_GROUPS):
                name = f"layers {_range(group)}, bias {beta:g}"
                found.append(StudySetting(name, "groups", bias=beta, layers=group))
            for group in cut(range(heads), _HEAD_GROUPS):
                name = f"heads {_range(group)}, bias {beta:g}"
                found.append(StudySetting(name, "groups", bias=beta, heads=group))
    return found


def cut(numbers: Sequence[int], groups: int) -> list[tuple[int, ...]]:
    """Cut numbers, in order, into at most ``groups`` groups whose sizes differ by one at most."""
    groups = min(groups, len(numbers))
    ends = [round(i * len(numbers) / groups) for i in range(groups + 1)]
    return [tuple(numbers[ends[i] : ends[i + 1]]) for i in range(groups)]


def _range(group: Sequence[int]) -> str:
    return str(group[0]) if len(group) == 1 else f"{group[0]} to {group[-1]}"

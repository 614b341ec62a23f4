"""Cut dialogues before replies of the supporter, and draw strategies for new replies there."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sra_fast.chat.conversations import Conversation, as_conversations
from sra_fast.chat.dialogues import Dialogue
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.counted import counted

from ..generation.generation_prompts import PLACEHOLDER
from ..generation.sampling import item_seed


class ExtensionError(ArgumentError):
    """Raised when dialogues cannot be extended; the message says why and the way out."""


@dataclass(frozen=True)
class Cutting:
    """The choice of replies of dialogues to write anew; the defaults are the paper's.

    Attributes:
        first_turn: the first turn of the supporter that may be written anew, counted from 1. Turn n
            has at least 2n - 1 messages before it; 2 · first_turn - 1 is the fewest (5).
        last_turn: the last turn of the supporter that may be written anew; 2 · last_turn - 1 is the
            most messages before it (23).
        probability: the probability with which each strategy is drawn at each cut.
        cuts: the most cuts of a dialogue, drawn at random; None for all.
        dialogues: the most dialogues, drawn at random; None for all.
        seed: seed of every draw. What is drawn for one dialogue does not depend on the others.

    Raises:
        ExtensionError: a value is out of range.
    """

    first_turn: int = 3
    last_turn: int = 12
    probability: float = 0.3
    cuts: int | None = None
    dialogues: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if not 1 <= self.first_turn <= self.last_turn:
            raise ExtensionError(
                "first_turn must be at least 1 and at most last_turn, found "
                f"{self.first_turn} and {self.last_turn}",
                "first_turn",
                "last_turn",
            )
        if not 0.0 < self.probability <= 1.0:
            raise ExtensionError(
                f"probability must be above 0 and at most 1, found {self.probability!r}",
                "probability",
            )
        for name in ("cuts", "dialogues"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ExtensionError(f"{name} must be at least 1, found {value!r}", name)


def cut(
    dialogues: Sequence[Dialogue], strategies: Mapping[str, str], cutting: Cutting
) -> list[Conversation]:
    """Make a conversation for each reply that is to be written; a placeholder stands for the reply.

    A dialogue is cut after a message of the seeker that the supporter answered; the answer itself
    is not read. Ids are ``<dialogue>-t<turn>-<strategy>``. A dialogue that begins like an earlier
    one of its file is left out.

    Args:
        dialogues: the dialogues of a file.
        strategies: the strategies to draw from, as a mapping of names to descriptions.
        cutting: which turns are cut, and how strategies are drawn.

    Raises:
        ExtensionError: no dialogue can be cut, or no strategy was drawn.
    """
    chosen = [dialogue for dialogue in dialogues if dialogue.same_as is None]
    if cutting.dialogues is not None and cutting.dialogues < len(chosen):
        kept = random.Random(cutting.seed).sample(range(len(chosen)), cutting.dialogues)
        chosen = [chosen[index] for index in sorted(kept)]
    records = [
        record for dialogue in chosen for record in _records(dialogue, tuple(strategies), cutting)
    ]
    if not records:
        raise ExtensionError(
            f"nothing to write in {counted(len(chosen), 'dialogue')}: the supporter has no turn "
            f"from {cutting.first_turn} to {cutting.last_turn} in them, or no strategy was drawn; "
            "allow other turns, or raise the probability",
            "first_turn",
            "last_turn",
            "probability",
        )
    return as_conversations(records)


def _records(
    dialogue: Dialogue, strategies: Sequence[str], cutting: Cutting
) -> list[dict[str, Any]]:
    places: list[tuple[int, int]] = []  # (number of messages before, turn of the supporter)
    number = 0
    for position, turn in enumerate(dialogue.turns):
        if turn.role == "assistant":
            number += 1
            if 2 * cutting.first_turn - 1 <= position <= 2 * cutting.last_turn - 1:
                places.append((position, number))
    if cutting.cuts is not None and cutting.cuts < len(places):
        draw = random.Random(item_seed(cutting.seed, f"{dialogue.id}/cuts"))
        places = sorted(draw.sample(places, cutting.cuts))
    records = []
    for position, number in places:
        identity = f"{dialogue.id}-t{number}"
        draw = random.Random(item_seed(cutting.seed, identity))
        drawn = [name for name in strategies if draw.random() < cutting.probability]
        records += [
            {
                "id": f"{identity}-{name}",
                "dialogue": dialogue.id,
                **dialogue.context(position),
                "strategy": name,
                "response": PLACEHOLDER,
            }
            for name in drawn
        ]
    return records

"""Where dialogues are cut, and which strategies the next turn is to be written with."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sra_fast.chat.conversations import Conversation, as_conversations
from sra_fast.chat.esconv import Dialogue
from sra_fast.tools.argument_error import ArgumentError

from ..generation.generation_prompts import PLACEHOLDER
from ..generation.sampling import item_seed


class ExtensionError(ArgumentError):
    """Dialogues cannot be extended; the message says why and the way out."""


@dataclass(frozen=True)
class Cutting:
    """Which turns of which dialogues are to be written anew; the defaults are the paper's.

    Attributes:
        first_turn, last_turn: of the supporter: n has at least 2n - 1 turns before it, and these
            two bound them: 5 to 23.
        probability: of each strategy at each cut.
        cuts: most cuts of a dialogue, drawn by the seed; None for all.
        dialogues: most dialogues, drawn by the seed; None for all.
        seed: of all drawing. What is drawn for one dialogue does not depend on the others.
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
                f"turns must run from 1 on and upwards, found {self.first_turn} to {self.last_turn}"
            )
        if not 0.0 < self.probability <= 1.0:
            raise ExtensionError(
                f"probability must be in (0, 1], found {self.probability!r}", "probability"
            )
        for name in ("cuts", "dialogues"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ExtensionError(f"{name} must be at least 1, found {value!r}", name)


def cut(
    dialogues: Sequence[Dialogue], strategies: Mapping[str, str], cutting: Cutting
) -> list[Conversation]:
    """One conversation for each turn that is to be written, its reply still open.

    A cut lies behind a seeker's turn that the supporter answered; what the supporter said is not
    read. Ids are ``<dialogue>-t<turn>-<strategy>``. A dialogue that begins like an earlier one of
    its file is left out.

    Raises:
        ExtensionError: nothing can be cut.
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
            f"none of {len(chosen)} dialogues has an answered seeker's turn before the supporter's "
            f"turns {cutting.first_turn} to {cutting.last_turn}, or no strategy was drawn"
        )
    return as_conversations(records)


def _records(
    dialogue: Dialogue, strategies: Sequence[str], cutting: Cutting
) -> list[dict[str, Any]]:
    places: list[tuple[int, int]] = []  # (turns before, number of the supporter's turn)
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

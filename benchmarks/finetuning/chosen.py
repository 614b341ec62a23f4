"""Choose the real conversations that the fine-tuning benchmark learns from and is judged on."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sra_fast.chat.conversations import write_conversations
from sra_fast.chat.conversion import convert

HELD_OUT_DIALOGUES = 0.15  # the share of all dialogues
HELD_OUT_PER_STRATEGY = 6
TRAINING_PER_STRATEGY = 44

# Conversations are short, so that a run takes minutes on two cores, and no context is ever cut.
FEWEST_TURNS = 3
MOST_CHARACTERS = 900
FEWEST_REPLY_CHARACTERS = 20


@dataclass(frozen=True)
class Chosen:
    """Two files of conversations that share no dialogue.

    Attributes:
        training, held_out: the paths of the two files.
        counts: for each file the number of conversations, of dialogues, and of conversations per
            strategy.
        rule: how the conversations were chosen, as a sentence for the report.
    """

    training: Path
    held_out: Path
    counts: dict[str, dict[str, Any]]
    rule: str


def choose(esconv: Path, folder: Path, seed: int, scale: float = 1.0) -> Chosen:
    """Write the supporter's annotated replies with a short history into two files.

    Args:
        esconv: ``ESConv.json``, or a part of it.
        folder: where ``training.jsonl`` and ``held-out.jsonl`` are written.
        seed: the seed that draws the held-out dialogues and the order of conversations.
        scale: a factor on the numbers of conversations.
    """
    records: list[dict[str, Any]] = [dict(record) for record in convert(esconv).records]
    dialogues = list(dict.fromkeys(record["dialogue"] for record in records))
    draw = random.Random(seed)
    draw.shuffle(dialogues)
    held_out = set(dialogues[: max(1, round(HELD_OUT_DIALOGUES * len(dialogues)))])
    draw.shuffle(records)
    short = [record for record in records if _is_short(record)]
    parts = {
        "held-out": _balanced(
            [record for record in short if record["dialogue"] in held_out],
            round(HELD_OUT_PER_STRATEGY * scale) or 1,
        ),
        "training": _balanced(
            [record for record in short if record["dialogue"] not in held_out],
            round(TRAINING_PER_STRATEGY * scale) or 1,
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.jsonl" for name in parts}
    for name, part in parts.items():
        write_conversations(paths[name], part)
    return Chosen(
        training=paths["training"],
        held_out=paths["held-out"],
        counts={name: _counts(part) for name, part in parts.items()},
        rule=(
            f"supporter turns of at least {FEWEST_REPLY_CHARACTERS} characters after "
            f"{FEWEST_TURNS} turns or more and at most {MOST_CHARACTERS} characters, as even over "
            "the strategies as they come; whole dialogues are held out"
        ),
    )


def _is_short(record: dict[str, Any]) -> bool:
    history = sum(len(message["content"]) for message in record["messages"])
    return (
        len(record["messages"]) >= FEWEST_TURNS
        and history <= MOST_CHARACTERS
        and len(record["response"]) >= FEWEST_REPLY_CHARACTERS
    )


def _balanced(records: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return at most ``most`` conversations of each strategy, in the order they come."""
    taken: Counter[str] = Counter()
    kept = []
    for record in records:
        if taken[record["strategy"]] < most:
            taken[record["strategy"]] += 1
            kept.append(record)
    return kept


def _counts(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "conversations": len(records),
        "dialogues": len({record["dialogue"] for record in records}),
        "strategies": dict(sorted(Counter(record["strategy"] for record in records).items())),
    }

"""Make the records of a condition: what was measured of each of its replies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sra_fast.chat.conversations import Conversation

from ..classifiers import StrategyClassifier
from .conditions import Condition
from .records import Record
from .reply_scores import lookback


def records(
    condition: Condition, classifier: StrategyClassifier, perplexity: Sequence[float | None]
) -> list[Record]:
    """Make the records of a condition: those of its replies in order, then of the empty replies.

    An empty reply follows no strategy and pays no attention to any: its scores are NaN.

    Args:
        condition: the replies and their scores.
        classifier: says which strategy each reply follows.
        perplexity: the perplexity of each reply, or None where it was not measured.

    Raises:
        ValueError: the classifier does not know a strategy that was asked for.
    """
    texts = [reply.text for reply in condition.replies]
    probabilities = classifier.probabilities(texts)
    classes = list(classifier.classes)
    unknown = {c.strategy for c in (*condition.conversations, *condition.unanswered)} - set(classes)
    if unknown:
        raise ValueError(
            f"the classifier does not know the strategies {', '.join(sorted(unknown))}; train one "
            "on them, or leave these conversations out"
        )
    scores = {name: values.tolist() for name, values in condition.result.scores.items()}
    looks = lookback(condition.result).tolist()
    found = [
        _record(
            condition,
            conversation,
            predicted=classes[int(probabilities[index].argmax())],
            probability=float(probabilities[index][classes.index(conversation.strategy)]),
            sra={name: values[index] for name, values in scores.items()},
            lookback=looks[index],
            tokens=condition.replies[index].tokens,
            finished=condition.replies[index].finished,
            perplexity=perplexity[index],
            text=texts[index],
        )
        for index, conversation in enumerate(condition.conversations)
    ]
    nothing = {
        "predicted": "",
        "probability": 0.0,
        "sra": dict.fromkeys(scores, math.nan),
        "lookback": math.nan,
        "tokens": 0,
        "finished": True,
        "perplexity": None,
        "text": "",
    }
    return found + [
        _record(condition, conversation, **nothing) for conversation in condition.unanswered
    ]


def _record(condition: Condition, conversation: Conversation, **measured: Any) -> Record:
    return Record(
        row=condition.plan.name,
        item=conversation.id,
        dialogue=conversation.dialogue or conversation.id,
        strategy=conversation.strategy,
        turn=_turn(conversation),
        language=conversation.language,
        **measured,
    )


def _turn(conversation: Conversation) -> int:
    """Return the number of the last reply among the assistant messages, from 1."""
    return 1 + sum(message.role == "assistant" for message in conversation.last_reply[0])

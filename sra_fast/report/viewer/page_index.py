"""Say in JSON what a page holds, beside the blocks of numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from sra_fast.report.viewer.page_blocks import (
    Detail,
    PageBlock,
    profile_blocks,
    range_block,
    source_block,
)
from sra_fast.report.viewer.shown_sources import messages, sentences
from sra_fast.report.viewer.viewed_conversation import (
    TokenRange,
    ViewedConversation,
    ViewedReply,
)

# "<" so that no text ends the element that holds it; half characters, which UTF-8 cannot write.
_UNSAFE = re.compile("[<\u2028\u2029\ud800-\udfff]")


def script_json(value: Any) -> str:
    """Return JSON that can stand inside a script element, whatever the texts in it are."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def describe(
    conversations: Sequence[ViewedConversation], detail: Detail, definition: str | None
) -> tuple[dict[str, Any], list[PageBlock]]:
    """Return what the page says of the conversations, as JSON can say it, and its blocks.

    Args:
        conversations: what is shown.
        detail: how much of the profiles is kept.
        definition: the definition that is chosen first; the first one of the scores if None.
    """
    blocks: list[PageBlock] = []
    described = []
    for number, one in enumerate(conversations):
        lengths = numpy.array([_utf16_length(piece) for piece in one.tokens], dtype=numpy.uint32)
        blocks.append(PageBlock(f"lengths-{number}", 4, lengths.size, lengths.ravel))
        shared = {"messages": messages(one), "sentences": sentences(one)}
        for kind, sources in shared.items():
            blocks.append(range_block(f"{kind}-{number}", sources))
        replies = []
        for place, reply in enumerate(one.replies):
            name = f"{number}-{place}"
            blocks += profile_blocks(name, reply, detail)
            kinds: dict[str, Sequence[Sequence[TokenRange]]] = {
                **shared,
                "spans": list(reply.spans.values()),
                "sources": list(reply.sources.values()),
            }
            for kind, ranges in kinds.items():
                if ranges:
                    blocks.append(source_block(f"{name}-{kind}", reply, detail, ranges))
            replies.append(_reply(name, reply, detail, one.layers))
        described.append(
            {
                "title": one.title,
                "text": "".join(one.tokens),
                "turns": [[turn.role, turn.start, turn.end] for turn in one.turns],
                "replies": replies,
            }
        )
    return {"definition": definition, "conversations": described}, blocks


def _reply(name: str, reply: ViewedReply, detail: Detail, layers: Sequence[int]) -> dict[str, Any]:
    count = reply.layer_count or max(
        (len(scores) for scores in reply.layer_scores.values()),
        default=0 if reply.heat is None else reply.heat.shape[0],
    )
    return {
        "name": name,
        "turn": reply.turn,
        "start": reply.start,
        "end": reply.end,
        "label": reply.label,
        "tokens": reply.profile.shape[-1],
        "layers": list(layers or range(count)),
        "kept": list(detail.layers_of(reply)),
        "heads": detail.heads_of(reply),
        "scores": {name: _number(score) for name, score in reply.scores.items()},
        "layerScores": {
            name: [_number(score) for score in scores]
            for name, scores in reply.layer_scores.items()
        },
        "heat": None
        if reply.heat is None
        else [[_number(one) for one in row] for row in reply.heat],
        "spans": _ranges(reply.spans),
        "sources": _ranges(reply.sources),
    }


def _ranges(named: Mapping[str, Sequence[TokenRange]]) -> list[list[Any]]:
    return [[name, [list(one) for one in ranges]] for name, ranges in named.items()]


def _number(value: float) -> float | None:
    """Return a number as JSON can say it: the shortest decimals of its float32, None for NaN."""
    number = float(value)
    return float(str(numpy.float32(number))) if math.isfinite(number) else None


def _utf16_length(piece: str) -> int:
    """Return the length of a text as JavaScript counts it."""
    return len(piece) + sum(character > "\uffff" for character in piece)

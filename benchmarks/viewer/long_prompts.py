"""Make long prompts to look at, and the plain page that the viewer is compared with."""

from __future__ import annotations

import html
import itertools

import numpy

from sra_fast.report.viewer import ViewedConversation, ViewedReply, ViewedTurn

REPLIES = 12
"""How many replies of a prompt are scored, the last ones."""

_WORDS = (
    "the", " kettle", " was", " late", ",", " so", " we", " talked", " about", " rain", " and",
    " trains", " that", " never", " come", ".", " You", " said", " it", " would", " pass", ".\n",
)  # fmt: skip


def long_prompt(tokens: int) -> ViewedConversation:
    """Return a chat of that many tokens in turns of 500 at most, with profiles ``[T]``."""
    turns = max(2 * REPLIES, tokens // 500)
    size = tokens // turns
    pieces = list(itertools.islice(itertools.cycle(_WORDS), tokens))
    roles = ("user", "assistant")
    messages = tuple(
        ViewedTurn(roles[turn % 2], turn * size, (turn + 1) * size) for turn in range(turns)
    )
    random = numpy.random.default_rng(0)
    answers = [one for one in messages if one.role == "assistant"][-REPLIES:]
    replies = []
    for number, turn in enumerate(answers, start=1):
        weights = random.gamma(0.3, size=turn.end)
        profile = (weights / weights.sum()).astype(numpy.float32)
        scores = {"mass": float(profile[: size // 10].sum())}
        spans = {"instruction": ((0, size // 10),)}
        replies.append(ViewedReply(number, turn.start, turn.end, profile, "", scores, spans=spans))
    return ViewedConversation(f"{tokens:,} tokens", tuple(pieces), messages, tuple(replies))


def page_of_spans(conversation: ViewedConversation) -> str:
    """Return the page that one would write first: an element with a colour for every token."""
    profile = conversation.replies[0].profile
    shares = numpy.zeros(len(conversation.tokens))
    shares[: len(profile)] = profile / profile.max()
    tokens = (
        f'<span style="background:rgb(0 90 180 / {share:.3f})" title="{share:.3g}">'
        f"{html.escape(piece)}</span>"
        for piece, share in zip(conversation.tokens, shares, strict=True)
    )
    style = "font:16px/1.75 system-ui;white-space:pre-wrap;max-width:840px"
    return f'<!doctype html><meta charset="utf-8"><div style="{style}">{"".join(tokens)}</div>'

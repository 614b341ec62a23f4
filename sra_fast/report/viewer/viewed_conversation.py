"""Describe what the page shows: a prompt as text pieces, and what each reply attends to in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

from sra_fast.tools.argument_error import ArgumentError

TokenRange: TypeAlias = tuple[int, int]
"""First token and the one after the last, counted from 0."""

Numbers: TypeAlias = NDArray[Any]
"""An array of floating point numbers, whose shape is said where it stands."""

PROMPT, REPLY = "prompt", "reply"
"""The roles of the two parts of a prompt whose messages are not known."""

_ABOVE_ONE = 1e-3  # what rounding in half precision may add to a sum of attention


class ViewError(ArgumentError):
    """An error of what is to be shown; the message names the reply or conversation at fault."""


@dataclass(frozen=True)
class ViewedTurn:
    """One message of the prompt.

    Attributes:
        role: who speaks, such as "user".
        start, end: its tokens, from ``start`` to before ``end``.
    """

    role: str
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class ViewedReply:
    """One reply, and the attention that its rows pay to every token, as a mean over the rows.

    L is the number of attention layers, H that of heads, T that of tokens the reply sees: those
    up to its own last one, or all tokens of the prompt.

    Attributes:
        turn: number of the reply among its conversation's assistant messages.
        start, end: its tokens, from ``start`` to before ``end``.
        profile: attention on every token, float32 ``[T]`` (mean over layers and heads), ``[L, T]``
            (mean over heads) or ``[L, H, T]``.
        label: what the reply was told to do, such as the name of its strategy; may be empty.
        scores: the reply's score under each definition; NaN where there is none.
        layer_scores: the score of each layer under each definition, ``[L]``.
        spans: token ranges of each named span; spans may overlap.
        sources: token ranges of each source of the user's own; no token is in two of them.
        heat: attention on the first span by layer and head, ``[L, H]``; None if not known.
    """

    turn: int
    start: int
    end: int
    profile: Numbers
    label: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    layer_scores: Mapping[str, Numbers] = field(default_factory=dict)
    spans: Mapping[str, tuple[TokenRange, ...]] = field(default_factory=dict)
    sources: Mapping[str, tuple[TokenRange, ...]] = field(default_factory=dict)
    heat: Numbers | None = None

    @property
    def layer_count(self) -> int:
        """The number of layers that the profile tells apart; 0 if it is their mean."""
        return self.profile.shape[0] if self.profile.ndim > 1 else 0

    @property
    def head_count(self) -> int:
        """The number of heads that the profile tells apart; 0 if it is their mean."""
        return self.profile.shape[1] if self.profile.ndim > 2 else 0


@dataclass(frozen=True, eq=False)
class ViewedConversation:
    """A prompt with the replies in it that are shown.

    Conversations with the same title are one to the reader: their replies stand in prompts of their
    own, and are picked from one list.

    Attributes:
        title: what the reader calls the conversation.
        tokens: the text piece of every token; together they are the text. Of the tokens that make
            one character together, the first has the character and the others are empty.
        turns: the messages, in order. Tokens between them belong to the chat template.
        replies: the replies, in order.
        layers: the ``layer_idx`` of the L layers; counted from 0 if empty.

    Raises:
        ViewError: a range, a shape or a number does not fit; the message names it.
    """

    title: str
    tokens: tuple[str, ...]
    turns: tuple[ViewedTurn, ...]
    replies: tuple[ViewedReply, ...]
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        last = 0
        for turn in self.turns:
            if not last <= turn.start <= turn.end <= len(self.tokens):
                raise ViewError(
                    f"{self.title}: the {turn.role} message has tokens {turn.start} to {turn.end}; "
                    f"messages must follow one another within {len(self.tokens)} tokens",
                    "turns",
                )
            last = turn.end
        for reply in self.replies:
            _check_reply(reply, f"{self.title}, reply {reply.turn}", len(self.tokens))
            _check_layers(reply, f"{self.title}, reply {reply.turn}", self.layers)


def _check_reply(reply: ViewedReply, name: str, tokens: int) -> None:
    profile = numpy.asarray(reply.profile)
    if profile.ndim not in (1, 2, 3) or 0 in profile.shape:
        raise ViewError(
            f"{name}: the profile has the shape {list(profile.shape)}, expected [T], [L, T] or "
            "[L, H, T]",
            "profile",
        )
    if profile.shape[-1] > tokens:
        raise ViewError(
            f"{name}: the profile is of {profile.shape[-1]} tokens, and the prompt has {tokens}",
            "profile",
        )
    if not (numpy.isfinite(profile).all() and profile.min() >= 0):
        raise ViewError(f"{name}: the profile holds NaN, infinity or less than 0", "profile")
    largest = profile.sum(axis=-1, dtype=numpy.float64).max()
    if largest > 1 + _ABOVE_ONE:
        raise ViewError(
            f"{name}: the profile sums to {largest:.4g}, and attention sums to 1 at most", "profile"
        )
    named = [(f"span {n!r}", r) for n, r in reply.spans.items()]
    named += [(f"source {n!r}", r) for n, r in reply.sources.items()]
    for what, ranges in [("the reply", ((reply.start, reply.end),)), *named]:
        for start, end in ranges:
            if not 0 <= start <= end <= tokens:
                raise ViewError(
                    f"{name}: {what} has tokens {start} to {end}, and the prompt has {tokens}"
                )


def _check_layers(reply: ViewedReply, name: str, layers: tuple[int, ...]) -> None:
    """Refuse layers of the profile, the scores and the heat map that are not as many."""
    counts = {f"layer_scores[{n!r}]": len(v) for n, v in reply.layer_scores.items()}
    if reply.heat is not None:
        if reply.heat.ndim != 2:
            raise ViewError(f"{name}: heat has the shape {list(reply.heat.shape)}, not [L, H]")
        counts["heat"] = reply.heat.shape[0]
        if reply.head_count not in (0, reply.heat.shape[1]):
            raise ViewError(
                f"{name}: heat has {reply.heat.shape[1]} heads, the profile {reply.head_count}"
            )
    if reply.layer_count:
        counts["the profile"] = reply.layer_count
    if layers:
        counts["layers"] = len(layers)
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{what} has {count}" for what, count in counts.items())
        raise ViewError(f"{name}: the numbers of layers differ: {said}", "layers")

"""Turn a result that has profiles into what the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from sra_fast.report.viewer.viewed_conversation import (
    PROMPT,
    REPLY,
    TokenRange,
    ViewedConversation,
    ViewedReply,
    ViewedTurn,
    ViewError,
)


class NoProfileError(ViewError):
    """An error that says that a result was scored without profiles."""


class ProfiledResult(Protocol):
    """A result of n responses in L layers and H heads, as far as the page needs it.

    It has the attributes of :class:`sra_fast.SRAResult` and what depends on the profiles. T_i is
    the number of tokens up to the last one of response i.
    """

    definition: str
    spans: tuple[str, ...]
    names: tuple[str, ...]
    layers: tuple[int, ...]
    by_layer: dict[str, Tensor]
    mass: Tensor
    conversation: Tensor
    turn: Tensor

    def __len__(self) -> int: ...

    @property
    def scores(self) -> dict[str, Tensor]: ...

    def prompts(self) -> Sequence[Sequence[int]]:
        """Return the responses of each prompt: those of a conversation that share their tokens."""
        ...

    def profile(self, i: int) -> Tensor:
        """Return the attention on every token: ``[T_i]``, ``[L, T_i]`` or ``[L, H, T_i]``."""
        ...

    def tokens(self, i: int) -> tuple[str, ...] | None:
        """Return the pieces of all tokens of the response's prompt, or None if not kept."""
        ...

    def response(self, i: int) -> TokenRange:
        """Return the tokens of the response, from its first to the one after its last."""
        ...

    def messages(self, i: int) -> Sequence[tuple[str, int, int]] | None:
        """Return role, start and end of every message of the prompt, or None if not kept."""
        ...

    def span_ranges(self, i: int) -> Mapping[str, Sequence[TokenRange]]:
        """Return the token ranges of each span."""
        ...

    def source_ranges(self, i: int) -> Mapping[str, Sequence[TokenRange]]:
        """Return the token ranges of each source that was given, but for whole messages."""
        ...


def viewed(
    result: ProfiledResult,
    titles: Mapping[int, str] | None = None,
    labels: Sequence[str] | None = None,
) -> tuple[ViewedConversation, ...]:
    """Return what the page shows of a result: one entry per prompt, in order.

    Args:
        result: the result, scored with profiles.
        titles: what each conversation is called, by its number; "conversation 3" if not there.
        labels: what each response was told to do, such as the name of its strategy.

    Raises:
        ViewError: the result does not have the text of its tokens.
    """
    return tuple(
        _conversation(result, titles or {}, members, labels) for members in result.prompts()
    )


def _conversation(
    result: ProfiledResult,
    titles: Mapping[int, str],
    members: Sequence[int],
    labels: Sequence[str] | None,
) -> ViewedConversation:
    number = int(result.conversation[members[0]])
    title = titles.get(number, f"conversation {number}")
    pieces = {i: _pieces(result, i) for i in members}
    longest = max(members, key=lambda i: len(pieces[i]))
    known = result.messages(longest)
    if known is None:
        known = []
        for start, end in sorted({result.response(i) for i in members}):
            last = known[-1][2] if known else 0
            known.append((PROMPT, last, max(last, start)))
            known.append((REPLY, max(last, start), max(last, end)))
    replies = [_reply(result, i, labels[i] if labels else "") for i in members]
    turns = tuple(ViewedTurn(role, start, end) for role, start, end in known)
    return ViewedConversation(title, pieces[longest], turns, tuple(replies), result.layers)


def _pieces(result: ProfiledResult, i: int) -> tuple[str, ...]:
    tokens = result.tokens(i)
    if tokens is None:
        raise ViewError(
            f"response {i} does not have its tokens, because its batch had embeddings instead; "
            "give the batch `input_ids`"
        )
    return tokens


def _reply(result: ProfiledResult, i: int, label: str) -> ViewedReply:
    start, end = result.response(i)
    names = sorted(result.by_layer, key=lambda name: name != result.definition)
    spans = {name: tuple(ranges) for name, ranges in result.span_ranges(i).items()}
    heat = result.mass[i, :, :, result.names.index(result.spans[0])] if result.spans else None
    return ViewedReply(
        turn=int(result.turn[i]),
        start=start,
        end=end,
        profile=result.profile(i).float().numpy(),
        label=label,
        scores={name: float(result.scores[name][i]) for name in names},
        layer_scores={name: result.by_layer[name][i, 0].numpy() for name in names},
        spans=spans,
        sources={name: tuple(ranges) for name, ranges in result.source_ranges(i).items()},
        heat=None if heat is None else heat.float().numpy(),
    )

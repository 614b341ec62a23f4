"""Put together what was recorded of generated replies: their masses, and the result of each.

A reply's tokens are its new tokens without the end marker. The row of a token is the one at its own
position, and the row before it predicted it, so a reply of r tokens has the rows of r + 1 steps.
They are reduced as :func:`sra_fast.score` reduces them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sra_fast.measure.conversation_columns import of_rows
from sra_fast.measure.generation_steps import GenerationSteps
from sra_fast.measure.last_row import PromptKeys
from sra_fast.measure.marked_query import build_query
from sra_fast.measure.profiles import attach_profiles
from sra_fast.measure.reduction import reduce
from sra_fast.measure.request import SpanRequest
from sra_fast.measure.source_ids import SourceMarks
from sra_fast.measure.spans import BatchRowError, MarkedBatch, MarkedSequence, Response
from sra_fast.result import SRAResult


@dataclass(frozen=True, eq=False)
class RecordedReplies:
    """The S replies of one call of ``generate``, and their attention.

    Attributes:
        sequences: int64 ``[S, T + n]``, prompt and new tokens of each, as ``generate`` returns
            them.
        output: what ``generate`` returned: the sequences, or its output object.
        new_tokens: how many new tokens each sequence has, its end marker included.
        ended: whether an end marker ends each.
        masses: for each sequence float32 ``[n_i, L, H, G]``: of the row that predicted each new
            token, the share of its attention on each of the G key sets.
        profiles: for each sequence and each new token, the attention of the row that predicted it
            on every token up to that row: float32 ``[N]``, ``[L, N]`` or ``[L, H, N]`` as
            ``profile`` said, without padding; None if no profile was asked for.
        names: names of the G key sets, as in the result.
        layers: the ``layer_idx`` of the L layers.
        result: the scores of the replies that have a token, in the order of the sequences; None if
            none has.
        rows: the sequence that each response of :attr:`result` is.
    """

    sequences: Tensor
    output: Any
    new_tokens: tuple[int, ...]
    ended: tuple[bool, ...]
    masses: tuple[Tensor, ...]
    profiles: tuple[tuple[Tensor, ...], ...] | None
    names: tuple[str, ...]
    layers: tuple[int, ...]
    result: SRAResult | None
    rows: tuple[int, ...]

    @property
    def scored(self) -> SRAResult:
        """The result of the replies.

        Raises:
            ValueError: every reply is empty: its first token is the end marker.
        """
        if self.result is None:
            raise ValueError("every reply is empty, so that there is nothing to score")
        return self.result


def prompt_keys(marked: MarkedBatch, copies: int) -> tuple[PromptKeys, tuple[str, ...]]:
    """Return the labelled keys of a batch's prompts, each so many times, and the sets' names.

    Raises:
        BatchRowError: a prompt does not end where the batch does, or lacks its first span.
    """
    for row, sequence in enumerate(marked.sequences):
        if sequence.row != row:
            raise BatchRowError(sequence.row, "several sequences in a row cannot be generated from")
        if sequence.end != marked.shape[1]:
            raise BatchRowError(row, "the prompt is padded on the right; pad prompts on the left")
    one = torch.zeros(1, dtype=torch.int64)
    asking = [
        replace(sequence, responses=(replace(sequence.responses[0], rows=one),))
        for sequence in marked.sequences
    ]
    asked = replace(marked, sequences=tuple(asking))
    places = [(sequence.row, sequence.start) for sequence in asking]
    query, _ = build_query(asked, range(len(places)), places, marked.shape)
    starts = tuple(start for _, start in places for _ in range(copies))
    labels = query.key_labels.repeat_interleave(copies, dim=0)
    return PromptKeys(labels, starts, len(query.names), _first_span(marked)), query.names


def recorded_replies(
    steps: GenerationSteps,
    marked: MarkedBatch,
    names: tuple[str, ...],
    output: Any,
    ids: Tensor,
    ends: tuple[Sequence[int], Sequence[bool]],
    sources: SourceMarks | None,
    definition: str,
    keep_rows: bool,
) -> RecordedReplies:
    """Return the replies of one call with their attention.

    Args:
        steps: what was recorded.
        marked: the prompts.
        names: the names of the key sets.
        output: what ``generate`` returned.
        ids: ``[S, T + n]`` int64, prompts and new tokens.
        ends: for each sequence, the number of its new tokens and whether an end marker is the last.
        sources: the sources of the batch, if any.
        definition: the one that ``.sra`` of the result gives.
        keep_rows: whether the result keeps the masses of every row.
    """
    lengths, by_marker = ends
    copies = len(ids) // len(marked.sequences)
    prompts = [sequence for sequence in marked.sequences for _ in range(copies)]
    replies = [n - int(ended) for n, ended in zip(lengths, by_marker, strict=True)]
    rows = tuple(row for row, count in enumerate(replies) if count)
    masses = torch.stack([step.cpu() for step in steps.masses])  # [F, S, L, H, G]
    profiles = [profile.float().cpu() for profile in steps.profiles]
    result = None
    if rows:
        ended = tuple(
            _replied(prompts[row], row, ids.shape[1], marked.shape[1], replies[row]) for row in rows
        )
        owners = [prompt.row for prompt in prompts]
        batch = MarkedBatch(
            ended,
            marked.names,
            (ids.shape[0], ids.shape[1]),
            of_rows(marked.conversation_ids, owners),
            of_rows(marked.meta, owners),
        )
        result = _reduced(steps, masses, batch, replies, definition, keep_rows)
        if profiles:
            result = attach_profiles(
                result,
                _ReplyProfiles(profiles, batch, replies),
                batch,
                range(len(ended)),
                ids,
                _continued(sources, copies, ids.shape[1]),
            )
    starts = [prompt.start for prompt in prompts]
    return RecordedReplies(
        sequences=output if isinstance(output, Tensor) else output.sequences,
        output=output,
        new_tokens=tuple(lengths),
        ended=tuple(by_marker),
        masses=tuple(masses[:n, row].float() for row, n in enumerate(lengths)),
        profiles=tuple(
            tuple(profiles[step][row, ..., start:] for step in range(n))
            for row, (n, start) in enumerate(zip(lengths, starts, strict=True))
        )
        if profiles
        else None,
        names=names,
        layers=steps.layers,
        result=result,
        rows=rows,
    )


class _ReplyProfiles:
    """The mean profile of each reply's own rows, as :func:`attach_profiles` takes it."""

    def __init__(
        self, profiles: Sequence[Tensor], batch: MarkedBatch, replies: Sequence[int]
    ) -> None:
        self._found = []
        for sequence in batch.sequences:
            length, count = sequence.length, replies[sequence.row]
            total: Tensor | None = None
            for step in range(1, count + 1):
                own = profiles[step][sequence.row, ..., sequence.start :].double()
                own = F.pad(own, (0, length - own.shape[-1]))
                total = own if total is None else total + own
            assert total is not None
            self._found.append((total / count).float())
        self.counts = torch.tensor([one.shape[-1] for one in self._found])

    def taken(self, layers: Sequence[int]) -> Tensor:
        """Return the profiles, ``[E]``, ``[E, L]`` or ``[E, L, H]``."""
        return torch.cat([one.permute(-1, *range(one.ndim - 1)) for one in self._found])


def _replied(
    prompt: MarkedSequence, row: int, width: int, prompt_end: int, count: int
) -> MarkedSequence:
    """Return a prompt with its reply of ``count`` tokens behind it."""
    last = prompt.responses[-1]
    turn = last.turn + 1 if len(last.tokens) else last.turn
    layout = None if last.as_written is None else False
    tokens = torch.arange(prompt.length, prompt.length + count)
    length = prompt.length + count
    response = Response(last.conversation, turn, tokens, layout, after=length)
    spans = F.pad(prompt.spans, (0, count))
    return MarkedSequence(row, prompt.start, prompt.start + length, spans, (response,))


def _reduced(
    steps: GenerationSteps,
    masses: Tensor,
    batch: MarkedBatch,
    replies: Sequence[int],
    definition: str,
    keep_rows: bool,
) -> SRAResult:
    """Reduce the rows of all replies, which are those of the steps 0 to r of each."""
    members = range(len(batch.sequences))
    places = [(sequence.row, sequence.start) for sequence in batch.sequences]
    query, placed = build_query(batch, members, places, batch.shape)
    request = SpanRequest(query, mass_grad=False, in_outputs=False)
    step = torch.cat([torch.arange(replies[row] + 1) for row, _ in places])
    row = torch.cat([torch.full((replies[row] + 1,), row) for row, _ in places])
    of_rows = masses[step, row]  # [R, L, H, G]
    for index, layer in enumerate(steps.layers):
        request.masses[layer] = of_rows[:, index]
    for layer in steps.sinks[0]:
        shares = torch.stack([one[layer].cpu() for one in steps.sinks])  # [F, S, H]
        request.sink_masses[layer] = shares[step, row]
    return reduce(request, placed, batch, members, steps.layers, definition, keep_rows)


def _continued(sources: SourceMarks | None, copies: int, width: int) -> SourceMarks | None:
    """Return the sources of the prompts for their sequences, whose new tokens have none."""
    if sources is None:
        return None
    ids = F.pad(sources.ids, (0, width - sources.ids.shape[1]))
    names = tuple(names for names in sources.names for _ in range(copies))
    return SourceMarks(ids.repeat_interleave(copies, dim=0), names)


def _first_span(marked: MarkedBatch) -> str:
    at = marked.sequences[0].spans[0].nonzero().flatten() + marked.sequences[0].start
    return f"span {marked.names[0]!r}, tokens {int(at[0])} to {int(at[-1])} of row 0"

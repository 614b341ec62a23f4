"""Turn the masks of a batch into the query of the op, and find each response's rows in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sra_fast.kernels.contract import MAX_SPANS, SpanQuery, segment_tensor
from sra_fast.measure.sequences import numbered_runs

MASK_KEYS = ("strategy_mask", "span_masks", "response_mask")
COLUMN_KEYS = ("conversation", "turns", "as_written")
NULL = "null"
HEAD = "_head"  # ends the name of a span without its last token
MOST_SPANS = (MAX_SPANS - 1) // 2


class BatchRowError(ValueError):
    """Raised when one row of a batch cannot be scored.

    Attributes:
        row: index of the row in the batch.
        problem: the message without the row.
    """

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(f"row {row}: {problem}")
        self.row = row
        self.problem = problem


@dataclass(frozen=True)
class Response:
    """The tokens of one reply in a sequence, and which reply it is.

    Attributes:
        conversation: index of its conversation.
        turn: number of the reply among the assistant messages of its conversation.
        tokens: ``[r]`` int64, its tokens' positions in the sequence, ascending, none at 0.
        as_written: whether its prompt is laid out unlike when it was the last reply; None if the
            batch does not say.
    """

    conversation: int
    turn: int
    tokens: Tensor
    as_written: bool | None = None


@dataclass(frozen=True)
class MarkedSequence:
    """One sequence of a batch, with the tokens that belong to its spans and its responses.

    Attributes:
        row, start, end: where it lies in the batch; ``end`` is the position after its last.
        spans: ``[P, length]`` bool, True at the tokens of each span.
        responses: its responses, at least one.
    """

    row: int
    start: int
    end: int
    spans: Tensor
    responses: tuple[Response, ...]

    @property
    def length(self) -> int:
        """The number of tokens in the sequence."""
        return self.end - self.start


@dataclass(frozen=True)
class MarkedBatch:
    """The sequences of a batch whose masks have been read and checked.

    Attributes:
        sequences: the marked sequences, in the order of the batch.
        names: names of the P spans, as the user gave them.
    """

    sequences: tuple[MarkedSequence, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """The places of one response's rows among the ``R`` rows of a query, as indices ``[r]`` int64.

    Attributes:
        tokens: rows of the response's own tokens.
        predicting: rows of the positions one before, which predict these tokens.
        every: both, ascending, each once.
    """

    tokens: Tensor
    predicting: Tensor
    every: Tensor


def read_batch(
    batch: Mapping[str, Any], segments: Sequence[tuple[int, int, int]] | None = None
) -> MarkedBatch:
    """Read and check the masks of a batch.

    Args:
        batch: a batch as :func:`sra_fast.score` takes it.
        segments: ``(row, start, end)`` of each sequence, for packed batches; if None,
            ``attention_mask`` tells the one sequence of each row.

    Raises:
        ValueError: a mask of a wrong shape or dtype, on padding, or empty; the row is named.
        KeyError: a mask is missing.
    """
    spans, names, responses = _masks(batch)
    shape = responses.shape
    if 0 in shape:
        raise ValueError(f"the batch is empty: {list(shape)}")
    if segments is None:
        segments = _segments(batch, shape)
    conversations = _column(batch, "conversation", (shape[0],), "[B]")
    turns = batch.get("turns")
    if turns is not None:
        turns = _column(batch, "turns", (shape[0], turns.shape[-1]), "[B, K]")
    layouts = batch.get("as_written")
    if layouts is not None:
        layouts = _column(batch, "as_written", (shape[0], layouts.shape[-1]), "[B, K]")
    inside = torch.zeros(shape, dtype=torch.bool)
    sequences = []
    for row, start, end in segments:
        inside[row, start:end] = True
        found = []
        for number in responses[row, start:end].unique().tolist():
            if number == 0:
                continue
            found.append(
                Response(
                    conversation=row if conversations is None else int(conversations[row]),
                    turn=number
                    if turns is None
                    else int(_entry(turns, row, number, "turns", "turn number")),
                    as_written=None
                    if layouts is None
                    else bool(_entry(layouts, row, number, "as_written", "layout")),
                    tokens=(responses[row, start:end] == number).nonzero().flatten(),
                )
            )
        sequence = MarkedSequence(row, start, end, spans[:, row, start:end], tuple(found))
        _check(sequence, names)
        sequences.append(sequence)
    stray = ((responses != 0) | spans.any(dim=0)) & ~inside
    if bool(stray.any()):
        row, at = stray.nonzero()[0].tolist()
        raise BatchRowError(row, f"a mask marks position {at}, which is padding")
    return MarkedBatch(tuple(sequences), names)


def build_query(
    batch: MarkedBatch,
    members: Sequence[int],
    places: Sequence[tuple[int, int]],
    shape: Sequence[int],
) -> tuple[SpanQuery, list[Placed]]:
    """Make the query of the op for some sequences of a batch, in a new layout.

    Args:
        batch: the batch.
        members: indices of the sequences in the batch.
        places: ``(b, start)`` of each in the new layout, in the order of the flat positions.
        shape: ``[B, N]`` of the new layout, with as many queries as keys.

    Returns:
        The query, whose spans are named ``name, name + "_head", …, "null"``, and the rows of every
        response of every member, in order.
    """
    labels = torch.zeros(*shape, dtype=torch.int32)
    rows, segments, placed = [], [], []
    count = 0
    for member, (b, start) in zip(members, places, strict=True):
        sequence = batch.sequences[member]
        end = start + sequence.length
        labels[b, start:end] = _labels(sequence.spans)
        segments.append((b, start, end))
        every = torch.cat(
            [torch.cat([response.tokens - 1, response.tokens]) for response in sequence.responses]
        ).unique()
        rows.append(every + b * shape[1] + start)
        for response in sequence.responses:
            both = torch.cat([response.tokens - 1, response.tokens]).unique()
            placed.append(
                Placed(
                    *(
                        torch.searchsorted(every, positions) + count
                        for positions in (response.tokens, response.tokens - 1, both)
                    )
                )
            )
        count += len(every)
    names = [part for name in batch.names for part in (name, name + HEAD)]
    query = SpanQuery(
        labels, torch.cat(rows), segment_tensor(segments, labels.device), (*names, NULL)
    )
    return query, placed


def _labels(spans: Tensor) -> Tensor:
    """Turn span masks ``[P, T]`` bool into the query's labels ``[T]`` int32, a bit per key set.

    Bit 2p is the p-th span, bit 2p + 1 the same without its last token, and the last bit is key 0.
    """
    labels = torch.zeros(spans.shape[1], dtype=torch.int32)
    for index, span in enumerate(spans):
        head = span.clone()
        head[span.nonzero()[-1:]] = False
        head[0] = False  # the null key is set to zero before the mean is taken
        labels |= span.int() << (2 * index) | head.int() << (2 * index + 1)
    labels[0] |= 1 << (2 * len(spans))
    return labels


def _masks(batch: Mapping[str, Any]) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """Return ``spans [P, B, T]`` bool, their P names, and ``responses [B, T]`` int64."""
    if "strategy_mask" in batch and "span_masks" in batch:
        raise KeyError("the batch has both `strategy_mask` and `span_masks`; give one of them")
    if "strategy_mask" not in batch and "span_masks" not in batch:
        raise KeyError("the batch needs `strategy_mask`, or `span_masks` instead of it")
    if "response_mask" not in batch:
        raise KeyError("the batch needs `response_mask`")
    named = batch["span_masks"] if "span_masks" in batch else {"strategy": batch["strategy_mask"]}
    if not isinstance(named, Mapping) or not named:
        raise ValueError("span_masks: expected {name: [B, T] bool} with at least one span")
    if len(named) > MOST_SPANS:
        raise ValueError(f"span_masks: at most {MOST_SPANS} spans at once, got {len(named)}")
    for name in named:
        if (
            not isinstance(name, str)
            or name == NULL
            or name.removesuffix(HEAD) in set(named) - {name}
        ):
            raise ValueError(f"span_masks: {name!r} is taken by a span the library derives itself")
    responses = batch["response_mask"]
    for name in ("response_mask", "input_ids", "turns"):
        value = batch.get(name, responses)
        if not isinstance(value, Tensor) or value.ndim != 2:
            given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: expected a tensor of two dimensions, got {given}")
    shape = tuple(batch.get("input_ids", responses).shape)
    whole = "strategy_mask" in batch
    spans_named = [
        ("strategy_mask" if whole else f"span_masks[{name!r}]", mask)
        for name, mask in named.items()
    ]
    for name, mask in [*spans_named, ("response_mask", responses)]:
        if not isinstance(mask, Tensor):
            raise ValueError(f"{name}: expected a tensor [B, T], got {type(mask).__name__}")
        if len(shape) != 2 or tuple(mask.shape) != shape:
            raise ValueError(f"{name}: expected shape {list(shape)}, got {list(mask.shape)}")
        integers = name == "response_mask" and not mask.dtype.is_floating_point
        if mask.dtype != torch.bool and not integers:
            wanted = "bool or an integer type" if name == "response_mask" else "torch.bool"
            raise ValueError(f"{name}: expected dtype {wanted}, got {mask.dtype}")
    spans = torch.stack([mask.cpu() for mask in named.values()])
    numbers = responses.cpu().to(torch.int64)
    if bool((numbers < 0).any()):
        raise ValueError("response_mask: numbers of responses start at 1, 0 is no response")
    return spans, tuple(named), numbers


def _segments(batch: Mapping[str, Any], shape: Sequence[int]) -> list[tuple[int, int, int]]:
    mask = batch.get("attention_mask")
    if mask is None:
        return [(row, 0, shape[1]) for row in range(shape[0])]
    if not isinstance(mask, Tensor) or tuple(mask.shape) != tuple(shape):
        given = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask: expected shape {list(shape)}, got {given}")
    segments = numbered_runs(mask.bool().int())
    for row in range(shape[0]):
        found = sum(b == row for b, _, _ in segments)
        if found != 1:
            what = "is empty" if not found else "has a hole"
            raise ValueError(
                f"attention_mask: row {row} {what}; give every row one run of tokens without "
                "padding inside"
            )
    return segments


def _column(
    batch: Mapping[str, Any], name: str, shape: Sequence[int], meaning: str
) -> Tensor | None:
    column = batch.get(name)
    if column is None:
        return None
    if not isinstance(column, Tensor) or tuple(column.shape) != tuple(shape):
        raise ValueError(f"{name}: expected a tensor {meaning}, got {column!r}")
    return column.cpu()


def _entry(column: Tensor, row: int, number: int, name: str, meaning: str) -> Tensor:
    if number > column.shape[1]:
        raise ValueError(f"{name}: row {row} has no {meaning} for response {number}")
    return column[row, number - 1]


def _check(sequence: MarkedSequence, names: tuple[str, ...]) -> None:
    if not sequence.responses:
        problem = "response_mask marks no token; every row needs a response"
        raise BatchRowError(sequence.row, problem)
    if not bool(sequence.spans[0].any()):
        raise BatchRowError(sequence.row, f"no token is marked as {names[0]!r}")
    for response in sequence.responses:
        if int(response.tokens[0]) == 0:
            problem = "a response starts at the sequence's first token, which no position predicts"
            raise BatchRowError(sequence.row, problem)

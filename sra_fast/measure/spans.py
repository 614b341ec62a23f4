"""Read the masks of a batch: which tokens belong to its spans and to its responses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sra_fast.kernels.contract import MAX_SPANS
from sra_fast.measure.conversation_columns import IDS, META, read_ids, read_meta
from sra_fast.measure.sequences import holding, numbered_positions, numbered_runs

MASK_KEYS = ("strategy_mask", "span_masks", "response_mask")
COLUMN_KEYS = ("conversation", "turns", "as_written", IDS, META)
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
        rows: ``[m]`` int64, the positions whose attention is averaged, ascending; None for those of
            ``tokens``, beside which those one before, which predict them, are looked at too.
        after: the position after the sequence's last, where a response still to come begins.
    """

    conversation: int
    turn: int
    tokens: Tensor
    as_written: bool | None = None
    rows: Tensor | None = None
    after: int = 0

    @property
    def measured(self) -> Tensor:
        """The positions whose attention is averaged."""
        return self.tokens if self.rows is None else self.rows


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
        shape: ``[B, T]`` of the batch.
        conversation_ids: the id of each row's conversation; empty if the batch has none.
        meta: what else is known of each row's conversation; empty if the batch has nothing.
    """

    sequences: tuple[MarkedSequence, ...]
    names: tuple[str, ...]
    shape: tuple[int, int]
    conversation_ids: tuple[str | None, ...] = ()
    meta: tuple[Mapping[str, Any], ...] = ()


def read_batch(
    batch: Mapping[str, Any],
    segments: Sequence[tuple[int, int, int]] | None = None,
    *,
    unanswered: bool = False,
) -> MarkedBatch:
    """Read and check the masks of a batch.

    Args:
        batch: a batch as :func:`sra_fast.score` takes it.
        segments: ``(row, start, end)`` of each sequence, for packed batches; if None,
            ``attention_mask`` tells the one sequence of each row.
        unanswered: whether a sequence may have no response yet; then it gets one of no tokens,
            which begins where the sequence ends.

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
    turns = _column(batch, "turns", (shape[0], None), "[B, K]")
    layouts = _column(batch, "as_written", (shape[0], None), "[B, K]")
    replies = numbered_positions(responses, segments)
    spanned = holding(spans[0], segments)
    sequences: list[MarkedSequence] = []
    numbered: dict[int, int] = {}
    for (row, start, end), tokens_of, has_span in zip(segments, replies, spanned, strict=True):
        numbers = list(tokens_of)
        earlier = numbered.get(row, 0)  # those of the sequences before this one in a packed row
        first = 1 + earlier if numbers and numbers[0] > earlier else 1
        found = [
            Response(
                conversation=len(sequences) if conversations is None else int(conversations[row]),
                turn=number - first + 1
                if turns is None
                else int(_entry(turns, row, number, "turns", "turn number")),
                as_written=None
                if layouts is None
                else bool(_entry(layouts, row, number, "as_written", "layout")),
                tokens=tokens,
                after=end - start,
            )
            for number, tokens in tokens_of.items()
        ]
        if unanswered and not found:
            number = len(sequences) if conversations is None else int(conversations[row])
            layout = None if layouts is None else False
            none = torch.zeros(0, dtype=torch.int64)
            found = [Response(number, 1, none, layout, after=end - start)]
        numbered[row] = max([earlier, *numbers])
        sequence = MarkedSequence(row, start, end, spans[:, row, start:end], tuple(found))
        _check(sequence, names, has_span)
        sequences.append(sequence)
    _check_padding(spans, responses, segments)
    rows = shape[0]
    ids, meta = read_ids(batch, rows, conversations), read_meta(batch, rows)
    return MarkedBatch(tuple(sequences), names, (rows, shape[1]), ids, meta)


def _check_padding(
    spans: Tensor, responses: Tensor, segments: Sequence[tuple[int, int, int]]
) -> None:
    if sum(end - start for _, start, end in segments) == responses.numel():
        return
    inside = torch.zeros(responses.shape, dtype=torch.bool)
    for row, start, end in segments:
        inside[row, start:end] = True
    stray = ((responses != 0) | spans.any(dim=0)) & ~inside
    if bool(stray.any()):
        row, at = stray.nonzero()[0].tolist()
        raise BatchRowError(row, f"a mask marks position {at}, which is padding")


def _masks(batch: Mapping[str, Any]) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """Return ``spans [P, B, T]`` bool, their P names, and ``responses [B, T]`` of any integers."""
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
    for name in ("response_mask", "input_ids"):
        value = responses if batch.get(name) is None else batch[name]
        if not isinstance(value, Tensor) or value.ndim != 2:
            given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: expected a tensor of two dimensions, got {given}")
    tokens = [batch[key] for key in ("input_ids", "inputs_embeds") if batch.get(key) is not None]
    shape = tuple(tokens[0].shape[:2] if tokens else responses.shape)
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
    numbers = responses.cpu()
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
    mask = mask.cpu()
    if bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(
            "attention_mask: expected 1 at tokens and 0 at padding; where rows are packed, give "
            "position_ids that start anew in each sequence, and no attention_mask"
        )
    segments = numbered_runs(mask.bool())
    runs = Counter(row for row, _, _ in segments)
    for row in range(shape[0]):
        if runs[row] != 1:
            what = "is empty" if not runs[row] else "has a hole"
            raise ValueError(
                f"attention_mask: row {row} {what}; give every row one run of tokens without "
                "padding inside"
            )
    return segments


def _column(
    batch: Mapping[str, Any], name: str, shape: Sequence[int | None], meaning: str
) -> list[Any] | None:
    """Return a column of a batch as lists; its shape is ``shape`` with any size for None."""
    column = batch.get(name)
    if column is None:
        return None
    if (
        not isinstance(column, Tensor)
        or column.ndim != len(shape)
        or any(want not in (None, have) for want, have in zip(shape, column.shape, strict=True))
    ):
        raise ValueError(f"{name}: expected a tensor {meaning}, got {column!r}")
    values: list[Any] = column.tolist()
    return values


def _entry(column: list[Any], row: int, number: int, name: str, meaning: str) -> Any:
    if number > len(column[row]):
        raise ValueError(f"{name}: row {row} has no {meaning} for response {number}")
    return column[row][number - 1]


def _check(sequence: MarkedSequence, names: tuple[str, ...], has_span: bool) -> None:
    if not sequence.responses:
        problem = (
            f"response_mask marks no token at positions {sequence.start} to {sequence.end - 1}; "
            "every sequence needs a response, which `labels` mark where there is no response_mask"
        )
        raise BatchRowError(sequence.row, problem)
    if not has_span:
        raise BatchRowError(sequence.row, f"no token is marked as {names[0]!r}")
    for response in sequence.responses:
        if len(response.tokens) and int(response.tokens[0]) == 0:
            problem = "a response starts at the sequence's first token, which no position predicts"
            raise BatchRowError(sequence.row, problem)

"""Read from a batch's positions which sequences its rows hold, and who has to be told of them.

Positions ``[B, T]`` say two things to a model of transformers. Where there is no
``attention_mask``, a position that is not the one before plus one begins another packed sequence.
And they are what the rotary or learned embeddings take. A batch whose sequences all count from 0
can be laid out anew; any other positions are the user's own, and the model is given them as they
are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sra_fast.measure.sequences import numbered_by_position, numbered_runs

POSITIONS = "position_ids"
BOUNDARY_KEYS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
"""The keys by which collators without padding say where packed sequences end, as positions do."""

_TEXT_FIRST = 4  # [4, B, T]: the text's positions, then the three axes of the rotary embedding
_Segments = list[tuple[int, int, int]]


@dataclass(frozen=True)
class GivenPositions:
    """The order of tokens that the positions of a batch tell.

    Attributes:
        segments: ``(row, start, end)`` of each packed sequence, or None where ``attention_mask``,
            or the width of the batch, tells the one sequence of each row.
        own: whether they are other than 0, 1, 2, … in each sequence, so that no layout but the
            given one has them.
        packed: whether a row holds several sequences.
    """

    segments: _Segments | None = None
    own: bool = False
    packed: bool = False


def read_positions(batch: Mapping[str, Any], shape: Sequence[int]) -> GivenPositions:
    """Read the positions of a batch of ``shape`` ``[B, T]``.

    Raises:
        ValueError: positions of a wrong shape or dtype; those that jump inside a sequence; packed
            ones beside an ``attention_mask``; or boundaries that say something else.
    """
    positions, mask = batch.get(POSITIONS), batch.get("attention_mask")
    given, runs = GivenPositions(), [(row, 0, shape[1]) for row in range(shape[0])]
    if positions is not None:
        _check(positions, shape)
        text = positions
        if positions.ndim == 3:
            text = positions[0] if len(positions) == _TEXT_FIRST else None
        if text is not None and mask is None:
            text = text.expand(shape[0], -1).cpu()
            runs = numbered_runs(numbered_by_position(text))
            given = _packed(text, runs)
        elif positions.ndim == 2:
            given = _beside_mask(positions.expand(shape[0], -1).cpu(), mask)
        if positions.ndim == 3:
            given = GivenPositions(given.segments, True, given.packed)
    _check_boundaries(batch, runs, shape)
    return given


def _packed(positions: Tensor, runs: _Segments) -> GivenPositions:
    """Read positions without a mask, whose runs are sequences; runs of one token are padding."""
    rows = len(positions)
    long = [run for run in runs if run[2] - run[1] > 1]
    first: dict[int, int] = {}
    for row, start, _ in long:
        at = int(positions[row, start])
        if first.setdefault(row, at) != at:
            raise ValueError(
                f"{POSITIONS}: row {row} goes from {int(positions[row, start - 1])} to {at} at "
                f"index {start}, where models begin another packed sequence, and the first one of "
                f"the row begins at {first[row]}; let every packed sequence begin at the same "
                "number, or give an attention_mask if the row is one sequence"
            )
    for row in range(rows):
        if row not in first and positions.shape[1] > 1:
            raise ValueError(
                f"{POSITIONS}: no two tokens of row {row} have neighbouring positions, so models "
                "read each as a packed sequence of its own; give an attention_mask if the row is "
                "one sequence"
            )
    own = any(at != 0 for at in first.values())
    if len(runs) == rows:
        return GivenPositions(own=own)
    return GivenPositions(long, own, packed=len(long) > rows)


def _beside_mask(positions: Tensor, mask: Any) -> GivenPositions:
    """Read positions beside an attention mask, which tells the one sequence of each row."""
    if not isinstance(mask, Tensor) or mask.shape != positions.shape:
        return GivenPositions(own=True)  # whoever reads the mask refuses it
    own = False
    for row, inside in enumerate(mask.bool().cpu()):
        here = positions[row, inside]
        if torch.equal(here, torch.arange(len(here), dtype=here.dtype)):
            continue
        own = True
        if bool((here[1:] == 0).any()):
            at = int(inside.nonzero()[1:][here[1:] == 0][0])
            raise ValueError(
                f"{POSITIONS}: row {row} starts anew at index {at}, inside what attention_mask "
                "says is one sequence; some attention implementations look across that border and "
                "others do not. Leave attention_mask out where rows are packed"
            )
    return GivenPositions(own=own)


def _check(positions: Any, shape: Sequence[int]) -> None:
    wanted = f"[{shape[0]}, {shape[1]}], [1, {shape[1]}] or an axis before these"
    if not isinstance(positions, Tensor):
        raise ValueError(f"{POSITIONS}: expected a tensor {wanted}, got {positions!r}")
    fits = positions.ndim in (2, 3) and positions.shape[-1] == shape[1]
    if not fits or positions.shape[-2] not in (1, shape[0]):
        raise ValueError(f"{POSITIONS}: expected shape {wanted}, got {list(positions.shape)}")
    if positions.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{POSITIONS}: expected dtype torch.int64, got {positions.dtype}")


def _check_boundaries(batch: Mapping[str, Any], runs: _Segments, shape: Sequence[int]) -> None:
    """Check that the boundaries that a collator wrote down are those of the positions."""
    written = {name: batch[name] for name in BOUNDARY_KEYS if batch.get(name) is not None}
    if not written:
        return
    longest = max((end - start for _, start, end in runs), default=0)
    ends = [0, *(end for _, _, end in runs)]
    number = torch.zeros(tuple(shape), dtype=torch.int64)
    for index, (row, start, end) in enumerate(runs):
        number[row, start:end] = index
    for name, value in written.items():
        found = torch.as_tensor(value).cpu()
        if name == "seq_idx":
            same = tuple(found.shape) == tuple(shape) and torch.equal(
                found.diff(dim=1) != 0, number.diff(dim=1) != 0
            )
        elif name.startswith("cu_seq_lens"):
            same = shape[0] == 1 and found.flatten().tolist() == ends
        else:
            same = found.numel() == 1 and int(found) >= longest
        if not same:
            raise ValueError(
                f"{name}: it says that sequences end elsewhere than {POSITIONS} does"
                f"{'' if POSITIONS in batch else ', which the batch lacks'}; give {POSITIONS} that "
                "start anew in each packed sequence (collators have return_position_ids=True)"
            )

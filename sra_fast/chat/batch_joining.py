"""Join batches of prompts of one's own into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

_BY_REPLY = ("turns", "as_written")  # [B, K], not by token


def join(
    batches: Sequence[Mapping[str, Any]], padding_side: Literal["left", "right"] = "right"
) -> dict[str, Any]:
    """Join batches of :func:`sra_fast.mark` into one, whose rows are padded to the longest.

    Args:
        batches: the batches, at least one, with spans of the same names; ``conversation [B]`` and
            ``turns [B, K]`` may be there too.
        padding_side: on which side of a row the padding goes.

    Returns:
        A batch like those given. Rows are padded with token 0, which ``attention_mask`` leaves out.

    Raises:
        TypeError: one batch is given instead of a list.
        ValueError: there is no batch, or they have not the same keys and spans.
    """
    if not batches:
        raise ValueError("there is no batch to join; give at least one")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', found {padding_side!r}")
    if isinstance(batches, Mapping):
        raise TypeError("batches: expected a list of batches, got one batch")
    first = batches[0]
    _check_alike(batches, "keys", list)
    _check_alike(batches, "spans", lambda batch: list(batch["span_masks"]))

    joined: dict[str, Any] = {}
    for key, value in first.items():
        columns = [batch[key] for batch in batches]
        if key == "span_masks":
            joined[key] = {
                name: _padded([masks[name] for masks in columns], padding_side) for name in value
            }
        elif isinstance(value, torch.Tensor):
            # Replies are counted from the first column on, whichever side the tokens are padded.
            joined[key] = _padded(columns, "right" if key in _BY_REPLY else padding_side)
        else:
            joined[key] = [names for batch in batches for names in batch[key]]
    return joined


def _check_alike(
    batches: Sequence[Mapping[str, Any]],
    what: str,
    of: Callable[[Mapping[str, Any]], list[Any]],
) -> None:
    """Refuse batches that have not the same of something."""
    ours = of(batches[0])
    for number, batch in enumerate(batches):
        if of(batch) != ours:
            raise ValueError(
                f"batch {number} has the {what} {of(batch)}, and the first one has {ours}; mark "
                "all prompts alike"
            )


def _padded(columns: Sequence[torch.Tensor], side: str) -> torch.Tensor:
    """Return the rows of ``[b, n]`` or ``[b]`` tensors in one, padded with 0 to the longest."""
    if columns[0].ndim == 1:
        return torch.cat(list(columns))
    width = max(column.shape[1] for column in columns)
    missing = [width - column.shape[1] for column in columns]
    return torch.cat(
        [
            torch.nn.functional.pad(column, (short, 0) if side == "left" else (0, short))
            for column, short in zip(columns, missing, strict=True)
        ]
    )

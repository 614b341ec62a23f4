"""Join batches of prompts of one's own into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch


def join(
    batches: Sequence[Mapping[str, Any]], padding_side: Literal["left", "right"] = "right"
) -> dict[str, Any]:
    """Join batches of :func:`sra_fast.mark` into one, whose rows are padded to the longest.

    Args:
        batches: the batches, at least one, with spans of the same names.
        padding_side: on which side of a row the padding goes.

    Returns:
        A batch like those given. Rows are padded with token 0, which ``attention_mask`` leaves out.

    Raises:
        ValueError: there is no batch, or they have not the same keys and spans.
    """
    if not batches:
        raise ValueError("there is no batch to join; give at least one")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', found {padding_side!r}")
    first = batches[0]
    for number, batch in enumerate(batches):
        for what, ours, theirs in (
            ("keys", list(first), list(batch)),
            ("spans", list(first["span_masks"]), list(batch["span_masks"])),
        ):
            if ours != theirs:
                raise ValueError(
                    f"batch {number} has the {what} {theirs}, and the first one has {ours}; mark "
                    "all prompts alike"
                )
    width = max(int(batch["input_ids"].shape[1]) for batch in batches)

    def padded(columns: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = []
        for column in columns:
            missing = width - column.shape[1]
            sides = (missing, 0) if padding_side == "left" else (0, missing)
            rows.append(torch.nn.functional.pad(column, sides))
        return torch.cat(rows)

    joined: dict[str, Any] = {}
    for key, value in first.items():
        if key == "span_masks":
            joined[key] = {name: padded([b[key][name] for b in batches]) for name in value}
        elif isinstance(value, torch.Tensor):
            joined[key] = padded([batch[key] for batch in batches])
        else:
            joined[key] = [names for batch in batches for names in batch[key]]
    return joined

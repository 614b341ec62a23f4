"""Make results that have every field: rows, profiles by head, sources, and a layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

import sra_fast
from marked_batches import marked_batch
from model_families import DENSE
from sra_fast import SRAResult

SOURCES = ("first", "second")


def profiled_result(
    lengths: tuple[int, ...] = (40, 29), *, sources: bool = True, **options: Any
) -> SRAResult:
    """Score a tiny model on two replies per sequence, keeping everything that can be kept.

    Tokens 1 to 7 are the first source and tokens 10 to 12 the second.
    """
    batch = marked_batch(lengths)
    if sources:
        batch["source_ids"] = torch.zeros_like(batch["input_ids"], dtype=torch.int32)
        batch["source_ids"][:, 1:8] = 1
        batch["source_ids"][:, 10:13] = 2
        batch["source_names"] = list(SOURCES)
    settings: dict[str, Any] = {"profile": "heads", "keep_rows": True, **options}
    found = sra_fast.score(DENSE[0].build(), batch, **settings)
    return replace(found, as_written=torch.arange(len(found)) % 2 == 0)

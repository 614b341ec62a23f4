"""Take attention from exact products in blocks of queries, which serve every call anywhere."""

from __future__ import annotations

from torch import Tensor

from .. import blocks
from .call import AttentionCall
from .per_sequence import by_sequence


def serves(call: AttentionCall) -> str | None:
    """Return None: blocks of plain products serve every call, in bounded memory."""
    return None


def attend(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Return ``out [B, Hq, M, Dv]`` and ``lse [B, Hq, M]``; sinks and their gradient are theirs."""
    return by_sequence(call, blocks.attend)

"""Take attention from exact products in blocks of queries, which serve every call anywhere."""

from __future__ import annotations

from .. import blocks
from ..merging import Attended
from .call import AttentionCall, Provider
from .per_sequence import by_sequence


def serves(call: AttentionCall) -> str | None:
    """Return None: blocks of plain products serve every call, in bounded memory."""
    return None


def attend(call: AttentionCall) -> Attended:
    """Return ``out [B, Hq, M, Dv]`` and ``lse [B, Hq, M]``; sinks and their gradient are theirs."""
    return by_sequence(call, blocks.attend)


PROVIDER = Provider(
    name="blocks",
    about="exact products in blocks of queries",
    serves=serves,
    attend=attend,
    own_sinks=True,
    parents=True,
)

"""Plan the forward passes of a batch that is laid out anew, with what its sequences share."""

from __future__ import annotations

import logging

from sra_fast.measure.batch_keys import BatchContent
from sra_fast.measure.packing import Forward, forwards
from sra_fast.measure.prefix_service import why_whole
from sra_fast.measure.served import ServedModel
from sra_fast.measure.shared_prefixes import find_shared

_logger = logging.getLogger(__name__)


def planned(
    served: ServedModel, content: BatchContent, forward_tokens: int, backend: str, *, share: bool
) -> tuple[list[Forward], str]:
    """Group the sequences of a batch into forward passes, and say what is shared.

    Args:
        served: the model, after its trial.
        content: the batch; its token ids alone make the result.
        forward_tokens: the most tokens of one forward pass, or one sequence.
        backend: backend of the op.
        share: whether beginnings that sequences have in common may be computed once.

    Returns:
        The forward passes, and how many tokens they compute or why sequences are left whole, for a
        batch that has common beginnings; "" for one that has none.
    """
    lengths = [sequence.length for sequence in content.marked.sequences]
    shared = find_shared(content.marked, content.tokens["input_ids"]) if share else []
    if not shared:
        return forwards(served, lengths, forward_tokens), ""
    if reason := why_whole(served, backend):
        _logger.debug(
            "%s: sequences with a common beginning are left whole: %s", served.name, reason
        )
        return forwards(served, lengths, forward_tokens), f"left whole: {reason}"
    plan = forwards(served, lengths, forward_tokens, shared)
    saved = sum(prefix.saved for forward in plan for prefix in forward.prefixes)
    told = f"{sum(lengths) - saved} of {sum(lengths)} tokens computed"
    _logger.debug("%s: beginnings that sequences share are there once: %s", served.name, told)
    return plan, told if saved else ""

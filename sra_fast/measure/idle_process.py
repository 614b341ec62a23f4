"""Keep a process in step that has fewer forward passes than the others, or an empty batch.

The processes of a model under ``fully_shard`` gather the parameters of each layer together, so each
makes as many passes as the one that has most. Passes beyond its own are of one token. A process
without any sequence scores a made-up one, and takes no response out of that result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sra_fast.measure.few_tokens import plain_tokens
from sra_fast.measure.in_step import finished
from sra_fast.measure.reduction import UnansweredRequestError
from sra_fast.measure.scored_forward import run_one_token
from sra_fast.measure.served import ServedModel
from sra_fast.measure.spans import BatchRowError
from sra_fast.result import SRAResult

_TOKENS = 4


def all_passes(
    served: ServedModel, passes: Sequence[Callable[[], SRAResult]], most: int
) -> list[SRAResult]:
    """Make all forward passes of this process, and those of one token that keep it in step.

    Args:
        served: the model.
        passes: each runs a forward pass and returns the results of its responses.
        most: the most passes of any process that shares the model's parameters.

    Raises:
        BatchRowError, UnansweredRequestError: as a pass does; after the last one, if processes
            share the model.
        PeerError: another process failed.
    """
    if served.shards is None:
        return [run() for run in passes]
    results: list[SRAResult] = []
    error: Exception | None = None
    for number in range(most):
        if number >= len(passes) or error is not None:
            run_one_token(served)
            continue
        try:
            results.append(passes[number]())
        except (BatchRowError, UnansweredRequestError) as raised:  # when the pass has ended
            error = raised
    finished(served, error)
    return results


def is_idle(served: ServedModel, batch: Any) -> bool:
    """Return whether a process has no sequence for a model that it shares with others."""
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    return served.shards is not None and isinstance(ids, Tensor) and ids.shape[:1] == (0,)


def made_up_batch(served: ServedModel, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch of one short sequence, with spans of the names that an empty batch has."""
    plain = plain_tokens(served)
    ids = plain[torch.arange(_TOKENS) % len(plain)][None]
    span, response = torch.zeros(2, 1, _TOKENS, dtype=torch.bool).unbind(0)
    span[:, :2] = response[:, 2:] = True
    names = batch.get("span_masks")
    masks: dict[str, Any] = (
        {"span_masks": dict.fromkeys(names, span)}
        if isinstance(names, Mapping)
        else {"strategy_mask": span}
    )
    return {"input_ids": ids, "response_mask": response, **masks}

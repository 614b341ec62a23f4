"""Find one β for many queries and heads from the mean share that these give a span.

With p_ih the share of its attention that query i gives the span in head h, and the mean over the
queries of a pool and over the heads, both as far as they are steered,

    p̄ = mean_ih p_ih        β = log(p / p̄) where p̄ < p, else 0

A query that does not see the span counts with a share of 0, and is not changed by β.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pooled_beta(shares: Tensor, steered: Tensor, pools: Tensor | None, wanted: float) -> Tensor:
    """Return ``β [B, Hq, M]`` for a wanted mean share, 0 where nothing is steered.

    Nothing is steered in a pool whose shares are all 0 in their dtype: no factor would raise them.

    Args:
        shares: ``[B, Hq, M]``, each query's attention on the span, between 0 and 1.
        steered: bool, of a shape that broadcasts to theirs: which queries and heads are steered.
        pools: ``[B, M]`` int64, the pool of each query, below ``B·M``, or −1 for none; None for one
            pool per batch row.
        wanted: p, the mean share that is wanted, between 0 and 1.
    """
    batch, _, m = shares.shape
    if pools is None:
        pools = torch.arange(batch, device=shares.device)[:, None].expand(batch, m)
        count = batch
    else:
        count = batch * m  # at most, so that nobody waits for the device to say how many
    counted = (steered & (pools >= 0)[:, None]).expand(shares.shape)
    kept = torch.where(counted, shares, 0.0)
    place = pools.clamp(min=0).flatten()

    def of_pools(rows: Tensor) -> Tensor:
        return shares.new_zeros(count).index_add_(0, place, rows.flatten().to(shares.dtype))

    mean = of_pools(kept.sum(dim=1)) / of_pools(counted.sum(dim=1)).clamp(min=1)
    beta = torch.where(mean > 0, math.log(wanted) - mean.log(), 0.0).clamp(min=0)
    of_row = beta[place].view(batch, 1, m)
    return torch.where(kept > 0, of_row, 0.0)

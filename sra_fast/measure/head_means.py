"""Average the masses of some layers over their heads, on the device that computed them.

    head mean_rg = 1/H · Σ_h mass_rhg        rest_r = 1/H · Σ_h (1 − null_rh − sink_rh)

The rest is taken per head before the mean. That is the same in float64; in float32, where a device
has no float64, ``1 − mean`` would lose what is left where nearly all attention is on key 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sra_fast.measure.request import SpanRequest

AT_ONCE = 1 << 26  # masses that are worked on at once: 512 MB in float64


@dataclass(frozen=True)
class HeadMeans:
    """The masses of L layers on one device, and their means over heads.

    Attributes:
        masses: ``[R, L, H, G]`` in the dtype that sums are kept in.
        heads: ``[R, L, G]``, their means over heads.
        rest: ``[R, L]``, the mean over heads of the share that neither key 0 nor a sink takes.
        left: ``[R, L, H]``, that share of each head.
    """

    masses: Tensor
    heads: Tensor
    rest: Tensor
    left: Tensor


def layer_groups(request: SpanRequest, layers: Sequence[int]) -> list[tuple[int, ...]]:
    """Group neighbouring layers whose masses lie on one device and fit into the memory at work."""
    groups = []
    for _, run in itertools.groupby(layers, key=lambda layer: request.masses[layer].device):
        here = tuple(run)
        size = max(1, AT_ONCE // max(1, request.masses[here[0]].numel()))
        groups += [here[first : first + size] for first in range(0, len(here), size)]
    return groups


def head_means(
    request: SpanRequest, layers: Sequence[int], heads: Tensor | None = None
) -> HeadMeans:
    """Return the means of some layers on one device, differentiable in the masses.

    The sinks' share carries no gradient.

    Args:
        request: the answered request; holds ``{layer: [R, H, G]}``.
        layers: the layers.
        heads: ``[h]`` int64, the heads to average over, on the masses' device; all if None.
    """
    given = torch.stack([request.masses[layer] for layer in layers], dim=1)
    chosen = given if heads is None else given.index_select(2, heads)
    masses = chosen.to(sum_dtype(chosen.device))
    left = 1.0 - masses[..., -1]
    if any(layer in request.sink_masses for layer in layers):
        nothing = torch.zeros_like(request.masses[layers[0]][..., 0])
        sinks = [request.sink_masses.get(layer, nothing).detach() for layer in layers]
        taken = torch.stack(sinks, dim=1)
        left = left - (taken if heads is None else taken.index_select(2, heads))
    return HeadMeans(masses, masses.mean(dim=2), left.mean(dim=2), left)


@lru_cache(maxsize=64)
def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype that sums are kept in on a device: float64, or float32 if it has none."""
    try:
        torch.ones(2, dtype=torch.float64, device=device).mean()
    except (TypeError, RuntimeError):
        torch.ones(2, dtype=torch.float32, device=device).mean()  # else it is another error
        return torch.float32
    return torch.float64

"""Compare a score with the masses of the base model's own SDPA forward pass, row by row.

The base model runs once with an attention implementation that calls transformers' SDPA and then
computes, in float32 from the same q and k, the mass of an even choice of rows on the span:

    mass_rh = Σ_{j in span, j ≤ r} exp(s_rj − lse_r)

So the result of a score is compared at the very length that is timed, in every layer; a wrong row
or key is off by about as much as masses differ from row to row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmarks.gpu.harness.checking import relative, require
from benchmarks.measuring.alternatives import attending
from sra_fast import SRAResult

MOST_ROWS = 256  # rows of which the masses are compared
NAME = "sdpa_with_masses"
# Relative, ‖found − wanted‖ / ‖wanted‖: per layer over rows and heads, and the mean over all of it.
# In bfloat16 the two ways attend by different kernels, whose roundings add up from layer to layer.
TOLERANCES: Mapping[torch.dtype, Mapping[str, float]] = {
    torch.bfloat16: {"masses of rows": 0.1, "mean mass": 0.02},
    torch.float32: {"masses of rows": 1e-3, "mean mass": 1e-4},
}
BLOCK_NUMBERS = 1 << 27  # float32 logits alive at once: half a GB


@dataclass(frozen=True)
class SdpaMasses:
    """The masses that follow from the base model's SDPA forward pass.

    Attributes:
        masses: ``[r, L, H]`` float32, of the rows chosen, on the CPU.
        chosen: ``[r]`` int64, which of the rows of all responses these are.
    """

    masses: Tensor
    chosen: Tensor


def sdpa_masses(model: Any, batch: Mapping[str, Tensor]) -> SdpaMasses:
    """Run the base model by SDPA, and take masses in float32 on the way.

    Args:
        model: a Llama model on its device.
        batch: what :func:`llama.batch` gives: one row, and the responses' tokens consecutive.
    """
    device = model.device
    positions = response_rows(batch["response_mask"][0])
    step = -(-len(positions) // MOST_ROWS)
    chosen = torch.arange(0, len(positions), step)
    rows = positions[chosen].to(device)
    span = batch["strategy_mask"][0].nonzero().flatten().to(device)
    found: list[Tensor] = []

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kwargs: Any) -> Any:
        found.append(_masses(q, k, rows, span, kwargs["scaling"]).cpu())
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, q, k, v, mask, **kwargs)

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    with attending(model, NAME):
        model.model(batch["input_ids"].to(device), use_cache=False)
    return SdpaMasses(torch.stack(found, dim=1), chosen)


def response_rows(response_mask: Tensor) -> Tensor:
    """Return the rows of all responses in the order of ``SRAResult.row_masses``, int64.

    Args:
        response_mask: ``[T]``, bool, or int with k at the consecutive tokens of response k.
    """
    mask, parts = response_mask.int(), []
    for k in range(1, int(mask.max()) + 1):
        tokens = (mask == k).nonzero().flatten()
        parts += [tokens[:1] - 1, tokens]  # the position before the first token predicts it
    return torch.cat(parts)


def compare(result: SRAResult, sdpa: SdpaMasses, dtype: torch.dtype) -> dict[str, float]:
    """Return the errors of a score with kept rows.

    Raises:
        WrongResultError: an error is larger than allowed.
    """
    if result.row_masses is None:
        raise ValueError("the score has no rows; call it with keep_rows=True")
    rows = result.row_masses[sdpa.chosen][..., result.names.index(result.spans[0])]  # [r, L, H]
    by_layer = zip(rows.unbind(1), sdpa.masses.unbind(1), strict=True)
    errors = {
        "masses of rows": max(relative(mine, true) for mine, true in by_layer),
        "mean mass": abs(float(rows.double().mean() / sdpa.masses.double().mean()) - 1),
    }
    require(errors, TOLERANCES[dtype])
    return errors


def _masses(q: Tensor, k: Tensor, rows: Tensor, span: Tensor, scale: float) -> Tensor:
    """Return the masses ``[r, H]`` of rows of one sequence on the span's keys, float32."""
    (_, heads, _, _), (groups, n) = q.shape, k.shape[1:3]
    per_group = heads // groups
    at_key = torch.arange(n, device=q.device)
    found = torch.full((len(rows), heads), math.nan, device=q.device)
    block = max(1, BLOCK_NUMBERS // (per_group * n))
    for group in range(groups):
        members = slice(group * per_group, (group + 1) * per_group)
        keys = k[0, group].float()
        for slot in torch.arange(len(rows), device=q.device).split(block):
            row = rows[slot]
            logits = q[0, members][:, row].float() @ keys.T * scale
            logits = logits.masked_fill_(at_key > row[:, None], -math.inf)  # [per_group, r, n]
            norm = torch.logsumexp(logits, dim=-1)
            on_span = (logits[..., span] - norm[..., None]).exp().sum(dim=-1)
            found[slot, members] = on_span.T
    return found

"""Ask each layer which keys it sees around the border of a window or a chunk.

The few tokens of the self-check are shorter than a window. So under the attention implementation of
this module each layer is also asked on made-up queries and keys, and is compared with the mask
function of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from sra_fast.kernels.contract import SpanQuery, segment_tensor
from sra_fast.measure import attention
from sra_fast.measure.request import REQUEST, SpanRequest
from sra_fast.measure.unserved import SelfCheckError

NAME = f"{attention.NAME}_check"
"""The attention implementation that attends as ``"sra_fast"``, after a look at the borders."""

REACH = 2**17
"""The number of tokens after which borders are not looked for."""

_ASKED = "asked_of_the_model"


class BorderLook(SpanRequest):
    """A request that also keeps which modules attend, and how far they may look."""

    def __init__(self, name: str, reach: int, asked: SpanRequest) -> None:
        super().__init__(
            asked.query, stop_after=asked.stop_after, mass_grad=False, in_outputs=False
        )
        self.name = name
        self.reach = reach
        self.modules: dict[int, nn.Module] = {}


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as ``"sra_fast"``, after a look at the borders of the layer's sight."""
    look: BorderLook | None = kwargs.get(
        REQUEST
    )  # None: the model drops it, as its masses will tell
    layer: Any = getattr(module, "layer_idx", None)
    asked = getattr(attention_mask, _ASKED, None)
    if look is not None and layer is not None:
        look.modules[layer] = module
    if look and asked and not _looks_tokens_up(asked["mask_function"]):
        rule = {name: one for name, one in kwargs.items() if name not in (REQUEST, "s_aux")}
        _compare_sight(module, layer, look, asked, rule, query.device)
    answer: tuple[Tensor, Tensor | None] = attention.attention(
        module, query, key, value, attention_mask, **kwargs
    )
    return answer


def _attention_mask(**asked: Any) -> Tensor:
    """Make the mask of ``"sra_fast"``, and write down on it what it was made of."""
    mask: Tensor | None = attention.attention_mask(**asked)
    if mask is None:
        shape = (asked["batch_size"], asked["kv_length"])
        mask = torch.ones(shape, dtype=torch.bool, device=asked.get("device"))
    setattr(mask, _ASKED, asked)
    return mask


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _attention_mask)


def _compare_sight(
    module: nn.Module,
    layer: int,
    look: BorderLook,
    asked: dict[str, Any],
    rule: dict[str, Any],
    device: torch.device,
) -> None:
    """Compare which keys a layer sees around the first border with the model's mask function."""
    sees: Callable[..., Tensor] = asked["mask_function"]
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    places = torch.arange(look.reach, device=device)
    hidden = (~sees(zero, zero, places, zero).expand(look.reach)).nonzero()
    # Three queries around the first one that does not see the first key; or the last one of all.
    keys = look.reach if len(hidden) == 0 else min(int(hidden[0]) + 2, look.reach)
    queries = min(3, keys)
    at = torch.arange(keys - queries, keys, device=device)[:, None]
    true = sees(zero, zero, at, places[None, :keys]) & (places[:keys] <= at)  # [queries, keys]
    looked_at = sorted(
        {
            key
            for row, first in enumerate(true.int().argmax(dim=1).tolist())
            for key in (0, first - 1, first, keys - queries + row)
            if 0 <= key < keys
        }
    )
    labels = torch.zeros(1, keys, dtype=torch.int32)
    labels[0, looked_at] = (1 << torch.arange(len(looked_at))).int()
    query = SpanQuery(
        labels,
        torch.arange(queries),
        segment_tensor([(0, 0, keys)], labels.device),
        tuple(f"key {key}" for key in looked_at),
    )
    request = SpanRequest(query, mass_grad=False, in_outputs=False, backend="reference")
    sizes = {"q_length": queries, "kv_length": keys, "q_offset": keys - queries, "kv_offset": 0}
    mask = attention.attention_mask(**{**asked, **sizes, "attention_mask": None, "batch_size": 1})
    blank = torch.zeros(1, 1, keys, 8, device=device)
    attention.attention(
        module, blank[:, :, :queries], blank, blank, mask, **rule, **{REQUEST: request}
    )
    # All logits are 0, so that a key that is seen has one part in as many as are seen.
    number = true.sum(dim=1, keepdim=True).cpu()
    ours = request.masses[layer][:, 0].cpu() * number
    apart = (ours - true[:, looked_at].cpu().float()).abs()
    if not bool((apart < 0.01).all()):
        row = int(apart.amax(dim=1).argmax())
        where = keys - queries + row
        what = (
            f"the token at position {where} does not see the {int(number[row])} keys that the "
            "model's own mask lets it see (a window or a chunk)"
        )
        raise SelfCheckError(look.name, layer, float(apart.max()), what)


def _looks_tokens_up(function: Any) -> bool:
    """Return whether a mask function looks tokens up, so that it knows no other length.

    There is one sequence, so what it may look up per sequence is a single number.
    """
    if isinstance(function, Tensor):
        return function.numel() > 1
    if isinstance(function, (tuple, list)):
        return any(map(_looks_tokens_up, function))
    cells = getattr(function, "__closure__", None) or ()
    return any(_looks_tokens_up(cell.cell_contents) for cell in cells)

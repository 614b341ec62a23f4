"""Ask each layer which keys it sees around the border of a window or a chunk.

The few tokens of the self-check are shorter than a window. So a run under the attention
implementation of this module writes down what each layer was told. Afterwards each layer is asked
on made-up queries and keys, and is compared with the mask function of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from sra_fast.kernels.contract import SpanQuery, segment_tensor
from sra_fast.measure import attention
from sra_fast.measure.request import REQUEST, SpanRequest
from sra_fast.measure.split_heads import SplitHeads
from sra_fast.measure.unserved import SelfCheckError

NAME = f"{attention.NAME}_check"
"""The attention implementation that attends as ``"sra_fast"``, and notes each layer's sight."""

REACH = 2**17
"""The number of tokens after which borders are not looked for."""

_ASKED = "asked_of_the_model"


@dataclass(frozen=True)
class Sight:
    """The arguments that tell a layer which keys its queries see.

    Attributes:
        asked: the arguments that its mask was made of.
        rule: the further arguments of its attention.
        device: where its queries were.
    """

    asked: dict[str, Any]
    rule: dict[str, Any]
    device: torch.device


class SightedRequest(SpanRequest):
    """A request that also keeps the modules that attend and the arguments of their sight.

    Attributes:
        modules: ``{layer_idx: module}`` of the modules that attend.
        sights: ``{layer_idx: sight}`` of those whose mask came to them as it was made.
    """

    def __init__(
        self,
        query: SpanQuery,
        stop_after: int | None = None,
        heads: SplitHeads | None = None,
    ) -> None:
        super().__init__(
            query, stop_after=stop_after, mass_grad=False, in_outputs=False, heads=heads
        )
        self.modules: dict[int, nn.Module] = {}
        self.sights: dict[int, Sight] = {}


def check_borders(name: str, reach: int, request: SightedRequest) -> None:
    """Compare which keys each layer sees around the first border with the model's mask function.

    Args:
        name: the name of the model in messages.
        reach: how far to look for a border, in tokens.
        request: what the layers told in a run of one sequence under :data:`NAME`.

    Raises:
        SelfCheckError: a layer sees other keys than its mask lets it see.
    """
    borders: dict[int, _Border | None] = {}
    for layer, sight in request.sights.items():
        key = id(sight.asked)  # layers share a mask; the request holds it, so its id stays its own
        if key not in borders:
            borders[key] = _border(sight, reach)
        border = borders[key]
        if border is not None:
            _compare_sight(name, layer, request.modules[layer], sight, border)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as ``"sra_fast"``, and write down what the layer was told of its sight."""
    # None: the model drops it, as its masses will tell.
    request: SightedRequest | None = kwargs.get(REQUEST)
    layer: Any = getattr(module, "layer_idx", None)
    asked = getattr(attention_mask, _ASKED, None)
    if request is not None and layer is not None:
        request.modules[layer] = module
        if asked is not None:
            rule = {name: one for name, one in kwargs.items() if name not in (REQUEST, "s_aux")}
            request.sights[layer] = Sight(asked, rule, query.device)
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


@dataclass(frozen=True)
class _Border:
    """The first border of a mask: queries around it, and which of the looked-at keys they see.

    Attributes:
        query: asks for the mass of each query on each looked-at key, ``R`` queries and ``n`` keys.
        mask: what ``"sra_fast"`` makes of the mask function here.
        keys: the number of keys, of which the queries are the last.
        seen: ``[R, n]`` bool, whether the query sees the key.
        number: ``[R, 1]``, how many of all keys it sees.
    """

    query: SpanQuery
    mask: Tensor | None
    keys: int
    seen: Tensor
    number: Tensor


def _border(sight: Sight, reach: int) -> _Border | None:
    """Find the first border of a mask, or return None if the mask knows no other length."""
    asked, device = sight.asked, sight.device
    sees: Callable[..., Tensor] = asked["mask_function"]
    if _looks_tokens_up(sees):
        return None
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    places = torch.arange(reach, device=device)
    hidden = (~sees(zero, zero, places, zero).expand(reach)).nonzero()
    # Three queries around the first one that does not see the first key; or the last one of all.
    keys = reach if len(hidden) == 0 else min(int(hidden[0]) + 2, reach)
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
    sizes = {"q_length": queries, "kv_length": keys, "q_offset": keys - queries, "kv_offset": 0}
    mask = attention.attention_mask(**{**asked, **sizes, "attention_mask": None, "batch_size": 1})
    return _Border(query, mask, keys, true[:, looked_at].cpu(), true.sum(dim=1, keepdim=True).cpu())


def _compare_sight(name: str, layer: int, module: nn.Module, sight: Sight, border: _Border) -> None:
    """Compare which keys a layer sees around a border with what the border says."""
    queries = len(border.seen)
    request = SpanRequest(border.query, mass_grad=False, in_outputs=False, backend="reference")
    blank = torch.zeros(1, 1, border.keys, 8, device=sight.device)
    attention.attention(
        module,
        blank[:, :, :queries],
        blank,
        blank,
        border.mask,
        **sight.rule,
        **{REQUEST: request},
    )
    # All logits are 0, so that a key that is seen has one part in as many as are seen.
    ours = request.masses[layer][:, 0].cpu() * border.number
    apart = (ours - border.seen.float()).abs()
    if not bool((apart < 0.01).all()):
        row = int(apart.amax(dim=1).argmax())
        where = border.keys - queries + row
        what = (
            f"the token at position {where} does not see the {int(border.number[row])} keys that "
            "the model's own mask lets it see (a window or a chunk)"
        )
        raise SelfCheckError(name, layer, float(apart.max()), what)


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

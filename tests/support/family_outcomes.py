"""Hold the score of a family's tiny model against its own eager maps, and say how it ends."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import sra_fast
from shrunken_families import TEXT_TOKENS, shrunken
from sra_fast.measure.served import UnservedModelError, serve

TOLERANCE = 2e-5
MOST_NOT_BUILT = 25
LENGTHS = (24, 19)
SPAN = range(3, 12)
RESPONSE = 6
"""The number of a sequence's last tokens that are its response."""

REASONS: dict[str, str] = {
    "an encoder-decoder model": r"is an encoder-decoder model|decoder of an encoder-decoder model",
    "no softmax attention": r"has no attention layers|has no softmax attention",
    "keys chosen by an index": r"chooses by an index of its own which keys a query sees",
    "outside of the attention interface": r"does not follow transformers' attention interface",
    "layers without an index of their own": r"modules under layer_idx|has no `layer_idx`",
    "layers that run more than once": r"attends more than once in a forward pass",
    "arguments not passed on": r"does not pass its keyword arguments on to every attention layer",
    "not causal": r"does not serve attention that is not causal|queries see later keys",
    "a mask of its own": r"a ready-made 4-D attention mask|a custom `or_mask_function`",
    "a bias on positions": r"does not serve `position_bias`",
    "not a text alone": r"does not read a text alone|Exactly 1 of pixel_values",
}
"""The reasons why a family may be refused, each with what the message says then."""

NOT_BUILT: dict[str, str] = {
    "timm": r"requires the timm library",
    "no config for the class": r"Unrecognized configuration class",
    "a config of parts": r"'Musicgen\w*Config' object has no attribute 'dropout'",
    "an invalid default config": r"must be 0, got 256|layer types producing a cache is different",
}
"""The reasons why a family may not be built, each with what the error says then."""

End = Literal["equal", "refused", "not built", "wrong"]


@dataclass(frozen=True)
class Outcome:
    """The end of a family's check.

    Attributes:
        end: what became of it.
        detail: the reason, by its name in the tables above; what is wrong; or the layers compared.
        difference: the largest difference of a head's mass from the model's own maps.
    """

    end: End
    detail: str
    difference: float | None = None


def outcome(kind: str, model_type: str) -> Outcome:
    """Build a family's tiny model, score it, and compare."""
    try:
        model = shrunken(kind, model_type)
    except Exception as error:
        return _ended("not built", NOT_BUILT, error)
    try:
        result = sra_fast.score(model, text_batch(), keep_rows=True, definition="mass")
    except UnservedModelError as error:
        return _ended("refused", REASONS, error)
    except Exception as error:
        return Outcome("wrong", f"somebody else's error: {type(error).__name__}: {error}")
    ids = text_batch()["input_ids"]
    difference = 0.0
    for row, length in enumerate(LENGTHS):
        maps = own_maps(model, ids[row : row + 1, :length], result.layers)
        wanted = maps[:, :, length - RESPONSE :, list(SPAN)].sum(-1).mean(-1)  # [L, H]
        if float((wanted - len(SPAN) / length).abs().max()) < 0.01:
            return Outcome("wrong", "its maps are flat, so that nothing is compared")
        found = result.mass[row, :, :, 0].double()
        difference = max(difference, float((found - wanted).abs().max()))
    if not difference < TOLERANCE:
        return Outcome("wrong", f"differs by {difference:.1e}", difference)
    return Outcome("equal", f"{len(result.layers)} layers", difference)


def own_maps(model: Any, ids: Tensor, layers: tuple[int, ...]) -> Tensor:
    """Return a text's own maps in those of the model's layers, ``[L, H, T, T]`` float64.

    They are those of the whole model, or of its decoder where the whole wants more than a text.
    Eager attention of some families leaves its sinks out of the maps that it gives away: there the
    softmax is written out.
    """
    model = copy.deepcopy(model)
    decoder = serve(model).decoder
    attends = any(name.endswith("sinks") for name, _ in decoder.named_parameters())
    maps = _maps(model, ids, "eager")
    if attends and all(_sums_to_one(one) for one in maps):
        maps = _maps(model, ids, WRITTEN_OUT)
    if len(maps) != len(layers):  # layers with linear attention give something, too
        maps = [maps[layer] for layer in layers]
    return torch.stack([one[0].double() for one in maps])


def _maps(model: Any, ids: Tensor, implementation: str) -> list[Tensor]:
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        try:
            out = model(ids, output_attentions=True, use_cache=False)
        except TypeError:
            out = model.get_decoder()(ids, output_attentions=True, use_cache=False)
    return [one for one in out.attentions if one is not None]


def _sums_to_one(maps: Tensor) -> bool:
    return bool((maps.sum(-1) - 1).abs().max() < 1e-3)


def text_batch() -> dict[str, Tensor]:
    """Make two texts of different lengths, padded on the right, each with a span and a response."""
    shape = (len(LENGTHS), max(LENGTHS))
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.int64),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "strategy_mask": torch.zeros(shape, dtype=torch.bool),
        "response_mask": torch.zeros(shape, dtype=torch.bool),
    }
    generator = torch.Generator().manual_seed(0)
    for row, length in enumerate(LENGTHS):
        tokens = torch.randint(TEXT_TOKENS.start, TEXT_TOKENS.stop, (length,), generator=generator)
        batch["input_ids"][row, :length] = tokens
        batch["attention_mask"][row, :length] = 1
        batch["strategy_mask"][row, list(SPAN)] = True
        batch["response_mask"][row, length - RESPONSE : length] = True
    return batch


def _ended(end: End, known: dict[str, str], error: Exception) -> Outcome:
    """Name the reason of a refusal; one that nobody knows is wrong."""
    for name, message in known.items():
        if re.search(message, str(error)):
            return Outcome(end, name)
    if end == "not built":  # another version's configs may want other exceptions
        return Outcome(end, f"{type(error).__name__}: {error}")
    return Outcome("wrong", f"{end} for no known reason: {type(error).__name__}: {error}")


# --- the softmax with a sink, written out ---

WRITTEN_OUT = "softmax_written_out"


def written_out(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attend by a softmax over the keys and a sink, and give its map away without the sink."""
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    logits = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        logits = logits + attention_mask
    if s_aux is not None:
        sink = s_aux.view(1, -1, 1, 1).expand(*logits.shape[:-1], 1)
        logits = torch.cat([logits, sink], dim=-1)
    weights = logits.softmax(-1)[..., : key.shape[2]]
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(WRITTEN_OUT, written_out)
AttentionMaskInterface.register(WRITTEN_OUT, eager_mask)

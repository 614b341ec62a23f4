"""Build tiny, random models that take images or sounds, with inputs for them and their own maps.

Text decoders, their placeholders and their encoders are as small as their families let them be.
Queries are scaled up, as in `model_families`, so that attention is far from uniform.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedModel,
)

from model_families import SHARPNESS, SIZES, random_tokens

PLACEHOLDER = 127
WIDTH = 24
RESPONSE = 3
"""Tokens of a response, the last ones of each row."""

_TEXT: dict[str, Any] = SIZES
_MROPE: dict[str, Any] = SIZES | {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
}
_TOWER: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=16,
    patch_size=8,
)
_FINE: dict[str, Any] = _TOWER | {"patch_size": 4}
_CLIP: dict[str, Any] = _TOWER | {"model_type": "clip_vision_model"}
_SIGLIP: dict[str, Any] = _TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False}
_QWEN: dict[str, Any] = dict(
    depth=2,
    hidden_size=32,
    intermediate_size=32,
    out_hidden_size=64,
    num_heads=2,
    patch_size=4,
    spatial_merge_size=2,
    temporal_patch_size=2,
)
_GEMMA: dict[str, Any] = dict(
    text_config=_TEXT | {"head_dim": 16}, mm_tokens_per_image=4, boi_token_id=125, eoi_token_id=126
)


def _pictures(count: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(count, 3, 16, 16)}


def _sized(count: int) -> dict[str, Tensor]:
    return _pictures(count) | {"image_sizes": torch.full((count, 2), 16)}


def _cut_up(count: int) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.randn(count, 2, 3, 16, 16),
        "image_sizes": torch.full((count, 2), 16),
    }


def _one_each(count: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(count, 1, 3, 16, 16)}


def _patches(count: int) -> dict[str, Tensor]:
    """Return patches of all images in one tensor, which no row of a batch owns."""
    return {
        "pixel_values": torch.randn(16 * count, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * count),
    }


def _bare_patches(count: int) -> dict[str, Tensor]:
    return {"image_patches": torch.randn(count, 4, 48)}


def _sounds(count: int) -> dict[str, Tensor]:
    return {
        "input_features": torch.randn(count, 8, 32),
        "feature_attention_mask": torch.ones(count, 32, dtype=torch.int64),
    }


@dataclass(frozen=True)
class ImageFamily:
    """Hold what is needed to build a tiny model and the inputs of its encoder."""

    name: str
    config: dict[str, Any]
    inputs: Callable[[int], dict[str, Tensor]] = _pictures
    placeholders: int = 4
    """Tokens that stand for one image."""

    def __str__(self) -> str:
        return self.name

    def build(self) -> PreTrainedModel:
        """Return the same model, weight for weight, on every call: float32, CPU, eval mode."""
        auto: Any = AutoModelForImageTextToText
        if self.name == "qwen2_audio":
            auto = AutoModelForMultimodalLM
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            config = AutoConfig.for_model(self.name, **_with_placeholders(self.config))
            model: PreTrainedModel = auto.from_config(config, dtype=torch.float32).eval()
            for module in model.get_decoder().modules():
                if hasattr(module, "layer_idx") and hasattr(module, "q_proj"):
                    module.q_proj.weight.mul_(SHARPNESS)
            for name, parameter in model.named_parameters():
                if name.endswith("mm_input_projection_weight"):  # zero at first: images are blank
                    nn.init.normal_(parameter, std=0.2)
        return model


IMAGE_FAMILIES: tuple[ImageFamily, ...] = (
    ImageFamily(
        "llava",
        dict(
            text_config=_TEXT | {"model_type": "llama"},
            vision_config=_CLIP,
            vision_feature_layer=-1,
        ),
    ),
    ImageFamily(
        "qwen2_5_vl",
        dict(
            text_config=_MROPE,
            vision_config=_QWEN | {"window_size": 16, "fullatt_block_indexes": [1]},
        ),
        _patches,
    ),
    ImageFamily(
        "qwen3_vl",
        dict(
            text_config=_MROPE | {"head_dim": 16},
            vision_config=_QWEN
            | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        ),
        _patches,
    ),
)
"""Those that are tried in every layout."""

MORE_IMAGE_FAMILIES: tuple[ImageFamily, ...] = (
    ImageFamily(
        "qwen2_vl",
        dict(
            text_config=_MROPE,
            vision_config=_QWEN | {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
        ),
        _patches,
    ),
    ImageFamily(
        "qwen3_5",
        dict(
            text_config=_MROPE
            | dict(
                head_dim=16,
                num_hidden_layers=2,
                layer_types=["linear_attention", "full_attention"],
                linear_key_head_dim=16,
                linear_value_head_dim=16,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
            ),
            vision_config=_QWEN | {"num_position_embeddings": 16},
        ),
        _patches,
    ),
    ImageFamily(
        "glm4v", dict(text_config=_MROPE, vision_config=_QWEN | {"image_size": 16}), _patches
    ),
    ImageFamily(
        "llava_next",
        dict(
            text_config=_TEXT | {"model_type": "llama"},
            vision_config=_CLIP,
            vision_feature_layer=-1,
            image_grid_pinpoints=[[16, 16]],
        ),
        _cut_up,
        10,
    ),
    ImageFamily(
        "llava_onevision",
        dict(
            text_config=_TEXT | {"model_type": "qwen2"},
            vision_config=_SIGLIP,
            vision_feature_layer=-1,
            image_grid_pinpoints=[[16, 16]],
        ),
        _cut_up,
        10,
    ),
    ImageFamily(
        "internvl",
        dict(
            text_config=_TEXT | {"model_type": "qwen2"},
            vision_config=_FINE | {"image_size": [16, 16], "patch_size": [4, 4]},
        ),
    ),
    ImageFamily(
        "mistral3",
        dict(
            text_config=_TEXT | {"model_type": "mistral", "head_dim": 16},
            vision_config=_FINE | {"model_type": "pixtral"},
            spatial_merge_size=2,
            vision_feature_layer=-1,
        ),
        _sized,
    ),
    ImageFamily(
        "idefics3",
        dict(text_config=_TEXT | {"model_type": "llama"}, vision_config=_FINE, scale_factor=2),
        _one_each,
    ),
    ImageFamily(
        "llama4",
        dict(
            text_config=_TEXT
            | dict(
                num_hidden_layers=4,
                head_dim=16,
                intermediate_size_mlp=64,
                num_local_experts=2,
                moe_layers=[1],
                no_rope_layers=[1, 0, 1, 0],
                attention_chunk_size=16,
            ),
            vision_config=_FINE
            | dict(
                intermediate_size=128,
                projector_input_dim=32,
                projector_output_dim=32,
                vision_output_dim=32,
                pixel_shuffle_ratio=0.5,
            ),
        ),
    ),
    ImageFamily(
        "fuyu",
        dict(**_TEXT, text_config=_TEXT | {"model_type": "persimmon"}, image_size=16, patch_size=4),
        _bare_patches,
    ),
    ImageFamily(
        "qwen2_audio",
        dict(
            text_config=_TEXT | {"model_type": "qwen2"},
            audio_config=dict(
                model_type="qwen2_audio_encoder",
                num_mel_bins=8,
                encoder_layers=2,
                encoder_attention_heads=2,
                encoder_ffn_dim=32,
                d_model=32,
                max_source_positions=16,
            ),
        ),
        _sounds,
        8,
    ),
)

SEEN_BOTH_WAYS: tuple[ImageFamily, ...] = (
    ImageFamily("gemma3", _GEMMA | {"vision_config": _TOWER}),
    ImageFamily(
        "paligemma",
        dict(
            text_config=_TEXT | {"model_type": "gemma", "head_dim": 16},
            vision_config=_SIGLIP | {"projection_dim": 64},
            projection_dim=64,
        ),
    ),
)
"""Families whose image tokens see later ones, which no mask of two dimensions says."""


def image_batch(family: ImageFamily, lengths: Sequence[int], side: str = "right") -> dict[str, Any]:
    """Return a batch of rows with an image at their third token and a response at their end.

    Its span, ``image``, has the tokens that stand for the image. There is no ``attention_mask`` if
    no row is padded.
    """
    shape = (len(lengths), WIDTH)
    inside, image, response = (torch.zeros(shape, dtype=torch.bool) for _ in range(3))
    for row, length in enumerate(lengths):
        first = WIDTH - length if side == "left" else 0
        inside[row, first : first + length] = True
        image[row, first + 2 : first + 2 + family.placeholders] = True
        response[row, first + length - RESPONSE : first + length] = True
    ids = random_tokens(*shape).masked_fill(~inside, 0).masked_fill(image, PLACEHOLDER)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        call: dict[str, Any] = {"input_ids": ids, **family.inputs(len(lengths))}
    if not bool(inside.all()):
        call["attention_mask"] = inside.long()
    if family in SEEN_BOTH_WAYS:
        call["token_type_ids"] = image.long()
    if "image_grid_thw" in call:
        call["mm_token_type_ids"] = image.long()
    return call | {"span_masks": {"image": image}, "response_mask": response}


def own_masses(model: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """Return the responses' mean mass on the image, ``[n, L, H]``, from the model's eager maps."""
    marks = ("span_masks", "response_mask")
    call = {name: value for name, value in batch.items() if name not in marks}
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**call, output_attentions=True, use_cache=False).attentions
    image = batch["span_masks"]["image"]
    rows = batch["response_mask"].nonzero()[:, 1].view(len(image), RESPONSE)
    found = []
    for row in range(len(image)):
        seen = [layer[row][:, rows[row]][..., image[row]] for layer in maps]
        found.append(torch.stack([one.sum(-1).mean(-1) for one in seen]))
    return torch.stack(found)


def _with_placeholders(config: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration in which one token stands for images and sounds alike."""
    names = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")
    others = {"video_token_id": 124, "vision_start_token_id": 123}
    return copy.deepcopy(config) | dict.fromkeys(names, PLACEHOLDER) | others

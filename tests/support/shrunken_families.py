"""Build a tiny, random model of every family of transformers, by shrinking its default config.

The families are those of transformers' own mappings to causal language models and to models of
images and text. A field that looks like a width, a depth or a number of heads gets a small value,
in every part of a config; of the layers, one of each kind stays. What single families need beside
that stands in :data:`EXCEPTIONS`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

WIDTH, HEADS, KEY_HEADS, HEAD_WIDTH = 64, 4, 2, 16
VOCABULARY = 160
TEXT_TOKENS = range(8, 120)
"""Token ids that stand for text in every family: below are padding and the like, above images."""

_DEPTHS = """
num_hidden_layers encoder_layers decoder_layers n_layer n_layers num_layers depth layers num_blocks
num_encoder_layers num_decoder_layers resampler_depth conf_num_hidden_layers num_global_layers
num_layers_per_stack
"""
_NAMES: tuple[tuple[int, str], ...] = (
    (
        WIDTH,
        """
hidden_size intermediate_size d_model ffn_dim encoder_ffn_dim decoder_ffn_dim n_embd d_ff dff
out_hidden_size projection_dim projector_hidden_size text_hidden_size encoder_hidden_size embed_dim
word_embed_proj_dim d_inner emb_dim embedding_size input_embedding_size dim_ff embedding_dim mlp_dim
output_embedding_size feed_forward_size attention_hidden_size image_text_hidden_size moe_hidden_size
vision_hidden_size shared_intermediate_size dense_intermediate_size intermediate_size_mlp input_size
ffn_hidden_size downsample_hidden_size hidden_size_global vision_output_dim projector_input_dim
projector_output_dim projection_hidden_dim projection_hidden_size merged_hidden_size output_dim
alignment_intermediate_size backbone_hidden_size projection_intermediate_size adapter_out_dim
patch_embed_hidden_size decoder_hidden_size adapter_in_dim adapter_input_size image_token_embed_dim
lru_width post_conv_out_channels pooler_output_size prompt_mid_dim router_hidden_size mamba_d_ssm
base_channels latent_channels
""",
    ),
    (
        HEADS,
        """
num_attention_heads n_head n_heads num_heads encoder_attention_heads attention_heads
decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads resampler_heads
resampler_n_heads conf_num_attention_heads swa_num_attention_heads linear_num_heads num_query_groups
linear_num_value_heads num_sliding_attention_heads num_experts n_routed_experts num_local_experts
moe_num_experts mamba_dt_rank time_step_rank num_query_tokens index_block_size
""",
    ),
    (
        KEY_HEADS,
        """
num_key_value_heads kv_n_heads swa_num_key_value_heads num_kv_heads linear_num_key_heads
index_n_heads num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k attn_layer_period
index_topk_blocks
""",
    ),
    (
        HEAD_WIDTH,
        """
head_dim attention_head_dim swa_head_dim d_kv d_head kv_channels dim_head linear_head_dim
resampler_head_dim resampler_dim_head attention_head_size query_pre_attn_scalar attention_chunk_size
kv_lora_rank qk_nope_head_dim v_head_dim index_head_dim linear_key_head_dim linear_value_head_dim
mamba_d_head mamba_head_dim mamba_headdim mamba_chunk_size chunk_size hidden_size_per_layer_input
""",
    ),
    (24, "q_lora_rank qk_head_dim"),
    (
        32,
        """
moe_intermediate_size expert_ffn_hidden_size share_expert_dim shared_expert_intermediate_size
moe_shared_expert_intermediate_size shared_experts_intermediate_size image_size
""",
    ),
    (
        8,
        """
sliding_window sliding_window_size attention_window_size local_attention keep_window_size patch_size
rotary_dim qk_rope_head_dim index_topk mamba_d_state state_size ssm_state_size mamba_n_heads
mamba_num_heads
""",
    ),
    (1, "n_group topk_group num_expert_group first_k_dense_replace attn_layer_offset"),
    (0, "num_kv_shared_layers"),
    (
        VOCABULARY,
        """
vocab_size audio_vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size
num_embeddings pronunciation_vocab_size shape_vocab_size ngram_vocab_size_base
encoder_hash_byte_group_vocab
""",
    ),
    (
        128,
        """
max_position_embeddings n_positions n_ctx context_length max_seq_len model_max_length codebook_size
max_source_positions max_target_positions max_2d_position_embeddings
""",
    ),
    (2, _DEPTHS),
)
_SIZES: dict[str, Any] = {name: size for size, names in _NAMES for name in names.split()}
"""The value of a field, by its name, wherever the default config has a larger one."""

_FIXED: dict[str, Any] = {
    "initializer_range": 0.15,
    "init_std": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "is_decoder": True,
    "per_layer_config": None,
}
"""The value of a field, by its name, whatever the default config has."""

_MISSING: dict[str, Any] = {
    "head_dim": HEAD_WIDTH,
    "num_key_value_heads": KEY_HEADS,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "num_experts": 4,
    "num_local_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
}
"""The value of a field that the default config leaves empty."""

_FULL, _LINEAR = "full_attention", "linear_attention"
_THREE_AXES: dict[str, Any] = {"rope_parameters": {"mrope_section": [2, 3, 3]}}

EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "chameleon": {"vocabulary_map": {"<image>": 150}},
    "cohere_compass_text": {
        "rope_parameters": {_FULL: {"rope_type": "default", "rope_theta": 1e4}},
        "layer_types": [_FULL, _FULL],
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"]},
    "dots3_note_text": {"head_dim": 24},
    "emu3": {"vocabulary_map": {"<image>": 150}},
    "ernie4_5_vl_moe_text": {
        "rope_parameters": {"mrope_section": [3, 3, 2]},
        "moe_intermediate_size": [32, 32],
    },
    "glm4v_moe_text": {"rope_parameters": {"mrope_section": [1, 1, 2]}},
    "glm4v_text": _THREE_AXES,
    "glm5_next_text": {"index_kpool": 4},
    "glm_ocr_text": _THREE_AXES,
    "granite4_vision": {"deepstack_layer_map": [[-1, 0]], "downsample_rate": "2/4"},
    "granitemoehybrid": {"num_hidden_layers": 2, "layer_types": [_LINEAR, _FULL]},
    "hunyuan_vl_text": {"rope_parameters": {"mrope_section": [2, 2, 2, 2]}},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["conv", _FULL]},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "minimax": {"block_size": 16},
    "mistral4": {"head_dim": 24, "qk_head_dim": 24},
    "mllama_text_model": {"num_hidden_layers": 3, "cross_attention_layers": [1]},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "paddleocr_vl_text": _THREE_AXES,
    "qwen2_5_omni_text": _THREE_AXES,
    "qwen2_5_vl_text": _THREE_AXES,
    "qwen2_vl_text": _THREE_AXES,
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds": False},
    "step3p5": {"sliding_window": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 6,
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 32,
        "layers_block_type": [_LINEAR, _LINEAR, "hybrid", _LINEAR, _LINEAR, "hybrid"],
    },
}
"""Fields of single kinds of configs, by model type, in place of what the rules give."""


def families() -> list[tuple[str, str]]:
    """Return ``(kind, model type)`` of every family: kind is "causal" or "image-text"."""
    return [("causal", name) for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES] + [
        ("image-text", name) for name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    ]


def shrunken(kind: str, model_type: str) -> Any:
    """Build the tiny model of a family in float32 on the CPU, in evaluation mode."""
    auto: Any = AutoModelForCausalLM if kind == "causal" else AutoModelForImageTextToText
    config = shrunken_config(model_type)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(config, dtype=torch.float32).eval()
        enliven(model)
    return model


def shrunken_config(model_type: str) -> Any:
    """Return the default config of a family with every size made small."""
    config_class: Any = CONFIG_MAPPING[model_type]
    default = config_class()
    return config_class(**_fields(default, default.to_dict()))


@torch.no_grad()
def enliven(model: nn.Module) -> None:
    """Scale every matrix so that it enlarges what it is given a little, and draw sinks anew.

    Against the uniform maps of a fresh model a wrong head or a shifted key would go unnoticed.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("sinks", "sink")):
            parameter.normal_(std=2.0)
        elif parameter.ndim == 2 and "embed" not in name and 0 < float(parameter.std()) < 0.5:
            parameter.mul_(1.6 * parameter.shape[1] ** -0.5 / float(parameter.std()))


def _fields(default: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a config with small values, part by part."""
    parts = getattr(default, "sub_configs", {})
    depth = next((given[name] for name in _DEPTHS.split() if isinstance(given.get(name), int)), 0)
    kept = _kept_layers(given, depth)
    tokens = iter(range(TEXT_TOKENS.stop + 1, VOCABULARY))
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name in parts or name in ("transformers_version", "model_type"):
            continue
        if kept and isinstance(value, (list, tuple)) and len(value) == depth:
            fields[name] = [_small(name, value[layer], given) for layer in kept]
        elif name in _DEPTHS.split() and kept and value == depth:
            fields[name] = len(kept)
        elif _is_token(name) and isinstance(value, int):
            fields[name] = next(tokens)
        elif name == "rope_parameters" and isinstance(value, dict):
            fields[name] = _small_rope(value)
        else:
            fields[name] = _small(name, value, given)
    for name in parts:
        part = getattr(default, name, None)
        if part is not None and hasattr(part, "to_dict"):
            inner = _fields(part, part.to_dict())
            fields[name] = {**inner, "model_type": part.model_type} if part.model_type else inner
    kind = getattr(default, "model_type", "")
    return _merged(_changed(fields, given), copy.deepcopy(EXCEPTIONS.get(kind, {})))


def _changed(fields: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is as in the default config: some of it is derived and cannot be given."""
    return {
        name: value for name, value in fields.items() if name not in given or value != given[name]
    }


def _small(name: str, value: Any, given: dict[str, Any]) -> Any:
    if name in _FIXED:
        return _FIXED[name]
    if value is None:
        return _MISSING.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or name not in _SIZES:
        return value
    if name == "num_key_value_heads" and value == given.get("num_attention_heads"):
        return HEADS  # a model without groups of heads stays one
    if name == "head_dim" and value == given.get("qk_rope_head_dim"):
        return _SIZES["qk_rope_head_dim"]
    return min(value, _SIZES[name])


def _small_rope(parameters: dict[str, Any]) -> dict[str, Any]:
    """Share the small heads out among time, height and width as the default config does."""
    small: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, dict):
            small[name] = _small_rope(value)
        elif name == "mrope_section":
            half = int(HEAD_WIDTH * parameters.get("partial_rotary_factor", 1.0)) // 2
            parts = [max(1, half * part // sum(value)) for part in value]
            parts[0] += half - sum(parts)
            small[name] = parts
        else:
            small[name] = value
    return small


def _merged(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with changes, part by part."""
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(fields.get(name), dict):
            fields[name] = _merged(fields[name], value)
        else:
            fields[name] = value
    return fields


def _is_token(name: str) -> bool:
    ends = ("_token_id", "_token_index", "_start_id", "_end_id", "_patch_id", "_newline_id")
    return name not in _FIXED and name.endswith(ends)


def _kept_layers(given: dict[str, Any], depth: int) -> list[int]:
    """Choose layers so that each kind of layer is there, at least two and at most five."""
    lists = [v for v in given.values() if isinstance(v, (list, tuple)) and len(v) == depth]
    kinds: dict[str, int] = {}
    for layer in range(depth):
        kinds.setdefault(str([one[layer] for one in lists]), layer)
    kept = sorted(kinds.values())[:5]
    others = [layer for layer in range(depth) if layer not in kept]
    return sorted([*kept, *others[: max(0, 2 - len(kept))]])

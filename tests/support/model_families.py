"""Build tiny, random chat models of every served family, and return their own attention maps.

One shared table: each test that says something about models runs over `FAMILIES`, `VARIANTS` or a
part of them.

A freshly initialised model attends almost uniformly, and against uniform maps a wrong head, a wrong
scale or a shifted key would go unnoticed. So every model here is sharpened after its
initialisation: its attention logits have a standard deviation of about 3, windows and chunks are
shorter than the texts of the tests, softcaps lie within reach of the logits, sinks take a visible
part of the mass, and the scale is not 1/√D wherever the family lets one choose it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    masking_utils,
)

VOCABULARY = 128
HIDDEN = 64
SHARPNESS = 3.0
"""Standard deviation that the logits of the attention have, roughly, in these models."""

SIZES: dict[str, Any] = dict(
    vocab_size=VOCABULARY,
    hidden_size=HIDDEN,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    initializer_range=HIDDEN**-0.5,  # a projection then keeps the size of what it is given
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)

# Hybrids without their optional kernels say once that they are slow. At this size they are not.
logging.getLogger("transformers.integrations.hub_kernels").addFilter(
    lambda record: "is falling back to its reference" not in record.getMessage()
)

FULL, SLIDING, LINEAR, CONV = "full_attention", "sliding_attention", "linear_attention", "conv"

_YARN: dict[str, Any] = dict(
    rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=128
)
_GEMMA3: dict[str, Any] = dict(
    head_dim=16, query_pre_attn_scalar=24, sliding_window=8, layer_types=[SLIDING, FULL, SLIDING]
)
_LLAMA4: dict[str, Any] = dict(
    num_hidden_layers=4,
    head_dim=32,
    intermediate_size_mlp=64,
    num_local_experts=2,
    moe_layers=[1],
    no_rope_layers=[1, 0, 1, 0],  # 0: no rotary embedding
    attention_chunk_size=16,
)


@dataclass(frozen=True)
class Family:
    """Hold a tiny model and what a test must know about its family.

    `build` gives the same model, weight for weight, on every call: float32, CPU, eval mode.
    """

    name: str
    build: Callable[[], PreTrainedModel]
    attention_layers: tuple[int, ...] = (0, 1, 2)
    """`layer_idx` of the layers that attend, ascending."""
    hybrid: bool = False
    """Some layers, or half of each layer, carry a state from token to token."""
    sdpa: bool = True
    """SDPA computes what the model means. Where it does not (softcap, sinks), eager does."""
    sinks: bool = False
    """Rows of the map sum to less than one."""
    packs: bool = True
    """In a packed row (`position_ids` starting anew, no mask) nothing but attention leads from one
    sequence to the next, and nothing in a sequence depends on the lengths of the others."""
    masks_keep_packed_apart: bool = True
    """The model's own masks see where a packed sequence ends. Where they do not, its eager maps of
    a packed row are no reference: compare with the sequences one by one."""
    length_limit: int | None = None
    """Up to this length an ordinary model of its family; the notes say what happens beyond."""
    notes: str = ""

    def __str__(self) -> str:
        return self.name


# --- building ---


def _tiny(model_type: str, **config: Any) -> Callable[[], PreTrainedModel]:
    """Build a sharpened `…ForCausalLM`; `config` adds to `SIZES` or replaces what stands there."""
    return partial(_causal_lm, model_type, SIZES | config)


def _causal_lm(model_type: str, config: dict[str, Any]) -> PreTrainedModel:
    return _build(AutoModelForCausalLM, AutoConfig.for_model(model_type, **copy.deepcopy(config)))


def _build(auto_class: Any, config: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto_class.from_config(config, dtype=torch.float32).eval()
        for attention in _attention_modules(model).values():
            _sharpen(attention)
    return model


@torch.no_grad()
def _sharpen(attention: Any) -> None:
    """Scale the queries of a layer, wherever its family makes them, and draw its sinks anew."""
    config = attention.config
    query_norm = getattr(attention, "q_norm", None) or getattr(attention, "q_layernorm", None)
    if hasattr(attention, "qk_norm"):  # Llama4: without a weight; undoes any factor on the queries
        _confine_to_few_dimensions(attention.q_proj, attention.head_dim)
        _confine_to_few_dimensions(attention.k_proj, attention.head_dim)
    elif query_norm is not None:
        query_norm.weight.add_(SHARPNESS - 1.0)  # from 1, or from 0 where 1 + weight is the factor
    elif hasattr(attention, "q_b_proj"):  # DeepSeek-V3: its low ranks shrink queries and keys
        shrunk = (config.q_lora_rank * config.kv_lora_rank) ** 0.5 / HIDDEN
        attention.q_b_proj.weight.mul_(SHARPNESS / shrunk)
    elif hasattr(attention, "q_proj"):
        attention.q_proj.weight.mul_(SHARPNESS)
    elif hasattr(attention, "qkv_proj"):  # Phi3: all queries, all keys, all values
        attention.qkv_proj.weight[: config.num_attention_heads * attention.head_dim].mul_(SHARPNESS)
    elif hasattr(attention, "query_key_value"):  # GPT-NeoX: query, key and value head by head
        by_head = attention.query_key_value.weight.view(
            config.num_attention_heads, 3, attention.head_size, -1
        )
        by_head[:, 0].mul_(SHARPNESS)
    elif hasattr(attention, "c_attn"):  # GPT-2: stored transposed
        attention.c_attn.weight[:, : attention.embed_dim].mul_(SHARPNESS)
    else:
        raise TypeError(f"where does {type(attention).__name__} make its queries?")
    if hasattr(attention, "sinks"):
        attention.sinks.normal_(mean=SHARPNESS, std=SHARPNESS)


def _confine_to_few_dimensions(projection: Any, head_dim: int) -> None:
    """Scale down all but four dimensions, so that normalised vectors are close or far apart."""
    projection.weight.view(-1, head_dim, projection.in_features)[:, 4:].mul_(0.2)


def _gemma3_with_images() -> PreTrainedModel:
    text = SIZES | _GEMMA3 | dict(model_type="gemma3_text")
    vision = dict(
        model_type="siglip_vision_model",
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        vision_use_head=False,
    )
    config = AutoConfig.for_model(
        "gemma3",
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=125,
        eoi_token_index=126,
        image_token_index=127,
        initializer_range=HIDDEN**-0.5,
    )
    model = _build(AutoModelForImageTextToText, config)
    # Zero at first: every image would be blank.
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    nn.init.normal_(projection, std=0.2, generator=torch.Generator().manual_seed(0))
    return model


# --- the table ---

DENSE: tuple[Family, ...] = (
    Family("llama", _tiny("llama")),
    Family("mistral", _tiny("mistral", sliding_window=8), notes="every layer has the window"),
    Family(
        "qwen2",
        _tiny(
            "qwen2", use_sliding_window=True, sliding_window=8, layer_types=[FULL, SLIDING, FULL]
        ),
    ),
    Family("qwen3", _tiny("qwen3", head_dim=32), notes="D is not hidden / heads"),
    Family(
        "qwen3_moe",
        _tiny(
            "qwen3_moe", head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
        ),
    ),
    Family(
        "gemma2",
        _tiny(
            "gemma2",
            head_dim=16,
            query_pre_attn_scalar=24,
            attn_logit_softcapping=4.0,
            attn_implementation="eager",
            sliding_window=8,
            layer_types=[SLIDING, FULL, SLIDING],
        ),
        sdpa=False,
        notes="softcap; SDPA drops it, which transformers 5.17 does in silence",
    ),
    Family("gemma3", _tiny("gemma3_text", **_GEMMA3)),
    Family("phi3", _tiny("phi3")),
    Family("olmo2", _tiny("olmo2"), notes="one query norm over all heads"),
    Family(
        "gpt_oss",
        _tiny(
            "gpt_oss",
            head_dim=16,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=8,
            layer_types=[SLIDING, FULL, SLIDING],
            rope_parameters=_YARN,
            attn_implementation="eager",
        ),
        sdpa=False,
        sinks=True,
        masks_keep_packed_apart=False,
    ),
    Family(
        "granite",
        _tiny(
            "granite",
            attention_multiplier=0.3,
            embedding_multiplier=6.0,
            residual_multiplier=0.5,
            logits_scaling=4.0,
        ),
    ),
    Family(
        "cohere2",
        _tiny("cohere2", sliding_window=8, layer_types=[SLIDING, FULL, SLIDING]),
        notes="no rotary embedding in the full layers",
    ),
    Family(
        "smollm3",
        _tiny("smollm3", no_rope_layers=[1, 0, 1]),
        notes="no rotary embedding in layer 1",
    ),
    Family(
        "deepseek_v3",
        _tiny(
            "deepseek_v3",
            num_key_value_heads=4,
            q_lora_rank=24,
            kv_lora_rank=16,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=16,
            n_routed_experts=4,
            n_group=1,
            topk_group=1,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            first_k_dense_replace=1,
        ),
        notes="D = 24, Dv = 16",
    ),
    Family(
        "llama4",
        _tiny("llama4_text", **_LLAMA4),
        (0, 1, 2, 3),
        # Earlier versions count chunks from the start of the row, not of the sequence.
        masks_keep_packed_apart=hasattr(masking_utils, "remap_positions_for_packed_sequence"),
        notes="chunks of 16 keys in layers 0 and 2, no rotary embedding in the others",
    ),
    Family("gpt_neox", _tiny("gpt_neox")),
    Family("gpt2", _tiny("gpt2"), notes="learned positions"),
)
"""The families whose every layer attends."""

HYBRIDS: tuple[Family, ...] = (
    Family(
        "lfm2",
        _tiny("lfm2", num_hidden_layers=4, layer_types=[CONV, FULL, FULL, CONV]),
        (1, 2),
        hybrid=True,
        packs=False,
        notes="the last layer does not attend",
    ),
    Family(
        "granitemoehybrid",
        _tiny(
            "granitemoehybrid",
            layer_types=[LINEAR, FULL, LINEAR],
            attention_multiplier=0.3,
            num_local_experts=4,
            num_experts_per_tok=2,
            shared_intermediate_size=32,
            mamba_n_heads=4,
            mamba_d_state=16,
            mamba_chunk_size=16,
        ),
        (1,),
        hybrid=True,
        packs=False,
        masks_keep_packed_apart=False,
        notes="no rotary embedding; the last layer does not attend",
    ),
    Family(
        "falcon_h1",
        _tiny(
            "falcon_h1",
            mamba_d_ssm=64,
            mamba_n_heads=4,
            mamba_d_state=16,
            mamba_chunk_size=16,
            key_multiplier=0.8,
        ),
        hybrid=True,
        packs=False,
        notes="each layer attends and carries a state, side by side",
    ),
    Family(
        "qwen3_next",
        _tiny(
            "qwen3_next",
            num_hidden_layers=4,
            layer_types=[LINEAR, FULL, LINEAR, FULL],
            head_dim=16,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=32,
        ),
        (1, 3),
        hybrid=True,
        packs=False,
    ),
)
"""The families in which a state crosses from one packed sequence to the next."""

FAMILIES: tuple[Family, ...] = DENSE + HYBRIDS

VARIANTS: tuple[Family, ...] = (
    Family(
        "llama_linear",
        _tiny("llama", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
    ),
    Family("llama_yarn", _tiny("llama", rope_parameters=_YARN)),
    Family(
        "llama_dynamic",
        _tiny(
            "llama",
            max_position_embeddings=32,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        ),
        packs=False,
        length_limit=32,
        notes="beyond the limit the frequencies follow the length of the longest sequence",
    ),
    Family(
        "phi3_longrope",
        _tiny(
            "phi3",
            max_position_embeddings=128,
            original_max_position_embeddings=32,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "factor": 4.0,
                "short_factor": [1.0] * 8,
                "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0],
            },
        ),
        packs=False,
        length_limit=32,
        notes="packs unless lengths on both sides of the limit meet in one batch",
    ),
    Family(
        "llama4_temperature",
        _tiny("llama4_text", **_LLAMA4, floor_scale=4, attn_scale=0.5),
        (0, 1, 2, 3),
        packs=False,
        length_limit=3,
        notes="layers 1 and 3 scale a query by its place in the row, whatever its position_ids say",
    ),
)
"""Ways of a family that change what may share a forward."""

MULTIMODAL: Family = Family(
    "gemma3_with_images",
    _gemma3_with_images,
    notes="a vision tower that attends both ways beside the text",
)

NOT_SERVED: Family = Family(
    "falcon",
    _tiny("falcon"),
    (),
    notes="does not ask the attention interface: told to use another, it warns and stays as it is",
)
"""A model outside of transformers' attention interface."""


# --- what the models say themselves ---


def random_tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    """Return token ids, `[batch, length]` int64, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY - 3, (batch, length), generator=generator)


def attention_layers(model: nn.Module) -> tuple[int, ...]:
    """Return the `layer_idx` of the text layers that attend, ascending, as the model says."""
    return tuple(_attention_modules(model))


def eager_attentions(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> dict[int, Tensor]:
    """Return the model's own maps by `layer_idx`, `[B, H, M, N]` float32, and leave it as it is.

    Keys that a query does not see have exactly 0. A row that sees no key at all (left padding) is
    whatever the family leaves there: do not compare it. For packed rows see
    `Family.masks_keep_packed_apart`.
    """
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    maps: dict[int, Tensor] = {}

    def keep(module: Any, _: Any, output: tuple[Tensor, Tensor]) -> None:
        maps[module.layer_idx] = output[1].float()

    for attention in _attention_modules(eager).values():
        attention.register_forward_hook(keep)
    optional = {"attention_mask": attention_mask, "position_ids": position_ids}
    given = {name: value for name, value in optional.items() if value is not None}
    with torch.no_grad():
        eager(input_ids, use_cache=False, **given)
    return maps


def reduce_by_hand(attn: Tensor, rows: Sequence[int], spans: Mapping[str, Sequence[int]]) -> Tensor:
    """Return the spans' attention mass, `[R, H, G]` float64, from one map `[H, M, N]`.

    `rows` are query positions; a span lists the positions of its keys. Spans come out in the
    mapping's order.
    """
    asked = attn.double()[:, list(rows)].transpose(0, 1)  # [R, H, N]
    return torch.stack([asked[..., list(keys)].sum(-1) for keys in spans.values()], dim=-1)


def _attention_modules(model: nn.Module) -> dict[int, Any]:
    """Return the attention modules by `layer_idx`.

    They are found by the class in `_can_record_outputs["attentions"]`. Llama4 names the class on
    the inner model only. A vision tower names its own, whose modules have no `layer_idx`.
    """
    found: dict[int, Any] = {}
    for part in model.modules():
        declared = (getattr(part, "_can_record_outputs", None) or {}).get("attentions")
        if declared is None:
            continue
        attention_class = getattr(declared, "target_class", declared)
        for module in part.modules():
            if isinstance(module, attention_class) and hasattr(module, "layer_idx"):
                found[module.layer_idx] = module
    return dict(sorted(found.items()))

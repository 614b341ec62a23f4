"""Hold the ways to compute attention that also give its logsumexp, one file each.

The ones above come first where nothing was measured and several serve a call.
"""

from __future__ import annotations

from . import cpu_flash, cudnn, exact_blocks, flash_3, flash_4, flex, fused, varlen
from .call import AttentionCall, Provider, call_of

PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(
            name="flash_4",
            about="FlashAttention 4, if installed or activated",
            serves=flash_4.serves,
            attend=flash_4.attend,
            missing=flash_4.missing,
            present=flash_4.present,
            splits_keys=flash_4.splits_keys,
            platform=True,
        ),
        Provider(
            name="flash_3",
            about="FlashAttention 3, if installed or activated",
            serves=flash_3.serves,
            attend=flash_3.attend,
            missing=flash_3.missing,
            present=flash_3.present,
            splits_keys=flash_3.splits_keys,
            platform=True,
        ),
        Provider(
            name="cudnn",
            about="cuDNN, through PyTorch",
            serves=cudnn.serves,
            attend=cudnn.attend,
            missing=cudnn.missing,
            platform=True,
        ),
        Provider(
            name="varlen",
            about="PyTorch's varlen_attn, FlashAttention 2",
            serves=varlen.serves,
            attend=varlen.attend,
            missing=varlen.missing,
            platform=True,
        ),
        Provider(
            name="flex",
            about="PyTorch's FlexAttention, compiled",
            serves=flex.serves,
            attend=flex.attend,
            missing=flex.missing,
            platform=True,
        ),
        Provider(
            name="fused",
            about="this project's fused Triton kernel",
            serves=fused.serves,
            attend=fused.attend,
            splits_keys=lambda call: True,
            own_sinks=True,
        ),
        Provider(
            name="cpu_flash",
            about="PyTorch's flash attention for CPU",
            serves=cpu_flash.serves,
            attend=cpu_flash.attend,
            own_sinks=True,
        ),
        Provider(
            name="blocks",
            about="exact products in blocks of queries",
            serves=exact_blocks.serves,
            attend=exact_blocks.attend,
            own_sinks=True,
        ),
    )
}

__all__ = ["PROVIDERS", "AttentionCall", "Provider", "call_of"]

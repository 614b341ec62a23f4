"""Hold the ways to compute attention that also give its logsumexp, one file each.

This order is that of tables and explanations. Which of several that serve a call is taken is said
in :mod:`dispatch`.
"""

from __future__ import annotations

from . import cpu_flash, cudnn, exact_blocks, flash_3, flash_4, flex, fused, varlen
from .call import AttentionCall, Provider, call_of

PROVIDERS: dict[str, Provider] = {
    module.PROVIDER.name: module.PROVIDER
    for module in (flash_4, flash_3, cudnn, varlen, flex, fused, cpu_flash, exact_blocks)
}

__all__ = ["PROVIDERS", "AttentionCall", "Provider", "call_of"]

"""Take attention from FlashAttention 3, where the user installed or activated it (sm_90).

An installed ``flash_attn_interface`` is called itself: it takes softcaps, windows, packed rows, and
splits the keys of a decoding call. Where PyTorch's own registry says that FlashAttention 3 is
active but the package lies elsewhere, ``varlen_attn`` reaches it.
"""

from __future__ import annotations

import torch

from ..merging import Attended
from . import varlen
from .call import DECODE_QUERIES, AttentionCall, Provider
from .flash_packages import current_implementation, installed, lacks, run, unfit
from .packed_tokens import next_width

PLACES = ("flash_attn_interface", "flash_attn_3.flash_attn_interface")
WIDEST = 256
WANTED = ("softmax_scale", "causal", "window_size", "softcap")


def serves(call: AttentionCall) -> str | None:
    """Return why FlashAttention 3 cannot serve a call, or None if it can."""
    reason = unfit(call, capabilities=(9,), widest=WIDEST) or missing()
    if reason is not None or installed(*PLACES) is not None:
        return reason
    return "reached through PyTorch it has no softcap" if call.rule.softcap is not None else None


def present() -> bool:
    """Return whether the user installed or activated FlashAttention 3."""
    return installed(*PLACES) is not None or current_implementation() == "FA3"


def missing() -> str | None:
    """Return why FlashAttention 3 cannot be called here at all, or None if it can."""
    place = installed(*PLACES)
    if place is not None:
        return lacks(place, *WANTED)
    if current_implementation() == "FA3":
        return varlen.lacking()
    return (
        "it is neither installed (flash_attn_interface) nor activated "
        '(torch.nn.attention.activate_flash_attention_impl("FA3"))'
    )


def attend(call: AttentionCall) -> Attended:
    """Return ``out [B, Hq, M, Dv]``, differentiable, and ``lse [B, Hq, M]`` of a call it serves."""
    place = installed(*PLACES)
    if place is None:
        return varlen.attend(call)
    same = torch.are_deterministic_algorithms_enabled()
    splits = 0 if call.q.shape[2] <= DECODE_QUERIES and not call.grad and not same else 1
    asking = {"num_splits": splits, "deterministic": same, "return_attn_probs": True}
    return run(call, place, next_width(call.width), no_window=-1, asking=asking)


def splits_keys(call: AttentionCall) -> bool:
    """Return whether a decoding call is split over its keys, so that it fills the card."""
    return installed(*PLACES) is not None and not torch.are_deterministic_algorithms_enabled()


PROVIDER = Provider(
    name="flash_3",
    about="FlashAttention 3, if installed or activated",
    serves=serves,
    attend=attend,
    missing=missing,
    present=present,
    splits_keys=splits_keys,
    platform=True,
)

"""Take attention from FlashAttention 4, where the user installed or activated it (sm_90, sm_100).

An installed ``flash_attn.cute`` is called itself: it takes softcaps, windows and packed rows. The
gradient under a window or a softcap is not in every version, so a call that wants one goes
elsewhere. Where PyTorch's own registry says that it is active but the package lies elsewhere,
``varlen_attn`` reaches it.
"""

from __future__ import annotations

import torch

from ..merging import Attended
from . import devices, varlen
from .call import DECODE_QUERIES, AttentionCall, Provider
from .flash_packages import current_implementation, installed, lacks, run, unfit

PLACES = ("flash_attn.cute", "flash_attn.cute.interface")
WIDTHS = (64, 96, 128)  # what every version takes; narrower heads are padded to the next
WANTED = ("softmax_scale", "causal", "window_size", "softcap")
SPLITTING = (10,)  # compute capabilities on which it splits keys


def serves(call: AttentionCall) -> str | None:
    """Return why FlashAttention 4 cannot serve a call, or None if it can."""
    reason = unfit(call, capabilities=(9, 10), widest=WIDTHS[-1]) or missing()
    if reason is not None:
        return reason
    windowed = call.rule.window is not None and call.rule.window < call.k.shape[2]
    if call.grad and (windowed or call.rule.softcap is not None):
        return "not every version has the gradient under a window or a softcap"
    if installed(*PLACES) is None and call.rule.softcap is not None:
        return "reached through PyTorch it has no softcap"
    return None


def present() -> bool:
    """Return whether the user installed or activated FlashAttention 4."""
    return installed(*PLACES) is not None or current_implementation() == "FA4"


def missing() -> str | None:
    """Return why FlashAttention 4 cannot be called here at all, or None if it can."""
    place = installed(*PLACES)
    if place is not None:
        return lacks(place, *WANTED)
    if current_implementation() == "FA4":
        return varlen.lacking()
    return (
        "it is neither installed (flash_attn.cute) nor activated "
        '(torch.nn.attention.activate_flash_attention_impl("FA4"))'
    )


def attend(call: AttentionCall) -> Attended:
    """Return ``out [B, Hq, M, Dv]``, differentiable, and ``lse [B, Hq, M]`` of a call it serves."""
    place = installed(*PLACES)
    if place is None:
        return varlen.attend(call)
    width = next(width for width in WIDTHS if width >= call.width)
    same = torch.are_deterministic_algorithms_enabled()
    splits = 0 if splits_keys(call) and call.q.shape[2] <= DECODE_QUERIES and not call.grad else 1
    asking = {"num_splits": splits, "deterministic": same, "return_lse": True}
    return run(call, place, width, no_window=None, asking=asking)


def splits_keys(call: AttentionCall) -> bool:
    """Return whether a decoding call is split over its keys, so that it fills the card."""
    if installed(*PLACES) is None or torch.are_deterministic_algorithms_enabled():
        return False
    return devices.capability(call.q.device)[0] in SPLITTING


PROVIDER = Provider(
    name="flash_4",
    about="FlashAttention 4, if installed or activated",
    serves=serves,
    attend=attend,
    missing=missing,
    present=present,
    splits_keys=splits_keys,
    platform=True,
)

"""List the sizes of everything that the sections measure, on a GPU and in a trial on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AttentionForm = Literal["causal", "packed", "window", "softcap"]
"""One causal sequence of T tokens; ``sequences`` of T in all; a window; a softcap."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of everything that the sections measure.

    Attributes:
        rounds: the most rounds of calls that take turns.
        heads, kv_heads, width: Hq, Hkv and D = Dv.
        rows: R, the number of last queries whose mass is asked for.
        span: the number of keys of the one span, near the start.
        gemm: the side of the square matrices of the dense product.
        copy_bytes: the size of the buffer that is copied.
        widths: the widths D of the providers' table, those that matter most first.
        forms: the kinds of attention in the providers' table.
        provider_lengths: the lengths T of the providers' table, those that matter most first.
        sequences: how many sequences of equal length a packed call holds.
        window, softcap: the window in keys, and the softcap, of these forms.
        mass: the lengths at which attention is timed with mass and without.
        half: the lengths at which the span is half the prompt and every row is asked for.
        backward: the lengths T of the backward pass.
        gradients: the length at which gradients are compared with float32 autograd.
        decode_keys, decode_batches: N and B of a decoding step.
        repeats, repeated: how often, and at which length, the same call must give the same bits.
        offsets: how many numbers a tensor has, or its strides reach over, in the check of offsets.
        column_sums: the lengths for the comparison with column sums.
        model: the model that is scored (:data:`llama.SHAPES`).
        model_lengths: the prompt's lengths, the most decisive first.
        scene_lengths: the lengths for many replies, and for a span of half the prompt.
        part_lengths: the lengths at which a score is split into its parts.
        replies: how many replies a prompt with many replies has.
        eager_lengths: the lengths at which attention maps are tried, ascending.
        training, training_lengths: the model that is trained, and the conversations' lengths.
        rank: the rank of LoRA in that training.
    """

    rounds: int
    heads: int
    kv_heads: int
    width: int
    rows: int
    span: int
    gemm: int
    copy_bytes: int
    widths: tuple[int, ...]
    forms: tuple[AttentionForm, ...]
    provider_lengths: tuple[int, ...]
    sequences: int
    window: int
    softcap: float
    mass: tuple[int, ...]
    half: tuple[int, ...]
    backward: tuple[int, ...]
    gradients: int
    decode_keys: tuple[int, ...]
    decode_batches: tuple[int, ...]
    repeats: int
    repeated: int
    offsets: int
    column_sums: tuple[int, ...]
    model: str
    model_lengths: tuple[int, ...]
    scene_lengths: tuple[int, ...]
    part_lengths: tuple[int, ...]
    replies: int
    eager_lengths: tuple[int, ...]
    training: str
    training_lengths: tuple[int, ...]
    rank: int


FULL = Sizes(
    rounds=40,
    heads=32,
    kv_heads=8,
    width=128,
    rows=256,
    span=40,
    gemm=8192,
    copy_bytes=4 * 2**30,
    widths=(128, 64, 256),
    forms=("causal", "packed", "window", "softcap"),
    provider_lengths=(16384, 131072, 4096),
    sequences=8,
    window=1024,
    softcap=50.0,
    mass=(16384, 131072, 4096),
    half=(16384, 4096),
    backward=(8192, 32768),
    gradients=1024,
    decode_keys=(131072, 32768, 4096),
    decode_batches=(1, 16),
    repeats=60,
    repeated=4096,
    offsets=2**31,
    column_sums=(4096, 16384),
    model="Llama-3-8B shape",
    model_lengths=(131072, 65536, 16384, 4096),
    scene_lengths=(16384, 4096),
    part_lengths=(4096, 16384, 131072),
    replies=64,
    eager_lengths=(4096, 6144, 8192),
    training="Llama-3-8B",
    training_lengths=(8192, 32768),
    rank=128,
)

# On a CPU the kernels are interpreted: everything is so small that the whole report takes seconds.
QUICK = Sizes(
    rounds=1,
    heads=2,
    kv_heads=1,
    width=16,
    rows=8,
    span=4,
    gemm=64,
    copy_bytes=2**16,
    widths=(16,),
    forms=("causal", "packed", "window", "softcap"),
    provider_lengths=(32,),
    sequences=2,
    window=9,
    softcap=2.0,
    mass=(24,),
    half=(24,),
    backward=(20,),
    gradients=20,
    decode_keys=(40,),
    decode_batches=(1, 2),
    repeats=2,
    repeated=20,
    offsets=2**10,
    column_sums=(24,),
    model="tiny",
    model_lengths=(40, 32),
    scene_lengths=(32,),
    part_lengths=(32,),
    replies=3,
    eager_lengths=(32, 40),
    training="tiny",
    training_lengths=(32,),
    rank=4,
)

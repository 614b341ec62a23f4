"""Give every section a device, sizes, the time it has, and a record to write in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu.harness.failures import describe, recover
from benchmarks.gpu.harness.timing import Call, TurnTimes, take_turns

Entry = dict[str, Any]
"""One line of a section's table, with sizes and figures. It has ``error`` if something went wrong,
``skipped`` if there was no time for it, and ``absent`` if it cannot be measured here, which is no
failure. Dicts in it are for the record only."""

LEAST_SECONDS = 1.0  # a measurement is not begun with less


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
        prefill, backward: the lengths T of the forward and of the backward pass.
        gradients: the length at which gradients are compared with float32 autograd.
        agreement: the length at which gradients are compared with another backend's.
        decode_keys, decode_batches: N and B of a decoding step.
        column_sums: the lengths for the comparison with column sums.
        choice_prefill, choice_training: the lengths at which backends are compared for ``auto``.
        model, model_lengths: the model that is scored (:data:`llama.SHAPES`), and the lengths.
        model_check: the length at which the model's scores are compared.
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
    prefill: tuple[int, ...]
    backward: tuple[int, ...]
    gradients: int
    agreement: int
    decode_keys: int
    decode_batches: tuple[int, ...]
    column_sums: tuple[int, ...]
    choice_prefill: tuple[int, ...]
    choice_training: tuple[int, ...]
    model: str
    model_lengths: tuple[int, ...]
    model_check: int
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
    prefill=(4096, 8192, 16384, 32768, 65536, 131072),
    backward=(4096, 16384, 32768),
    gradients=1024,
    agreement=4096,
    decode_keys=131072,
    decode_batches=(1, 16),
    column_sums=(4096, 16384),
    choice_prefill=(4096, 16384, 65536),
    choice_training=(4096, 16384),
    model="Llama-3-8B shape",
    model_lengths=(4096, 16384, 65536, 131072),
    model_check=1024,
    eager_lengths=(4096, 6144, 8192),
    training="Llama-3-8B",
    training_lengths=(8192, 32768),
    rank=128,
)

QUICK = Sizes(
    rounds=2,
    heads=2,
    kv_heads=1,
    width=128,
    rows=8,
    span=4,
    gemm=256,
    copy_bytes=2**20,
    prefill=(48, 80),
    backward=(48,),
    gradients=40,
    agreement=48,
    decode_keys=96,
    decode_batches=(1, 2),
    column_sums=(48,),
    choice_prefill=(48,),
    choice_training=(40,),
    model="tiny",
    model_lengths=(64, 96),
    model_check=48,
    eager_lengths=(64, 96),
    training="tiny",
    training_lengths=(48, 64),
    rank=4,
)


@dataclass
class Bench:
    """What a section works with, and the means to run its measurements.

    Attributes:
        device: the device that is measured.
        sizes: how large everything is.
        ends: the moment at which the section's time is over, by ``time.monotonic``.
        ceilings: ``gemm_tflops`` and ``copy_gbs`` as far as they were measured before.
        save: the function that keeps the entries, called after each of them.
        entries: what was found so far.
    """

    device: torch.device
    sizes: Sizes
    ends: float
    ceilings: Mapping[str, float]
    save: Callable[[Sequence[Entry]], None]
    entries: list[Entry] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """Return bfloat16, or float32 on a CPU, whose interpreter of kernels has no bfloat16."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def left(self) -> float:
        """Return the seconds that are left of the section's time."""
        return self.ends - time.monotonic()

    def turns(
        self, calls: Mapping[str, Call], seconds: float, *, least: int = 3, long: bool = False
    ) -> TurnTimes:
        """Time calls in turn on this device, by :func:`timing.take_turns`."""
        return take_turns(
            calls, self.device, seconds, most=self.sizes.rounds, least=least, long=long
        )

    def each(self, places: Sequence[Entry], measure: Callable[[Bench, Entry, float], None]) -> None:
        """Measure at every place, and note an error at the place where it happens.

        Args:
            places: the sizes that each entry begins with.
            measure: gets the bench, the entry to complete and its share of the seconds left.

        Raises:
            DeviceLostError: nothing more can be measured in this process.
        """
        for number, place in enumerate(places):
            entry = dict(place)
            self.entries.append(entry)
            if self.left < LEAST_SECONDS:
                entry["skipped"] = "out of time"
                self.save(self.entries)
                continue
            try:
                measure(self, entry, self.left / (len(places) - number))
            except Exception as error:  # the other places go on
                entry["error"] = describe(error)
            self.save(self.entries)
            recover(self.device)  # here no traceback holds on to tensors any more


def free_bytes(device: torch.device) -> int:
    """Return how many bytes tensors on the device can still take."""
    if device.type != "cuda":
        from benchmarks.measuring.machine import available_bytes

        return available_bytes()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused

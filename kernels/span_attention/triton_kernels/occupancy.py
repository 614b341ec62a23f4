"""Compute how many programs of a compiled kernel a card holds at once.

A multiprocessor holds as many programs as its threads, registers and shared memory allow:

    held = processors · min(⌊threads / t⌋, ⌊registers / (t · r)⌋, ⌊shared / s⌋)

with t threads a program, r registers a thread, and s bytes of shared memory a program.
"""

from __future__ import annotations

from typing import Any

REGISTER_UNIT = 8  # registers per thread are given out in steps of this
SHARED_OVERHEAD = 1024  # bytes of shared memory that a card keeps for itself, per program


def programs_held(card: Any, *, warps: int, registers: int, shared: int) -> int:
    """Return how many programs a card holds at once, at least one per multiprocessor.

    Args:
        card: what ``torch.cuda.get_device_properties`` says of it.
        warps: warps per program.
        registers: registers per thread.
        shared: bytes of shared memory per program.
    """
    threads = warps * card.warp_size
    granted = -(-registers // REGISTER_UNIT) * REGISTER_UNIT
    each: int = min(
        card.max_threads_per_multi_processor // threads,
        card.regs_per_multiprocessor // (threads * granted),
        card.shared_memory_per_multiprocessor // (shared + SHARED_OVERHEAD),
    )
    return int(card.multi_processor_count) * max(1, each)


def held_when_compiled(card: Any, compiled: Any) -> int:
    """Return how many programs of a kernel that Triton compiled a card holds at once.

    The kernel is loaded, which is when its registers become known.
    """
    _ = compiled.run  # loads it
    meta = compiled.metadata
    return programs_held(card, warps=meta.num_warps, registers=compiled.n_regs, shared=meta.shared)

"""Find tensor core instructions that may read shared memory before a copy to it can be seen.

On sm_90 and sm_100 the tensor cores read shared memory through another path (the async proxy) than
``cp.async`` writes it. So between the wait for a copy and the product a ``fence.proxy.async`` must
stand (PTX ISA, "Async proxy"); without one the product may read what was there before.
"""

from __future__ import annotations

import re

from benchmarks.static.control_flow import Program, successors

_COPIED = re.compile(r"cp\.async\.wait_(group|all)")
_FENCE = re.compile(r"fence\.proxy\.async")
_PRODUCT = re.compile(r"wgmma\.mma_async|tcgen05\.(mma|cp)")


def unfenced_products(program: Program) -> int:
    """Return how many products in PTX can be reached from a copy's wait without passing a fence."""
    following = successors(program)
    unfenced = [False] * len(program)  # on some way to the instruction, before it
    waiting = [at for at, one in enumerate(program) if _COPIED.match(one.name)]
    while waiting:
        at = waiting.pop()
        if _FENCE.match(program[at].name):
            continue
        for to in following[at]:
            if not unfenced[to]:
                unfenced[to] = True
                waiting.append(to)
    found = zip(program, unfenced, strict=True)
    return sum(late and _PRODUCT.match(one.name) is not None for one, late in found)

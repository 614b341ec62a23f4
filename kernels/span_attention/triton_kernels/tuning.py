"""Launch kernels with the table's configuration or, on request, with the one measured fastest.

``SRA_FAST_AUTOTUNE=1`` lets ``triton.autotune`` time some neighbours of the table's configuration,
once per kernel, width, dtypes and power of two of the number of keys. That takes seconds at the
first call of each, and launches then depend on the noise of a clock, so it is off by default.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import triton
from torch import Tensor

from .configurations import Configuration, Kernel, configuration

OPT_IN = "SRA_FAST_AUTOTUNE"
KEY = ["length_bucket", "WIDTH", "VALUE_WIDTH", "SPANS", "SOFTCAP"]


def launch(
    kernel: Kernel,
    function: Any,
    programs: Callable[[dict[str, int]], int],
    q: Tensor,
    n_keys: int,
    *arguments: Any,
    **constants: Any,
) -> None:
    """Run a kernel with a ``length_bucket`` and the tiles ``BLOCK_M``, ``BLOCK_N`` chosen for it.

    ``programs`` computes the number of programs from the tiles; ``q`` and the widths choose the
    tiles.
    """
    chosen = configuration(kernel, q, max(constants["WIDTH"], constants["VALUE_WIDTH"]))
    constants["length_bucket"] = (n_keys - 1).bit_length()
    if os.environ.get(OPT_IN) == "1":
        tuned = autotuned(function, chosen)
        tuned[lambda meta: (programs(meta),)](*arguments, **constants)
        return
    tiles, options = _of(chosen)
    function[(programs(tiles),)](*arguments, **constants, **options)


@functools.lru_cache(maxsize=64)
def _of(chosen: Configuration) -> tuple[dict[str, int], dict[str, int]]:
    """Return the tiles of a configuration, and its tiles and options, each for all launches."""
    return chosen.blocks(), chosen.blocks() | chosen.options()


@functools.cache
def autotuned(function: Any, chosen: Configuration) -> Any:
    """Return the kernel that times ``chosen`` and its neighbours on the first call of each key."""
    configs = [
        triton.Config(
            near.blocks(),
            num_warps=near.warps,
            num_stages=near.stages,
            maxnreg=near.registers,
        )
        for near in neighbours(chosen)
    ]
    return triton.autotune(configs=configs, key=KEY)(function)


def neighbours(chosen: Configuration) -> list[Configuration]:
    """Return the configuration and those with tiles, warps or stages one step off, each once."""
    tiles = {
        (m, n)
        for m, n in (
            (chosen.block_m, chosen.block_n),
            (chosen.block_m // 2, chosen.block_n),
            (chosen.block_m, chosen.block_n // 2),
            (chosen.block_m, chosen.block_n * 2),
        )
        if m >= 16 and n >= 16
    }
    near = [
        Configuration(m, n, warps, stages)
        for m, n in sorted(tiles)
        for warps in (4, 8)
        for stages in sorted({max(1, chosen.stages - 1), chosen.stages, chosen.stages + 1})
    ]
    return [chosen, *(one for one in near if replace(chosen, registers=None) != one)]

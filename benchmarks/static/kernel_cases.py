"""List the calls whose kernels are compiled, and make them with tensors without memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sra_fast.kernels.triton_kernels.backward import backward
from sra_fast.kernels.triton_kernels.decode import decode, serves
from sra_fast.kernels.triton_kernels.epilogue import add_span_mass
from sra_fast.kernels.triton_kernels.forward import forward
from sra_fast.kernels.triton_kernels.key_profile import RowOrder, key_profile
from sra_fast.kernels.triton_kernels.launch import Logits, like_heads
from sra_fast.kernels.triton_kernels.layout import GRANULE, Layout
from sra_fast.kernels.triton_kernels.row_backward import row_backward
from sra_fast.kernels.triton_kernels.steering_epilogue import EXACTLY, steer_rows

WIDTHS = (64, 128, 256)
DTYPES = (torch.bfloat16, torch.float32)
WIDEST_CLEAN = 128  # heads up to this width spill nothing in a hot loop
TOKENS = 4095  # no multiple of 16, as most lengths are
EVEN_TOKENS = 4096
ROWS = 257


KernelFunction = Literal[
    "forward", "decode", "epilogue", "steering", "backward", "row_backward", "profile"
]


@dataclass(frozen=True)
class KernelCase:
    """One call of a function that launches kernels.

    Attributes:
        function: the name of the function.
        width: the width of a head, D = Dv.
        dtype: the dtype of q, k and v.
        spans: the spans that the kernel itself sums; 0 in ``backward`` for no gradient of the mass,
            in ``profile`` for a mean over heads.
        batch, queries, keys: B, M and N. Triton compiles anew for 1 and for multiples of 16.
        heads, kv_heads: Hq and Hkv.
        capped: whether there are a softcap and sinks.
    """

    function: KernelFunction
    width: int
    dtype: torch.dtype
    spans: int
    batch: int = 2
    queries: int = TOKENS
    keys: int = TOKENS
    heads: int = 32
    kv_heads: int = 8
    capped: bool = False


def every_case() -> list[KernelCase]:
    """Return the cases compiled per architecture: each line of the table, with most switched on.

    Where it counts they are also compiled with less switched on, because fewer spans do not always
    take fewer registers.
    """
    cases = []
    for dtype in DTYPES:
        for width in WIDTHS:
            often = dtype == torch.bfloat16 and width <= WIDEST_CLEAN
            usual = KernelCase("forward", width, dtype, spans=3)
            few = _few_queries(usual)
            most = [replace(few, queries=queries) for queries in (16, 8, 4)]
            cases += [replace(usual, spans=spans) for spans in ((0, 2, 3) if often else (0, 3))]
            cases += [replace(few, queries=1, spans=spans) for spans in ((0, 3) if often else (3,))]
            cases += [case for case in most if decode_serves(case)][:1]  # the largest tile
            names: tuple[KernelFunction, ...] = ("epilogue", "steering", "row_backward")
            cases += [replace(usual, function=name) for name in names]
            cases += [replace(usual, function="profile", spans=spans) for spans in (0, 3)]
            steps = (0, 3) if width <= WIDEST_CLEAN else (3,)
            cases += [replace(usual, function="backward", spans=spans) for spans in steps]
    usual = KernelCase("forward", 128, torch.bfloat16, spans=3)
    for more in (
        replace(usual, width=96),  # no power of two: the tile is wider than the head
        replace(usual, capped=True),
        replace(usual, batch=1, queries=EVEN_TOKENS, keys=EVEN_TOKENS),
    ):
        cases += [more, replace(more, spans=0)]
        cases += [replace(more, function=name) for name in ("backward", "row_backward", "profile")]
    return cases


def quick_cases() -> list[KernelCase]:
    """Return one case per kernel, in bfloat16 with heads of width 128, and with spans."""
    usual = KernelCase("forward", 128, torch.bfloat16, spans=3)
    decoding = replace(_few_queries(usual), queries=1)
    names: tuple[KernelFunction, ...] = (
        *("epilogue", "steering"),
        *("backward", "row_backward", "profile"),
    )
    others = [replace(usual, function=name) for name in names]
    return [replace(usual, spans=0), usual, decoding, *others]


def _few_queries(case: KernelCase) -> KernelCase:
    return replace(case, function="decode", heads=8, kv_heads=1)


def decode_serves(case: KernelCase) -> bool:
    """Return whether the decode kernel takes so many queries, or leaves them to the forward one."""
    q, _, v, *_ = _inputs(case)
    return serves(q, v)


def call(case: KernelCase) -> None:
    """Call the function of a case with tensors without memory."""
    _CALLS[case.function](case)


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _heads(case: KernelCase, heads: int, length: int) -> Tensor:
    """Return ``[B, H, L, D]`` without memory, as the transposed view that models hand over."""
    return _empty(case.batch, length, heads, case.width, dtype=case.dtype).transpose(1, 2)


def _inputs(case: KernelCase) -> tuple[Tensor, Tensor, Tensor, Layout, Logits]:
    granules_m, granules_n = -(-case.queries // GRANULE), -(-case.keys // GRANULE)
    layout = Layout(
        key_labels=_empty(case.batch, case.keys, dtype=torch.int32),
        first_key=_empty(case.batch, case.queries, dtype=torch.int32),
        last_query=_empty(case.batch, case.keys, dtype=torch.int32),
        slots=_empty(case.batch, case.queries, dtype=torch.int32),
        key_runs=_empty(2, case.batch, granules_n, dtype=torch.int32),
        query_runs=_empty(2, case.batch, granules_m, dtype=torch.int32),
        rows=_empty(ROWS, dtype=torch.int64),
    )
    sinks = _empty(case.heads, dtype=case.dtype) if case.capped else None
    return (
        _heads(case, case.heads, case.queries),
        _heads(case, case.kv_heads, case.keys),
        _heads(case, case.kv_heads, case.keys),
        layout,
        Logits(case.width**-0.5, 30.0 if case.capped else None, sinks),
    )


def _mass_and_lse(case: KernelCase) -> tuple[Tensor, Tensor]:
    spans = max(case.spans, 1)
    mass = _empty(ROWS, case.heads, spans, dtype=torch.float32)
    return mass, _empty(case.batch, case.heads, case.queries, dtype=torch.float32)


def _forward(case: KernelCase) -> None:
    forward(*_inputs(case), rows=ROWS, spans=max(case.spans, 2), first_spans=case.spans)


def _decode(case: KernelCase) -> None:
    decode(*_inputs(case), rows=ROWS, spans=max(case.spans, 2), first_spans=case.spans)


def _epilogue(case: KernelCase) -> None:
    q, k, _, layout, logits = _inputs(case)
    mass, lse = _mass_and_lse(case)
    add_span_mass(q, k, lse, mass, layout, logits)


def _steering(case: KernelCase) -> None:
    q, k, v, layout, logits = _inputs(case)
    _, lse = _mass_and_lse(case)
    chosen = _empty(case.heads, dtype=torch.int8)
    steer_rows(
        q,
        k,
        v,
        like_heads(q),
        lse,
        torch.empty_like(lse),
        chosen,
        layout,
        logits,
        EXACTLY.value,
        0.5,
    )


def _backward(case: KernelCase) -> None:
    q, k, v, layout, logits = _inputs(case)
    mass, lse = _mass_and_lse(case)
    out = like_heads(q)
    d_mass = torch.empty_like(mass) if case.spans else None
    backward(q, k, v, out, mass, lse, torch.empty_like(out), d_mass, layout, logits)


def _row_backward(case: KernelCase) -> None:
    q, k, _, layout, logits = _inputs(case)
    mass, _ = _mass_and_lse(case)
    bounds = torch.empty_like(layout.key_runs)
    row_backward(q, k, mass, mass[:, :, 0].contiguous(), mass, layout, bounds, logits)


def _profile(case: KernelCase) -> None:
    q, k, _, layout, logits = _inputs(case)
    lse = _empty(ROWS, case.heads, dtype=torch.float32)
    order = RowOrder(_empty(ROWS, dtype=torch.int64), _empty(4, dtype=torch.int32))
    by_head = case.spans > 0
    key_profile(q, k, lse, layout.first_key, layout.rows, order, logits, by_head)


_CALLS: dict[str, Callable[[KernelCase], None]] = {
    "forward": _forward,
    "decode": _decode,
    "epilogue": _epilogue,
    "steering": _steering,
    "backward": _backward,
    "row_backward": _row_backward,
    "profile": _profile,
}

"""Judge a compiled kernel by what its chip gives and by what its loops are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.static.compilation import Binary
from benchmarks.static.kernel_cases import EVEN_TOKENS, WIDEST_CLEAN, KernelCase

# Bytes of shared memory per program.
SHARED = {
    "sm_80": 166_912,
    "sm_86": 101_376,
    "sm_90": 232_448,
    "sm_100": 232_448,
    "sm_120": 101_376,
    "gfx942": 65_536,
}
TENSOR_COLUMNS = 512  # columns of tensor memory per multiprocessor
# The best matrix instruction (HGMMA is wgmma, UTC…MMA is tcgen05), and how many rows it takes.
BEST = {
    "sm_80": ("HMMA", 16),
    "sm_86": ("HMMA", 16),
    "sm_90": ("HGMMA", 64),
    "sm_100": ("UTCMMA", 64),
    "sm_120": ("HMMA", 16),
    "gfx942": ("v_mfma", 16),
}
NAMES = {
    "forward_kernel": "forward",
    "split_kernel": "decode",
    "join_kernel": "decode join",
    "span_mass_kernel": "epilogue",
    "steering_kernel": "steering",
    "delta_kernel": "delta",
    "dk_dv_kernel": "dk_dv",
    "dq_kernel": "dq",
    "row_dq_kernel": "row_dq",
    "row_dk_kernel": "row_dk",
    "profile_kernel": "profile",
}
WITHOUT_PRODUCTS = {"delta", "decode join"}
BLOCK = 16 * 64  # logits: what one warp multiplies at once, times 64 keys


@dataclass(frozen=True)
class JudgedKernel:
    """One compiled kernel and what is to be said of it.

    Attributes:
        architecture, width, dtype: what it was compiled for.
        kernel: its name among the values of ``NAMES``.
        variant: what sets the case apart from the usual one, or "".
        binary: what was read from the compiled kernel.
        instruction: the instruction that its products run on.
        problems: what must not be, a phrase each.
        remarks: what is unusual for a good reason, a phrase each.
    """

    architecture: str
    kernel: str
    width: int
    dtype: str
    variant: str
    binary: Binary
    instruction: str
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Return "ok" or "FAILS", with the problems and the remarks."""
        said = "; ".join([*self.problems, *self.remarks])
        return f"FAILS: {said}" if self.problems else f"ok ({said})" if said else "ok"

    @property
    def per_block(self) -> int | None:
        """Return the main loop's instructions, of all warps together, per 16 × 64 logits."""
        made, loop = self.binary, self.binary.main_loop
        if loop is None or made.block_m is None or made.block_n is None:
            return None
        return round(loop.instructions * made.warps * BLOCK / (made.block_m * made.block_n))


def judged(architecture: str, case: KernelCase, binary: Binary) -> JudgedKernel:
    """Return a compiled kernel together with what is wrong with it."""
    kernel = NAMES[binary.kernel]
    problems, remarks = [], []
    expected, rows = BEST[architecture]
    found = "+".join(binary.instructions)
    if kernel in WITHOUT_PRODUCTS:
        expected, found = "-", found or "-"
    elif case.dtype == torch.float32 and architecture != "gfx942":
        # What NVIDIA's matrix instructions take as float32 is rounded to 10 bits first.
        expected, found = "FFMA", found or "FFMA"
    elif kernel == "decode" and (binary.block_m or 0) < rows:
        expected = "HMMA"
        remarks.append(f"{BEST[architecture][0]} takes {rows} rows, {binary.block_m} are packed")

    if binary.error is not None:
        problems.append(binary.error)
    elif found != expected:
        problems.append(f"{found or 'no matrix instruction'}, not {expected}")
    elif expected != "-" and not binary.loops:
        problems.append("no loop with products was found")
    if binary.shared > SHARED[architecture]:
        problems.append("shared memory")
    if binary.tensor_columns > TENSOR_COLUMNS:
        problems.append("tensor memory")
    if binary.unfenced:
        problems.append(f"{binary.unfenced} products with no fence after a copy")
    clean = case.width <= WIDEST_CLEAN
    if binary.hot_spills:
        (problems if clean else remarks).append(f"{binary.hot_spills} spills in hot loops")
    if binary.spills_outside or (binary.stack and not binary.hot_spills):
        remarks.append(
            "spills outside of them" if binary.hot_spills else "spills outside hot loops"
        )
    alone = sum(loop.lone_products for loop in binary.loops)
    if alone:
        why = binary.serialised_by
        said = f"{alone} products one by one: {why or 'the assembler gives no reason'}"
        (remarks if why and not clean else problems).append(said)
    return JudgedKernel(
        architecture=architecture,
        kernel=kernel,
        width=case.width,
        dtype=str(case.dtype).removeprefix("torch."),
        variant=_variant(case),
        binary=binary,
        instruction=found,
        problems=tuple(problems),
        remarks=tuple(remarks),
    )


def _variant(case: KernelCase) -> str:
    if case.capped:
        return "softcap, sinks"
    return f"B=1, N={case.keys}" if case.keys == EVEN_TOKENS else ""

"""Find wgmma that run one by one, and ask the assembler why.

The tensor cores of sm_90 take several wgmma at once and work while the program goes on. If anything
touches the registers of a sum in between, NVIDIA's assembler waits after every one instead.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import triton

from benchmarks.static.control_flow import Instruction

_REASON = re.compile(r"instructions are serialized due to (.*?)(?: in (?:the )?function|$)")


def lone_products(body: Iterable[Instruction]) -> int:
    """Return how many wgmma of a loop are alone between two waits, and so is one next to them.

    A product alone between waits can be all there is to multiply (a tile of 16 terms). Several in a
    row are one product of tiles that the assembler has taken apart, so that the tensor cores idle.
    """
    runs = [0]
    for one in body:
        if one.name.startswith("HGMMA"):
            runs[-1] += 1
        elif one.name.startswith("WARPGROUP.DEPBAR") and runs[-1]:
            runs.append(0)
    last = runs.pop()  # what the loop's end does not wait for meets its start
    if runs:
        runs[0] += last
    alone = [False, *(run == 1 for run in runs), False]
    return sum(
        this and (before or after)
        for before, this, after in zip(alone, alone[1:], alone[2:], strict=False)
    )


def why_serialised(code: str) -> str | None:
    """Return why the assembler took the products of a kernel in PTX apart, or None if it does not.

    It says so only while it assembles, and Triton keeps its words to itself; so this does it again.
    """
    chip = re.search(r"^\.target (\w+)", code, re.MULTILINE)
    if chip is None:
        raise ValueError("PTX without a line that names its target")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(code)
        command = [triton.knobs.nvidia.ptxas.path, f"--gpu-name={chip[1]}", str(path)]
        command += ["-o", str(path.with_suffix(".cubin"))]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    found = _REASON.search(said.stdout + said.stderr)
    return None if found is None else " ".join(found[1].split())

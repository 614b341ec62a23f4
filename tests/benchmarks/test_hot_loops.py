"""Test that the static report finds loops, spills, lone products and missing fences in code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import triton

from benchmarks.static.assembly import amdgcn, ptx, sass
from benchmarks.static.control_flow import loops
from benchmarks.static.hot_loops import HotLoop, hot_loops
from benchmarks.static.proxy_fences import unfenced_products
from benchmarks.static.serialised_products import lone_products, why_serialised


def program(*lines: str) -> str:
    """Return lines as ``cuobjdump -sass`` writes them, at addresses 0x10 apart."""
    return "\n".join(
        f"        /*{16 * at:04x}*/   {line} ;   /* 0x{at:016x} */" for at, line in enumerate(lines)
    )


# Two loops in a loop; the first multiplies and has a slow path that stands at the end.
NESTED = program(
    "MOV R1, R2",
    "STL [R1], R3",  # 0x10: the outer loop
    "HMMA.16816.F32.BF16 R4, R8, R12, R4",  # 0x20: the hot one
    "@P1 BRA 0xa0",
    "MUFU.EX2 R5, R5",
    "@!P0 BRA 0x20",
    "FADD R1, R1, R2",  # 0x60: one without products
    "@P2 BRA 0x60",
    "BRA.U UP0, 0x10",
    "EXIT",
    "LDL R6, [R1]",  # 0xa0
    "FFMA R6, R6, R7, R7",
    "BRA 0x40",
)


def test_loops_are_found_with_the_slow_paths_that_belong_to_them() -> None:
    assert [sorted(loop) for loop in loops(sass(NESTED))] == [
        [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12],
        [2, 3, 4, 5, 10, 11, 12],
        [6, 7],
    ]


def test_a_jump_back_from_outside_makes_no_loop() -> None:
    assert not loops(sass(program("@P0 BRA 0x30", "FADD R1, R1, R2", "EXIT", "BRA 0x10")))


def test_the_innermost_loop_that_multiplies_is_hot_and_its_spills_are_its_own() -> None:
    (loop,) = hot_loops(sass(NESTED))
    assert loop.instructions == 7
    assert loop.spills == 1  # the other one is outside
    assert loop.by_class == {
        "products": 1,
        "exponentials": 1,
        "arithmetic": 1,
        "spills": 1,
        "other": 3,
    }


def test_plain_fmas_count_as_products_where_there_are_no_others() -> None:
    few = ["FFMA R1, R2, R3, R1"] * 3
    many = ["FFMA R1, R2, R3, R1"] * 40
    code = program(*few, "@P0 BRA 0x0", *many, "@P0 BRA 0x40", "EXIT")
    (loop,) = hot_loops(sass(code))
    assert loop.by_class["arithmetic"] == 40


def test_amds_loops_are_read_by_their_labels() -> None:
    code = """
    v_mov_b32_e32 v1, 0
.LBB0_1:                                ; %loop
    ds_read_b64 v[2:3], v1
    v_mfma_f32_32x32x8_bf16 a[0:15], v[2:3], v[4:5], a[0:15]
    scratch_load_dword v7, off, s2
    s_waitcnt vmcnt(0)
    s_cbranch_scc1 .LBB0_1
    s_endpgm
"""
    (loop,) = hot_loops(amdgcn(code))
    assert loop.spills == 1
    assert loop.by_class["shared memory"] == loop.by_class["products"] == 1


PRODUCT, WAIT = (
    "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24, gsb0",
    "WARPGROUP.DEPBAR.LE gsb0, 0x0",
)


@pytest.mark.parametrize(
    ("body", "alone"),
    [
        ([PRODUCT, PRODUCT, WAIT, PRODUCT, WAIT], 0),  # a dot of 16 terms beside another
        ([PRODUCT, WAIT, PRODUCT, WAIT, PRODUCT, PRODUCT, WAIT], 2),
        ([PRODUCT, WAIT] * 4, 4),
        ([PRODUCT, WAIT, PRODUCT], 0),  # the loop's end meets its start: all wait together
        ([PRODUCT] * 4, 0),
        ([WAIT], 0),
    ],
)
def test_products_that_wait_one_by_one_are_counted(body: list[str], alone: int) -> None:
    assert lone_products(sass(program(*body))) == alone


ACCUMULATE = (
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
    "{%f0, %f1, %f2, %f3}, %d1, %d1, 1, 1, 1, 0, 0;"
)
KERNEL = f"""
.version 8.0
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 out, .param .u64 operand, .param .u32 turns) {{
  .reg .pred %p;
  .reg .b32 %n;
  .reg .f32 %f<4>;
  .reg .b64 %d<2>;
  ld.param.u64 %d0, [out];
  ld.param.u64 %d1, [operand];
  ld.param.u32 %n, [turns];
  mov.f32 %f0, 0f00000000;
  mov.f32 %f1, 0f00000000;
  mov.f32 %f2, 0f00000000;
  mov.f32 %f3, 0f00000000;
  wgmma.fence.sync.aligned;
$loop:
  {ACCUMULATE}
  BETWEEN
  {ACCUMULATE}
  wgmma.commit_group.sync.aligned;
  sub.u32 %n, %n, 1;
  setp.ne.u32 %p, %n, 0;
  @%p bra $loop;
  wgmma.wait_group.sync.aligned 0;
  END
  st.global.f32 [%d0], %f0;
  ret;
}}
"""
TOUCHED = KERNEL.replace("BETWEEN", "add.f32 %f0, %f0, 0f3f800000;").replace("END", ACCUMULATE)
WHOLE = KERNEL.replace("BETWEEN", "").replace("END", "")


def test_the_assembler_says_why_it_takes_products_apart(tmp_path: Path) -> None:
    reason = why_serialised(TOUCHED)
    assert reason is not None
    assert reason.startswith("non wgmma instructions reading accumulator registers")
    assert why_serialised(WHOLE) is None
    alone = [
        sum(loop.lone_products for loop in assembled(code, tmp_path)) for code in (TOUCHED, WHOLE)
    ]
    assert alone[0] > 0 == alone[1]


def assembled(code: str, folder: Path) -> list[HotLoop]:
    """Return the hot loops of a kernel in PTX as Triton's assembler makes it."""
    source, binary = folder / "kernel.ptx", folder / "kernel.cubin"
    source.write_text(code)
    tools = triton.knobs.nvidia
    command = [tools.ptxas.path, "--gpu-name=sm_90a", str(source), "-o", str(binary)]
    subprocess.run(command, check=True, capture_output=True)
    dump = [tools.cuobjdump.path, "-sass", str(binary)]
    return hot_loops(sass(subprocess.run(dump, check=True, capture_output=True, text=True).stdout))


COPY = "cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, 0x10;"
COPIED = "cp.async.wait_group 0;"
FENCE = "fence.proxy.async.shared::cta;"
WGMMA = "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f0}, %rd1, %rd2, 1, 1, 1, 0, 0;"


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        ([COPY, COPIED, "bar.sync 0;", FENCE, WGMMA, WGMMA], 0),
        ([COPY, COPIED, "bar.sync 0;", WGMMA, WGMMA], 2),
        ([COPY, FENCE, COPIED, WGMMA], 1),  # too early
        ([COPY, COPIED, "@%p1 bra $L1;", FENCE, "$L1:", WGMMA], 1),  # on one way only
        ([COPY, COPIED, FENCE, "$L1:", WGMMA, COPY, COPIED, "@%p1 bra $L1;"], 1),  # in a loop
        ([COPY, COPIED, FENCE, "$L1:", WGMMA, COPY, COPIED, FENCE, "@%p1 bra $L1;"], 0),
        ([WGMMA, COPY, COPIED], 0),
        ([COPY, COPIED, "{", "@p bra.uni skip;", "skip:", "}", FENCE, WGMMA, "{", "skip:", "}"], 0),
    ],
)
def test_products_without_a_fence_after_a_copy_are_counted(lines: list[str], missing: int) -> None:
    assert unfenced_products(ptx("\n".join([*lines, "ret;"]))) == missing

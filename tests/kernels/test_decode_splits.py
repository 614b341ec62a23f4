"""Test decoding with the keys split over programs: how many there are, and that none shows."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from op_cases import Case
from op_truth import truth, worst
from sra_fast import span_attention
from sra_fast.kernels.triton_kernels import decode, occupancy

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

PLAIN = Case("plain", queries=1, keys=70, heads=2, kv_heads=1, rows="all")
CASES = [
    PLAIN,
    Case("window, sinks", queries=3, keys=70, heads=2, kv_heads=1, window=21, sinks=True),
    Case("empty row", 2, 2, 1, queries=1, keys=20, segments=((1, 4, 20),), rows="all"),
]
MORE_THAN_TILES = 2 * decode.SPLITS_AT_ONCE + 3  # so that the states are joined in three steps


@pytest.mark.usefixtures("unwritten_memory_is_nan")
@pytest.mark.parametrize("splits", [1, 3, MORE_THAN_TILES])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_number_of_splits_gives_the_definitions_numbers(
    case: Case, splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "split_count", lambda *_: splits)
    inputs, rule = case.tensors(torch.float32, DEVICE), case.rule(torch.float32, DEVICE)
    wanted = truth(case, inputs, rule)
    found = span_attention(*inputs, case.query(), backend="triton", **rule)
    assert worst(found.out, wanted.out) <= 1e-5
    assert worst(found.mass, wanted.mass) <= 2e-6
    assert worst(found.lse, wanted.lse) <= 1e-5


def test_what_is_asked_for_changes_no_bit_of_the_output() -> None:
    inputs = PLAIN.tensors(torch.float32, DEVICE)
    nothing = Case("nothing", queries=1, keys=70, heads=2, kv_heads=1, rows="none")
    outs = [
        span_attention(*inputs, case.query(), backend="triton", scale=0.4).out
        for case in (PLAIN, PLAIN, nothing)
    ]
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize(
    ("held", "programs", "keys", "expected"),
    [
        (132, 8, 131072, 16),  # 128 of 132 places
        (264, 8, 131072, 33),
        (264, 8, 1024, 4),  # no split is shorter than it is worth
        (132, 132, 131072, 1),
        (132, 200, 131072, 1),
        (264, 1, 131072, 264),
        (4, 1, 1, 1),
    ],
)
def test_splits_fill_the_card_once(held: int, programs: int, keys: int, expected: int) -> None:
    splits = decode.split_count(held, programs, keys)
    assert splits == expected
    assert splits == 1 or splits * programs <= held


@dataclass(frozen=True)
class Card:
    """The properties of an H100 SXM that occupancy asks for."""

    multi_processor_count: int = 132
    max_threads_per_multi_processor: int = 2048
    regs_per_multiprocessor: int = 65536
    shared_memory_per_multiprocessor: int = 233472
    warp_size: int = 32


@pytest.mark.parametrize(
    ("warps", "registers", "shared", "each"),
    [
        (8, 255, 1024, 1),  # registers
        (8, 128, 1024, 2),
        (8, 121, 1024, 2),  # given out by eights, and 128 fit twice
        (4, 32, 98304, 2),  # shared memory
        (4, 32, 114688, 2),
        (4, 32, 114689 + 1024, 1),
        (4, 24, 0, 16),  # threads
        (32, 255, 0, 1),  # at least one
    ],
)
def test_a_card_holds_what_threads_registers_and_memory_allow(
    warps: int, registers: int, shared: int, each: int
) -> None:
    card = Card()
    held = occupancy.programs_held(card, warps=warps, registers=registers, shared=shared)
    assert held == 132 * each


def test_a_kernel_is_loaded_before_its_registers_are_read() -> None:
    class Compiled:
        metadata = SimpleNamespace(num_warps=8, shared=1024)

        @property
        def run(self) -> None:
            self.n_regs = 128

    assert occupancy.held_when_compiled(Card(), Compiled()) == 264


COMPILE = """
import torch, triton
from benchmarks.static.compilation import _Driver
from sra_fast.kernels.triton_kernels import configurations, decode
triton.runtime.driver.set_active(_Driver("sm_90"))
config = configurations.TABLE["sm_90"][configurations.Kernel.DECODE][128, 2]
compiled = decode.compiled_split(config, torch.bfloat16, 4, 1, 128, 128)
print(compiled.metadata.num_warps == config.warps, compiled.metadata.shared > 0)
"""


@pytest.mark.skipif(ON_GPU, reason="a card compiles it in every other test")
def test_the_split_kernel_compiles_without_tensors() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "True"], done.stderr

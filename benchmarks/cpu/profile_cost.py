"""Time ``score`` with profiles against ``score`` without, and measure what memory they take.

The command is ``python -m benchmarks.cpu.profile_cost``; the model has SmolLM2's shape. Rounds of
the three alternate; the figure is the median of the rounds' ratios. Before anything is timed, the
profiles are compared with eager maps at a length at which these fit; eager's own ratio is of that
length. Peak memory is that of a process's second call, above the loaded model, as
:mod:`benchmarks.measuring.peak_memory` measures it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any, get_args

import torch

import sra_fast
from benchmarks.measuring.alternatives import attending, whole_maps
from benchmarks.measuring.cases import SMOLLM2, ModelCase, build_batch, build_model
from benchmarks.measuring.fresh_process import in_fresh_process
from benchmarks.measuring.peak_memory import with_peak
from sra_fast.names import ProfileKind

TOKENS, SHORT = 4096, 1024
MOST = {"mean": 1.06, "heads": 1.10}
TOLERANCE = 2e-5  # of float32 hidden states, between two implementations of attention


def check(model: Any, batch: dict[str, Any]) -> None:
    """Compare profiles with the model's own maps.

    Raises:
        RuntimeError: they differ by more than :data:`TOLERANCE`.
    """
    with torch.no_grad(), attending(model, "eager"):
        output = model.model(batch["input_ids"], use_cache=False, output_attentions=True)
    maps = torch.stack([one[0] for one in output.attentions])
    rows = batch["response_mask"][0].nonzero().flatten()
    wanted = maps[:, :, rows].mean(dim=2)[..., : int(rows[-1]) + 1]
    found = sra_fast.score(model, batch, profile="heads").profile(0)
    mean = sra_fast.score(model, batch, profile="mean").profile(0)
    worst = max(
        float((found - wanted).abs().max()), float((mean - wanted.mean(dim=(0, 1))).abs().max())
    )
    if worst > TOLERANCE:
        raise RuntimeError(f"profiles are off by {worst:.1e}")


def ratios(pairs: int, alternatives: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median ratio of each alternative to the first one, of rounds that alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for run in alternatives.values():
        run()
    for _ in range(pairs):
        for name, run in alternatives.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    first, *others = seconds
    return {
        name: median(b / a for a, b in zip(seconds[first], seconds[name], strict=True))
        for name in others
    }


def peak_bytes(case: ModelCase, kind: ProfileKind | None) -> tuple[int, int]:
    """Return the peak of a second call in this process, which is a fresh one, and the profile's."""
    model, batch = build_model(case), build_batch(case)
    for _ in range(2):
        peak, result = with_peak(lambda: sra_fast.score(model, batch, profile=kind))
    return peak, 0 if kind is None else result.profile(0).nbytes


def main() -> None:
    """Check the profiles, and print how much longer and how much more memory each kind takes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu.profile_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="Time this many rounds (default %(default)s)."
    )
    rounds = parser.parse_args().rounds
    short, long = ModelCase(SMOLLM2, SHORT), ModelCase(SMOLLM2, TOKENS)
    model = build_model(short)
    batch = build_batch(short)
    check(model, batch)
    with torch.no_grad():
        eager = ratios(
            3,
            {
                "score": lambda: sra_fast.score(model, batch),
                "eager": lambda: whole_maps(model, batch),
            },
        )
    print(f"T={SHORT}: eager attention with maps takes {eager['eager']:.2f} of score's time")
    model, batch = build_model(long), build_batch(long)
    found = ratios(
        rounds,
        {
            "score": lambda: sra_fast.score(model, batch),
            "mean": lambda: sra_fast.score(model, batch, profile="mean"),
            "heads": lambda: sra_fast.score(model, batch, profile="heads"),
        },
    )
    for kind, ratio in found.items():
        print(
            f'T={TOKENS}: profile="{kind}" takes {ratio:.3f} of score\'s time, the median of '
            f"{rounds} rounds; wanted: at most {MOST[kind]:.2f}"
        )
    without, _ = in_fresh_process(peak_bytes, long, None)
    print(f"T={TOKENS}: score takes {without / 1e6:.1f} MB above the loaded model")
    for kind in get_args(ProfileKind):
        peak, kept = in_fresh_process(peak_bytes, long, kind)
        print(
            f'T={TOKENS}: profile="{kind}" takes {peak / 1e6:.1f} MB, '
            f"{(peak - without) / 1e6:+.1f} beside score; the profile has {kept / 1e6:.2f} MB"
        )


if __name__ == "__main__":
    main()

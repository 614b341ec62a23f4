"""List the tables of the report: which entries of a section each shows, and in which columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu.harness.bench import PLACE, Entry
from benchmarks.gpu.harness.opponents import SDPA
from sra_fast.kernels.providers import PROVIDERS

OURS = tuple(PROVIDERS)
"""Columns that stand for a provider: TFLOP/s, and in brackets its time over that of SDPA."""


@dataclass(frozen=True)
class ReportTable:
    """A table of one section.

    Attributes:
        columns: the fields that it shows; those that no entry has are left out.
        key: the field that an entry must have to be shown; without one, any that says no place.
    """

    columns: tuple[str, ...]
    key: str | None = None

    def shown(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries that the table shows."""
        figures = [name for name in self.columns if name not in PLACE]
        return [
            entry
            for entry in entries
            if (any(map(entry.__contains__, figures)) if self.key is None else self.key in entry)
        ]


def _table(columns: str, key: str | None = None) -> ReportTable:
    return ReportTable(tuple(columns.split(", ")), key)


_PROVIDERS = ", ".join((SDPA, *OURS))

TABLES: dict[str, tuple[ReportTable, ...]] = {
    "facts": (_table("what, D, T, kind, kernel"),),
    "ceilings": (_table("what, dtype, gemm_tflops, copy_gbs"),),
    "score": (
        _table(
            "what, T, rows, score_ms, sdpa_ms, score/sdpa time, floor_ms, score/floor, rounds, "
            "score_peak_gb, sdpa_peak_gb, score/sdpa memory",
            "score/sdpa time",
        ),
        _table(
            "T, planning_ms, checks_ms, forward_ms, reduction_ms, planning_ms of many, "
            "forward_ms of many, reduction_ms of many",
            "planning_ms",
        ),
        _table(
            "T, score launches, score of many launches, sdpa launches, more launches a layer, "
            "score syncs, score of many syncs, sdpa syncs, score bytes to host, "
            "score of many bytes to host",
            "score launches",
        ),
        _table(
            "beside, T, maps_ms, score_ms, score/maps time, maps_peak_gb, score/maps memory",
            "score/maps time",
        ),
    ),
    "same_bits": (_table("what, D, T, runs, different"),),
    "providers": (_table(f"form, D, T, fastest, fastest/sdpa, {_PROVIDERS}"),),
    "training": (
        _table(
            "T, plain_s, callback_s, regulariser_s, callback/plain time, regulariser/plain time, "
            "floor_s, plain/floor, rounds"
        ),
        _table(
            "T, plain_peak_gb, callback/plain memory, regulariser/plain memory, plain_total_gb, "
            "regulariser_total_gb",
            "plain_peak_gb",
        ),
    ),
    "grid": (
        _table(
            "what, check, passed, failed_tests, skipped_tests, unserved_cases, memory_errors, "
            "seconds"
        ),
    ),
    "mass": (
        _table(
            "what, T, triton on_ms, triton off_ms, triton on/off, off/off, lse on_ms, lse off_ms, "
            "lse on/off, triton/lse"
        ),
    ),
    "decode": (
        _table(
            f"N, B, cache_gb, floor_ms, sdpa_ms, fastest, fastest/floor, fastest/sdpa, "
            f"with/without, {', '.join(OURS)}",
            "sdpa_ms",
        ),
    ),
    "backward": (
        _table(f"work, T, fastest, fastest/sdpa, of_ceiling, {_PROVIDERS}", "sdpa_tflops"),
    ),
    "compiled": (_table(f"form, D, T, {_PROVIDERS}", "sdpa_tflops"),),
    "column_sums": (
        _table(
            "T, columns_ms, rows' columns_ms, profile_ms, fused_ms, mass_ms, epilogue_ms, "
            "columns/fused, rows' columns/profile, rows' columns/mass, rows' columns/epilogue",
            "fused_ms",
        ),
        _table("work, T, kernels_ms, blocks_ms, blocks/kernels", "kernels_ms"),
    ),
}

SHORT = {
    "score": _table("what, T, score_ms, sdpa_ms, score/sdpa time, floor_ms", "score/sdpa time"),
    "providers": _table("form, D, T, fastest, fastest/sdpa", "fastest/sdpa"),
}
"""The tables that are printed in a terminal."""
MOST_SHORT = 8  # entries of such a table

"""Give every section a device, sizes, the time it has, and a record to write in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu.harness.failures import describe, recover
from benchmarks.gpu.harness.sizes import Sizes
from benchmarks.gpu.harness.timing import BenchCall, TurnTimes, take_turns

Entry = dict[str, Any]
"""One line of a section's table, with sizes and figures. It has ``error`` if something went wrong,
``skipped`` if there was no time for it, and ``absent`` if it cannot be measured here, which is no
failure. Dicts in it are for the record only."""

PLACE = ("what", "check", "work", "beside", "form", "D", "T", "B", "N")
"""The fields that say where an entry was measured."""

BAD = frozenset(("error", "skipped"))
"""The fields of an entry that is not good."""

ENDED = "the process ended here"  # stands in an entry while it is measured, and stays after a crash

LEAST_SECONDS = 1.0  # a measurement is not begun with less


@dataclass
class Bench:
    """The workbench of a section: its settings, and the means to run its measurements.

    Attributes:
        device: the device that is measured.
        sizes: how large everything is.
        ends: the moment at which the section's time is over, by ``time.monotonic``.
        ceilings: ``gemm_tflops`` and ``copy_gbs`` as far as they were measured before.
        save: the function that keeps the entries, called after each of them.
        known: entries of an earlier process of this section, which are not measured again.
        entries: what was found so far.
    """

    device: torch.device
    sizes: Sizes
    ends: float
    ceilings: Mapping[str, float]
    save: Callable[[Sequence[Entry]], None]
    known: Sequence[Entry] = ()
    entries: list[Entry] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """Return bfloat16, or float32 on a CPU, whose interpreter of kernels has no bfloat16."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def left(self) -> float:
        """Return the seconds that are left of the section's time."""
        return self.ends - time.monotonic()

    def turns(
        self, calls: Mapping[str, BenchCall], seconds: float, *, least: int = 3, long: bool = False
    ) -> TurnTimes:
        """Time calls in turn on this device, by :func:`timing.take_turns`."""
        return take_turns(
            calls, self.device, seconds, most=self.sizes.rounds, least=least, long=long
        )

    def each(self, places: Sequence[Entry], measure: Callable[[Bench, Entry, float], None]) -> None:
        """Measure at every place, and note an error at the place where it happens.

        A place that :attr:`known` has an entry of is not measured again.

        Args:
            places: the sizes that each entry begins with.
            measure: gets the bench, the entry to complete and its share of the seconds left.

        Raises:
            DeviceLostError: nothing more can be measured in this process.
        """
        for number, place in enumerate(places):
            before = next((old for old in self.known if _same_place(old, place)), None)
            if before is not None:
                self.entries.append(dict(before))
                continue
            entry = dict(place)
            self.entries.append(entry)
            if self.left < LEAST_SECONDS:
                entry["skipped"] = "out of time"
                self.save(self.entries)
                continue
            entry["error"] = ENDED
            self.save(self.entries)
            del entry["error"]
            try:
                measure(self, entry, self.left / (len(places) - number))
            except Exception as error:  # the other places go on
                entry["error"] = describe(error)
            self.save(self.entries)
            recover(self.device)  # here no traceback holds on to tensors any more


def _same_place(entry: Entry, place: Entry) -> bool:
    return all(entry.get(key) == place.get(key) for key in PLACE)


def free_bytes(device: torch.device) -> int:
    """Return how many bytes tensors on the device can still take."""
    if device.type != "cuda":
        from benchmarks.measuring.machine import available_bytes

        return available_bytes()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused

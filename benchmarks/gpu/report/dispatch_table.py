"""Turn the times of the providers into the table that ``backend="auto"`` reads.

Its form is that of ``kernels/span_attention/measured.json``: an entry per card, width, dtype,
packed or not, and kind of work. A provider gets an entry only if it was right and timed at every
place of that kind, and no other section found it wrong; the fastest is told by the geometric mean
of its times over PyTorch's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.harness.bench import BAD, Entry
from benchmarks.gpu.harness.opponents import FUSED, SDPA, backend_of
from benchmarks.gpu.harness.places import FAR, FUSED_KINDS, ROWS_GRADIENT
from benchmarks.gpu.harness.schedule import SectionOutcome
from benchmarks.gpu.harness.sizes import Sizes
from sra_fast.kernels.measured_table import MeasuredCall, Work, as_json, merged, read
from sra_fast.kernels.providers import PROVIDERS
from sra_fast.tools.atomic import write_json

OVER_SDPA = f"/{SDPA}"


@dataclass(frozen=True)
class CallKind:
    """A kind of call that the table has an entry for, and the places where it was measured.

    Attributes:
        width, packed, work: as in :class:`MeasuredCall`.
        places: the places that must all have been measured; they are those of one section.
        section: that section's name.
    """

    width: int
    packed: bool
    work: Work
    section: str
    places: tuple[Entry, ...]


def kinds(sizes: Sizes) -> Iterator[CallKind]:
    """Yield every kind of call that the report measures."""
    lengths = sizes.provider_lengths
    for width in sizes.widths:
        for packed, form in ((False, "causal"), (True, "packed")):
            places = tuple({"form": form, "D": width, "T": tokens} for tokens in lengths)
            yield CallKind(width, packed, "prefill", "providers", places)
    steps = tuple({"N": n, "B": b} for n in sizes.decode_keys for b in sizes.decode_batches)
    yield CallKind(sizes.width, False, "decode", "decode", steps)
    works: tuple[Work, ...] = ("training", "mass_grad")
    for work in works:
        places = tuple({"work": work, "T": tokens} for tokens in sizes.backward)
        yield CallKind(sizes.width, False, work, "backward", places)


def chosen(outcomes: Sequence[SectionOutcome], sizes: Sizes, dtype: str) -> list[MeasuredCall]:
    """Return the entry of every kind of call that was measured at all of its places."""
    found = []
    for kind in kinds(sizes):
        entries = _entries(kind, outcomes)
        name = None if entries is None else _fastest(entries, untrusted(kind, outcomes))
        if name is not None:
            backend = backend_of(name)
            found.append(MeasuredCall(kind.width, dtype, kind.packed, kind.work, backend))
    return found


def write(card: str, entries: Sequence[MeasuredCall], path: Path) -> None:
    """Write a card's entries into the table at ``path``, where all others stay.

    Raises:
        ValueError: what is there is no such table.
    """
    write_json(path, as_json(merged(read(path), {card: entries})))


def left_out(entries: Sequence[Entry]) -> list[str]:
    """Return a line for the report on each provider that does not serve, with the reason."""
    reasons: dict[str, list[str]] = {}
    for entry in entries:
        for name, reason in entry.get("unserved", {}).items():
            places = reasons.setdefault(f"{name} does not serve: {reason}", [])
            place = entry.get("form", "a step")
            if place not in places:
                places.append(place)
    return [f"{text} ({', '.join(places)})" for text, places in reasons.items()]


def _entries(kind: CallKind, outcomes: Sequence[SectionOutcome]) -> list[Entry] | None:
    """Return the entries of a kind's places, or None if one was not measured."""
    of_section = [e for one in outcomes if one.name == kind.section for e in one.entries]
    found = [
        next((e for e in of_section if place.items() <= e.items() and "times" in e), None)
        for place in kind.places
    ]
    known = [entry for entry in found if entry is not None]
    return known if len(known) == len(found) else None


def untrusted(kind: CallKind, outcomes: Sequence[SectionOutcome]) -> set[str]:
    """Return the providers that another section found wrong, or had to find right and did not.

    A provider that failed one of the op's cases is left out. So is the fused kernel if one of its
    tests failed, and where it did not give the same bits again and again at this width; and where a
    gradient of the mass is wanted, all others if the kernels that make it from rows did not.
    """
    by_name = {one.name: one.entries for one in outcomes}
    cases = by_name.get("grid", ())
    found = {one["check"] for one in cases if "check" in one and one.get("failures")}
    bits = [one for one in by_name.get("same_bits", ()) if one.get("D", kind.width) == kind.width]

    def steady(whats: Sequence[str]) -> bool:
        return all(
            any(one["what"] == what and not BAD & one.keys() for one in bits) for what in whats
        )

    tests_failed = any("check" not in one and one.get("failures") for one in cases)
    if tests_failed or not steady((*FUSED_KINDS, *FAR)):
        found.add(FUSED)
    if kind.work == "mass_grad" and not steady((ROWS_GRADIENT,)):
        found |= PROVIDERS.keys() - {FUSED}
    return found


def _fastest(entries: Sequence[Entry], without: set[str]) -> str | None:
    """Return the provider with the least geometric mean among those timed in all entries."""
    means = {
        name: math.fsum(math.log(entry[name + OVER_SDPA]) for entry in entries)
        for name in PROVIDERS
        if name not in without
        and all(isinstance(entry.get(name + OVER_SDPA), float) for entry in entries)
    }
    return min(means, key=lambda name: means[name], default=None)

"""Read and write ``measured.json``, which says what was measured fastest on which card.

The file is one JSON object. A key is a card, its name and its compute capability as
:func:`card` writes it; the value is a list of entries, one for each kind of call measured::

    {
      "NVIDIA H100 80GB HBM3 (sm_90)": [
        {
          "width": 128,            # the wider of D and Dv
          "dtype": "bfloat16",     # of q, k and v
          "packed": false,         # whether a row holds several sequences, or padding
          "work": "prefill",       # or decode, training, mass_grad
          "backend": "lse:cudnn"   # what backend="auto" is to take: "triton" or "lse:NAME"
        }
      ]
    }

``width``, ``dtype``, ``packed`` and ``work`` together are an entry's key: a new measurement
replaces the old one. ``training`` is a call whose output carries a gradient, ``mass_grad`` one
whose mass does too, and which asks for few rows: an entry says nothing of calls that ask for many
(:data:`dispatch.ROWS_SHARE`). Only plain causal attention is measured: under a window, a softcap or
sinks ``auto`` takes the measured one only if it serves them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import torch

Work = Literal["prefill", "decode", "training", "mass_grad"]


@dataclass(frozen=True)
class MeasuredCall:
    """The fastest backend for one kind of call on one card; the module explains the fields."""

    width: int
    dtype: str
    packed: bool
    work: Work
    backend: str


MeasuredTable = Mapping[str, Sequence[MeasuredCall]]


def card(device: torch.device) -> str:
    """Return a device's name in the table: that of the card with its capability, or its type."""
    if device.type != "cuda":
        return device.type
    return f"{torch.cuda.get_device_name(device)} ({capability(device)})"


def capability(device: torch.device) -> str:
    """Return a CUDA device's compute capability as ``sm_90``."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def parse(text: str, source: str = "measured.json") -> dict[str, list[MeasuredCall]]:
    """Return the table of a JSON text.

    Raises:
        ValueError: an entry has not the fields of the module's docstring; card and entry are named.
    """
    return {
        name: [
            _entry(entry, f"{source}: {name!r}, entry {index}") for index, entry in enumerate(of)
        ]
        for name, of in json.loads(text).items()
    }


def as_json(table: MeasuredTable) -> dict[str, list[dict[str, Any]]]:
    """Return a table as the object that the file holds, cards and entries in a fixed order."""
    return {
        name: [asdict(entry) for entry in sorted(table[name], key=_key)] for name in sorted(table)
    }


def merged(known: MeasuredTable, new: MeasuredTable) -> dict[str, list[MeasuredCall]]:
    """Return the first table with the entries of the second, which replace those of their key."""
    result = {name: list(entries) for name, entries in known.items()}
    for name, entries in new.items():
        fresh = {_key(entry) for entry in entries}
        kept = [entry for entry in result.get(name, []) if _key(entry) not in fresh]
        result[name] = sorted([*kept, *entries], key=_key)
    return result


def read(path: Path) -> dict[str, list[MeasuredCall]]:
    """Return the table of a file, empty if there is none."""
    return parse(path.read_text("utf-8"), str(path)) if path.exists() else {}


def find(
    entries: Iterable[MeasuredCall], width: int, dtype: torch.dtype, packed: bool, work: Work
) -> MeasuredCall | None:
    """Return the entry for a kind of call: that of its width, or the next wider one measured."""
    name = str(dtype).removeprefix("torch.")
    fitting = [
        entry
        for entry in entries
        if (entry.dtype, entry.packed, entry.work) == (name, packed, work) and entry.width >= width
    ]
    return min(fitting, key=lambda entry: entry.width, default=None)


def shipped() -> dict[str, list[MeasuredCall]]:
    """Return the table that is installed with this package."""
    return parse(resources.files("sra_fast.kernels").joinpath("measured.json").read_text("utf-8"))


def _key(entry: MeasuredCall) -> tuple[Any, ...]:
    return entry.width, entry.dtype, entry.packed, entry.work


def _entry(fields: Any, where: str) -> MeasuredCall:
    """Return one entry, or raise an error that says what is wrong with it."""
    wanted = {"width": int, "dtype": str, "packed": bool, "work": str, "backend": str}
    if not isinstance(fields, dict) or set(fields) != set(wanted):
        raise ValueError(f"{where}: expected the fields {', '.join(wanted)}, got {fields!r}")
    for name, kind in wanted.items():
        if type(fields[name]) is not kind:
            raise ValueError(f"{where}: {name} must be {kind.__name__}, got {fields[name]!r}")
    if fields["work"] not in get_args(Work):
        raise ValueError(f"{where}: work must be one of {get_args(Work)}, got {fields['work']!r}")
    return MeasuredCall(**fields)

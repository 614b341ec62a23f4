"""Read the header of a safetensors file: where its tensors lie, and what they are.

The format is eight bytes with the header's length, the header as JSON, and the tensors' bytes. It
is read here rather than by ``safe_open``, which maps the whole file so that it could be written to,
in private. Systems count that against the memory that they may promise, and may refuse it for files
that are larger than memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

_LENGTH = 8  # bytes of the header's length
_LONGEST = 100_000_000  # bytes of a header, as the format has it


@dataclass(frozen=True)
class TensorPlace:
    """The place of a tensor in a file.

    Attributes:
        file: the file.
        dtype: the name of its number format in the file.
        shape: its shape.
        start: its first byte in the file.
        size: the number of its bytes.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def tensor_places(file: Path) -> dict[str, TensorPlace]:
    """Return the place of each tensor of a safetensors file, by its name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no safetensors file, or is shorter or longer than its header says.
    """
    whole = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH), "little")
        if whole < _LENGTH or not 0 < length <= min(whole - _LENGTH, _LONGEST):
            raise ValueError("it has no header of that format")
        header: Any = json.loads(opened.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    first = _LENGTH + length
    places = {name: _place(file, name, about, first) for name, about in header.items()}
    end = max((place.start + place.size for place in places.values()), default=first)
    if end != whole:
        raise ValueError(f"its header tells of {end} bytes, and it has {whole}")
    return places


def _place(file: Path, name: str, about: Any, first: int) -> TensorPlace:
    try:
        begin, end = about["data_offsets"]
        place = TensorPlace(
            file, about["dtype"], tuple(about["shape"]), first + int(begin), int(end) - int(begin)
        )
        whole = prod(place.shape)
        if begin < 0 or place.size < 0 or (whole > 0 and place.size * 8 % whole):
            raise ValueError("its bytes do not fit its shape")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its header is wrong about {name}: {error}") from error
    return place

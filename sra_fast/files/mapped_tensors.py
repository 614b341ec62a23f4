"""Read single tensors of safetensors files through mappings that can only be read.

``safe_open`` maps a whole file so that it could be written to, in private. Systems count that
against the memory that may be promised, and may refuse it for a file that is larger than memory.
What is mapped here is one tensor at a time, for reading: its pages are the file's own, which the
system reads when they are used and drops when it needs the memory.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sra_fast.files.model_files import DamagedModelError, tensor_shapes

_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The number formats of safetensors that weights of models have which are not quantised."""


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


class MappedTensors:
    """The tensors of several safetensors files, by name.

    Args:
        files: the files; no two hold a tensor of the same name.

    Raises:
        DamagedModelError: a file cannot be read, or is shorter than its header says.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._places: dict[str, TensorPlace] = {}
        for file in files:
            tensor_shapes(file)  # refuses a damaged file
            self._places |= _places(file)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(self._places)

    def size(self, name: str) -> int:
        """Return the number of bytes of a tensor."""
        return self._places[name].size

    def tensor(self, name: str) -> Tensor:
        """Map a tensor; nothing is read until it is used, and nobody may write to it.

        Raises:
            DamagedModelError: it is of a number format that is not read here.
        """
        place = self._places[name]
        dtype = _DTYPES.get(place.dtype)
        if dtype is None:
            raise DamagedModelError(
                f"{place.file}: {name} has the number format {place.dtype}, which quantised models "
                "have; load the model with from_pretrained"
            )
        if place.size == 0:
            return torch.empty(place.shape, dtype=dtype)
        offset = place.start - place.start % mmap.ALLOCATIONGRANULARITY
        inside = place.start - offset
        with place.file.open("rb") as file:
            mapped = mmap.mmap(
                file.fileno(), inside + place.size, access=mmap.ACCESS_READ, offset=offset
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            count = place.size // dtype.itemsize
            flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=inside)
        return flat.view(place.shape)

    def identity(self) -> str:
        """Return a SHA-256 of the files' headers, sizes and times of change."""
        digest = hashlib.sha256()
        for file in self._files:
            status = os.stat(file)
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        for name, place in sorted(self._places.items()):
            digest.update(f"{name} {place.dtype} {place.shape} {place.start}\n".encode())
        return digest.hexdigest()


def _places(file: Path) -> dict[str, TensorPlace]:
    """Read the header of a safetensors file: eight bytes with its length, and JSON."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return {
        name: TensorPlace(
            file,
            about["dtype"],
            tuple(about["shape"]),
            8 + length + about["data_offsets"][0],
            about["data_offsets"][1] - about["data_offsets"][0],
        )
        for name, about in header.items()
    }

"""Read single tensors of safetensors files through mappings that can only be read.

The pages of such a mapping are the file's own: the system reads them when they are used, and drops
them when it needs the memory.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from sra_fast.files.model_files import DamagedModelError, places_of
from sra_fast.files.safetensors_header import TensorPlace

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
            self._places |= places_of(file)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors."""
        return tuple(self._places)

    def tensor(self, name: str) -> Tensor:
        """Map a tensor; nothing is read until it is used, and nobody may write to it.

        Raises:
            DamagedModelError: it is of a number format that is not read here.
        """
        place, dtype = self._places[name], self._dtype(name)
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

    def outline(self, name: str) -> Tensor:
        """Return a tensor of the same shape and number format on the device meta, without numbers.

        Raises:
            DamagedModelError: it is of a number format that is not read here.
        """
        return torch.empty(self._places[name].shape, dtype=self._dtype(name), device="meta")

    def _dtype(self, name: str) -> torch.dtype:
        place = self._places[name]
        if place.dtype not in _DTYPES:
            raise DamagedModelError(
                f"{place.file}: {name} has the number format {place.dtype}, which quantised models "
                "have; load the model with from_pretrained"
            )
        return _DTYPES[place.dtype]

    def identity(self) -> str:
        """Return a SHA-256 of the files' headers, sizes and times of change."""
        digest = hashlib.sha256()
        for file in self._files:
            status = os.stat(file)
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        for name, place in sorted(self._places.items()):
            digest.update(f"{name} {place.dtype} {place.shape} {place.start}\n".encode())
        return digest.hexdigest()

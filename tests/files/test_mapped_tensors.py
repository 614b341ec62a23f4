"""Test that tensors of safetensors files are mapped one at a time, for reading only."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sra_fast.files.mapped_tensors import MappedTensors
from sra_fast.files.model_files import DamagedModelError

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def test_tensors_of_every_number_format_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = {str(dtype): torch.arange(5).view(5, 1).to(dtype) for dtype in DTYPES}
    written |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    save_file({"other": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file(written, tmp_path / "two.safetensors", metadata={"format": "pt"})
    tensors = MappedTensors([tmp_path / "one.safetensors", tmp_path / "two.safetensors"])
    assert set(tensors.names) == {*written, "other"}
    for name, tensor in written.items():
        found = tensors.tensor(name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/maps")
def test_a_mapping_is_of_one_tensor_and_cannot_be_written_to(tmp_path: Path) -> None:
    file = tmp_path / "large.safetensors"
    save_file({"small": torch.ones(3), "large": torch.ones(2**20)}, file)
    small = MappedTensors([file]).tensor("small")
    (mapped,) = _mappings(file)
    ends, rights = mapped.split()[:2]
    first, last = (int(end, 16) for end in ends.split("-"))
    assert rights.startswith("r--")
    assert last - first < 2**20
    assert torch.equal(small, torch.ones(3))
    del small
    assert _mappings(file) == []


def test_a_number_format_of_quantised_models_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "f8.safetensors")
    tensors = MappedTensors([tmp_path / "f8.safetensors"])
    with pytest.raises(DamagedModelError, match=r"w has the number format F8_E4M3"):
        tensors.tensor("w")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cut.safetensors"
    save_file({"w": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DamagedModelError, match=r"cut\.safetensors is damaged"):
        MappedTensors([file])


def test_other_files_have_another_identity(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(100)}, file)
    before = MappedTensors([file]).identity()
    assert MappedTensors([file]).identity() == before
    save_file({"w": torch.ones(101)}, file)
    assert MappedTensors([file]).identity() != before


def _mappings(file: Path) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if line.endswith(str(file))]

"""A saved result of which any part is deleted, reshaped or retyped is refused, or loads equal."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from profiled_results import profiled_result
from sra_fast import SRAResult
from sra_fast.definitions import DEFINITIONS
from sra_fast.result_tensors import TENSORS

WORDS = ("definition", "spans", "names", "layers", "checked", "source_names")
IN_FILE = (*TENSORS, *(f"by_layer/{name}" for name in DEFINITIONS))
IN_METADATA = ("format", "definition", "spans", "names", "layers", "checked")
OF_SOURCES = ("sources", "source_sets")
OPTIONAL = {"as_written", "by_head", "profile_tokens"}
"""Tensors without which a result is whole."""

CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "flattened": lambda t: t.flatten() if t.ndim > 1 else t[:, None],
    "an axis more": lambda t: t[None],
    "a response less": lambda t: t[:-1],
    "doubled": lambda t: torch.cat([t, t], dim=-1),
    "halved in its last axis": lambda t: t[..., : t.shape[-1] // 2],
    "a single number": lambda t: t.flatten()[0],
    "no number": lambda t: t[:0],
    "double": lambda t: t.double(),
    "half": lambda t: t.half(),
    "int16": lambda t: t.to(torch.int16),
    "uint8": lambda t: t.to(torch.uint8),
}
Parts = tuple[dict[str, Tensor], dict[str, Any]]


@functools.cache
def whole() -> SRAResult:
    return profiled_result()


def parts(tmp_path: Path) -> Parts:
    whole().save(tmp_path / "whole")
    with safe_open(tmp_path / "whole", "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return tensors, json.loads(opened.metadata()["sra_fast"])


def loaded(tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> SRAResult:
    kept = {name: one.clone(memory_format=torch.contiguous_format) for name, one in tensors.items()}
    save_file(kept, tmp_path / "changed", {"sra_fast": json.dumps(metadata)})
    return SRAResult.load(tmp_path / "changed")


def unequal(one: SRAResult) -> set[str]:
    apart = {name for name in WORDS if getattr(one, name) != getattr(whole(), name)}
    for name in TENSORS:
        mine, theirs = getattr(one, name), getattr(whole(), name)
        if mine is None or mine.dtype != theirs.dtype or not torch.equal(mine, theirs):
            apart.add(name)
    for name, value in whole().by_layer.items():
        if not torch.equal(one.by_layer[name], value):
            apart.add(name)
    return apart


def test_the_result_has_every_field_and_loads_equal(tmp_path: Path) -> None:
    tensors, metadata = parts(tmp_path)
    assert set(tensors) == set(IN_FILE)
    assert set(metadata) == {*IN_METADATA, *OF_SOURCES}
    assert not unequal(loaded(tmp_path, tensors, metadata))


@pytest.mark.parametrize("name", IN_FILE)
def test_a_file_without_one_of_its_tensors_is_refused(tmp_path: Path, name: str) -> None:
    tensors, metadata = parts(tmp_path)
    del tensors[name]
    if name in OPTIONAL:
        assert unequal(loaded(tmp_path, tensors, metadata)) == {name}
    else:
        with pytest.raises(ValueError, match=r"changed: .*is missing"):
            loaded(tmp_path, tensors, metadata)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("name", IN_FILE)
def test_a_tensor_of_another_shape_or_kind_is_refused(
    tmp_path: Path, name: str, change: Callable[[Tensor], Tensor]
) -> None:
    tensors, metadata = parts(tmp_path)
    tensors[name] = change(tensors[name])
    with pytest.raises(ValueError, match=r"changed: .*(shape|is of torch)"):
        loaded(tmp_path, tensors, metadata)


@pytest.mark.parametrize("name", ["row_counts", "profile_counts"])
def test_counts_below_zero_are_refused(tmp_path: Path, name: str) -> None:
    tensors, metadata = parts(tmp_path)
    tensors[name][0] += tensors[name][1] + 1
    tensors[name][1] = -1
    with pytest.raises(ValueError, match=f"{name} has a number below 0"):
        loaded(tmp_path, tensors, metadata)


def test_tokens_below_zero_and_ranges_that_end_first_are_refused(tmp_path: Path) -> None:
    for name, said in (("profile_tokens", "below 0"), ("response_ranges", "ends before it begins")):
        tensors, metadata = parts(tmp_path)
        tensors[name].flatten()[0] = 99 if name == "response_ranges" else -1
        with pytest.raises(ValueError, match=f"{name} has a .*{said}"):
            loaded(tmp_path, tensors, metadata)


@pytest.mark.parametrize("name", ["strategy", "null"])
def test_key_sets_without_a_span_or_key_0_are_refused(tmp_path: Path, name: str) -> None:
    tensors, metadata = parts(tmp_path)
    metadata["names"] = [one.replace(name, "other") for one in metadata["names"]]
    with pytest.raises(ValueError, match=f"names is without {name}"):
        loaded(tmp_path, tensors, metadata)


@pytest.mark.parametrize("number", [-1, 3])
def test_numbers_of_no_source_are_refused(tmp_path: Path, number: int) -> None:
    tensors, metadata = parts(tmp_path)
    tensors["profile_sources"][5] = number
    with pytest.raises(ValueError, match="profile_sources has a number without a source"):
        loaded(tmp_path, tensors, metadata)


@pytest.mark.parametrize("name", [*IN_METADATA, *OF_SOURCES])
def test_metadata_without_one_of_its_parts_is_refused(tmp_path: Path, name: str) -> None:
    tensors, metadata = parts(tmp_path)
    del metadata[name]
    if name == "checked":  # files of earlier versions do not say it
        assert unequal(loaded(tmp_path, tensors, metadata)) == {name}
    else:
        with pytest.raises(ValueError, match="changed: "):
            loaded(tmp_path, tensors, metadata)


@pytest.mark.parametrize("value", [None, 3, "text", {}, [None], [[3]], [True], [99] * 4, ["x"] * 9])
@pytest.mark.parametrize("name", [*IN_METADATA, *OF_SOURCES])
def test_metadata_of_another_kind_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    tensors, metadata = parts(tmp_path)
    metadata[name] = value
    if (name, value) == ("checked", "text"):
        assert unequal(loaded(tmp_path, tensors, metadata)) == {name}
    else:
        with pytest.raises(ValueError, match="changed: "):
            loaded(tmp_path, tensors, metadata)


@pytest.mark.parametrize("profile", ["mean", "layers", "heads"])
def test_every_kind_of_profile_is_saved_and_loaded(tmp_path: Path, profile: str) -> None:
    result = profiled_result((29,), profile=profile, keep_rows=False)
    result.save(tmp_path / "saved")
    again = SRAResult.load(tmp_path / "saved")
    assert again.source_names == result.source_names
    for name in TENSORS:
        mine, theirs = getattr(again, name), getattr(result, name)
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)


@pytest.mark.parametrize("taken", [[], [1], [3, 0]])
def test_some_responses_are_saved_and_loaded(tmp_path: Path, taken: list[int]) -> None:
    some = whole().take(taken)
    some.save(tmp_path / "saved")
    again = SRAResult.load(tmp_path / "saved")
    assert again.source_names == some.source_names
    assert all(torch.equal(getattr(again, name), getattr(some, name)) for name in TENSORS)

"""Test the table of what was measured fastest: its form, its look-ups, and how it is merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from sra_fast.kernels import measured_table
from sra_fast.kernels.measured_table import MeasuredCall, as_json, find, merged, parse
from sra_fast.kernels.providers import PROVIDERS
from sra_fast.names import Backend

ENTRY: dict[str, Any] = {
    "width": 128,
    "dtype": "bfloat16",
    "packed": False,
    "work": "prefill",
    "backend": "lse:cudnn",
}
BF16 = torch.bfloat16


def test_a_table_is_read_as_it_is_written(tmp_path: Path) -> None:
    table = {
        "B (sm_90)": [MeasuredCall(**ENTRY)],
        "A (sm_80)": [MeasuredCall(**ENTRY | {"width": 64})],
    }
    path = tmp_path / "measured.json"
    assert measured_table.read(path) == {}
    path.write_text(json.dumps(as_json(table)))
    assert list(json.loads(path.read_text())) == ["A (sm_80)", "B (sm_90)"]
    assert measured_table.read(path) == table


def test_the_example_of_the_documentation_is_a_table() -> None:
    text = str(measured_table.__doc__)
    example = "".join(
        line.split("#")[0]
        for line in text[text.index("    {") : text.index("\n``width``")].split("\n")
    )
    assert parse(example) == {"NVIDIA H100 80GB HBM3 (sm_90)": [MeasuredCall(**ENTRY)]}


@pytest.mark.parametrize(
    ("says", "entry"),
    [
        ("expected the fields width, dtype, packed, work, backend", {"work": "prefill"}),
        ("expected the fields", ENTRY | {"window": 3}),
        ("width must be int, got '128'", ENTRY | {"width": "128"}),
        ("packed must be bool, got 0", ENTRY | {"packed": 0}),
        ("work must be one of .*'decode'.*, got 'walking'", ENTRY | {"work": "walking"}),
    ],
)
def test_a_wrong_entry_is_named_with_its_card(says: str, entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"mine: 'A', entry 1: {says}"):
        parse(json.dumps({"A": [ENTRY, entry]}), "mine")


def test_a_width_between_two_takes_what_was_measured_for_the_wider() -> None:
    entries = [MeasuredCall(**ENTRY | {"width": width}) for width in (256, 64, 128)]
    found = {
        width: find(entries, width, BF16, False, "prefill") for width in (40, 64, 80, 256, 257)
    }
    assert [None if one is None else one.width for one in found.values()] == [
        64,
        64,
        128,
        256,
        None,
    ]


@pytest.mark.parametrize(
    ("dtype", "packed", "work"),
    [(torch.float16, False, "prefill"), (BF16, True, "prefill"), (BF16, False, "decode")],
)
def test_another_kind_of_call_finds_nothing(dtype: torch.dtype, packed: bool, work: Any) -> None:
    assert find([MeasuredCall(**ENTRY)], 128, dtype, packed, work) is None


def test_a_new_measurement_replaces_the_old_one_of_its_kind() -> None:
    old = MeasuredCall(**ENTRY)
    new = MeasuredCall(**ENTRY | {"backend": "triton"})
    other = MeasuredCall(**ENTRY | {"packed": True})
    table = {"A": [old, other], "B": [old]}
    assert merged(table, {"A": [new]}) == {"A": [new, other], "B": [old]}
    assert table["A"] == [old, other]
    assert merged({}, {"C": [new]}) == {"C": [new]}


def test_a_card_is_named_with_its_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert measured_table.card(torch.device("cuda", 0)) == "NVIDIA H200 (sm_90)"
    assert measured_table.card(torch.device("cpu")) == "cpu"


def test_what_is_shipped_names_backends_that_exist() -> None:
    for entries in measured_table.shipped().values():
        assert {entry.backend for entry in entries} <= set(get_args(Backend)) - {"auto", "lse"}


def test_every_provider_is_a_backend_by_name() -> None:
    names = [name.removeprefix("lse:") for name in get_args(Backend) if name.startswith("lse:")]
    assert names == list(PROVIDERS)

"""Test that results are saved, loaded, joined, taken apart, and shown as a table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import sra_fast
from marked_batches import marked_batch
from model_families import DENSE
from sra_fast import SRAResult
from sra_fast.definitions import DEFINITIONS
from sra_fast.result_tensors import TENSORS


def result(lengths: tuple[int, ...] = (40, 29), **options: Any) -> SRAResult:
    return sra_fast.score(DENSE[0].build(), marked_batch(lengths), **options)


def assert_same(one: SRAResult, other: SRAResult) -> None:
    for name in ("definition", "spans", "names", "layers", "checked"):
        assert getattr(one, name) == getattr(other, name)
    for name in TENSORS:
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)
    for definition in DEFINITIONS:
        assert torch.equal(one.by_layer[definition], other.by_layer[definition])


@pytest.mark.parametrize("keep_rows", [False, True])
def test_what_is_saved_is_loaded(tmp_path: Path, keep_rows: bool) -> None:
    saved = result(keep_rows=keep_rows, definition="table1")
    saved.save(tmp_path / "scores.safetensors")
    assert_same(SRAResult.load(tmp_path / "scores.safetensors"), saved)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.safetensors"
    result((29,)).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        result((40,)).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_or_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    one, nowhere = result((29,)), tmp_path / "nowhere" / "x.safetensors"
    with pytest.raises(FileNotFoundError, match=f"^{nowhere}: there is no folder {nowhere.parent}"):
        one.save(nowhere)
    with pytest.raises(IsADirectoryError, match=f"^{tmp_path}: this is a folder"):
        one.save(tmp_path)
    with pytest.raises(FileNotFoundError, match=str(nowhere)):
        SRAResult.load(nowhere)
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        SRAResult.load(tmp_path)

    def full(*given: Any) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    path = tmp_path / "x.safetensors"
    with pytest.raises(OSError, match=rf"^{path}: cannot be written \(No space left"):
        one.save(path)
    assert not list(tmp_path.iterdir())


def test_other_files_are_not_results(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"not a result saved by SRAResult\.save"):
        SRAResult.load(tmp_path / "weights.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="not a safetensors file"):
        SRAResult.load(tmp_path / "text")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, m: t.update(turn=t["turn"][:1]), "conversation has the shape [4]"),
        (lambda t, m: t.update(turn=t["turn"][0]), "conversation has the shape [4]"),
        (lambda t, m: t.update(mass=t["mass"][:, :1].clone()), "mass has the shape [4, 1, "),
        (lambda t, m: t.update(row_counts=t["row_counts"] + 1), "row_masses has the shape"),
        (lambda t, m: t.pop("row_counts"), "row_counts is missing"),
        (lambda t, m: t.pop("by_layer/paper"), "by_layer/paper is missing"),
        (lambda t, m: t.update({"by_layer/mass": torch.zeros(2)}), "by_layer/mass has the shape"),
        (lambda t, m: m.update(definition="own"), "by_layer/own is missing"),
        (lambda t, m: m.update(layers=3), "not a result saved by"),
        (lambda t, m: m.pop("spans"), "not a result saved by"),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any], says: str
) -> None:
    file = tmp_path / "scores.safetensors"
    result(keep_rows=True).save(file)
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = json.loads(opened.metadata()["sra_fast"])
    change(tensors, metadata)
    save_file(tensors, file, {"sra_fast": json.dumps(metadata)})
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        SRAResult.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("metadata", ["", "{", "[]", "null", '"x"'])
def test_metadata_that_is_none_is_named(tmp_path: Path, metadata: str) -> None:
    file = tmp_path / "scores.safetensors"
    save_file({"mass": torch.zeros(1)}, file, {"sra_fast": metadata})
    with pytest.raises(ValueError, match="not a result saved by") as caught:
        SRAResult.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("keep_rows", [False, True])
def test_joining_and_taking_undo_each_other(keep_rows: bool) -> None:
    whole = result((40, 29, 33), keep_rows=keep_rows)
    parts = [whole.take([4, 5]), whole.take([0, 1]), whole.take([2, 3])]
    assert_same(SRAResult.concatenate(parts).take([2, 3, 4, 5, 0, 1]), whole)


@pytest.mark.parametrize("mask", [[True, False], torch.tensor([True, False]), [0.5]])
def test_a_mask_is_not_taken_for_indices(mask: Any) -> None:
    with pytest.raises(TypeError, match="expected the numbers of responses, got torch"):
        result((29,)).take(mask)


def test_the_same_turn_twice_is_not_joined() -> None:
    first, second = result((40, 29)), result((33,))
    with pytest.raises(ValueError, match=r"turn 1 of conversation 0 is in results 0 and 1.*renumb"):
        SRAResult.concatenate([first, second])
    with pytest.raises(ValueError, match="turn 2 of conversation 1 is in results 0 and 2"):
        SRAResult.concatenate([first, second.take([]), first.take([3])])


def test_other_turns_of_a_conversation_are_joined() -> None:
    whole = result((40,))
    assert_same(SRAResult.concatenate([whole.take([0]), whole.take([1])]), whole)


def test_renumbering_continues_the_numbers_of_conversations() -> None:
    first, second = result((40, 29)), result((33, 30))
    both = SRAResult.concatenate([first, second, second.take([]), second], renumber=True)
    assert both.conversation.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert both.turn.tolist() == [1, 2] * 6
    assert torch.equal(both.sra, torch.cat([first.sra, second.sra, second.sra]))
    assert first.conversation.tolist() == second.conversation.tolist() == [0, 0, 1, 1]


def test_renumbering_keeps_the_numbers_of_the_first_result() -> None:
    whole = result((40, 29))
    both = SRAResult.concatenate([whole.take([2]), whole], renumber=True)
    assert both.conversation.tolist() == [1, 2, 2, 3, 3]


def test_a_batch_may_give_two_rows_one_conversation() -> None:
    batch = marked_batch((40, 29, 33))
    apart = sra_fast.score(DENSE[0].build(), batch)
    batch["conversation"] = torch.zeros(3, dtype=torch.int64)
    together = sra_fast.score(DENSE[0].build(), batch, forward_tokens=1)
    assert together.conversation.tolist() == [0] * 6
    torch.testing.assert_close(together.sra, apart.sra, rtol=0, atol=1e-6)


def test_results_of_different_models_are_not_joined() -> None:
    other = sra_fast.score(DENSE[14].build(), marked_batch((40,)))
    with pytest.raises(ValueError, match="cannot be joined"):
        SRAResult.concatenate([result(), other])
    with pytest.raises(ValueError, match="different definitions"):
        SRAResult.concatenate([result(), result(definition="mass")])
    with pytest.raises(ValueError, match="without their rows"):
        SRAResult.concatenate([result(), result(keep_rows=True)])
    with pytest.raises(ValueError, match="no results"):
        SRAResult.concatenate([])


def test_the_table_has_a_row_per_response_and_a_column_per_definition() -> None:
    pytest.importorskip("pandas")
    batch = marked_batch((40, 29))
    mask = batch.pop("strategy_mask")
    batch["span_masks"] = {"strategy": mask, "start": mask.roll(-2, dims=1)}
    found = sra_fast.score(DENSE[0].build(), batch)
    table = found.to_pandas()
    assert list(table.columns[:3]) == ["conversation", "turn", "response_tokens"]
    assert table["conversation"].tolist() == [0, 0, 1, 1]
    assert table["response_tokens"].tolist() == [4, 5, 4, 5]
    for definition in DEFINITIONS:
        assert table[definition].tolist() == found.scores[definition].tolist()
        assert table[f"start/{definition}"].tolist() == found.score(definition, "start").tolist()


def test_metadata_of_the_conversations_can_stand_in_the_table() -> None:
    pytest.importorskip("pandas")
    found = sra_fast.score(DENSE[0].build(), marked_batch((40, 29)))
    table = found.to_pandas([{"site": "north"}, {"age": 30}])
    assert table["meta/site"].tolist()[:2] == ["north", "north"]
    assert table["meta/site"].isna().tolist() == [False, False, True, True]
    assert table["meta/age"].tolist()[2:] == [30, 30]
    with pytest.raises(ValueError, match="meta is of 1 conversation, and the result has number 1"):
        found.to_pandas([{}])


def test_rows_are_there_only_if_kept() -> None:
    with pytest.raises(ValueError, match="keep_rows=True"):
        result().rows(0)
    kept = result(keep_rows=True)
    assert torch.equal(kept.rows(-1), kept.rows(3))
    with pytest.raises(IndexError):
        kept.rows(4)


def test_unknown_spans_and_definitions_are_named() -> None:
    with pytest.raises(KeyError, match="no span 'document'; there are strategy"):
        result().score("paper", "document")
    with pytest.raises(KeyError, match="no definition 'log'"):
        result().score("log")


def test_a_result_says_what_it_is() -> None:
    assert repr(result()).startswith("SRAResult(4 responses, 3 layers, definition='paper', mean 0.")
    assert repr(result().take([0])).startswith("SRAResult(1 response, 3 layers,")

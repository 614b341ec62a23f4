"""Test folders of scores: what they keep, and how work is cut into batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sra_fast import SRAResult
from sra_fast.chat.encoding import EncodedPrompt
from sra_fast.definitions import DEFINITIONS
from sra_fast.files.numbered_batches import batches, one_by_one
from sra_fast.files.run_folder import RUN
from sra_fast.files.score_folder import MASSES, SHARDS, ScoreFolder

SETTINGS: dict[str, Any] = {"kind": "score", "model": {"name": "tiny"}, "turns": "all"}


def prompt(conversation: int, tokens: int, turns: tuple[int, ...] = (1,)) -> EncodedPrompt:
    return EncodedPrompt(
        input_ids=torch.zeros(tokens, dtype=torch.int64),
        strategy_mask=torch.zeros(tokens, dtype=torch.bool),
        response_mask=torch.zeros(tokens, dtype=torch.int32),
        conversation=conversation,
        turns=turns,
        layouts=("as_generated",) * len(turns),
    )


def result(batch: Sequence[EncodedPrompt]) -> SRAResult:
    """Return scores that tell which response they belong to."""
    places = [(one.conversation, turn) for one in batch for turn in one.turns]
    value = torch.tensor([10.0 * c + t for c, t in places])
    return SRAResult(
        definition="paper",
        spans=("strategy",),
        by_layer={name: value[:, None, None].clone() for name in DEFINITIONS},
        mass=value[:, None, None, None].expand(-1, 1, 1, 2).clone(),
        names=("strategy", "null"),
        layers=(0,),
        conversation=torch.tensor([c for c, _ in places]),
        turn=torch.tensor([t for _, t in places]),
        response_tokens=torch.ones(len(places), dtype=torch.int64),
        span_tokens=torch.ones(len(places), 1, dtype=torch.int64),
    )


PROMPTS = [prompt(0, 4, (1, 2)), prompt(1, 4), prompt(2, 4), prompt(3, 4)]


class Scorer:
    """Score batches, note them, and break down where it is told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seen: list[list[int]] = []
        self.fail_at = fail_at

    def __call__(self, batch: Sequence[EncodedPrompt]) -> SRAResult:
        if len(self.seen) == self.fail_at:
            raise MemoryError
        self.seen.append([one.conversation for one in batch])
        return result(batch)


def complete(run: ScoreFolder, scorer: Scorer) -> SRAResult:
    return run.complete(PROMPTS, 8, one_by_one(scorer))


@pytest.mark.parametrize(
    ("lengths", "tokens", "expected"),
    [
        ([4, 4, 4], 8, [2, 1]),
        ([9, 1, 9], 8, [1, 1, 1]),
        ([1, 1, 1], 100, [3]),
        ([3, 6, 2], 1, [1, 1, 1]),
        ([], 8, []),
    ],
)
def test_batches_keep_the_order_and_the_limit(
    lengths: list[int], tokens: int, expected: list[int]
) -> None:
    prompts = [prompt(index, length) for index, length in enumerate(lengths)]
    found = batches(prompts, tokens)
    assert [len(batch) for batch in found] == expected
    assert [one for batch in found for one in batch] == prompts


def test_a_broken_off_run_continues_after_its_finished_batches(tmp_path: Path) -> None:
    run = ScoreFolder(tmp_path / "deep" / "out", SETTINGS)
    with pytest.raises(MemoryError):
        complete(run, Scorer(fail_at=1))
    assert run.result() is None
    second = Scorer()
    whole = complete(run, second)
    assert second.seen == [[2, 3]]
    assert whole.sra.tolist() == [1, 2, 11, 21, 31]
    assert sorted(path.name for path in run.path.iterdir()) == [MASSES, RUN]
    again = run.result()
    assert again is not None
    assert torch.equal(again.mass, whole.mass)


@pytest.mark.parametrize("damage", ["garbage", "empty", "another batch's"])
def test_a_shard_that_is_not_right_is_computed_again(damage: str, tmp_path: Path) -> None:
    run = ScoreFolder(tmp_path / "out", SETTINGS)
    with pytest.raises(MemoryError):
        complete(run, Scorer(fail_at=1))
    shard = run.path / SHARDS / "00000.safetensors"
    if damage == "another batch's":
        result(PROMPTS[2:]).save(shard)
    else:
        shard.write_bytes(b"garbage" if damage == "garbage" else b"")
    second = Scorer()
    assert complete(run, second).sra.tolist() == [1, 2, 11, 21, 31]
    assert second.seen == [[0, 1], [2, 3]]


def test_what_a_killed_run_leaves_behind_is_cleared_away(tmp_path: Path) -> None:
    run = ScoreFolder(tmp_path, SETTINGS)
    (tmp_path / f".{RUN}.123.tmp").write_text("{")
    complete(run, Scorer())
    (tmp_path / ".scores.jsonl.123.tmp").write_text("half")
    (tmp_path / SHARDS).mkdir()
    with run.opened():
        assert sorted(path.name for path in tmp_path.iterdir()) == [MASSES, RUN]


def test_lost_masses_of_a_finished_run_are_computed_again(tmp_path: Path) -> None:
    run = ScoreFolder(tmp_path / "out", SETTINGS)
    complete(run, Scorer())
    (run.path / MASSES).write_bytes(b"garbage")
    assert run.result() is None
    second = Scorer()
    complete(run, second)
    assert len(second.seen) == 2


def write_table(run: ScoreFolder) -> Any:
    return lambda whole: (run.path / "table.txt").write_text(str(whole.sra.tolist()))


def finished(folder: Path) -> ScoreFolder:
    """Return the folder of a finished run, which has the file table.txt beside its masses."""
    run = ScoreFolder(folder, SETTINGS)
    run.complete(PROMPTS, 8, one_by_one(Scorer()), write_table(run), tables=["table.txt"])
    return run


@pytest.mark.parametrize("damage", ["a changed byte", "cut", "another result", "missing"])
def test_damaged_masses_of_a_finished_run_are_named_and_made_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = finished(tmp_path / "out")
    masses, table = run.path / MASSES, run.path / "table.txt"
    whole = {path.name: path.read_bytes() for path in run.path.iterdir()}
    assert run.damaged() == []
    data = bytearray(whole[MASSES])
    if damage == "a changed byte":
        data[-1] ^= 1  # inside the last tensor: nothing but a digest can tell
        masses.write_bytes(data)
    elif damage == "another result":
        result(PROMPTS[::-1]).save(masses)
    elif damage == "cut":
        masses.write_bytes(data[:-9])
    else:
        masses.unlink()
    table.write_text("kept until the masses are right")
    assert run.result() is None
    assert table.read_text() == "kept until the masses are right"
    again = Scorer()
    with caplog.at_level("WARNING", "sra_fast"):
        run.complete(PROMPTS, 8, one_by_one(again), write_table(run), tables=["table.txt"])
    assert f"{masses} is missing, or not as it was written" in caplog.text
    assert len(again.seen) == 2
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == whole


def test_a_damaged_table_follows_from_masses_that_are_whole(tmp_path: Path) -> None:
    run = finished(tmp_path / "out")
    whole = (run.path / "table.txt").read_bytes()
    (run.path / "table.txt").write_text("damaged")
    again = Scorer()
    run.complete(PROMPTS, 8, one_by_one(again), write_table(run), tables=["table.txt"])
    assert again.seen == []
    assert (run.path / "table.txt").read_bytes() == whole
    assert run.damaged() == []


def test_a_run_of_an_earlier_version_gets_its_digests(tmp_path: Path) -> None:
    run = finished(tmp_path / "out")
    record = json.loads((run.path / RUN).read_text())
    del record["digests"]
    (run.path / RUN).write_text(json.dumps(record))
    assert run.damaged() == []
    assert complete(run, Scorer(fail_at=0)).sra.tolist() == [1, 2, 11, 21, 31]
    assert set(json.loads((run.path / RUN).read_text())["digests"]) == {MASSES}

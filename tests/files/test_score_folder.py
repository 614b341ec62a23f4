"""Test folders of scores: what they keep, and how work is cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sra_fast import SRAResult
from sra_fast.chat.encoding import EncodedPrompt
from sra_fast.definitions import DEFINITIONS
from sra_fast.files.run_folder import RUN
from sra_fast.files.score_folder import MASSES, SHARDS, ScoreFolder, batches

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
        mass=value[:, None, None, None],
        names=("strategy",),
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
    return run.complete(PROMPTS, 8, scorer)


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

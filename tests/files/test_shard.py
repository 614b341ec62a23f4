"""Test which shards there are, what they are called, and that each number is dealt to one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sra_fast.files.shard import MOST, Shard, ShardError, numbers_text, shards_in


@pytest.mark.parametrize("text", ["1/1", "3/8", "8/8", f"1/{MOST}"])
def test_a_shard_is_written_as_it_is_read(text: str) -> None:
    assert str(Shard.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0/8", "there is no shard 0; they are 1/8 to 8/8"),
        ("9/8", "there is no shard 9; they are 1/8 to 8/8"),
        ("1/0", "to 1 to 9999 shards, not to 0"),
        (f"1/{MOST + 1}", "not to 10000"),
        ("3", "names no shard; write which one and of how many, such as 3/8"),
        ("", "names no shard"),
        ("a/b", "names no shard"),
        ("-1/2", "names no shard"),
        ("1/2/3", "names no shard"),
        (" 1/2", "names no shard"),
        ("1.0/2", "names no shard"),
        ("\u0663/8", "names no shard"),
        ("1/" + "9" * 5000, "names no shard"),
    ],
)
def test_what_names_no_shard_is_refused(text: str, says: str) -> None:
    with pytest.raises(ShardError, match=re.escape(says)) as caught:
        Shard.parse(text)
    assert caught.value.arguments == ("shard",)


@pytest.mark.parametrize("of", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("count", [0, 1, 5, 13])
def test_every_number_is_dealt_to_one_shard(of: int, count: int) -> None:
    numbered = {number: f"batch {number}" for number in range(count)}
    dealt = [Shard(number, of).dealt(numbered) for number in range(1, of + 1)]
    assert sorted(number for one in dealt for number in one) == list(range(count))
    assert {number: each for one in dealt for number, each in one.items()} == numbered
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_folders_of_shards_are_found_by_their_names(tmp_path: Path) -> None:
    shards = [Shard(2, 3), Shard(1, 3), Shard(10, 12)]
    for one in shards:
        (tmp_path / one.folder).mkdir()
    for other in ("shard-4-of-3", "shard-0-of-3", "shard-1-of-99999", "shard-1-of", "shards"):
        (tmp_path / other).mkdir()
    (tmp_path / Shard(3, 3).folder).write_text("a file")
    assert shards_in(tmp_path) == [Shard(1, 3), Shard(2, 3), Shard(10, 12)]
    assert shards_in(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([2, 1], "1 and 2"), ([1, 4, 5, 6, 7, 9], "1, 4–7 and 9")],
)
def test_numbers_are_told_in_few_words(numbers: list[int], text: str) -> None:
    assert numbers_text(numbers) == text

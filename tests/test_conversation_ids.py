"""Test that a result carries ids and metadata of conversations, and is joined by them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import sra_fast
from chat_tokenizers import byte_level_bpe
from marked_batches import marked_batch
from model_families import DENSE
from sra_fast import SRAResult
from sra_fast.saved_conversations import NAME
from tiny_chat_model import talk, tiny_model

RECORDS = [
    talk("c7", 2, meta={"site": "north", "odd": [1, {"a": None}]}),
    talk("../../etc\n\u2028 \U0001f600\x00", 1),
    talk("c9", 3, meta={"age": 30}),
]
IDS = tuple(record["id"] for record in RECORDS for _ in record["messages"][1::2])
META = tuple(record.get("meta", {}) for record in RECORDS for _ in record["messages"][1::2])


def scored(records: list[dict[str, Any]], template: str = "standard", **options: Any) -> SRAResult:
    return sra_fast.score(
        tiny_model(), sra_fast.encode(byte_level_bpe(), records, template), **options
    )


@pytest.fixture(scope="module")
def result() -> SRAResult:
    return scored(RECORDS)


def named(conversations: list[str | None], numbers: list[int] | None = None) -> SRAResult:
    """Return a result of two replies for each conversation, called and numbered like this."""
    found = sra_fast.score(DENSE[0].build(), marked_batch((20,) * len(conversations)))
    ids = tuple(one for one in conversations for _ in range(2))
    if numbers is not None:
        doubled = [one for one in numbers for _ in range(2)]
        found = replace(found, conversation=torch.tensor(doubled))
    return replace(found, conversation_ids=ids if any(ids) else ())


def test_ids_and_metadata_go_from_conversations_to_the_result(result: SRAResult) -> None:
    assert (result.conversation_ids, result.meta) == (IDS, META)
    for template in ("c1_hf", "c3_hl"):
        apart = scored(RECORDS, template, forward_tokens=1)
        assert (apart.conversation_ids, apart.meta) == (IDS, META)
    plain = scored([talk("c1"), talk("c2")])
    assert (plain.conversation_ids, plain.meta) == (("c1", "c1", "c2", "c2"), ())


def test_a_batch_without_ids_gives_none() -> None:
    found = sra_fast.score(DENSE[0].build(), marked_batch((20, 18)))
    assert (found.conversation_ids, found.meta) == ((), ())
    assert "conversation_id" not in found.to_pandas().columns


def test_marked_prompts_may_have_them_and_joining_keeps_them() -> None:
    tokenizer = byte_level_bpe()
    chats = [record["messages"][:2] for record in RECORDS[::2]]
    batches = [
        sra_fast.mark(tokenizer, chat, {"s": 0}, conversation_id=f"p{i}", meta={"i": i})
        for i, chat in enumerate(chats)
    ]
    batch = sra_fast.join(batches)
    assert (batch["conversation_ids"], batch["meta"]) == (["p0", "p1"], [{"i": 0}, {"i": 1}])
    found = sra_fast.score(tiny_model(), batch)
    assert (found.conversation_ids, found.meta) == (("p0", "p1"), ({"i": 0}, {"i": 1}))
    text = sra_fast.mark(tokenizer, "Be kind. Yes.", {"s": "kind"}, "Yes.", conversation_id="t")
    assert text["conversation_ids"] == ["t"]
    assert "meta" not in text
    with pytest.raises(ValueError, match="mark all prompts alike"):
        sra_fast.join([batches[0], sra_fast.mark(tokenizer, chats[1], {"s": 0})])


def test_monitored_and_recorded_replies_carry_them() -> None:
    batch = sra_fast.encode(byte_level_bpe(), RECORDS)
    model = tiny_model()
    with sra_fast.monitor(model) as seen:
        model(**batch)
    assert (seen.results[0].conversation_ids, seen.results[0].meta) == (IDS, META)


@pytest.mark.parametrize("taken", [[], [5, 0], [2]])
def test_they_survive_taking_saving_and_joining(
    taken: list[int], result: SRAResult, tmp_path: Path
) -> None:
    some = result.take(taken)
    assert some.conversation_ids == tuple(IDS[i] for i in taken)
    assert some.meta == tuple(META[i] for i in taken)
    some.save(tmp_path / "some")
    again = SRAResult.load(tmp_path / "some")
    assert (again.conversation_ids, again.meta) == (some.conversation_ids, some.meta)
    rest = result.take([i for i in range(len(result)) if i not in taken])
    both = SRAResult.concatenate([again, rest])
    assert both.conversation_ids == some.conversation_ids + rest.conversation_ids
    assert both.meta == some.meta + rest.meta
    assert sorted(both.conversation.tolist()) == sorted(result.conversation.tolist())


def test_equal_results_are_equal_files(result: SRAResult, tmp_path: Path) -> None:
    result.save(tmp_path / "one")
    SRAResult.load(tmp_path / "one").save(tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_file_of_an_earlier_version_has_none(result: SRAResult, tmp_path: Path) -> None:
    result.save(tmp_path / "new")
    with safe_open(tmp_path / "new", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    del tensors[NAME]
    save_file(tensors, tmp_path / "old", metadata)
    old = SRAResult.load(tmp_path / "old")
    assert (old.conversation_ids, old.meta) == ((), ())
    assert torch.equal(old.mass, result.mass)


def test_ids_alone_and_metadata_alone_are_saved(result: SRAResult, tmp_path: Path) -> None:
    for kept in ("conversation_ids", "meta"):
        other = {"conversation_ids", "meta"} - {kept}
        replace(result, **{name: () for name in other}).save(tmp_path / kept)
        again = SRAResult.load(tmp_path / kept)
        assert getattr(again, kept) == getattr(result, kept)
        assert all(getattr(again, name) == () for name in other)


def as_bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def chosen(conversations: Any, of_response: Any = (0,) * 6) -> torch.Tensor:
    text = json.dumps({"conversations": conversations, "of_response": of_response})
    return as_bytes(text)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (as_bytes("{"), "conversations is not JSON"),
        (as_bytes("\u00fc"), "conversations is not JSON"),
        (as_bytes("[]"), "no list of objects with an id"),
        (torch.zeros(3), "is [3] of torch.float32 instead of bytes"),
        (torch.zeros(3, 1, dtype=torch.uint8), "is [3, 1] of torch.uint8"),
        (chosen([{"name": "c7"}]), "no list of objects with an id"),
        (chosen([{"id": 7}]), "no list of objects with an id"),
        (chosen([{"id": "c7", "meta": []}]), "no list of objects with an id"),
        (chosen([{"id": "c7", "more": 1}]), "no list of objects with an id"),
        (chosen([{"id": "c7"}], [0] * 5), "does not choose one of 1 for each response"),
        (chosen([{"id": "c7"}], [1] * 6), "does not choose one of 1 for each response"),
        (chosen([{"id": "c7"}], [False] * 6), "does not choose one of 1 for each response"),
        (chosen([{"id": "c7"}], 0), "does not choose one of 1 for each response"),
    ],
)
def test_damaged_conversations_are_named(
    data: torch.Tensor, says: str, result: SRAResult, tmp_path: Path
) -> None:
    result.save(tmp_path / "saved")
    with safe_open(tmp_path / "saved", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    save_file({**tensors, NAME: data}, tmp_path / "changed", metadata)
    with pytest.raises(ValueError, match="the file is damaged") as caught:
        SRAResult.load(tmp_path / "changed")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("conversation_ids", ["a"], "expected a list with an id for each row, 2 in all"),
        ("conversation_ids", "ab", "expected a list with an id for each row"),
        ("conversation_ids", torch.tensor([1, 2]), "expected a list with an id for each row"),
        ("conversation_ids", ["a", 7], "row 1 has 7; expected a text"),
        ("meta", [{}], "expected a list with a mapping for each row, 2 in all"),
        ("meta", {"a": 1}, "expected a list with a mapping for each row"),
        ("meta", [{}, None], "row 1 has None; expected a mapping"),
        ("meta", [{}, {1: 2}], "row 1 has {1: 2}; expected a mapping"),
        ("meta", [{}, {"a": {2}}], "row 1 has a value that JSON cannot say"),
        ("meta", [{}, {"a": float("nan")}], "row 1 has a value that JSON cannot say"),
    ],
)
def test_wrong_ids_and_metadata_of_a_batch_are_named(key: str, value: Any, says: str) -> None:
    batch = {**marked_batch((20, 18)), key: value}
    with pytest.raises(ValueError, match=f"^{key}: ") as caught:
        sra_fast.score(DENSE[0].build(), batch)
    assert says in str(caught.value)


def test_two_ids_of_one_conversation_are_refused() -> None:
    batch = {
        **marked_batch((20, 18, 16)),
        "conversation": torch.tensor([3, 4, 3]),
        "conversation_ids": ["a", "b", "c"],
    }
    with pytest.raises(ValueError, match="rows 0 and 2 are both of conversation 3"):
        sra_fast.score(DENSE[0].build(), batch)


# --- joined ---


def test_two_halves_of_a_file_do_not_collide() -> None:
    whole = scored(RECORDS)
    halves = [scored(RECORDS[:1]), scored(RECORDS[1:])]
    assert [half.conversation.tolist() for half in halves] == [[0, 0], [0, 1, 1, 1]]
    both = SRAResult.concatenate(halves)
    assert both.conversation.tolist() == whole.conversation.tolist()
    assert (both.conversation_ids, both.meta) == (IDS, META)
    torch.testing.assert_close(both.sra, whole.sra, rtol=1e-5, atol=0)


Named = tuple[list[str | None], list[int]]


@pytest.mark.parametrize(
    ("first", "second", "numbers"),
    [
        ((["a", "b"], [0, 1]), (["c", "d"], [0, 1]), [0, 1, 2, 3]),
        ((["a", "b"], [0, 1]), (["c", "d"], [2, 3]), [0, 1, 2, 3]),  # as they are
        ((["a", "b"], [4, 9]), (["c", "d"], [9, 4]), [4, 9, 10, 11]),
        ((["a", "b"], [0, 1]), (["c", "d"], [5, 1]), [0, 1, 2, 3]),
        ((["a", "a"], [0, 1]), (["b", "b"], [0, 1]), [0, 1, 2, 3]),  # one id, several prompts
        ((["a", None], [0, 7]), (["b", None], [0, 8]), [0, 7, 8, 9]),
        (([None, None], [0, 1]), ([None, None], [2, 3]), [0, 1, 2, 3]),
    ],
)
def test_different_conversations_have_different_numbers(
    first: Named, second: Named, numbers: list[int]
) -> None:
    both = SRAResult.concatenate([named(*first), named(*second)])
    assert both.conversation.tolist() == [number for number in numbers for _ in range(2)]


def test_other_turns_of_a_conversation_get_its_number() -> None:
    first, second = named(["a", "b"]).take([0, 1, 2]), named(["b", "c"]).take([1, 2])
    both = SRAResult.concatenate([first, second])
    assert both.conversation.tolist() == [0, 0, 1, 1, 2]
    assert both.conversation_ids == ("a", "a", "b", "b", "c")
    swapped = SRAResult.concatenate(
        [named(["a", "b"]).take([0, 2]), named(["b", "a"]).take([1, 3])]
    )
    assert swapped.conversation.tolist() == [0, 1, 1, 0]


def test_the_same_turn_twice_is_named_by_its_id() -> None:
    with pytest.raises(ValueError, match="turn 1 of conversation 'b' is in results 0 and 1"):
        SRAResult.concatenate([named(["a", "b"]), named(["b", "c"])])
    both = SRAResult.concatenate([named(["a"]), named(["a"])], renumber=True)
    assert both.conversation.tolist() == [0, 0, 1, 1]
    assert both.conversation_ids == ("a",) * 4


@pytest.mark.parametrize("turned", [lambda pair: pair, lambda pair: pair[::-1]])
def test_known_and_unknown_ids_under_one_number_are_refused(
    turned: Callable[[list[SRAResult]], list[SRAResult]],
) -> None:
    one, other = named(["a", "b"]).take([0, 2]), named([None, None]).take([1, 3])
    with pytest.raises(ValueError, match=r"conversation 0 has the id 'a' in one of results"):
        SRAResult.concatenate(turned([one, other]))
    apart = SRAResult.concatenate(turned([one, other]), renumber=True)
    assert len(set(apart.conversation.tolist())) == 4
    assert sorted(map(str, apart.conversation_ids)) == ["None", "None", "a", "b"]


def test_metadata_of_some_results_alone_is_kept() -> None:
    some, none = scored(RECORDS[:1]), scored(RECORDS[1:2])
    assert SRAResult.concatenate([none, some]).meta == ({}, META[0], META[0])


# --- tables ---


def test_tables_show_ids_and_metadata_under_names_of_their_own(result: SRAResult) -> None:
    pytest.importorskip("pandas")
    table = result.to_pandas()
    assert list(table.columns[:3]) == ["conversation", "conversation_id", "turn"]
    assert tuple(table["conversation_id"]) == IDS
    assert table["conversation"].tolist() == [0, 0, 1, 2, 2, 2]
    assert table["meta/site"].tolist()[:2] == ["north", "north"]
    assert table["meta/age"].isna().tolist() == [True] * 3 + [False] * 3
    given = result.to_pandas([{"site": "south"}, {}, {}])
    assert given["meta/site"].tolist()[:2] == ["south", "south"]
    assert "meta/age" not in given.columns
    assert table["mass"].tolist() == result.scores["mass"].tolist()


def test_a_column_mass_is_a_score_and_nothing_else() -> None:
    pytest.importorskip("pandas")
    batch = sra_fast.encode(byte_level_bpe(), RECORDS, sources="messages")
    found = sra_fast.score(tiny_model(), batch, profile="mean")
    assert "mass" in found.to_pandas().columns
    assert "mass" not in found.sources(0).columns
    assert found.sources(0)["source_mass"].sum() == pytest.approx(
        found.source_masses(0).sum().item(), rel=1e-6
    )

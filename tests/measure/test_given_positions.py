"""Test that positions of a batch are read: packed rows as single ones, the user's own as given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sra_fast
from marked_batches import SPAN, marked_batch, response_positions
from model_families import DENSE, HYBRIDS, Family, eager_attentions

LLAMA, GPT2 = DENSE[0], DENSE[-1]
LENGTHS = (29, 40, 33)
PACKED = [family for family in (*DENSE, *HYBRIDS) if family.name in ("llama", "gemma3", "lfm2")]


def packed_batch(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    """Lay the rows of `marked_batch` one after the other, as collators without padding do."""
    rows = [marked_batch((length,)) for length in lengths]
    batch: dict[str, Any] = {
        key: torch.cat([row[key] for row in rows], dim=1)
        for key in ("input_ids", "strategy_mask", "response_mask")
    }
    batch["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    return batch


def one_by_one(model: Any, lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    return torch.cat([sra_fast.score(model, marked_batch((length,))).sra for length in lengths])


def features(lengths: tuple[int, ...] = LENGTHS) -> list[dict[str, list[int]]]:
    """Return examples as collators of other libraries take them: the last tokens are trained on."""
    found = []
    for length in lengths:
        ids = marked_batch((length,))["input_ids"][0]
        labels = torch.full_like(ids, -100)
        labels[response_positions(length)[1]] = ids[response_positions(length)[1]]
        found.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
    return found


# --- packed rows ---


@pytest.mark.parametrize("family", PACKED, ids=str)
def test_packed_rows_have_the_scores_of_single_ones(family: Family) -> None:
    model = family.build()
    found = sra_fast.score(model, packed_batch())
    torch.testing.assert_close(found.sra, one_by_one(model), rtol=1e-4, atol=1e-6)
    assert found.conversation.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.turn.tolist() == [1, 2] * 3


def test_responses_that_count_on_through_a_row_have_the_turns_of_their_sequences() -> None:
    batch, model = packed_batch(), LLAMA.build()
    for index, start in enumerate((29, 29 + 40), start=1):
        here = batch["response_mask"][:, start:]
        here[here > 0] += 2
        assert int(here.max()) == 2 + 2 * index
    found = sra_fast.score(model, batch)
    assert found.conversation.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.turn.tolist() == [1, 2] * 3


def flattening(**options: Any) -> Callable[[], dict[str, Any]]:
    def collate() -> dict[str, Any]:
        from transformers import DataCollatorWithFlattening

        found: dict[str, Any] = DataCollatorWithFlattening(**options)(features())
        return found

    return collate


def padding_free(multiple: int | None) -> Callable[[], dict[str, Any]]:
    def collate() -> dict[str, Any]:
        pytest.importorskip("trl")
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        collator = DataCollatorForLanguageModeling(
            0, padding_free=True, pad_to_multiple_of=multiple
        )
        found: dict[str, Any] = collator(features())
        return found

    return collate


COLLATORS: dict[str, Callable[[], dict[str, Any]]] = {
    "transformers": flattening(),
    "transformers, with boundaries": flattening(return_flash_attn_kwargs=True, return_seq_idx=True),
    "trl": padding_free(None),
    "trl, padded": padding_free(64),
}


@pytest.mark.parametrize("collator", COLLATORS)
def test_batches_of_other_collators_have_the_scores_of_single_rows(collator: str) -> None:
    batch, model = COLLATORS[collator](), LLAMA.build()
    batch["strategy_mask"] = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    for start in (0, 29, 29 + 40):
        batch["strategy_mask"][0, [start + at for at in SPAN]] = True
    wanted = one_by_one(model)[1::2]  # the labels hold the last response of each
    found = sra_fast.score(model, batch)
    torch.testing.assert_close(found.sra, wanted, rtol=1e-4, atol=1e-6)
    with sra_fast.monitor(model) as watch, torch.no_grad():
        model(**batch, use_cache=False)
    torch.testing.assert_close(watch.results[0].sra, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cu_seq_lens_q", torch.tensor([0, 30, 69, 102])),
        ("seq_idx", (torch.arange(102) > 50).int()[None]),
        ("max_length_k", 39),
    ],
)
@pytest.mark.parametrize("positions", ["beside positions", "without positions"])
def test_boundaries_that_say_something_else_are_refused(
    key: str, value: Any, positions: str
) -> None:
    batch = packed_batch()
    if positions == "without positions":
        del batch["position_ids"]
    with pytest.raises(ValueError, match=rf"^{key}: .*position_ids"):
        sra_fast.score(LLAMA.build(), batch | {key: value})


# --- positions of one's own ---


@pytest.mark.parametrize("family", [LLAMA, GPT2], ids=str)
def test_positions_beside_a_mask_reach_the_model(family: Family) -> None:
    batch = marked_batch((40,))
    positions = torch.arange(40)[None] * 11
    found = sra_fast.score(family.build(), batch | {"position_ids": positions})
    assert not torch.allclose(found.sra, sra_fast.score(family.build(), batch).sra, rtol=1e-3)
    maps = eager_attentions(
        family.build(), batch["input_ids"], batch["attention_mask"], position_ids=positions
    )
    for index, rows in enumerate(response_positions(40)):
        seen = torch.stack(
            [one[0][:, rows][..., list(SPAN)].sum(-1).mean(-1) for one in maps.values()]
        )
        torch.testing.assert_close(found.mass[index, ..., 0], seen, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_that_count_from_0_change_nothing(side: str) -> None:
    batch, model = marked_batch(LENGTHS, side), GPT2.build()
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    found = sra_fast.score(model, batch | {"position_ids": positions})
    assert torch.equal(found.sra, sra_fast.score(model, batch).sra)


def test_sequences_that_all_begin_at_another_number_are_given_to_the_model() -> None:
    batch, model = packed_batch(), GPT2.build()
    shifted = sra_fast.score(model, batch | {"position_ids": batch["position_ids"] + 2})
    plain = sra_fast.score(model, batch)
    assert shifted.conversation.tolist() == plain.conversation.tolist()
    assert not torch.allclose(shifted.sra, plain.sra, rtol=1e-4)
    single = marked_batch((40,)) | {"position_ids": torch.arange(2, 42)[None]}
    alone = sra_fast.score(model, single)
    torch.testing.assert_close(shifted.sra[2:4], alone.sra, rtol=1e-4, atol=1e-6)


UNREADABLE: tuple[tuple[Tensor, bool, str], ...] = (
    (torch.arange(40) * 50, False, "no two tokens of row 0 have neighbouring positions"),
    (torch.cat([torch.arange(20), torch.arange(30, 50)]), False, "row 0 goes from 19 to 30"),
    (torch.cat([torch.arange(20), torch.arange(20)]), True, "row 0 starts anew at index 20"),
    (torch.arange(39), True, r"expected shape .*got \[1, 39\]"),
    (torch.arange(40.0), True, "expected dtype torch.int64"),
)


@pytest.mark.parametrize(("positions", "mask", "message"), UNREADABLE)
def test_positions_that_cannot_be_read_are_refused_by_name(
    positions: Tensor, mask: bool, message: str
) -> None:
    batch, model = marked_batch((40,)) | {"position_ids": positions[None]}, LLAMA.build()
    if not mask:
        del batch["attention_mask"]
    with pytest.raises(ValueError, match=f"^position_ids: .*{message}"):
        sra_fast.score(model, batch)
    with (
        pytest.warns(UserWarning, match="nothing was recorded"),
        sra_fast.monitor(model),
        pytest.raises(ValueError, match=f"^position_ids: .*{message}"),
    ):
        model(**batch)


@pytest.mark.parametrize(
    ("positions", "message"),
    [(torch.arange(40) * 50, "go from 0 to 1950"), (torch.arange(-50, -10), "go from -50 to -11")],
)
def test_positions_beyond_the_models_are_refused_with_its_reach(
    positions: Tensor, message: str
) -> None:
    batch = marked_batch((40,)) | {"position_ids": positions[None]}
    with pytest.raises(ValueError, match=f"has positions from 0 to 511, .*{message}"):
        sra_fast.score(LLAMA.build(), batch)

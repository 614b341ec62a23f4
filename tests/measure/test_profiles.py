"""Test profiles of whole models: the means of a response's rows of the model's own eager maps."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sra_fast
from chat_tokenizers import SOUND_TEMPLATES, byte_level_bpe
from marked_batches import SPAN, eager_maps, marked_batch, response_positions
from model_families import DENSE, FAMILIES, HYBRIDS, Family
from sra_fast.measure.profiles import check_profile_size
from sra_fast.measure.spans import BatchRowError
from sra_fast.result_joining import joined
from sra_fast.tools.sra_warning import SRAWarning
from tiny_chat_model import tiny_model

KINDS = ("heads", "layers", "mean")
LLAMA = DENSE[0]
MOST = {"llama4": 2e-6}  # its router multiplies what two attentions round differently


def reduced(rows: Tensor, kind: str) -> Tensor:
    """Return ``[L, H, T]`` as a profile of a kind keeps it."""
    return {"heads": rows, "layers": rows.mean(dim=1), "mean": rows.mean(dim=(0, 1))}[kind]


def rows_of(positions: list[int], choice: str) -> list[int]:
    if choice == "predicting":
        return [at - 1 for at in positions]
    return [positions[0] - 1] if choice == "last_prompt" else positions


def worst(result: Any, i: int, maps: Tensor, positions: list[int], kind: str) -> float:
    """Return how far a profile is from the mean of these rows of the maps ``[L, H, T, T]``."""
    wanted = reduced(maps[:, :, positions].mean(dim=2), kind)[..., : positions[-1] + 1]
    assert result.profile(i).shape == wanted.shape
    return float((result.profile(i).double() - wanted).abs().max())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_profiles_are_means_of_the_models_own_maps(family: Family) -> None:
    lengths = (40, 33)
    kind = KINDS[len(family.name) % 3]
    side = "left" if len(family.name) % 2 else "right"
    result = sra_fast.score(family.build(), marked_batch(lengths, side), profile=kind)  # type: ignore[arg-type]
    for row, length in enumerate(lengths):
        maps = eager_maps(family, length)
        for number, positions in enumerate(response_positions(length)):
            assert worst(result, 2 * row + number, maps, positions, kind) <= MOST.get(
                family.name, 1e-6
            )


@pytest.mark.parametrize("choice", ["response", "predicting", "last_prompt"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_that_are_averaged_can_be_chosen(kind: Any, choice: Any) -> None:
    batch = marked_batch((40,))
    result = sra_fast.score(LLAMA.build(), batch, profile=kind, rows=choice, definition="mass")
    maps = eager_maps(LLAMA, 40)
    for i, positions in enumerate(response_positions(40)):
        rows = rows_of(positions, choice)
        assert worst(result, i, maps, rows, kind) <= 2e-6
        mass = maps[:, :, rows][..., list(SPAN)].sum(dim=-1).mean()
        assert result.sra[i].item() == pytest.approx(mass.item(), abs=2e-6)
        assert result.response_tokens[i] == len(positions)


def test_rows_may_be_a_mask() -> None:
    batch = marked_batch((40,))
    rows = torch.zeros(1, 40, dtype=torch.int32)
    rows[0, [20, 22]], rows[0, 38] = 1, 2
    result = sra_fast.score(LLAMA.build(), batch, profile="layers", rows=rows)
    maps = eager_maps(LLAMA, 40)
    assert worst(result, 0, maps, [20, 22], "layers") <= 2e-6
    assert worst(result, 1, maps, [38], "layers") <= 2e-6


def test_a_prompt_without_a_reply_has_a_last_row() -> None:
    batch = marked_batch((40, 30))
    batch["response_mask"].zero_()
    result = sra_fast.score(LLAMA.build(), batch, rows="last_prompt", profile="mean")
    for i, length in enumerate((40, 30)):
        assert worst(result, i, eager_maps(LLAMA, length), [length - 1], "mean") <= 2e-6
    assert result.response_tokens.tolist() == [0, 0]
    del batch["response_mask"]
    again = sra_fast.score(LLAMA.build(), batch, rows="last_prompt", profile="mean")
    torch.testing.assert_close(again.profiles, result.profiles)


@pytest.mark.parametrize("family", FAMILIES[::4], ids=lambda family: family.name)
def test_masses_are_sums_of_profiles_and_profiles_sum_to_all_but_the_sinks(family: Family) -> None:
    result = sra_fast.score(family.build(), marked_batch((40, 21)), profile="heads")
    null = result.names.index("null")
    for i in range(len(result)):
        profile = result.profile(i).double()
        torch.testing.assert_close(
            profile[..., list(SPAN)].sum(dim=-1).float(), result.mass[i, ..., 0], atol=1e-6, rtol=0
        )
        torch.testing.assert_close(
            profile[..., 0].float(), result.mass[i, ..., null], atol=1e-6, rtol=0
        )
        assert (profile.sum(dim=-1) <= 1 + 1e-5).all()
        if "gpt_oss" not in family.name:
            torch.testing.assert_close(
                profile.sum(dim=-1), torch.ones_like(profile[..., 0]), atol=1e-5, rtol=0
            )


def test_ten_thousand_sources_of_one_token_are_told_apart() -> None:
    tokens, span, replies = 10_000, slice(4_000, 4_040), slice(9_990, 10_000)
    batch: dict[str, Any] = {
        "input_ids": torch.arange(tokens)[None] % 97 + 3,
        "source_ids": torch.arange(1, tokens + 1, dtype=torch.int32)[None],
        "source_names": [tuple(f"token {at}" for at in range(tokens))],
    }
    for name, at in (("strategy_mask", span), ("response_mask", replies)):
        batch[name] = torch.zeros(1, tokens, dtype=torch.bool)
        batch[name][0, at] = True
    result = sra_fast.score(tiny_model(context=tokens), batch, profile="heads")
    masses = result.source_masses(0)
    assert masses.shape == (2, 4, tokens)
    torch.testing.assert_close(masses, result.profile(0))
    torch.testing.assert_close(masses[..., span].sum(dim=-1), result.mass[0, ..., 0])


def test_forty_sentences_are_told_apart() -> None:
    tokenizer, model = byte_level_bpe(SOUND_TEMPLATES["chatml"]), tiny_model(context=4_000)
    chat = [
        {"role": "user", "content": " ".join(f"Day {day} was long." for day in range(40))},
        {"role": "assistant", "content": "All forty?"},
    ]
    batch = sra_fast.mark(tokenizer, chat, {"strategy": "Day 7 was long."}, sources="sentences")
    result = sra_fast.score(model, batch, profile="layers")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(batch["input_ids"], output_attentions=True).attentions
    rows = batch["response_mask"][0].bool()
    paid = torch.stack([one[0, :, rows].mean(dim=(0, 1)) for one in maps])  # [L, T]
    ids = batch["source_ids"][0]
    wanted = torch.stack([paid[:, ids == s].sum(dim=1) for s in range(1, 41)], dim=1)
    torch.testing.assert_close(result.source_masses(0), wanted, atol=1e-6, rtol=0)
    named = {f"message 0 (user), sentence {s}" for s in range(1, 41)}
    assert set(result.sources(0)["source"]) == named


def test_sources_have_a_table_the_largest_first() -> None:
    batch = marked_batch((40, 33))
    ids = torch.zeros(2, 40, dtype=torch.int32)
    ids[:, 1:3], ids[:, 3:7], ids[0, 8:20] = 1, 2, 3
    batch |= {"source_ids": ids, "source_names": ["rule", "document", "tool"]}
    result = sra_fast.score(LLAMA.build(), batch, profile="heads")
    table = result.sources(0)
    names = ["source", "tokens", "source_mass", "mass_per_token", "largest_token"]
    assert list(table.columns) == names
    assert table["source_mass"].is_monotonic_decreasing
    document = table.set_index("source").loc["document"]
    assert document["tokens"] == 4
    assert document["source_mass"] == pytest.approx(result.mass[0, ..., 0].mean().item(), abs=1e-6)
    assert document["mass_per_token"] == pytest.approx(document["source_mass"] / 4)
    by_token = result.profile(0).double().mean(dim=(0, 1))[3:7]
    assert document["largest_token"] == pytest.approx(by_token.max().item())


def test_sources_are_shown_with_their_texts() -> None:
    tokenizer, model = byte_level_bpe(SOUND_TEMPLATES["chatml"]), tiny_model(context=4_000)
    chat = [
        {"role": "user", "content": "The café is shut. Is it?"},
        {"role": "assistant", "content": "Yes."},
    ]
    batch = sra_fast.mark(tokenizer, chat, {"rule": 0}, sources="sentences")
    result = sra_fast.score(model, batch, profile="mean")
    texts = result.sources(0, tokenizer).set_index("source")["text"]
    assert texts["message 0 (user), sentence 1"].strip() == "The café is shut."
    assert texts["message 0 (user), sentence 2"].strip() == "Is it?"
    with pytest.raises(TypeError, match="expected the tokenizer of the model"):
        result.sources(0, "smollm2")


def test_profiles_are_saved_taken_and_joined(tmp_path: Path) -> None:
    batch = marked_batch((40, 33))
    batch |= {"source_ids": torch.ones(2, 40, dtype=torch.int32), "source_names": [("a",), ("b",)]}
    result = sra_fast.score(LLAMA.build(), batch, profile="heads")
    result.save(tmp_path / "scores.safetensors")
    loaded = sra_fast.SRAResult.load(tmp_path / "scores.safetensors")
    pieces = joined([result.take([0, 1]), result.take([2, 3])])
    turned = result.take([3, 0]).take([1])
    for other in (loaded, pieces):
        assert other.source_names == result.source_names == (("a",), ("a",), ("b",), ("b",))
        for i in range(4):
            assert torch.equal(other.profile(i), result.profile(i))
            assert torch.equal(
                other.token_ids(i), batch["input_ids"][i // 2, : other.profile(i).shape[2]]
            )
            assert torch.equal(other.source_masses(i), result.source_masses(i))
    assert torch.equal(turned.profile(0), result.profile(0))
    with pytest.raises(ValueError, match="profiles"):
        joined([result, replace(result, profiles=None)])
    plain = sra_fast.score(LLAMA.build(), marked_batch((40,)))
    plain.save(tmp_path / "plain.safetensors")
    assert sra_fast.SRAResult.load(tmp_path / "plain.safetensors").profiles is None
    for ask in (plain.profile, plain.token_ids, plain.source_masses, plain.sources):
        with pytest.raises(ValueError, match='call score with profile="mean"'):
            ask(0)


def test_rows_on_padding_are_refused() -> None:
    batch = marked_batch((40, 30), "left")
    batch["response_mask"].clamp_(max=1)
    rows = torch.zeros(2, 40, dtype=torch.bool)
    rows[:, [5, 20]] = True
    with pytest.raises(BatchRowError, match="row 1: `rows` has True at position 5"):
        sra_fast.score(LLAMA.build(), batch, rows=rows)


def test_profiles_of_a_float64_model_are_float32_and_load(tmp_path: Path) -> None:
    result = sra_fast.score(LLAMA.build().double(), marked_batch((20,)), profile="mean")
    result.save(tmp_path / "scores.safetensors")
    loaded = sra_fast.SRAResult.load(tmp_path / "scores.safetensors")
    assert torch.equal(loaded.profile(0), result.profile(0))


def test_a_response_without_any_source_has_an_empty_table() -> None:
    batch = changed(source_ids=0 * IDS)
    result = sra_fast.score(LLAMA.build(), batch, profile="heads")
    assert len(result.sources(0)) == 0
    with pytest.raises(IndexError, match="there is no response 2"):
        result.sources(2)


def test_the_share_by_head_divides_by_what_key_0_leaves() -> None:
    result = sra_fast.score(LLAMA.build(), marked_batch((40,)))
    maps = eager_maps(LLAMA, 40)
    for i, positions in enumerate(response_positions(40)):
        rows = maps[:, :, [at - 1 for at in positions]]
        share = (rows[..., list(SPAN)[:-1]].sum(dim=-1) / (1 - rows[..., 0])).mean(dim=2)
        assert result.by_head is not None
        torch.testing.assert_close(result.by_head[i, ..., 0].double(), share, atol=2e-6, rtol=0)


def changed(**more: Any) -> dict[str, Any]:
    return {**marked_batch((40,)), **more}


IDS = torch.ones(1, 40, dtype=torch.int32)


@pytest.mark.parametrize(
    ("batch", "arguments", "message"),
    [
        (changed(), {"profile": "all"}, "profile: expected 'mean', 'layers', 'heads' or None"),
        (changed(), {"rows": "last"}, "rows: expected 'response', 'predicting', 'last_prompt'"),
        (
            changed(),
            {"rows": torch.ones(1, 39, dtype=torch.bool)},
            r"rows: expected \[1, 40\] bool",
        ),
        (changed(), {"rows": torch.ones(1, 40, dtype=torch.bool)}, "a sequence has 2 responses"),
        (changed(), {"rows": IDS}, "`rows` marks none for response 2"),
        (
            changed(),
            {"profile": "heads", "profile_bytes": 2000},
            r"takes 3.46 kB, more than the 2 kB of profile_bytes; 'mean' takes 288 bytes, 'layers'",
        ),
        (changed(), {"profile": "mean", "profile_bytes": 1}, "give fewer responses at once"),
        (changed(source_ids=IDS), {}, 'give profile="mean"'),
        (changed(source_names=["a"]), {"profile": "mean"}, "no `source_ids"),
        (changed(source_ids=IDS[:, :3]), {"profile": "mean"}, r"expected \[1, 40\] int32"),
        (changed(source_ids=-IDS), {"profile": "mean"}, "numbers of sources start at 1"),
        (changed(source_ids=IDS.long() + 2**32), {"profile": "mean"}, "is no int32"),
        (
            changed(),
            {"rows": torch.tensor([1, 2, 3, *[0] * 37])[None]},
            "row 0: `rows` has 3 at position 2, which is a row of no response",
        ),
        (
            changed(source_ids=IDS, source_names=["a", "a"]),
            {"profile": "mean"},
            "'a' is there more than once",
        ),
        (
            changed(source_ids=2 * IDS, source_names=["a"]),
            {"profile": "mean"},
            "source_ids reach to 2, and 1 are named",
        ),
        (
            changed(source_ids=IDS, source_names="a"),
            {"profile": "mean"},
            "expected a list of names",
        ),
    ],
)
def test_what_cannot_be_is_named(batch: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, BatchRowError), match=message):
        sra_fast.score(LLAMA.build(), batch, **arguments)


def test_sizes_are_computed_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"takes 2\.15 GB.*'layers' takes 67.1 MB"):
        check_profile_size([131_072] * 4, "heads", (32, 32), 2_000_000_000)
    check_profile_size([131_072] * 3, "heads", (32, 32), 2_000_000_000)


def test_layers_without_attention_take_no_room() -> None:
    hybrid = HYBRIDS[0].build()  # two of four layers attend
    batch = marked_batch((40,))
    sized = sra_fast.score(hybrid, batch, profile="heads").profiles
    assert sized is not None
    room = sized.numel() * sized.element_size()
    sra_fast.score(hybrid, batch, profile="heads", profile_bytes=room)
    with pytest.raises(ValueError, match="more than the"):
        sra_fast.score(hybrid, batch, profile="heads", profile_bytes=room - 1)


def test_a_response_before_its_span_is_told_and_others_are_not() -> None:
    batch = marked_batch((40,))
    batch["strategy_mask"].zero_()
    batch["strategy_mask"][0, 33:35] = True
    with pytest.warns(SRAWarning, match="row 0, turn 1: the response ends before 'strategy'"):
        result = sra_fast.score(LLAMA.build(), batch, definition="mass")
    assert result.sra[0] == 0 < result.sra[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SRAWarning)
        sra_fast.score(LLAMA.build(), marked_batch((40,)))

"""Test that a beginning which sequences share is computed once, and changes no score."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import sra_fast
from model_families import FAMILIES, VARIANTS, Family
from shared_batches import shared_batch, tokens
from sra_fast.kernels import flash_cpu, reference
from sra_fast.measure import planned_forwards
from sra_fast.measure.packing import Forward, forwards
from sra_fast.measure.prefixes import PackedPrefix, SharedPrefix
from sra_fast.measure.served import serve
from sra_fast.measure.shared_prefixes import LEAST_TOKENS
from sra_fast.measure.trial import tried
from sra_fast.result import SRAResult

LLAMA = FAMILIES[0]
P = 45
BEGINNING = tokens(P, 0)


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return LLAMA.build()


def tails(*lengths: int) -> list[Tensor]:
    """Return texts of one beginning, with tails of these lengths that differ at once."""
    return [torch.cat([BEGINNING, tokens(n, 1 + i)]) for i, n in enumerate(lengths)]


def both_ways(model: Any, batch: Any, **options: Any) -> tuple[SRAResult, SRAResult]:
    """Score with beginnings once and with sequences whole, and compare all that results hold."""
    once = sra_fast.score(model, batch, **options)
    whole = sra_fast.score(model, batch, share_prefixes=False, **options)
    assert whole.prefixes == ""
    for name, scores in whole.by_layer.items():
        torch.testing.assert_close(
            once.by_layer[name], scores, rtol=1e-5, atol=1e-8, equal_nan=True
        )
    for name in ("mass", "row_masses", "profiles"):
        mine, true = getattr(once, name), getattr(whole, name)
        assert (mine is None) == (true is None)
        if true is not None:
            assert mine.shape == true.shape
            assert float((mine - true).abs().max()) < 1e-5
    for name in ("conversation", "turn", "profile_tokens", "profile_counts", "response_ranges"):
        mine, true = getattr(once, name), getattr(whole, name)
        assert (mine is None) == (true is None)
        assert true is None or torch.equal(mine, true)
    return once, whole


def told(computed: int, of: int) -> str:
    return f"{computed} of {of} tokens computed"


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("profile", [None, "mean", "layers", "heads"])
def test_scores_rows_and_profiles_are_those_of_whole_sequences(
    llama: PreTrainedModel, profile: Any, side: str
) -> None:
    batch = shared_batch(tails(15, 40, 11, 22), side)
    once, _ = both_ways(llama, batch, keep_rows=True, profile=profile)
    assert once.prefixes == told(P + 88, 4 * P + 88)


@pytest.mark.parametrize("rows", ["predicting", "last_prompt", "mask"])
def test_any_rows_may_be_asked_for(llama: PreTrainedModel, rows: Any) -> None:
    batch = shared_batch(tails(15, 40, 11))
    saved = 2 * P
    if rows == "mask":
        rows = torch.zeros(3, P + 40, dtype=torch.bool)
        rows[:, [38, P + 2]] = True  # one lies in what the sequences have in common
        saved = 2 * 38
    once, _ = both_ways(llama, batch, rows=rows, profile="mean")
    assert once.prefixes == told(3 * P + 66 - saved, 3 * P + 66)


@pytest.mark.parametrize("forward_tokens", [1, 60, 61, 75, 100, 110, 150, 1000])
def test_tails_that_do_not_fit_one_pass_are_dealt_out(
    llama: PreTrainedModel, forward_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Forward] = []
    ours = planned_forwards.forwards

    def kept(*given: Any) -> list[Forward]:
        passes[:] = ours(*given)
        return passes

    monkeypatch.setattr(planned_forwards, "forwards", kept)
    texts = [tokens(50, 80), *tails(15, 16, 15, 16, 15), tokens(40, 81)]
    batch = shared_batch(texts)
    sra_fast.score(llama, batch, forward_tokens=forward_tokens)
    for forward in passes:
        length = sum(len(texts[member]) for member in forward.members)
        length -= sum(prefix.saved for prefix in forward.prefixes)
        assert length <= forward_tokens or len(forward.members) == 1
    if forward_tokens == 110:
        assert [forward.members for forward in passes] == [(0,), (1, 2, 3, 4), (5, 6)]
    both_ways(llama, batch, forward_tokens=forward_tokens, profile="layers")


def test_a_sequence_may_be_the_beginning_of_another_or_the_same(llama: PreTrainedModel) -> None:
    long = torch.cat([BEGINNING, tokens(30, 1)])
    texts = [long, long[: P + 10], long.clone(), long[: P + 10].clone()]
    once, whole = both_ways(llama, shared_batch(texts), keep_rows=True, profile="heads")
    assert once.prefixes.endswith(f"of {sum(map(len, texts))} tokens computed")
    assert torch.equal(once.sra[[0, 1]], once.sra[[2, 3]])
    assert not torch.equal(whole.sra[:1], whole.sra[1:2])


def test_of_a_tree_of_beginnings_each_sequence_has_one(llama: PreTrainedModel) -> None:
    inner = [torch.cat([BEGINNING, tokens(40, 60 + i)]) for i in range(2)]
    texts = [torch.cat([inner[i % 2], tokens(12 + i, i)]) for i in range(5)]
    texts.append(torch.cat([BEGINNING, tokens(14, 70)]))
    once, _ = both_ways(llama, shared_batch(texts), keep_rows=True)
    of = sum(map(len, texts))
    assert once.prefixes == told(of - 2 * (P + 40) - 2 * P, of)


def test_several_beginnings_and_others_share_a_pass(llama: PreTrainedModel) -> None:
    other = tokens(50, 90)
    texts = [
        torch.cat([other, tokens(12, 1)]),
        tokens(33, 91),
        *tails(14, 15),
        torch.cat([other, tokens(20, 2)]),
    ]
    once, _ = both_ways(llama, shared_batch(texts), profile="heads")
    of = sum(map(len, texts))
    assert once.prefixes == told(of - 50 - P, of)


def test_several_responses_of_a_sequence_keep_their_profiles_apart(llama: PreTrainedModel) -> None:
    batch = shared_batch(tails(30, 25, 28))
    numbered = batch["response_mask"].int()
    for row in range(3):
        numbered[row, P + 6 + row : P + 10] = 2
    batch["response_mask"] = numbered
    once, _ = both_ways(llama, batch, profile="heads", keep_rows=True)
    assert len(once) == 6
    assert once.prefixes == told(P + 83, 3 * P + 83)


def test_packed_batches_share_too(llama: PreTrainedModel) -> None:
    texts = tails(15, 20)
    padded = shared_batch(texts)
    here = padded["attention_mask"].bool()
    batch = {
        name: padded[name][here][None] for name in ("input_ids", "strategy_mask", "response_mask")
    }
    batch["position_ids"] = torch.cat([torch.arange(len(text)) for text in texts])[None]
    batch["response_mask"] = batch["response_mask"].int()
    batch["response_mask"][0, len(texts[0]) :] *= 2
    once, _ = both_ways(llama, batch)
    assert once.prefixes == told(P + 35, 2 * P + 35)


@pytest.mark.parametrize(
    ("spans", "length"),
    [
        ([[4, 40, 50], [4, 41, 50]], 40),  # the first token with another mark
        ([[4, 50], [4, 51]], P),
        ([[4, 36, 50], [4, 36, 51]], P),
        ([[4, 36], [4, 36, 51]], 36),  # the span's last token is one apart
        ([[10, 50], [11, 50]], 0),  # too short to share
    ],
)
def test_a_prefix_ends_where_marks_differ(llama: PreTrainedModel, spans: Any, length: int) -> None:
    once, _ = both_ways(llama, shared_batch(tails(15, 20), spans=spans), keep_rows=True)
    assert once.prefixes == (told(2 * P + 35 - length, 2 * P + 35) if length else "")


@pytest.mark.parametrize("length", [LEAST_TOKENS - 1, LEAST_TOKENS])
def test_short_beginnings_change_no_bit(llama: PreTrainedModel, length: int) -> None:
    texts = [torch.cat([BEGINNING[:length], tokens(20, 1 + i)]) for i in range(4)]
    once, whole = both_ways(llama, shared_batch(texts))
    assert (once.prefixes == "") == (length < LEAST_TOKENS)
    if length < LEAST_TOKENS:
        assert torch.equal(once.mass, whole.mass)


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS], ids=lambda family: str(family.name))
def test_every_family_shares_or_is_left_whole(family: Family) -> None:
    model = family.build()
    once, whole = both_ways(model, shared_batch(tails(15, 26, 11)), keep_rows=True)
    left = once.prefixes.startswith("left whole: ")
    chunked = family.name.startswith("llama4")
    assert left == (family.hybrid or chunked or family.name == "llama_dynamic")
    if left:
        assert torch.equal(once.mass, whole.mass)


def test_longrope_shares_on_each_side_of_its_limit() -> None:
    (family,) = (one for one in VARIANTS if one.name == "phi3_longrope")
    model = family.build()
    model.config.rope_parameters["original_max_position_embeddings"] = 60
    model.config.original_max_position_embeddings = 60
    for module in model.modules():
        if hasattr(module, "original_max_seq_len"):
            module.original_max_seq_len = 60
    once, _ = both_ways(model, shared_batch(tails(13, 30, 15, 33)))
    assert once.prefixes == told(2 * P + 91, 4 * P + 91)


def test_half_precision_shares_too() -> None:
    model = LLAMA.build().to(torch.bfloat16)
    batch = shared_batch(tails(15, 40, 11))
    once = sra_fast.score(model, batch, definition="mass")
    whole = sra_fast.score(model, batch, definition="mass", share_prefixes=False)
    assert once.prefixes == told(P + 66, 3 * P + 66)
    assert float((once.mass - whole.mass).abs().max()) < 0.05


def test_the_reference_and_blocks_share_and_other_backends_do_not(
    llama: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    batch = shared_batch(tails(15, 20))
    for backend in ("reference", "lse", "lse:blocks", "lse:cpu_flash"):
        once, _ = both_ways(llama, batch, backend=backend)
        assert once.prefixes == told(P + 35, 2 * P + 35)
    sra_fast.register_backend("whole", reference)
    with caplog.at_level(logging.DEBUG, logger="sra_fast"):
        once, whole = both_ways(llama, batch, backend="whole")
    assert torch.equal(once.mass, whole.mass)
    assert once.prefixes == "left whole: backend 'whole' takes whole sequences only"
    assert "are left whole: backend 'whole' takes whole sequences only" in caplog.text


class _Blending(nn.Module):
    """Embed a token together with the one before it in the row."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own
        self.weight = own.weight

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.own(ids)
        return found + found.roll(1, dims=1)


def test_a_model_that_blends_neighbours_is_found_out() -> None:
    model = LLAMA.build()
    model.model.embed_tokens = _Blending(model.model.embed_tokens)
    once = sra_fast.score(model, shared_batch(tails(15, 20)), check=False)
    assert once.prefixes.startswith("left whole: a beginning that is there once changes")


def test_keys_and_values_are_never_copied(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[int, int, int]] = []
    own = flash_cpu._call

    def watched(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Any:
        called.append((q.shape[2], k.shape[2], k.untyped_storage().nbytes()))
        return own(q, k, v, *rest, **named)

    monkeypatch.setattr(flash_cpu, "_call", watched)
    texts = tails(15, 40, 11)
    sra_fast.score(llama, shared_batch(texts), check=False)
    called.clear()
    sra_fast.score(llama, shared_batch(texts), check=False)
    one_layer = [(P, P), (15, P), (15, 15), (40, P), (40, 40), (11, P), (11, 11)]
    layers = llama.config.num_hidden_layers - 1  # the last one needs no output
    assert [(m, n) for m, n, _ in called] == one_layer * layers
    row = called[0][2]  # the keys of the whole row
    assert {size for _, _, size in called} == {row}


def test_results_say_what_was_shared_also_when_joined(llama: PreTrainedModel) -> None:
    first = sra_fast.score(llama, shared_batch(tails(15, 20)))
    other = sra_fast.score(llama, shared_batch([tokens(50, 3)]))
    joined = SRAResult.concatenate([other, first], renumber=True)
    assert joined.prefixes == told(P + 35, 2 * P + 35)


def test_passes_without_prefixes_are_laid_out_as_before() -> None:
    served = tried(serve(LLAMA.build()))
    lengths = [30, 20, 25, 60, 10]
    plain = forwards(served, lengths, 64)
    assert [forward.members for forward in plain] == [(0, 1), (2,), (3,), (4,)]
    assert all(forward.prefixes == () for forward in plain)
    shared = forwards(served, lengths, 64, [SharedPrefix((0, 2, 4), 8)])
    assert shared == [
        Forward((0, 2, 4), True, (PackedPrefix(0, 3, 8),)),
        Forward((1,), True),
        Forward((3,), True),
    ]

"""Test that whole models measure, train and generate the same through the Triton kernels."""

from __future__ import annotations

import pytest
import torch

import sra_fast
from marked_batches import marked_batch
from model_families import FAMILIES, Family

# A plain family, softcap and windows, sinks, D ≠ Dv, chunks, and a hybrid's few attention layers.
CHOSEN = ("llama", "gemma2", "gpt_oss", "deepseek_v3", "llama4", "lfm2")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
each_family = pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.name in CHOSEN], ids=str
)


def test_the_chosen_families_exist() -> None:
    assert {family.name for family in FAMILIES} >= set(CHOSEN)


@each_family
def test_a_score_is_that_of_the_definition(family: Family) -> None:
    model, batch = family.build().to(DEVICE), marked_batch((40, 31), side="left")
    found = sra_fast.score(model, batch, backend="triton")
    wanted = sra_fast.score(model, batch, backend="reference")
    assert torch.allclose(found.mass, wanted.mass, rtol=0, atol=1e-5)
    assert torch.allclose(found.sra, wanted.sra, rtol=1e-4, atol=1e-6)


@each_family
def test_a_watched_training_step_has_the_gradients_of_an_unwatched_one(family: Family) -> None:
    batch = {name: x.to(DEVICE) for name, x in marked_batch((40, 40)).items()}
    gradients, scores = [], []
    for backend in ("triton", "reference"):
        model = family.build().to(DEVICE)
        with sra_fast.monitor(model, backend=backend) as watch:
            model(**batch, labels=batch["input_ids"]).loss.backward()
        scores.append(watch.results[-1].mass)
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert torch.allclose(*scores, rtol=0, atol=1e-5)
    for mine, theirs in zip(*gradients, strict=True):
        assert (mine - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item())

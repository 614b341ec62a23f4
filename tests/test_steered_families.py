"""Test that every family is steered as a bias in its own eager mask would, also step by step.

`make test` takes a sample, `make test-all` (`--every-family`) takes all that are served.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import sra_fast
from biased_masks import biased_masks
from families_page import PAGE, rows
from recorded_outcomes import NEW, prompts
from shrunken_families import shrunken

_STEP = 24  # one family of so many is in the sample
_ALWAYS = {  # sinks, states, chunks, two attentions in a layer, layers inside of layers
    ("causal", "dbrx"),
    ("causal", "diffllama"),
    ("causal", "gpt_oss"),
    ("causal", "jamba"),
    ("causal", "llama4_text"),
    ("image-text", "mllama"),
    ("causal", "qwen3_next"),
}
_NEED_IMAGES = {  # or a token that the config of their parts lacks
    ("image-text", "blip-2"),
    ("image-text", "instructblip"),
    ("image-text", "instructblipvideo"),
    ("image-text", "qwen2_5_omni_thinker"),
    ("image-text", "qwen3_omni_moe_thinker"),
}
FORGETS = ("causal", "moshi")  # its cache drops keys that no mask of a window hides
HOW_TO = PAGE.parents[1] / "how-to" / "steering.md"
SERVED = [
    family
    for family, text in rows(PAGE.read_text("utf-8"))
    if text.startswith("equal") and family not in _NEED_IMAGES
]
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
GREEDY |= {"pad_token_id": 0, "output_logits": True, "return_dict_in_generate": True}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        every = metafunc.config.getoption("every_family")
        sample = [one for one in SERVED if one in _ALWAYS or one in SERVED[::_STEP]]
        chosen = SERVED if every else sample
        metafunc.parametrize("family", chosen, ids=["-".join(one) for one in chosen])


def tokens(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def test_a_forward_pass_is_that_of_eager_with_the_bias_in_its_mask(
    family: tuple[str, str],
) -> None:
    model, batch = shrunken(*family), prompts()
    eager, real = copy.deepcopy(model), batch["attention_mask"].bool()
    with torch.no_grad():
        plain = model(**tokens(batch), use_cache=False).logits[real]
        with sra_fast.steer(model, batch, bias=2.5):
            found = model(**tokens(batch), use_cache=False).logits[real]
        with biased_masks(eager, batch["strategy_mask"], 2.5):
            wanted = eager(**tokens(batch), use_cache=False).logits[real]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert not torch.allclose(plain, wanted, rtol=0, atol=1e-2)


def test_steps_of_generate_are_those_of_one_pass_over_the_same_tokens(
    family: tuple[str, str],
) -> None:
    if family == FORGETS:
        pytest.skip("test_a_cache_that_forgets_the_span_is_refused has it")
    model, batch = shrunken(*family), prompts()
    with sra_fast.steer(model, batch, bias=4.0):
        out = model.generate(**tokens(batch), **GREEDY)
        found = torch.stack(out.logits, dim=1)
        with torch.no_grad():
            steered = one_pass(model, batch, out.sequences)
    with torch.no_grad():
        plain = one_pass(model, batch, out.sequences)
    own = model.generate(**tokens(batch), **GREEDY)
    with torch.no_grad():
        in_one = one_pass(model, batch, own.sequences)
    apart = (torch.stack(own.logits, dim=1) - in_one).abs().max()  # a state's steps are no pass
    assert (found - steered).abs().max() <= max(1e-4, 3 * float(apart))
    assert not torch.allclose(steered, plain, rtol=0, atol=1e-2)


def one_pass(model: Any, batch: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Return the logits that predict the new tokens, by one forward pass without a cache."""
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, NEW), value=1)
    given: dict[str, Any] = {"attention_mask": mask, "use_cache": False}
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    try:
        logits = model(ids, position_ids=positions, **given).logits
    except TypeError:  # it takes no positions
        logits = model(ids, **given).logits
    found: Tensor = logits[:, -NEW - 1 : -1]
    return found


def test_a_cache_that_forgets_the_span_is_refused() -> None:
    model, batch = shrunken(*FORGETS), prompts()
    with (
        pytest.raises(ValueError, match="the cache of layer 0 has dropped"),
        sra_fast.steer(model, batch, bias=4.0),
    ):
        model.generate(**tokens(batch), **GREEDY)


def test_the_documentation_says_of_how_many_families_this_is_true() -> None:
    text = " ".join(HOW_TO.read_text(encoding="utf-8").split())
    assert len(SERVED) > 20 * len(_NEED_IMAGES)
    assert f"alone, {len(SERVED)} of {len(SERVED) + len(_NEED_IMAGES)}, has under a bias" in text

"""Test that what is recorded of `generate` is each family's own, over transformers' list.

`make test` takes a sample, `make test-all` (`--every-family`) takes all that are served.
"""

from __future__ import annotations

from collections import Counter

import pytest
import transformers

from families_page import PAGE, rows
from recorded_outcomes import recorded_outcome

_STEP = 24  # one family of so many is in the sample
_ALWAYS = {  # sinks, a state, chunks, a second pass with the same queries, generate of their own
    ("causal", "gpt_oss"),
    ("causal", "jamba"),
    ("causal", "llama4_text"),
    ("causal", "diffllama"),
    ("causal", "moshi"),
    ("image-text", "qwen2_vl"),
}
SERVED = [family for family, text in rows(PAGE.read_text("utf-8")) if text.startswith("equal")]
HOW_TO = PAGE.parents[1] / "how-to" / "record-generation.md"
OF_THIS_VERSION = f"transformers {transformers.__version__} " in PAGE.read_text(encoding="utf-8")

DO_NOT_GENERATE = {  # without images, or with a config of parts that lacks a token
    ("image-text", "blip-2"),
    ("image-text", "instructblip"),
    ("image-text", "instructblipvideo"),
    ("image-text", "qwen2_5_omni_thinker"),
    ("image-text", "qwen3_omni_moe_thinker"),
}
NOT_AS_IN_ONE_PASS = {
    # their positions count from the padding id on, and `generate` gives them positions from 0
    ("causal", "camembert"),
    ("causal", "data2vec-text"),
    ("causal", "roberta"),
    ("causal", "roberta-prelayernorm"),
    ("causal", "xlm-roberta"),
    ("causal", "xlm-roberta-xl"),
    ("causal", "xmod"),
    # padding on the left moves the positions of their steps, and moshi's even without padding
    ("causal", "moshi"),
    ("causal", "whisper"),
    ("image-text", "kosmos-2.5"),
    # states of Mamba in chunks and step by step: 2e-5
    ("causal", "nemotron_h"),
    ("image-text", "nemotron_h_omni"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        every = metafunc.config.getoption("every_family")
        sample = [one for one in SERVED if one in _ALWAYS or one in SERVED[::_STEP]]
        chosen = SERVED if every else sample
        metafunc.parametrize("family", chosen, ids=["-".join(one) for one in chosen])


def test_each_step_has_the_masses_of_its_own_eager_generate(family: tuple[str, str]) -> None:
    found = recorded_outcome(*family)
    assert found.end != "wrong", found.detail
    if OF_THIS_VERSION:
        assert (found.end == "does not generate") == (family in DO_NOT_GENERATE), found.detail
        assert (found.end == "equal but for score") == (family in NOT_AS_IN_ONE_PASS)


def test_nearly_every_family_is_compared() -> None:
    kinds = Counter(family in DO_NOT_GENERATE for family in SERVED)
    assert kinds[False] > 20 * kinds[True]


@pytest.mark.skipif(not OF_THIS_VERSION, reason="the page is of another version of transformers")
def test_the_documentation_says_of_how_many_families_this_is_true() -> None:
    text = " ".join(HOW_TO.read_text(encoding="utf-8").split())
    generate = len(SERVED) - len(DO_NOT_GENERATE)
    assert f"{generate} of {len(SERVED)}, has the masses" in text
    assert f"In {generate - len(NOT_AS_IN_ONE_PASS)} of them they are also those of" in text
    assert f"In the other {len(NOT_AS_IN_ONE_PASS)} the model's own" in text
    assert all(f"`{name}`" in text for _, name in NOT_AS_IN_ONE_PASS)

"""Test every family that transformers lists: equal to its own maps, or refused with a true reason.

`make test` takes a sample, `make test-all` (`--every-family`) takes all of them.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import transformers

from families_page import PAGE, described, rows
from family_outcomes import MOST_NOT_BUILT, NOT_BUILT, Outcome, outcome, written_out
from shrunken_families import families, shrunken_config

_STEP = 8  # one family of so many is in the sample
_ALWAYS = {  # each has been wrong once, in a way of its own
    ("causal", "deepseek_v32"),
    ("causal", "diffllama"),
    ("causal", "granite_swa"),
    ("causal", "mamba"),
    ("causal", "minimax"),
    ("causal", "modernbert-decoder"),
    ("causal", "moshi"),
    ("causal", "xlm-roberta"),
    ("image-text", "diffusion_gemma"),
    ("image-text", "kosmos-2.5"),
    ("image-text", "mllama"),
}
_SLOW = {"florence2", "muse_spark", "granite4_vision", "emu3", "janus"}

ON_THE_PAGE = dict(rows(PAGE.read_text(encoding="utf-8")))
OF_THIS_VERSION = f"transformers {transformers.__version__} " in PAGE.read_text(encoding="utf-8")


def sample() -> list[tuple[str, str]]:
    """Return the families of the sample, the same ones in every run."""
    quick = [family for family in families() if family[1] not in _SLOW]
    chosen = {*quick[::_STEP], *_ALWAYS}
    return [family for family in families() if family in chosen]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        every = metafunc.config.getoption("every_family")
        chosen = families() if every else sample()
        metafunc.parametrize("family", chosen, ids=["-".join(one) for one in chosen])


def test_a_family_is_equal_to_its_own_maps_or_refused_with_a_known_reason(
    family: tuple[str, str],
) -> None:
    found = outcome(*family)
    assert found.end != "wrong", found.detail
    if found.end == "not built" and found.detail not in NOT_BUILT and not OF_THIS_VERSION:
        pytest.skip(f"another version of transformers builds it otherwise: {found.detail[:80]}")
    if OF_THIS_VERSION:
        assert described(found) == ON_THE_PAGE[family]


@pytest.mark.skipif(not OF_THIS_VERSION, reason="the page is of another version of transformers")
def test_the_page_has_every_family_of_transformers() -> None:
    assert set(ON_THE_PAGE) == set(families())


def test_hardly_any_family_is_left_untried() -> None:
    ends = Counter(text.partition(":")[0] for text in ON_THE_PAGE.values())
    assert ends["not tried"] <= MOST_NOT_BUILT
    assert ends["equal to its own maps"] > 2 * ends["refused"]
    assert ends.total() == len(ON_THE_PAGE)


def test_a_page_is_read_as_it_was_written() -> None:
    from families_page import written

    outcomes = {
        ("causal", "one"): Outcome("equal", "2 layers", 1e-7),
        ("image-text", "two"): Outcome("refused", "not causal"),
        ("causal", "two"): Outcome("not built", "timm"),
    }
    assert dict(rows(written(outcomes))) == {
        family: described(one) for family, one in outcomes.items()
    }


def test_a_window_is_shorter_than_the_texts_and_layers_of_each_kind_stay() -> None:
    config = shrunken_config("gemma2")
    assert config.sliding_window == 8
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}


def test_a_sink_takes_its_share_in_the_softmax_that_is_written_out() -> None:
    q = torch.zeros(1, 2, 3, 4)
    _, maps = written_out(torch.nn.Identity(), q, q, q, None, 1.0, torch.tensor([0.0, 100.0]))
    torch.testing.assert_close(maps[0, 0], torch.full((3, 3), 0.25))
    assert maps[0, 1].max() < 1e-20

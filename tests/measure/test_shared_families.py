"""Test that a common beginning may be computed once in every family, or is left whole and named.

`make test` takes a sample, `make test-all` (`--every-family`) takes all families.
"""

from __future__ import annotations

import pytest
import transformers

import families_page
from shared_outcomes import ONCE, PAGE, TOLERANCE, recorded, shared_outcome

_FAMILIES = families_page.PAGE.read_text(encoding="utf-8")
EQUAL = [family for family, text in families_page.rows(_FAMILIES) if text.startswith("equal")]
OF_THIS_VERSION = f"transformers {transformers.__version__} " in _FAMILIES
RECORDED = recorded(PAGE.read_text(encoding="utf-8"))

_STEP = 10  # one family of so many is in the sample
_ALWAYS = {
    ("causal", "gemma3_text"),  # windows
    ("causal", "gpt_oss"),  # sinks
    ("causal", "jamba"),
    ("causal", "llama4_text"),
    ("causal", "xlm-roberta"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        every = metafunc.config.getoption("every_family")
        chosen = EQUAL if every else [one for one in EQUAL if one in {*EQUAL[::_STEP], *_ALWAYS}]
        metafunc.parametrize("family", chosen, ids=["-".join(one) for one in chosen])


def test_a_family_scores_the_same_with_its_beginning_once(family: tuple[str, str]) -> None:
    found = shared_outcome(*family)
    if found.told is None:
        pytest.skip("another version of transformers builds it otherwise")
    limit = TOLERANCE if found.told == ONCE else 0.0
    assert found.score <= limit
    assert found.mass <= limit
    if OF_THIS_VERSION:
        assert found.told == RECORDED[family]


@pytest.mark.skipif(not OF_THIS_VERSION, reason="the page is of another version of transformers")
def test_the_documentation_says_of_every_family_what_is_done() -> None:
    assert set(RECORDED) == set(EQUAL)

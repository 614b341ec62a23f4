"""Test the strategies: the paper's and ESConv's names, and a user's own from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sra_fast.chat.strategies import (
    DEFAULT_STRATEGIES,
    ESCONV_STRATEGIES,
    STRATEGIES,
    StrategyError,
    lookup,
    read_strategies,
)

PAPER_NAMES = """Affirmation · Avoid Judgment and Criticism · Clarification ·
Collaborative Planning · Emotional Validation · Normalize Experiences · Offer Hope ·
Promote Self-Care Practices · Provide Different Perspectives · Reflective Statements ·
Reframe Negative Thoughts · Share Information · Stress Management · Suggest Options · Chit Chat"""
ESCONV_NAMES = """Question · Restatement or Paraphrasing · Reflection of feelings ·
Self-disclosure · Affirmation and Reassurance · Providing Suggestions · Information · Others"""


def names(text: str) -> list[str]:
    return [" ".join(name.split()) for name in text.split("·")]


def test_the_names_are_those_of_the_paper_and_of_esconv() -> None:
    assert list(STRATEGIES) == names(PAPER_NAMES)
    assert list(ESCONV_STRATEGIES) == names(ESCONV_NAMES)
    assert list(DEFAULT_STRATEGIES) == [*STRATEGIES, *ESCONV_STRATEGIES]


@pytest.mark.parametrize("name", DEFAULT_STRATEGIES)
def test_every_description_is_one_or_two_sentences_of_its_own(name: str) -> None:
    text = lookup(name)
    assert text.endswith(".")
    assert 1 <= text.count(". ") + 1 <= 2
    assert list(DEFAULT_STRATEGIES.values()).count(text) == 1
    assert '"' not in text
    assert name not in text


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("Hope", "Offer Hope"),
        ("offer hope", "Offer Hope"),
        (" Offer Hope ", "Offer Hope"),
        ("Afirmation", "Affirmation"),
        ("Emotional-Validation", "Emotional Validation"),
        ("Questions", "Question"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(StrategyError) as caught:
        lookup(wrong)
    assert repr(wrong) in str(caught.value)
    assert f"did you mean {right!r}?" in str(caught.value)
    assert "? To use your own, give strategies that hold it" in str(caught.value)


def test_a_name_near_nothing_is_refused_with_all_that_are_known() -> None:
    with pytest.raises(StrategyError) as caught:
        lookup("zzzz")
    assert all(repr(name) in str(caught.value) for name in DEFAULT_STRATEGIES)


@pytest.mark.parametrize(
    "content",
    [
        {"Tell a Joke": " Make them laugh. ", "Be Silent": "Say little."},
        [
            {"name": "Tell a Joke", "description": "Make them laugh."},
            {"name": "Be Silent", "description": "Say little."},
        ],
    ],
)
def test_own_strategies_are_read_from_both_forms(tmp_path: Path, content: object) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    own = read_strategies(path)
    assert own == {"Tell a Joke": "Make them laugh.", "Be Silent": "Say little."}
    assert lookup("Be Silent", own) == "Say little."


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"A": }', "line 1, column 7"),
        ('{"A": "x", "A": "y"}', "'A' stands twice"),
        ("{}", "holds no strategy"),
        ('"A"', "found str"),
        ('{"A": 5}', "description of 'A' must be a string"),
        ('{"A": ""}', "description of 'A' is empty"),
        ('{" ": "x"}', "the name of a strategy is empty"),
        ('{"Say \\"yes\\"": "x"}', "double quote"),
        ('{"A\\nB": "x"}', "line break"),
        ('{"A\\u2028B": "x"}', "line break"),
        ('{"A": "x", " A": "y"}', "'A' is described twice"),
        ('[{"name": "A"}]', "entry 1: expected {'name', 'description'}, found ['name']"),
        (
            '[{"name": "A", "desc": "x"}]',
            "found ['desc', 'name']; did you mean 'description'?",
        ),
        ('{"A": "x",}', "check the commas"),
        ("[5]", "entry 1: expected {'name', 'description'}, found int"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(StrategyError) as caught:
        read_strategies(path)
    assert str(caught.value).startswith("mine.json")
    assert says in str(caught.value)
    assert caught.value.arguments == ("strategies",)


@pytest.mark.parametrize("name", ['Say "yes"', "A\nB"])
def test_a_name_that_cannot_stand_in_quotes_is_refused_where_it_is_used(name: str) -> None:
    with pytest.raises(StrategyError):
        lookup(name, {name: "Something."})


@pytest.mark.parametrize("wrong", [["Be Blunt"], ("Be Blunt",), "Be Blunt"])
def test_strategies_without_descriptions_are_refused(wrong: Any) -> None:
    told = f"a mapping of names to descriptions.* found {type(wrong).__name__}"
    with pytest.raises(TypeError, match=told):
        lookup("Be Blunt", wrong)

"""Test that functions stand in for methods inside a block alone, whatever ends it."""

from __future__ import annotations

from typing import Any

import pytest

from sra_fast.tools.stand_ins import standing_in


class Speaker:
    def speak(self) -> str:
        return "own"


def test_one_object_alone_gets_the_function() -> None:
    one, other = Speaker(), Speaker()
    with standing_in(one, {"speak": lambda: "stand-in"}):
        assert one.speak() == "stand-in"
        assert other.speak() == "own"
    assert one.speak() == "own"
    assert "speak" not in vars(one)


def test_what_stood_in_before_comes_back_after_an_error() -> None:
    one: Any = Speaker()
    one.speak = lambda: "somebody's own"
    with pytest.raises(ZeroDivisionError), standing_in(one, {"speak": lambda: "stand-in"}):
        raise ZeroDivisionError
    assert one.speak() == "somebody's own"


def test_blocks_may_be_nested() -> None:
    one = Speaker()
    with standing_in(one, {"speak": lambda: "outer"}):
        with standing_in(one, {"speak": lambda: "inner"}):
            assert one.speak() == "inner"
        assert one.speak() == "outer"
    assert one.speak() == "own"

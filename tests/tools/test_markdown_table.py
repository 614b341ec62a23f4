"""Markdown tables: names are shown as they are, and no cell ends early."""

from __future__ import annotations

import pytest

from sra_fast.tools.markdown_table import markdown_table, markdown_text


def test_names_stand_left_and_numbers_right() -> None:
    assert markdown_table(("row", "n"), [("standard", "12"), ("c1_hf", "–")]) == [
        "| row | n |",
        "| --- | ---: |",
        "| standard | 12 |",
        "| c1_hf | – |",
        "",
    ]
    assert markdown_table(("a", "b"), [], names=0)[1] == "| ---: | ---: |"


def test_names_are_plain_text_and_the_other_cells_are_markdown() -> None:
    line = markdown_table(("", "n"), [("*a*|b\n<c>", "**wrong**")])[2]
    assert line == r"| \*a\*\|b\\n\<c\> | **wrong** |"


def test_a_pipe_ends_no_cell() -> None:
    head, _, row, _ = markdown_table(("a|b", "c"), [("x", f"1 ({markdown_text('y|z')}) | 2")])
    assert head == r"| a\|b | c |"
    assert row == r"| x | 1 (y\|z) \| 2 |"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        markdown_table(("a", "b"), [("x",)])

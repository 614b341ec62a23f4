"""Test that items are cut into groups that are as full as their order lets them be."""

from __future__ import annotations

import pytest

from sra_fast.tools.filled_groups import filled_groups


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], []),
        ([0], [[0]]),
        ([2, 3, 1], [[2, 3], [1]]),
        ([5, 5], [[5], [5]]),
        ([9, 1, 4, 1], [[9], [1, 4], [1]]),
        ([1, 9], [[1], [9]]),
    ],
)
def test_a_group_holds_no_more_than_it_may_or_one_item(
    sizes: list[int], groups: list[list[int]]
) -> None:
    assert filled_groups(sizes, lambda size: size, 5) == groups

"""Test the figures of the steering study: by hand, and on records whose effect is known."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from sra_fast.training.pipeline.steering.contrasts import (
    StudyRecord,
    difference,
    figures_of,
    joined,
)
from study_material import record


def test_figures_are_those_computed_by_hand() -> None:
    """Three strategies; the replies are (-1, -2, -6) and (-4, -2, -3), of the first and the last.

    Around their own means they are (2, 1, -3) and (-1, 1, 0); strategies' means are .5, 1, -1.5, so
    what remains is (1.5, 0, -1.5) and (-1.5, 0, 1.5).
    """
    found = figures_of(joined([record([[-1, -4], [-2, -2], [-6, -3]], [0, 2])]))
    assert found.raw.tolist() == [-1 + 4, -3 + 3]
    assert found.raw_per_token.tolist() == [1.5, 0]
    assert found.advantage.tolist() == [2.25, 2.25]
    assert found.per_token.tolist() == [1.125, 1.125]
    assert found.shuffled.tolist() == [0, 0]  # half the time each label: (2.25 - 2.25) / 2
    assert found.first.tolist() == [1, 1]
    assert found.raw_first.tolist() == [1, 0]
    assert found.shuffled_first.tolist() == [0.5, 0.5]
    assert found.own_log_p.tolist() == [-0.5, -1.5]


def synthetic(effect: float, seed: int = 0) -> list[StudyRecord]:
    """Return 40 dialogues whose replies gain ``effect`` under their own strategy."""
    draw = numpy.random.default_rng(seed)
    found = []
    for number in range(40):
        own = draw.integers(0, 4, 6)
        log_p = draw.normal(-50, 5, 6)[None] + draw.normal(0, 1, (4, 6))
        log_p += numpy.array([0.0, 3.0, -3.0, 1.0])[:, None]  # prompts that raise every reply
        log_p[own, numpy.arange(6)] += effect
        found.append(record(log_p.tolist(), own.tolist(), str(number)))
    return found


def test_an_effect_is_found_and_shuffled_labels_have_none() -> None:
    found = figures_of(joined(synthetic(2.0)))
    assert found.advantage.mean() == pytest.approx(2.0 * 3 / 4 * 4 / 3, abs=0.25)
    none = figures_of(joined(synthetic(0.0)))
    assert abs(none.advantage.mean()) < 0.2
    shuffled = [
        replace(one, own=numpy.random.default_rng(int(one.dialogue)).permutation(one.own).tolist())
        for one in synthetic(2.0)
    ]
    drawn, expected = figures_of(joined(shuffled)).advantage, found.shuffled
    assert drawn.mean() == pytest.approx(expected.mean(), abs=0.3)
    assert found.first.mean() > 0.5 > none.first.mean()


def test_settings_are_compared_over_the_replies_that_both_have() -> None:
    strong, weak = synthetic(2.0), synthetic(0.0)
    whole = difference(joined(strong[:10]), joined(weak), "advantage")
    alone = difference(joined(strong[:10]), joined(weak[:10]), "advantage")
    assert whole == alone
    assert whole.n == 60
    assert difference(joined(strong), joined(strong[::-1]), "advantage").value == 0

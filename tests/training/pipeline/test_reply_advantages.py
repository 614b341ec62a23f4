"""Test the figures of a steering study: advantages, ranks, their baseline and their intervals."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy
import pytest

from sra_fast.training.pipeline.steering.reply_advantages import (
    MEANS,
    difference,
    estimates,
    figures_of,
)
from sra_fast.training.pipeline.steering.setting_results import setting_results
from sra_fast.training.pipeline.steering.study_records import joined
from study_material import record, synthetic_records


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
    assert found.above_shuffled.tolist() == [2.25, 2.25]
    assert found.first.tolist() == [1, 1]
    assert found.raw_first.tolist() == [1, 0]
    assert found.shuffled_first.tolist() == [0.5, 0.5]
    assert found.own_log_p.tolist() == [-0.5, -1.5]


def test_replies_of_unequal_length_are_ranked_by_log_p_per_token() -> None:
    """Two strategies; the replies are (-3, -1) of one token and (-12, 0) of four, of the first.

    Per token they are (-3, -1) and (-3, 0): around their means (-1, 1) and (-1.5, 1.5), and without
    strategies' means (.25, -.25) and (-.25, .25). In sums (-1, 1) and (-6, 6) become (2.5, -2.5)
    and (-2.5, 2.5), ten times as much.
    """
    line = record([[-3, -12], [-1, 0]], [0, 0], tokens=[1, 4])
    found = figures_of(joined([line]))
    assert found.per_token.tolist() == [0.5, -0.5]
    assert found.advantage.tolist() == [5, -5]
    assert found.first.tolist() == [1, 0]
    # In sums, the own strategy of the first reply would rank first too.
    mixed = record([[-3, -1, -12], [-1, -2, -3]], [0, 0, 0], tokens=[1, 1, 12])
    ranks = figures_of(joined([mixed]))
    assert (ranks.advantage > 0).tolist() == [True, True, False]
    assert ranks.first.tolist() == [0, 1, 0]


def test_strategies_that_tie_share_the_first_rank() -> None:
    found = figures_of(joined([record([[-1, -2], [-1, -2], [-5, -6]], [0, 2])]))
    assert found.raw_first.tolist() == [0.5, 0]


def test_the_baseline_is_the_mean_over_all_permutations_of_a_dialogues_labels() -> None:
    lines = synthetic_records(2.0, dialogues=3)
    found = figures_of(joined(lines))
    for number, line in enumerate(lines):
        drawn = []
        for own in itertools.permutations(line.own):
            others = [*lines[:number], replace(line, own=list(own)), *lines[number + 1 :]]
            drawn.append(figures_of(joined(others)))
        here = slice(6 * number, 6 * number + 6)
        for figure, baseline in (
            ("advantage", "shuffled"),
            ("per_token", "shuffled_per_token"),
            ("first", "shuffled_first"),
        ):
            mean = numpy.mean([getattr(one, figure)[here] for one in drawn], axis=0)
            numpy.testing.assert_allclose(getattr(found, baseline)[here], mean, atol=1e-12)


def test_an_effect_is_found() -> None:
    found, none = (figures_of(joined(synthetic_records(effect))) for effect in (2.0, 0.0))
    assert found.advantage.mean() == pytest.approx(2.0, abs=0.3)
    assert abs(none.advantage.mean()) < 0.3
    assert found.first.mean() > 0.5 > none.first.mean()


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_intervals_hold_what_would_come_of_very_many_dialogues(effect: float) -> None:
    """Count intervals that hold the truth: at 95 %, 88 or fewer of 100 have a chance of 0.4 %."""
    names = ("advantage", "above_shuffled", "first", "first_above_shuffled")
    many = estimates(figures_of(joined(synthetic_records(effect, 1, 4000))))
    held = dict.fromkeys(names, 0)
    for seed in range(100):
        found = estimates(figures_of(joined(synthetic_records(effect, 100 + seed))))
        for name in names:
            low, high, value = found[name].low, found[name].high, many[name].value
            assert low is not None
            assert high is not None
            assert value is not None
            held[name] += low <= value <= high
    assert min(held.values()) > 88, held


def test_dialogues_that_repeat_each_other_are_one_observation() -> None:
    lines = synthetic_records(1.0, dialogues=10)
    twice = [*lines, *(replace(line, dialogue=f"again {line.dialogue}") for line in lines)]
    once, repeated = (estimates(figures_of(joined(each))) for each in (lines, twice))
    apart = [replace(line, group=line.dialogue) for line in twice]
    narrower = estimates(figures_of(joined(apart)))
    for name in MEANS:
        assert repeated[name].low == pytest.approx(once[name].low, abs=1e-9)
        assert repeated[name].high == pytest.approx(once[name].high, abs=1e-9)
    low, wide = narrower["advantage"].low, once["advantage"].low
    assert low is not None
    assert wide is not None
    assert low > wide


def test_settings_are_compared_over_the_replies_that_both_have() -> None:
    strong, weak = synthetic_records(2.0), synthetic_records(0.0)
    whole = difference(joined(strong[:10]), joined(weak), "advantage")
    alone = difference(joined(strong[:10]), joined(weak[:10]), "advantage")
    assert whole == alone
    assert whole.n == 60
    assert difference(joined(strong), joined(strong[::-1]), "advantage").value == 0


def test_settings_without_a_reply_in_common_have_no_difference() -> None:
    lines = synthetic_records(1.0)
    found = difference(joined(lines[:5]), joined(lines[5:]), "per_token")
    assert found.value is None
    assert found.why is not None


def test_a_setting_is_held_against_the_unsteered_model_and_its_own_control() -> None:
    strong = [
        replace(one, setting="bias 2", part="strategy", bias=2.0) for one in synthetic_records(2.0)
    ]
    control = [
        replace(one, setting="situation, bias 2", part="control", span="situation", bias=2.0)
        for one in synthetic_records(0.5)
    ]
    plain, steered, other = setting_results([*synthetic_records(0.0), *strong, *control])
    assert plain.change is plain.first_change is plain.above_control is None
    assert other.above_control is None
    for found, wanted in ((steered.change, 2.0), (steered.above_control, 1.5), (other.change, 0.5)):
        assert found is not None
        assert found.value == pytest.approx(wanted / 2, abs=0.05)  # each reply has two tokens
    assert steered.first_change is not None
    assert steered.first_change.value == pytest.approx(
        figures_of(joined(strong)).first.mean()
        - figures_of(joined(synthetic_records(0))).first.mean()
    )

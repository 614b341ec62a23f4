"""Compare mean SRA by prompt template, turn and strategy: the paper's first experiment."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

Row = dict[str, Any]

RESAMPLES = 2000
SEED = 20240210
LEVEL = 0.95
_DRAWS_AT_ONCE = 4_000_000  # bounds the memory of a bootstrap


@dataclass(frozen=True)
class Estimate:
    """The mean SRA of a group of responses.

    Attributes:
        responses, dialogues: how many.
        sra: mean over the responses.
        low, high: 95% interval of the mean; None with a single dialogue.
        log_sra: natural logarithm of the mean; None if that is not positive.
    """

    responses: int
    dialogues: int
    sra: float
    low: float | None
    high: float | None
    log_sra: float | None


@dataclass(frozen=True)
class Comparison:
    """The mean SRA of every group of responses: by template, turn and strategy.

    Attributes:
        definition: the definition of SRA.
        templates: names of the templates, in the order asked for.
        by_template: the estimate of each template.
        by_turn: the estimate of each template and turn, ordered by template, then turn.
        by_strategy: the estimate of each template and strategy, in that order too.
    """

    definition: str
    templates: tuple[str, ...]
    by_template: dict[str, Estimate]
    by_turn: dict[tuple[str, int], Estimate]
    by_strategy: dict[tuple[str, str], Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return everything as values of JSON, with how the intervals were computed."""
        return {
            "definition": self.definition,
            "interval": {
                "level": LEVEL,
                "method": "percentile bootstrap over dialogues",
                "resamples": RESAMPLES,
                "seed": SEED,
            },
            "by_template": [
                {"template": template, **asdict(estimate)}
                for template, estimate in self.by_template.items()
            ],
            "by_turn": [
                {"template": template, "turn": turn, **asdict(estimate)}
                for (template, turn), estimate in self.by_turn.items()
            ],
            "by_strategy": [
                {"template": template, "strategy": strategy, **asdict(estimate)}
                for (template, strategy), estimate in self.by_strategy.items()
            ],
        }


def compare(
    definition: str, templates: Sequence[str], rows: Iterable[Row], turn_rows: Iterable[Row]
) -> Comparison:
    """Group scored responses by template, turn and strategy, and estimate each group's mean SRA.

    Args:
        definition: the definition that the rows' ``sra`` is of.
        templates: names of the templates, in the order wanted.
        rows: the scored responses for the comparisons by template and by strategy.
        turn_rows: those for the comparison by turn, usually the same.
    """
    kept, turned = list(rows), list(turn_rows)
    order = {name: index for index, name in enumerate(templates)}

    def by(source: list[Row], *keys: str) -> dict[Any, Estimate]:
        found = groups(source, lambda row: tuple(row[key] for key in keys))
        ordered = sorted(found.items(), key=lambda item: (order[item[0][0]], *item[0][1:]))
        return {key if len(key) > 1 else key[0]: estimate(group) for key, group in ordered}

    return Comparison(
        definition=definition,
        templates=tuple(templates),
        by_template=by(kept, "template"),
        by_turn=by(turned, "template", "turn"),
        by_strategy=by(kept, "template", "strategy"),
    )


def groups(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Group rows by a key, in the order in which the keys first appear."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def estimate(rows: Sequence[Row]) -> Estimate:
    """The mean of the rows' ``sra`` and its interval over dialogues.

    Replies of one dialogue resemble each other, so whole dialogues are drawn, with replacement:
    mean = Σ_c sum_c / Σ_c count_c over the drawn ones (percentile bootstrap with a fixed seed).
    """
    by_dialogue = groups(rows, lambda row: row["dialogue"])
    sums = numpy.array([sum(row["sra"] for row in group) for group in by_dialogue.values()])
    counts = numpy.array([float(len(group)) for group in by_dialogue.values()])
    mean = float(sums.sum() / counts.sum())
    low, high = _interval(sums, counts)
    return Estimate(
        responses=len(rows),
        dialogues=len(by_dialogue),
        sra=mean,
        low=low,
        high=high,
        log_sra=math.log(mean) if mean > 0 else None,
    )


def _interval(
    sums: NDArray[numpy.float64], counts: NDArray[numpy.float64]
) -> tuple[float, float] | tuple[None, None]:
    n = len(sums)
    if n < 2:
        return None, None
    generator = numpy.random.default_rng(SEED)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    means = []
    for begin in range(0, RESAMPLES, at_once):
        drawn = generator.integers(n, size=(min(at_once, RESAMPLES - begin), n))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = (1 - LEVEL) / 2
    low, high = numpy.quantile(numpy.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)

"""Compare mean SRA by prompt template, turn and strategy: the paper's first experiment."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sra_fast.tools.counted import counted
from sra_fast.tools.estimates import Estimate, interval_settings, too_few
from sra_fast.tools.intervals import mean_interval

if TYPE_CHECKING:
    from sra_fast.files.score_tables import ScoreRow


@dataclass(frozen=True)
class MeanSRA:
    """The mean SRA of a group of responses.

    Attributes:
        mean: over the responses, ``n`` of them, with its 95% interval over dialogues.
        dialogues: how many the responses come from.
        undefined: how many further responses the group has, whose SRA is undefined: the mean leaves
            them out.
    """

    mean: Estimate
    dialogues: int
    undefined: int = 0

    @property
    def responses(self) -> int:
        """How many responses the mean is of."""
        return self.mean.n

    @property
    def sra(self) -> float | None:
        """The mean SRA of the responses; None if it is undefined for every response."""
        return self.mean.value

    @property
    def log_sra(self) -> float | None:
        """The natural logarithm of the mean; None if the mean is not positive."""
        return math.log(self.sra) if self.sra is not None and self.sra > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON can say them; ``undefined`` and ``why`` where there is one."""
        return {
            "responses": self.responses,
            "dialogues": self.dialogues,
            "sra": self.sra,
            "low": self.mean.low,
            "high": self.mean.high,
            "log_sra": self.log_sra,
            **({"undefined": self.undefined} if self.undefined else {}),
            **({"why": self.mean.why} if self.mean.why else {}),
        }


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
    by_template: dict[str, MeanSRA]
    by_turn: dict[tuple[str, int], MeanSRA]
    by_strategy: dict[tuple[str, str], MeanSRA]

    @property
    def estimates(self) -> list[MeanSRA]:
        """The means of all groups."""
        found = (self.by_template, self.by_turn, self.by_strategy)
        return [one for groups in found for one in groups.values()]

    def to_json(self) -> dict[str, Any]:
        """Return everything as values of JSON, with how the intervals were computed."""
        return {
            "definition": self.definition,
            "interval": interval_settings("mean"),
            "by_template": [
                {"template": template, **found.to_json()}
                for template, found in self.by_template.items()
            ],
            "by_turn": [
                {"template": template, "turn": turn, **found.to_json()}
                for (template, turn), found in self.by_turn.items()
            ],
            "by_strategy": [
                {"template": template, "strategy": strategy, **found.to_json()}
                for (template, strategy), found in self.by_strategy.items()
            ],
        }


def compare(
    definition: str,
    templates: Sequence[str],
    rows: Iterable[ScoreRow],
    turn_rows: Iterable[ScoreRow],
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

    def by(source: list[ScoreRow], *keys: str) -> dict[Any, MeanSRA]:
        found = groups(source, lambda row: tuple(row[key] for key in keys))
        ordered = sorted(found.items(), key=lambda item: (order[item[0][0]], *item[0][1:]))
        return {key if len(key) > 1 else key[0]: mean_sra(group) for key, group in ordered}

    return Comparison(
        definition=definition,
        templates=tuple(templates),
        by_template=by(kept, "template"),
        by_turn=by(turned, "template", "turn"),
        by_strategy=by(kept, "template", "strategy"),
    )


def groups(rows: Iterable[ScoreRow], key: Callable[[ScoreRow], Any]) -> dict[Any, list[ScoreRow]]:
    """Group rows by a key, in the order in which the keys first appear."""
    found: dict[Any, list[ScoreRow]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def mean_sra(rows: Sequence[ScoreRow]) -> MeanSRA:
    """Return the mean of the rows' ``sra`` with its interval over dialogues.

    Replies of one dialogue resemble each other, so a dialogue counts as one observation.

    Args:
        rows: one row for each scored response; rows whose ``sra`` is None are counted and left out.
    """
    known = [row for row in rows if row["sra"] is not None]
    dialogues = [row["dialogue"] for row in known]
    mean = mean_interval([row["sra"] for row in known], dialogues)
    return MeanSRA(mean, len(set(dialogues)), len(rows) - len(known))


def interval_note(estimates: Iterable[MeanSRA]) -> str | None:
    """Return the sentence that says why some means have no interval, or None if all have one.

    Args:
        estimates: the means that are shown.
    """
    reasons = dict.fromkeys(
        one.mean.why for one in estimates if one.sra is not None and one.mean.low is None
    )
    if too_few(2) in reasons:  # which holds for a single dialogue, too
        reasons.pop(too_few(1), None)
    told = "; ".join(reason for reason in reasons if reason)
    return f"Where there is no interval: {told}." if told else None


def undefined_note(definition: str, estimates: Iterable[MeanSRA]) -> str | None:
    """Return the sentence that says how many responses the means leave out, or None for none.

    Args:
        definition: the definition that the means are of.
        estimates: the means of groups that share no response and together have all.
    """
    groups = list(estimates)
    undefined = sum(one.undefined for one in groups)
    if not undefined:
        return None
    total = undefined + sum(one.responses for one in groups)
    which = counted(undefined, "response")
    return (
        f"The means leave out {which} of {total:,}, for which the definition {definition!r} leaves "
        "nothing to average."
    )

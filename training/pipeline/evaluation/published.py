"""Table 1 of the paper (arXiv 2402.10453), and the correlations computed from its figures.

Each condition has 1,000 responses; SRA is by the definition ``table1``. The correlations are
computed here, because for Llama 2 the paper's text states one that its table does not give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sra_fast.tools.estimates import Correlation
from sra_fast.tools.intervals import correlation

from .condition_correlation import leave_one_out

NO_INTERVAL = (
    "eight published conditions; their dialogues are not published, so there is no interval"
)


@dataclass(frozen=True)
class PublishedCondition:
    """One line of the paper's Table 1: a condition and its figures as printed.

    Attributes:
        row: the name of the condition, called as in ``results.json``.
        accuracy: the share of responses that follow their strategy.
        sra: the mean SRA.
        log_sra: the natural logarithm of SRA.
    """

    row: str
    accuracy: float
    sra: float
    log_sra: float


PUBLISHED: dict[str, tuple[PublishedCondition, ...]] = {
    "Llama3-8B-instruct": (
        PublishedCondition("standard", 0.594, 0.00117, -6.916),
        PublishedCondition("c5_hf", 0.658, 0.00156, -6.607),
        PublishedCondition("c3_hf", 0.711, 0.00203, -6.337),
        PublishedCondition("c5_hl", 0.736, 0.00139, -6.711),
        PublishedCondition("c3_hl", 0.798, 0.00163, -6.549),
        PublishedCondition("c1_hf", 0.811, 0.00348, -5.758),
        PublishedCondition("c1_hl", 0.821, 0.00255, -6.082),
        PublishedCondition("fine-tuned", 0.940, 0.00332, -5.760),
    ),
    "Llama2-7B-chat": (
        PublishedCondition("standard", 0.144, 0.00086, -7.294),
        PublishedCondition("c5_hf", 0.178, 0.00121, -6.802),
        PublishedCondition("c3_hf", 0.294, 0.00178, -6.394),
        PublishedCondition("c5_hl", 0.202, 0.00127, -6.781),
        PublishedCondition("c3_hl", 0.295, 0.00166, -6.504),
        PublishedCondition("c1_hf", 0.765, 0.00230, -6.112),
        PublishedCondition("c1_hl", 0.715, 0.00223, -6.164),
        PublishedCondition("fine-tuned", 0.933, 0.00226, -6.126),
    ),
}


@dataclass(frozen=True)
class PublishedRelation:
    """How SRA goes together with accuracy over the published conditions of a model.

    Attributes:
        pearson: Pearson's r of SRA and accuracy.
        pearson_log: Pearson's r of log SRA and accuracy.
        spearman: Spearman's rank correlation of SRA and accuracy.
        without: Pearson's r of all conditions but one; the key is the name of the one left out.
    """

    pearson: Correlation
    pearson_log: Correlation
    spearman: Correlation
    without: dict[str, float | None]


def published_relation(model: str) -> PublishedRelation:
    """Compute how SRA goes together with accuracy over a model's published conditions.

    There are no intervals, because the dialogues are not published.

    Args:
        model: the name of the model, a key of :data:`PUBLISHED`.

    Raises:
        KeyError: the table has no such model.
    """
    conditions = PUBLISHED[model]
    accuracy = [condition.accuracy for condition in conditions]
    raw, log = (
        [condition.sra for condition in conditions],
        [condition.log_sra for condition in conditions],
    )
    found = (
        correlation(raw, accuracy),
        correlation(log, accuracy),
        correlation(raw, accuracy, "spearman"),
    )
    pearson, pearson_log, spearman = (
        replace(one, low=None, high=None, why=NO_INTERVAL) for one in found
    )
    without = leave_one_out([condition.row for condition in conditions], raw, accuracy)
    return PublishedRelation(pearson, pearson_log, spearman, without)

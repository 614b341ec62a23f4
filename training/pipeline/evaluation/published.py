"""Table 1 of the paper (arXiv 2402.10453), and the correlations that its figures give.

1,000 responses a row; SRA by the definition ``table1``. The correlations are computed here: for
Llama 2 the paper's text has one that its table does not give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sra_fast.tools.bootstrap import Correlation, correlation

from .row_correlation import leave_one_out

NO_INTERVAL = "eight published rows; their dialogues are not published, so there is no interval"


@dataclass(frozen=True)
class PublishedRow:
    """One row: accuracy of strategy following, mean SRA, and its natural logarithm as printed."""

    row: str
    accuracy: float
    sra: float
    log_sra: float


PUBLISHED: dict[str, tuple[PublishedRow, ...]] = {
    "Llama3-8B-instruct": (
        PublishedRow("standard", 0.594, 0.00117, -6.916),
        PublishedRow("c5_hf", 0.658, 0.00156, -6.607),
        PublishedRow("c3_hf", 0.711, 0.00203, -6.337),
        PublishedRow("c5_hl", 0.736, 0.00139, -6.711),
        PublishedRow("c3_hl", 0.798, 0.00163, -6.549),
        PublishedRow("c1_hf", 0.811, 0.00348, -5.758),
        PublishedRow("c1_hl", 0.821, 0.00255, -6.082),
        PublishedRow("fine-tuned", 0.940, 0.00332, -5.760),
    ),
    "Llama2-7B-chat": (
        PublishedRow("standard", 0.144, 0.00086, -7.294),
        PublishedRow("c5_hf", 0.178, 0.00121, -6.802),
        PublishedRow("c3_hf", 0.294, 0.00178, -6.394),
        PublishedRow("c5_hl", 0.202, 0.00127, -6.781),
        PublishedRow("c3_hl", 0.295, 0.00166, -6.504),
        PublishedRow("c1_hf", 0.765, 0.00230, -6.112),
        PublishedRow("c1_hl", 0.715, 0.00223, -6.164),
        PublishedRow("fine-tuned", 0.933, 0.00226, -6.126),
    ),
}


@dataclass(frozen=True)
class PublishedRelation:
    """Of SRA to accuracy over a model's rows: Pearson of SRA and of log-SRA, and Spearman.

    Attributes:
        without: Pearson's r of all rows but one, by the name of that one.
    """

    pearson: Correlation
    pearson_log: Correlation
    spearman: Correlation
    without: dict[str, float | None]


def published_relation(model: str) -> PublishedRelation:
    """Computed from the table; there are no intervals.

    Raises:
        KeyError: the model is none of :data:`PUBLISHED`.
    """
    rows = PUBLISHED[model]
    accuracy = [row.accuracy for row in rows]
    raw, log = [row.sra for row in rows], [row.log_sra for row in rows]
    found = (
        correlation(raw, accuracy, draws=1),
        correlation(log, accuracy, draws=1),
        correlation(raw, accuracy, "spearman", draws=1),
    )
    pearson, pearson_log, spearman = (
        replace(one, low=None, high=None, why=NO_INTERVAL, left_out=0) for one in found
    )
    without = leave_one_out([row.row for row in rows], raw, accuracy)
    return PublishedRelation(pearson, pearson_log, spearman, without)

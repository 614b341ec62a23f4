"""Check that all stages can be done, before the first of them, which takes long."""

from __future__ import annotations

from ...lora.adapter import check_base
from ..classifiers import check_model
from ..classifiers.held_out import FOLDS, TEST_FRACTION
from ..classifiers.labelled import LabelledResponse
from ..classifiers.splits import dialogues_by_strategy, holdout_parts
from ..extension.extend import Cuts, cut_and_split
from .stages import Reproduction, ReproductionError


def check_feasible(reproduction: Reproduction) -> Cuts:
    """Check that there is a test part, whole models, and enough data to train the classifier on.

    Args:
        reproduction: the settings.

    Returns:
        The cuts that were checked, for the first stage.

    Raises:
        ReproductionError: there is no test part, or too little data for the classifier.
        ValueError: the dialogues cannot be read, cut or split, the model is an adapter, or the
            files of a model do not hold all of its weights.
        OSError: the dialogues cannot be read.
    """
    if not reproduction.test > 0:
        raise ReproductionError(
            f"test must be above 0, found {reproduction.test}: the test part is what is evaluated",
            "test",
        )
    check_base(reproduction.base)
    check_model(reproduction.classifier, reproduction.classifier_settings)
    cuts = cut_and_split(reproduction.extension())
    found = dialogues_by_strategy(
        [LabelledResponse(c.id, "", c.strategy, c.dialogue, c.id) for c in cuts.parts["train"]]
    )
    least = max(holdout_parts(TEST_FRACTION), FOLDS)
    for strategy in sorted({c.strategy for part in cuts.parts.values() for c in part}):
        if found.get(strategy, 0) < least:
            raise ReproductionError(
                f"strategy {strategy!r} is drawn in {found.get(strategy, 0)} dialogues of the "
                f"training part, and the classifier needs {least} for each strategy; give more "
                "dialogues, more cuts of each, or fewer strategies"
            )
    return cuts

"""List how a reproduction differs from the paper (arXiv 2402.10453), one line for each point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from sra_fast.chat.strategies import STRATEGIES

from ...lora.settings import TrainingConfig
from ..extension.cuts import Cutting
from ..generation.sampling import Sampling
from .stages import Reproduction

PAPER_DIALOGUES = 1297
PAPER_RESPONSES = 1000
"""The number of responses of each condition in the paper's Table 1."""

PAPER_TRAINING = TrainingConfig()
"""The paper's settings, which are the defaults, except that it gives no learning rate."""

_WITHOUT_MEANING = (
    *("template", "strategies", "eval_data", "eval_fraction", "report_to", "logging_steps"),
    *("save_total_limit", "seed", "learning_rate", "dtype", "too_long", "mlp_slices"),
    *("gradient_checkpointing", "reentrant_checkpointing", "alpha"),
)


def deviations(reproduction: Reproduction, *, dialogues: int, responses: int) -> list[str]:
    """Return all differences of a reproduction from the paper.

    Args:
        reproduction: the settings of the reproduction.
        dialogues: how many dialogues the extended data are cut from.
        responses: how many responses each condition of the evaluation has.
    """
    return list(_deviations(reproduction, dialogues, responses))


def _deviations(reproduction: Reproduction, dialogues: int, responses: int) -> Iterator[str]:
    yield (
        f"model: {reproduction.base.name}; the paper's are Llama2-7B-chat and Llama3-8B-instruct, "
        "in 16 bits"
    )
    yield (
        "wording: the prompt templates and the descriptions of the strategies are this project's "
        "own; the paper's names and layouts"
    )
    own = dict(reproduction.strategies)
    if own != STRATEGIES:
        same = "the same names, other descriptions"
        which = same if set(own) == set(STRATEGIES) else f"{len(own)} of one's own"
        yield f"strategies: {which}; the paper's are {len(STRATEGIES)}"
    yield (
        "extended data: replies of the model itself; the paper's come from Llama-2-chat of 7, 13 "
        "and 70 billion parameters"
    )
    if dialogues != PAPER_DIALOGUES:
        yield f"dialogues: {dialogues:,}; the paper's {PAPER_DIALOGUES:,}"
    cutting, paper = reproduction.cutting, Cutting()
    if cutting.cuts is not None:
        yield f"cuts: at most {cutting.cuts} of each dialogue, drawn; the paper takes all"
    for name in ("first_turn", "last_turn", "probability"):
        if getattr(cutting, name) != getattr(paper, name):
            yield f"{name}: {getattr(cutting, name)}; the paper's {getattr(paper, name)}"
    yield (
        f"split: {reproduction.test:.1%} of the dialogues for the test, "
        f"{reproduction.validation:.1%} for validation; the paper's "
        f"{100 / PAPER_DIALOGUES:.1%} and {50 / PAPER_DIALOGUES:.1%}"
    )
    for name in ("temperature", "top_p", "max_new_tokens"):
        ours, theirs = getattr(reproduction.sampling, name), getattr(Sampling(), name)
        if ours != theirs:
            yield f"{name}: {ours}; the paper's {theirs}"
    yield (
        f"classifier: {reproduction.classifier} on the replies of the training part; the paper's "
        "is RoBERTa-large"
    )
    yield from _of_training(reproduction.training)
    if responses != PAPER_RESPONSES:
        yield f"responses of a condition: {responses:,}; the paper's {PAPER_RESPONSES:,}"
    yield (
        "SRA: by the definition paper where nothing else is said; the published tables are by "
        "table1, which stands beside it"
    )
    yield "no judge and no annotators: sra-fast judge and sra-fast annotate are for those"


def _of_training(config: TrainingConfig) -> Iterator[str]:
    yield f"learning rate: {config.learning_rate:g}; the paper gives none"
    differ = [
        f"{one.name} {getattr(config, one.name)!r} "
        f"({'not set in the paper' if theirs is None else f'the paper has {theirs!r}'})"
        for one in fields(TrainingConfig)
        if one.name not in _WITHOUT_MEANING
        and getattr(config, one.name) != (theirs := getattr(PAPER_TRAINING, one.name))
    ]
    if config.lora_alpha != PAPER_TRAINING.lora_alpha:
        differ.append(f"alpha {config.lora_alpha} (the paper's {PAPER_TRAINING.lora_alpha})")
    if differ:
        yield f"fine-tuning: {', '.join(differ)}"

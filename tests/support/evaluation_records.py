"""Records of an evaluation that nobody generated, and the AUC counted pair by pair."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy

from sra_fast.training.pipeline.evaluation.records import Record

PLAIN = Record(
    row="standard",
    item="a-1",
    dialogue="a",
    strategy="Offer Hope",
    turn=1,
    language=None,
    predicted="Offer Hope",
    probability=0.75,
    sra={"paper": 0.002, "mass": 0.02},
    lookback=0.1,
    tokens=12,
    finished=True,
    perplexity=8.0,
    text="things will get better again",
)


def synthetic(
    rows: tuple[str, ...] = ("standard", "c3_hf", "c1_hf", "fine-tuned"),
    dialogues: int = 30,
    each: int = 3,
    languages: tuple[str | None, ...] = (None,),
) -> list[Record]:
    """Return records whose adherence grows with their SRA, and their SRA with their row."""
    generator = numpy.random.default_rng(5)
    found = []
    for dialogue in range(dialogues):
        for item in range(each):
            for number, row in enumerate(rows):
                sra = 0.001 * (1 + number) * math.exp(0.3 * generator.normal())
                adherent = generator.random() < 1 / (1 + math.exp(2 - 1000 * sra))
                found.append(
                    replace(
                        PLAIN,
                        row=row,
                        item=f"{dialogue}-{item}",
                        dialogue=f"{dialogue}",
                        strategy=("Offer Hope", "Clarification")[item % 2],
                        predicted=("Offer Hope", "Clarification")[item % 2] if adherent else "-",
                        turn=1 + item,
                        language=languages[dialogue % len(languages)],
                        sra={"paper": sra, "mass": 9 * sra},
                        perplexity=float(numpy.exp(2 + 0.2 * generator.normal())),
                    )
                )
    return found


def brute_force_auc(scores: Any, positive: Any, strata: Any) -> float:
    """Every pair of one stratum, one by one."""
    wins = pairs = 0.0
    for i in numpy.flatnonzero(positive):
        for j in numpy.flatnonzero(~numpy.asarray(positive)):
            if strata[i] == strata[j]:
                pairs += 1
                wins += (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
    return wins / pairs

"""Measure how well the recipe ``focus`` tells attacked prompts from normal ones, with SmolLM2.

``python -m benchmarks.recipes.focus_auroc`` finds heads on 60 prompts and tests them on 120 others
that share no sentence with these. The record goes to ``benchmarks/results/focus.{json,md}``.

    AUROC = P(focus of a normal prompt > focus of an attacked one), ties counted half

Its interval is the bootstrap's over pairs of prompts; it is about these texts, which are few, and
not about all prompts there may be.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import sra_fast
from benchmarks.measuring.compact_json import compact_json
from benchmarks.measuring.machine import facts
from benchmarks.recipes.injected_prompts import InjectedPrompt, injected_prompts
from sra_fast.files.smollm2 import smollm2_folder
from sra_fast.recipes.focus import DEVIATIONS, FocusDetector, find_heads, head_focus
from sra_fast.tools.estimates import REPORT_SEED

RESULTS = Path(__file__).parents[1] / "results"
FINDING, TESTING = 30, 60  # pairs of prompts
STEPS = (DEVIATIONS, 3.0, 2.0, 1.5, 1.0)  # the paper's, then fewer where it finds no head
DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True)
class Auroc:
    """An area under the receiver's curve, with the middle 95 % of its bootstrap over pairs."""

    value: float
    low: float
    high: float


def auroc(normal: Tensor, attacked: Tensor) -> Auroc:
    """Return how often a normal prompt's focus is above an attacked one's, of n pairs."""
    above = (normal[:, None] > attacked).double() + 0.5 * (normal[:, None] == attacked).double()
    drawn = torch.randint(len(normal), (DRAWS, len(normal)), generator=_generator())
    means = torch.stack([above[one][:, one].mean() for one in drawn])
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Auroc(float(above.mean()), low, high)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(REPORT_SEED)


def measured(prompts: Sequence[InjectedPrompt], model: nn.Module, tokenizer: Any) -> Tensor:
    """Return the focus of every head on every prompt, ``[n, L, H]``."""
    rows = [
        sra_fast.mark(
            tokenizer,
            [
                {"role": "system", "content": prompt.instruction},
                {"role": "user", "content": prompt.data},
            ],
            {"instruction": 0, "data": 1},
            generation_prompt=True,
        )
        for prompt in prompts
    ]
    return head_focus(model, sra_fast.join(rows))


def split(shares: Tensor, prompts: Sequence[InjectedPrompt]) -> tuple[Tensor, Tensor]:
    """Return the focus on the normal and on the attacked prompts."""
    attacked = torch.tensor([prompt.attacked for prompt in prompts])
    return shares[~attacked], shares[attacked]


def main() -> None:
    """Measure, and write the record."""
    argparse.ArgumentParser(prog="python -m benchmarks.recipes.focus_auroc").parse_args()
    name = smollm2_folder()
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(name)
    finding = injected_prompts("finding", FINDING, seed=1)
    testing = injected_prompts("testing", TESTING, seed=2)
    found_on = split(measured(finding, model, tokenizer), finding)
    shares = measured(testing, model, tokenizer)
    lines, records = [], []
    for deviations in STEPS:
        try:
            heads = find_heads(*found_on, deviations)
        except ValueError:
            lines.append(f"| {deviations:g} | 0 | – | – |")
            records.append({"deviations": deviations, "heads": []})
            continue
        normal, attacked = split(FocusDetector(heads).focus(shares), testing)
        area = auroc(normal, attacked)
        lines.append(
            f"| {deviations:g} | {int(heads.sum())} | {area.value:.3f} | {area.low:.3f} to "
            f"{area.high:.3f} |"
        )
        records.append(
            {"deviations": deviations, "heads": heads.nonzero().tolist(), "auroc": asdict(area)}
        )
    all_heads = torch.ones_like(shares[0], dtype=torch.bool)
    every = auroc(*split(FocusDetector(all_heads).focus(shares), testing))
    records.append({"heads": "all", "auroc": asdict(every)})
    text = "\n".join(
        [
            "# Focus of SmolLM2-135M-Instruct on its instruction",
            "",
            f"Heads found on {2 * FINDING} prompts, tested on {TESTING} normal and {TESTING} "
            "attacked ones that share no sentence with these "
            "(`python -m benchmarks.recipes.focus_auroc`). A normal prompt has a harmless sentence "
            "where an attacked one has the injected one. The interval is of these few texts "
            "(bootstrap over pairs), not of all prompts there may be.",
            "",
            "| standard deviations | heads | AUROC | 95 % of these texts |",
            "| ---: | ---: | ---: | --- |",
            *lines,
            f"| all heads | {all_heads.numel()} | {every.value:.3f} | "
            f"{every.low:.3f} to {every.high:.3f} |",
            "",
        ]
    )
    print(text)
    (RESULTS / "focus.md").write_text(text, encoding="utf-8")
    record = compact_json({"machine": facts(), "results": records})
    (RESULTS / "focus.json").write_text(record, encoding="utf-8")


if __name__ == "__main__":
    main()

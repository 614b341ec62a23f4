"""Measure how long ``evaluate`` takes to score, compared with ``score``.

``python -m benchmarks.pipeline.evaluation_cost DIALOGUES`` measures and records it in
``evaluation.json`` and ``evaluation.md``. The same conversations with replies, batched alike, are
scored by ``sra_fast.score`` for the strategy alone, and as ``sra-fast evaluate`` does it, which
also takes the mass on the reply so far and keeps the masses of every head on disk. The scores are
compared first.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import machine
from sra_fast.chat.conversations import Conversation
from sra_fast.chat.conversion import read_dialogues
from sra_fast.chat.encoding import collate, encode_prompts, padding_token
from sra_fast.chat.strategies import STRATEGIES
from sra_fast.chat.templates import TEMPLATES
from sra_fast.files.models import find_model
from sra_fast.files.numbered_batches import batches
from sra_fast.names import FORWARD_TOKENS, DType
from sra_fast.result import SRAResult
from sra_fast.scoring import score
from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.markdown_table import markdown_table
from sra_fast.training.pipeline.classifiers import PLAIN_REPLIES
from sra_fast.training.pipeline.classifiers.labelled import read_labelled
from sra_fast.training.pipeline.evaluation.reply_scores import score_replies
from sra_fast.training.pipeline.extension.cuts import Cutting, cut

RESULTS = Path(__file__).parents[1] / "results"
NAME = "evaluation"
TEMPLATE = "standard"
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}  # relative; sums are taken in another order


def conversations(file: Path, count: int) -> list[Conversation]:
    """Cut conversations from dialogues, and give each a fitting reply of the library's own."""
    dialogues, _ = read_dialogues(file)
    opened = cut([one for one in dialogues if len(one.turns) >= 6], STRATEGIES, Cutting(cuts=1))
    replies: dict[str, list[str]] = {}
    for one in read_labelled(PLAIN_REPLIES):
        replies.setdefault(one.label, []).append(one.response)
    return [
        one.with_last_reply(replies[one.strategy][number % len(replies[one.strategy])])
        for number, one in enumerate(opened[:count])
    ]


def measure(
    model_name: str, dtype: DType, whole: Sequence[Conversation], rounds: int
) -> dict[str, Any]:
    """Measure one dtype; both ways take turns, and so does who begins."""
    source = find_model(model_name)
    model, tokenizer = source.load(dtype, "cpu"), source.tokenizer()
    template = TEMPLATES[TEMPLATE]

    def plainly() -> SRAResult:
        prompts = encode_prompts(tokenizer, whole, template, strategies=STRATEGIES, turns="last")
        pad = padding_token(tokenizer)
        return SRAResult.concatenate(
            [
                score(model, collate(batch, pad), forward_tokens=FORWARD_TOKENS)
                for batch in batches(prompts, FORWARD_TOKENS)
            ]
        )

    def as_evaluate() -> SRAResult:
        with tempfile.TemporaryDirectory() as folder:
            return score_replies(
                model, tokenizer, whole, template, STRATEGIES, Path(folder) / "scores", {}
            )

    ways = {"score": plainly, "evaluate": as_evaluate}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    differences: list[float] = []
    for number in range(rounds + 1):
        found = {}
        for name in sorted(ways, reverse=bool(number % 2)):
            begun = time.perf_counter()
            found[name] = ways[name]()
            if number:  # the first round loads code and is not counted
                seconds[name].append(time.perf_counter() - begun)
        for definition, values in found["score"].scores.items():
            other = found["evaluate"].scores[definition]
            differences.append(float(((values - other) / values).abs().max()))
    finite = all(map(math.isfinite, differences))
    return {
        "dtype": dtype,
        "seconds": {name: median(times) for name, times in seconds.items()},
        "ratio": median(b / a for a, b in zip(seconds["score"], seconds["evaluate"], strict=True)),
        "largest_relative_difference": max(differences) if finite else None,
        "same": finite and max(differences) <= TOLERANCE[dtype],
    }


def as_markdown(record: dict[str, Any]) -> str:
    """Return the page to read, with one line per dtype."""
    facts = record["machine"]
    introduction = f"""# Scoring by evaluate, over score

{facts["cpu"]}, {facts["cores"]} cores ({facts["threads"]} threads), torch {facts["torch"]}, \
transformers {facts["transformers"]}, commit {facts["commit"]}. {record["model"]}, \
{record["conversations"]} conversations of {record["tokens"]:.0f} tokens on average \
(`{TEMPLATE}`), batches of {FORWARD_TOKENS:,} tokens. The ways take turns; the ratio is the median \
over {record["rounds"]} rounds. Redraw with \
`python -m benchmarks.pipeline.evaluation_cost DIALOGUES`.
"""
    rows = []
    for part in record["dtypes"]:
        seconds, largest = part["seconds"], part["largest_relative_difference"]
        difference = "not finite" if largest is None else f"{largest:.1e}"
        wrong = "" if part["same"] else "**WRONG**: the scores differ. "
        rows.append(
            (
                part["dtype"],
                f"{seconds['score']:.1f}",
                f"{seconds['evaluate']:.1f}",
                f"{wrong}{part['ratio']:.2f}",
                difference,
            )
        )
    head = ("", "score, s", "evaluate, s", "ratio", "largest relative difference of a score")
    return "\n".join([introduction, *markdown_table(head, rows)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if the scores differ."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline.evaluation_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dialogues",
        type=Path,
        metavar="DIALOGUES",
        help="The file of dialogues, in ESConv's format, that conversations are cut from.",
    )
    parser.add_argument(
        "--model", default="smollm2", help="The model to score with: a folder or a name."
    )
    parser.add_argument(
        "--conversations", type=int, default=24, help="Score this many conversations (default 24)."
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=4,
        help="Time scoring by score and by evaluate this many times in turn (default 4).",
    )
    parser.add_argument(
        "--dtypes",
        nargs="+",
        default=["float32", "bfloat16"],
        help="The dtypes of the model to measure (default float32 bfloat16).",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="The folder that evaluation.json and evaluation.md are written into.",
    )
    given = parser.parse_args(arguments)
    whole = conversations(given.dialogues, given.conversations)
    source = find_model(given.model)
    prompts = encode_prompts(
        source.tokenizer(), whole, TEMPLATES[TEMPLATE], strategies=STRATEGIES, turns="last"
    )
    record: dict[str, Any] = {
        "machine": machine.facts(),
        "model": source.name,
        "conversations": len(whole),
        "tokens": sum(len(prompt.input_ids) for prompt in prompts) / len(prompts),
        "rounds": given.rounds,
        "dtypes": [measure(given.model, dtype, whole, given.rounds) for dtype in given.dtypes],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / f"{NAME}.json", record)
    write_text(given.out / f"{NAME}.md", as_markdown(record))
    print(as_markdown(record))
    return int(not all(part["same"] for part in record["dtypes"]))


if __name__ == "__main__":
    sys.exit(main())

"""Measure replies per minute, batched and one at a time.

``python -m benchmarks.pipeline.generation_speed DIALOGUES`` measures them and records them in
``generation.json`` and ``generation.md``. The same prompts (template ``c1_hf``; the strategies of
one cut share its history) are replied to by the generator of ``sra-fast extend`` in batches, and by
``model.generate`` one by one. Both draw with the paper's temperature and top_p and from the same
random numbers, so the replies are the same and as long. In float32 that is checked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from benchmarks.measuring import machine
from sra_fast.chat.chat_template import read_chat_template
from sra_fast.chat.conversion import read_dialogues
from sra_fast.chat.strategies import STRATEGIES
from sra_fast.chat.templates import TEMPLATES
from sra_fast.files.models import find_model
from sra_fast.names import DType
from sra_fast.tools.atomic import write_json, write_text
from sra_fast.tools.markdown_table import markdown_table
from sra_fast.training.pipeline.extension.cuts import Cutting, cut
from sra_fast.training.pipeline.generation.generation_prompts import (
    GenerationPrompt,
    generation_prompts,
    tokenized_prompts,
)
from sra_fast.training.pipeline.generation.local import end_tokens
from sra_fast.training.pipeline.generation.replies import BATCH, LocalReplier
from sra_fast.training.pipeline.generation.sampling import Sampling, draw, uniforms

RESULTS = Path(__file__).parents[1] / "results"
NAME = "generation"


@dataclass(frozen=True)
class ReplySpeed:
    """The replies that one way gave: their number, their length, and the time they took.

    Attributes:
        replies: the number of replies.
        tokens: the number of new tokens in all replies.
        seconds: the time that all replies took.
    """

    replies: int
    tokens: int
    seconds: float

    @property
    def tokens_per_minute(self) -> float:
        """Return new tokens per minute, which compares ways whose replies differ in length."""
        return 60.0 * self.tokens / self.seconds

    @property
    def per_minute(self) -> float:
        """Return the replies per minute."""
        return 60.0 * self.replies / self.seconds


class _Drawing(LogitsProcessor):  # type: ignore[misc]
    """A processor that leaves ``generate`` only the token that an item's random number draws."""

    def __init__(self, item: str, begun: int, sampling: Sampling) -> None:
        self._numbers, self._begun, self._sampling = uniforms(sampling, item), begun, sampling

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Allow only the drawn token in logits ``[1, V]``, given the ids ``[1, T]`` before it."""
        number = self._numbers[input_ids.shape[1] - self._begun]
        token = draw(scores, number[None], self._sampling)
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0.0)


def one_by_one(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[GenerationPrompt],
    sampling: Sampling,
) -> tuple[ReplySpeed, dict[str, str]]:
    """Reply to each prompt by ``generate``, and return the speed and the replies by item."""
    ends, texts = end_tokens(model, tokenizer), {}
    begun, tokens = time.perf_counter(), 0
    for prompt, ids in zip(
        prompts, tokenized_prompts(read_chat_template(tokenizer), prompts), strict=True
    ):
        output = model.generate(
            ids[None],
            attention_mask=torch.ones_like(ids)[None],
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=tokenizer.eos_token_id,
            do_sample=False,
            logits_processor=LogitsProcessorList([_Drawing(prompt.item, len(ids), sampling)]),
        )[0, len(ids) :]
        tokens += len(output)
        reply = output[:-1] if int(output[-1]) in ends else output
        texts[prompt.item] = tokenizer.decode(reply, skip_special_tokens=True)
    return ReplySpeed(len(prompts), tokens, time.perf_counter() - begun), texts


def batched(
    model: Any, tokenizer: Any, prompts: Sequence[GenerationPrompt], sampling: Sampling, share: bool
) -> tuple[ReplySpeed, dict[str, str]]:
    """Reply as ``sra-fast extend`` does, and return the speed and the replies by item."""
    begun = time.perf_counter()
    replier = LocalReplier(model, tokenizer, sampling, share=share)
    replies = [
        reply
        for batch in replier.plan(prompts)
        for reply in replier.reply([prompts[index] for index in batch])
    ]
    tokens = sum(reply.tokens + reply.finished for reply in replies)
    way = ReplySpeed(len(prompts), tokens, time.perf_counter() - begun)
    return way, {reply.item: reply.raw for reply in replies}


def measure(
    model_name: str, dtype: DType, prompts: Sequence[GenerationPrompt], alone: int, rounds: int
) -> dict[str, Any]:
    """Measure one dtype, in rounds in which the ways take turns.

    One by one, only ``alone`` of the prompts are replied to in each round.
    """
    source = find_model(model_name)
    model, tokenizer = source.load(dtype, "cpu"), source.tokenizer()
    sampling, spread = Sampling(), len(prompts) // alone
    done: dict[str, list[ReplySpeed]] = {}
    same = True
    for number in range(rounds):
        some = prompts[number % spread :: spread][:alone]
        found = {
            "one by one": one_by_one(model, tokenizer, some, sampling),
            "batched": batched(model, tokenizer, prompts, sampling, False),
            "batched and shared": batched(model, tokenizer, prompts, sampling, True),
        }
        for name, (way, texts) in found.items():
            done.setdefault(name, []).append(way)
            same &= all(
                texts[prompt.item] == found["one by one"][1][prompt.item] for prompt in some
            )
    ratio = {
        name: median(
            way.tokens_per_minute / base.tokens_per_minute
            for way, base in zip(ways, done["one by one"], strict=True)
        )
        for name, ways in done.items()
    }
    return {
        "dtype": dtype,
        "same_replies": same,
        "ways": {
            name: {
                "replies_per_minute": median(way.per_minute for way in ways),
                "tokens_per_reply": sum(w.tokens for w in ways) / sum(w.replies for w in ways),
                "ratio": ratio[name],
            }
            for name, ways in done.items()
        },
    }


def as_markdown(record: dict[str, Any]) -> str:
    """Return the page to read, with one table per dtype."""
    facts = record["machine"]
    lines = [
        f"""# Replies per minute: batched, and one at a time

{facts["cpu"]}, {facts["cores"]} cores ({facts["threads"]} threads), torch {facts["torch"]}, \
transformers {facts["transformers"]}, commit {facts["commit"]}. {record["model"]}, \
{record["prompts"]} prompts of {record["prompt_tokens"]:.0f} tokens on average (`c1_hf`), batches \
of {BATCH}, temperature 0.7, top_p 0.9, at most 512 new tokens. The ways take turns; a ratio is \
of tokens per minute, the median over {record["rounds"]} rounds. Redraw with \
`python -m benchmarks.pipeline.generation_speed DIALOGUES`.
"""
    ]
    for part in record["dtypes"]:
        lines += [f"## {part['dtype']}", ""]
        if part["dtype"] == "float32" and not part["same_replies"]:
            lines += ["**WRONG**: replies differ from transformers'.", ""]
            continue
        cells = [
            (
                name,
                f"{way['replies_per_minute']:.1f}",
                f"{way['tokens_per_reply']:.0f}",
                f"{way['ratio']:.2f}",
            )
            for name, way in part["ways"].items()
        ]
        lines += markdown_table(("", "replies per minute", "tokens per reply", "ratio"), cells)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if replies differ in float32."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline.generation_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dialogues",
        type=Path,
        metavar="DIALOGUES",
        help="The file of dialogues, in ESConv's format, that prompts are cut from.",
    )
    parser.add_argument(
        "--model", default="smollm2", help="The model that replies: a folder or a name."
    )
    parser.add_argument(
        "--cuts",
        type=int,
        default=14,
        help="Cut this many dialogues, each in one place (default 14).",
    )
    parser.add_argument(
        "--alone",
        type=int,
        default=12,
        help="Reply to this many prompts one by one in each round (default 12).",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=2,
        help="Time replies in batches and one by one this many times in turn (default 2).",
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
        help="The folder that generation.json and generation.md are written into.",
    )
    given = parser.parse_args(arguments)
    dialogues, _ = read_dialogues(given.dialogues)
    long = [one for one in dialogues if len(one.turns) >= 6]
    conversations = cut(long, STRATEGIES, Cutting(cuts=1, dialogues=given.cuts))
    prompts = generation_prompts(conversations, TEMPLATES["c1_hf"])
    tokenizer = find_model(given.model).tokenizer()
    lengths = [len(ids) for ids in tokenized_prompts(read_chat_template(tokenizer), prompts)]
    record: dict[str, Any] = {
        "machine": machine.facts(),
        "model": find_model(given.model).name,
        "prompts": len(prompts),
        "prompt_tokens": sum(lengths) / len(lengths),
        "rounds": given.rounds,
        "dtypes": [],
    }
    for dtype in given.dtypes:
        record["dtypes"].append(
            measure(given.model, dtype, prompts, min(given.alone, len(prompts)), given.rounds)
        )
        print(record["dtypes"][-1], file=sys.stderr, flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / f"{NAME}.json", record)
    write_text(given.out / f"{NAME}.md", as_markdown(record))
    print(as_markdown(record))
    wrong = [p for p in record["dtypes"] if p["dtype"] == "float32" and not p["same_replies"]]
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

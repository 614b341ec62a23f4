"""Measure the perplexity of replies under a model: it is high where the language is broken.

The perplexities of a condition are kept in its folder, and continued from what lies there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.chat.conversations import Conversation
from sra_fast.chat.encoding import encode_prompts
from sra_fast.chat.templates import PromptTemplate
from sra_fast.chat.thoughts import Thoughts
from sra_fast.files.kept_parts import KeptParts
from sra_fast.measure.watching import IGNORED_LABEL
from sra_fast.tools.atomic import write_json

from ...memory.reply_logits import reply_loss
from .conditions import Condition, replies_digest

PERPLEXITIES = "perplexities"

_AT_ONCE = 64  # replies between two writes: a crash costs the perplexities of so many


@torch.inference_mode()
def perplexities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    template: PromptTemplate,
    strategies: Mapping[str, str],
    *,
    thoughts: Thoughts | None = None,
    now: datetime | None = None,
) -> list[float]:
    """Compute the perplexity of the last reply of each conversation, given its prompt.

    perplexity = exp(mean loss per token of the response)

    Args:
        model: the model that judges the language, for example the base model.
        tokenizer: the tokenizer of that model.
        conversations: n conversations that end in a reply.
        template: the template of the prompt, which must be the same for all replies that are
            compared.
        strategies: the description of each strategy, by its name.
        thoughts, now: the arguments of those names of :func:`sra_fast.encode`.

    Returns:
        n perplexities, in order.
    """
    found = []
    for prompt in encode_prompts(
        tokenizer,
        conversations,
        template,
        strategies=strategies,
        turns="last",
        thoughts=thoughts,
        now=now,
    ):
        labels = prompt.input_ids.masked_fill(prompt.response_mask == 0, IGNORED_LABEL)
        batch = {"input_ids": prompt.input_ids[None], "labels": labels[None]}
        on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
        found.append(float(reply_loss(model, on_device).loss.double().exp()))
    return found


def condition_perplexities(
    condition: Condition,
    judge: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    template: PromptTemplate,
    strategies: Mapping[str, str],
    folder: Path,
    *,
    thoughts: Thoughts | None = None,
    now: datetime | None = None,
) -> list[float]:
    """Compute the perplexity of each reply of a condition, continuing from what ``folder`` holds.

    Args:
        condition: the replies.
        judge: returns the model that judges the language, and its tokenizer; called only when a
            perplexity is missing.
        template: the template of the prompt that a reply is judged under. It and the judge must be
            the same for all conditions that are compared.
        strategies: the description of each strategy, by its name.
        folder: where finished perplexities are kept.
        thoughts, now: the arguments of those names of :func:`sra_fast.encode`.

    Returns:
        One perplexity for each reply, in order.

    Raises:
        ValueError: a perplexity is NaN or infinite.
    """
    parts = KeptParts(folder, ".json", _read_perplexities, _write_perplexities)
    replies = replies_digest(condition.conversations)
    kept = parts.get(PERPLEXITIES)
    values = kept.values if kept is not None and kept.replies == replies else []
    while len(values) < len(condition.conversations):
        part = condition.conversations[len(values) : len(values) + _AT_ONCE]
        found = perplexities(*judge(), part, template, strategies, thoughts=thoughts, now=now)
        for one, value in zip(part, found, strict=True):
            if not math.isfinite(value):
                raise ValueError(
                    f"{condition.plan.name}, item {one.id!r}: the perplexity of the reply is "
                    f"{value}; evaluate in another number format, such as float32"
                )
        values += found
        parts.put(PERPLEXITIES, _Perplexities(replies, values))
    return values


@dataclass(frozen=True)
class _Perplexities:
    """The perplexities of the first replies of a condition, as they are kept on disk.

    Attributes:
        replies: digest of all replies of the condition.
        values: one perplexity for each of the first replies.
    """

    replies: str
    values: list[float]


def _read_perplexities(path: Path) -> _Perplexities:
    found = json.loads(path.read_text(encoding="utf-8"))
    return _Perplexities(found["replies"], [float(value) for value in found["perplexities"]])


def _write_perplexities(path: Path, kept: _Perplexities) -> None:
    found = {"replies": kept.replies, "perplexities": kept.values}
    write_json(path, found, indent=None)

"""Score generated replies with SRA, and measure how much they look back at the strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.chat.conversations import Conversation
from sra_fast.chat.encoding import EncodedPrompt, collate, encode_prompts, padding_token
from sra_fast.chat.templates import PromptTemplate
from sra_fast.chat.thoughts import Thoughts
from sra_fast.files.numbered_batches import one_by_one
from sra_fast.files.score_folder import ScoreFolder
from sra_fast.names import FORWARD_TOKENS
from sra_fast.result import SRAResult
from sra_fast.scoring import score

STRATEGY, REPLY = "strategy", "reply"


def score_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    template: PromptTemplate,
    strategies: Mapping[str, str],
    folder: Path,
    settings: Mapping[str, Any],
    *,
    thoughts: Thoughts | None = None,
    now: datetime | None = None,
    check: bool = True,
) -> SRAResult:
    """Score the last reply of each conversation by every definition of SRA.

    Beside the tokens of the strategy, those of the response are a span too. Its mass says how much
    of a token's attention goes to the response so far, the token itself included.

    Args:
        model, tokenizer: the model whose attention is measured; it need not have written the
            replies.
        conversations: n conversations that end in the reply.
        template: the template of the prompts.
        strategies: the description of each strategy, by its name.
        folder: the folder that finished batches are kept in.
        settings: everything else that the result depends on, to recognise the folder by.
        thoughts, now: the arguments of those names of :func:`sra_fast.encode`.
        check: the argument of that name of :func:`sra_fast.score`.

    Returns:
        The SRA of the n replies, in order.
    """
    prompts = encode_prompts(
        tokenizer,
        conversations,
        template,
        strategies=strategies,
        turns="last",
        thoughts=thoughts,
        now=now,
    )
    pad = padding_token(tokenizer)

    def score_batch(batch: Sequence[EncodedPrompt]) -> SRAResult:
        tensors = collate(batch, pad)
        spans = {STRATEGY: tensors.pop("strategy_mask"), REPLY: tensors["response_mask"] > 0}
        batch_of_spans = {**tensors, "span_masks": spans}
        return score(model, batch_of_spans, forward_tokens=FORWARD_TOKENS, check=check)

    run = ScoreFolder(folder, {"kind": "evaluate", **settings})
    return run.complete(prompts, FORWARD_TOKENS, one_by_one(score_batch))


def lookback(result: SRAResult) -> Tensor:
    """Compute how much each response looks back at the strategy, float64 ``[n]`` in [0, 1].

        lookback = mean over layers and heads of s / (s + r)

    s is the mean mass of a response on the strategy, r that on the response so far. It follows the
    ratio of Lookback Lens (arXiv 2407.07071), which compares the whole context with the new tokens.

    Args:
        result: a result of :func:`score_replies`.
    """
    mass = result.mass.double()
    on_strategy = mass[..., result.names.index(STRATEGY)]
    on_reply = mass[..., result.names.index(REPLY)]
    return (on_strategy / (on_strategy + on_reply)).mean(dim=(1, 2))


def head_masses(result: SRAResult) -> Tensor:
    """Return the mean mass of each response on the strategy, float32 ``[n, layers, heads]``."""
    mass: Tensor = result.mass[..., result.names.index(STRATEGY)]
    return mass.to(torch.float32)

"""SRA of the generated replies, and how much they look back at the strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.chat.conversations import Conversation
from sra_fast.chat.encoding import EncodedPrompt, collate, encode_prompts, padding_token
from sra_fast.chat.templates import PromptTemplate
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
) -> SRAResult:
    """Every definition for the last reply of each conversation; what is done is kept in ``folder``.

    Besides the strategy's tokens the reply's own are a span, so that the masses say how much of a
    reply's attention goes to what stands of it so far, each token itself included.

    Args:
        model, tokenizer: of whoever wrote the replies, or another.
        settings: everything the result depends on but the conversations' texts.

    Returns:
        One row per conversation, in order.
    """
    prompts = encode_prompts(
        tokenizer, conversations, template, strategies=strategies, turns="last"
    )
    pad = padding_token(tokenizer)

    def score_batch(batch: Sequence[EncodedPrompt]) -> SRAResult:
        rows = collate(batch, pad)
        spans = {STRATEGY: rows.pop("strategy_mask"), REPLY: rows["response_mask"] > 0}
        return score(model, {**rows, "span_masks": spans}, forward_tokens=FORWARD_TOKENS)

    run = ScoreFolder(folder, {"kind": "evaluate", **settings})
    return run.complete(prompts, FORWARD_TOKENS, score_batch)


def lookback(result: SRAResult) -> Tensor:
    """float64 ``[n]``: s / (s + r), the mean over layers and heads.

    s is a response's mean mass on the strategy, r on the response so far. After the ratio of
    Lookback Lens (arXiv 2407.07071), which compares the whole context with the new tokens.
    """
    mass = result.mass.double()
    on_strategy = mass[..., result.names.index(STRATEGY)]
    on_reply = mass[..., result.names.index(REPLY)]
    return (on_strategy / (on_strategy + on_reply)).mean(dim=(1, 2))


def head_masses(result: SRAResult) -> Tensor:
    """float32 ``[n, L, H]``: a response's mean mass on the strategy."""
    mass: Tensor = result.mass[..., result.names.index(STRATEGY)]
    return mass.to(torch.float32)

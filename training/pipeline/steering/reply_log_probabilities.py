"""Compute log p of each marked reply, with one forward for all replies of a prompt.

Rows are padded on the left: the prompts of one dialogue differ in their instruction alone, so the
replies then stand in the same columns, and the logits of no other position are computed. The output
head runs in float32, because bfloat16 keeps three digits of a logit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

import sra_fast

from ...memory.reply_logits import keep_reply_logits, why_full_logits
from .study_dialogues import StudyError

_ROWS_AT_ONCE = 512  # of logits that are turned into log p at once, which bounds the memory


@torch.inference_mode()
def reply_log_probabilities(
    model: PreTrainedModel,
    rows: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any] | None,
    batch_tokens: int,
) -> list[list[float]]:
    """Compute the sum of log p over the tokens of each reply of some prompts.

    Args:
        model: a causal language model.
        rows: the prompts, as :func:`~.study_dialogues.study_rows` marks them.
        arguments: the arguments of :func:`sra_fast.steer`; None to steer nothing.
        batch_tokens: the most tokens of one forward, or one row if that is longer.

    Returns:
        For each row the natural logarithms of its replies' probabilities, in order.

    Raises:
        StudyError: a result is NaN or infinite.
    """
    found: list[list[float]] = []
    longest = max(len(row["input_ids"]) for row in rows)
    size = max(1, batch_tokens // longest)
    for begin in range(0, len(rows), size):
        batch = padded(rows[begin : begin + size])
        on_device = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        marked = {**on_device, "span_masks": batch["span_masks"]}
        steering = (
            nullcontext() if arguments is None else sra_fast.steer(model, marked, **arguments)
        )
        with steering:
            found += _sums(model, on_device, batch["response_mask"])
    return found


def padded(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join prompts into a batch that is padded on the left.

    Returns:
        ``input_ids`` and ``attention_mask [B, T]`` int64, ``span_masks`` of ``[B, T]`` bool by
        name, and ``response_mask [B, T]`` int32.
    """
    width = max(len(row["input_ids"]) for row in rows)

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([F.pad(one, (width - len(one), 0)) for one in tensors])

    return {
        "input_ids": joined([row["input_ids"] for row in rows]),
        "attention_mask": joined([torch.ones_like(row["input_ids"]) for row in rows]),
        "response_mask": joined([row["response_mask"] for row in rows]),
        "span_masks": {
            name: joined([row["span_masks"][name] for row in rows])
            for name in rows[0]["span_masks"]
        },
    }


@contextmanager
def float32_head(model: PreTrainedModel) -> Iterator[None]:
    """Let the model compute its logits in float32 inside the block, where its head is linear."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.weight.dtype == torch.float32:
        yield
        return
    model.set_output_embeddings(_Float32Head(head))
    try:
        yield
    finally:
        model.set_output_embeddings(head)


class _Float32Head(nn.Module):
    """A linear output head whose weights are copied to float32."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(head.weight.detach().float(), requires_grad=False)
        bias = head.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), False)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden.float(), self.weight, self.bias)


def _sums(
    model: PreTrainedModel, tokens: Mapping[str, Tensor], responses: Tensor
) -> list[list[float]]:
    """Return the sum of log p of each reply of each row."""
    labels = torch.where(responses > 0, tokens["input_ids"].cpu(), -100)
    chosen = keep_reply_logits({"labels": labels})
    kept: Tensor = chosen["logits_to_keep"]
    predicted: Tensor = chosen["shift_labels"]
    positions = (tokens["attention_mask"].cumsum(1) - 1).clamp(min=0)
    partial = {} if why_full_logits(model) else {"logits_to_keep": kept.to(model.device)}
    logits = model(**tokens, position_ids=positions, use_cache=False, **partial).logits
    if not partial:
        logits = logits[:, kept.to(logits.device)]
    flat, wanted = logits.flatten(0, 1), predicted.flatten().to(logits.device)
    log_p = torch.cat(
        [
            _log_p(flat[at : at + _ROWS_AT_ONCE], wanted[at : at + _ROWS_AT_ONCE])
            for at in range(0, len(flat), _ROWS_AT_ONCE)
        ]
    )
    by_row = log_p.double().cpu().reshape(predicted.shape)
    numbers = responses[:, kept + 1]
    sums = torch.zeros(len(responses), int(responses.max()) + 1, dtype=torch.float64)
    sums.scatter_add_(1, numbers.long(), by_row.masked_fill(predicted == -100, 0))
    if not bool(sums.isfinite().all()):
        raise StudyError(
            "the log probability of a reply is not finite; take another number format, such as "
            "float32",
            "dtype",
        )
    return [row[1:] for row in sums.tolist()]


def _log_p(logits: Tensor, wanted: Tensor) -> Tensor:
    logits = logits.float()
    return logits.gather(1, wanted.clamp(min=0)[:, None])[:, 0] - logits.logsumexp(1)

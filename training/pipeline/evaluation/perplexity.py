"""Measure the perplexity of replies under a model: it is high where the language is broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sra_fast.chat.conversations import Conversation
from sra_fast.chat.encoding import encode_prompts
from sra_fast.chat.templates import PromptTemplate
from sra_fast.measure.watching import IGNORED_LABEL

from ...memory.reply_logits import reply_loss


@torch.inference_mode()
def perplexities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    template: PromptTemplate,
    strategies: Mapping[str, str],
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

    Returns:
        n perplexities, in order.
    """
    found = []
    for prompt in encode_prompts(
        tokenizer, conversations, template, strategies=strategies, turns="last"
    ):
        labels = prompt.input_ids.masked_fill(prompt.response_mask == 0, IGNORED_LABEL)
        batch = {"input_ids": prompt.input_ids[None], "labels": labels[None]}
        on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
        found.append(float(reply_loss(model, on_device).loss.double().exp()))
    return found

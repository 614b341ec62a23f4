"""How likely a model finds replies: broken language shows as a high perplexity."""

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
    """exp of the mean loss per token of each conversation's last reply, given its prompt.

    Args:
        model: the judge of language, the base model say.
        template: of the prompt, the same for all replies that are to be compared.
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

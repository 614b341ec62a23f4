"""Train LoRA adapters on conversations with a strategy, while SRA is watched and raised.

Names are loaded when they are first used: neither ``datasets`` nor ``peft`` is needed to import
this package, nor for what does not use them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data.collator import PackingCollator, PaddingCollator
    from .data.dataset import (
        TrainingExamples,
        split_by_conversation,
        training_examples,
    )
    from .data.packable import why_not_packed
    from .memory.mlp_slices import sliced_mlps
    from .memory.reply_logits import keep_reply_logits, reply_loss, why_full_logits
    from .sra.callback import SRACallback
    from .sra.history import read_history
    from .sra.regulariser import SRARegulariser
    from .sra.trainer import SRATrainer

_HOME = {
    "PackingCollator": "data.collator",
    "PaddingCollator": "data.collator",
    "SRACallback": "sra.callback",
    "SRARegulariser": "sra.regulariser",
    "SRATrainer": "sra.trainer",
    "TrainingExamples": "data.dataset",
    "keep_reply_logits": "memory.reply_logits",
    "read_history": "sra.history",
    "reply_loss": "memory.reply_logits",
    "sliced_mlps": "memory.mlp_slices",
    "split_by_conversation": "data.dataset",
    "training_examples": "data.dataset",
    "why_full_logits": "memory.reply_logits",
    "why_not_packed": "data.packable",
}

__all__ = [
    "PackingCollator",
    "PaddingCollator",
    "SRACallback",
    "SRARegulariser",
    "SRATrainer",
    "TrainingExamples",
    "keep_reply_logits",
    "read_history",
    "reply_loss",
    "sliced_mlps",
    "split_by_conversation",
    "training_examples",
    "why_full_logits",
    "why_not_packed",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'sra_fast.training' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sra_fast.training.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

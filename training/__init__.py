"""Train LoRA adapters on conversations with a strategy, while SRA is watched and raised.

Names are loaded when they are first used: neither ``datasets`` nor ``peft`` is needed to import
this package, nor for what does not use them. ``dir(sra_fast.training)`` shows what is public.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sra_fast.tools.lazy_names import lazy_names

if TYPE_CHECKING:  # they resolve these, and complain of every other name
    from . import data as data
    from . import lora as lora
    from . import memory as memory
    from . import pipeline as pipeline
    from . import sra as sra
    from .data.collator import PackingCollator as PackingCollator
    from .data.collator import PaddingCollator as PaddingCollator
    from .data.dataset import TrainingExamples as TrainingExamples
    from .data.dataset import split_by_conversation as split_by_conversation
    from .data.dataset import training_examples as training_examples
    from .data.packable import why_not_packed as why_not_packed
    from .memory.mlp_slices import sliced_mlps as sliced_mlps
    from .memory.reply_logits import keep_reply_logits as keep_reply_logits
    from .memory.reply_logits import reply_loss as reply_loss
    from .memory.reply_logits import why_full_logits as why_full_logits
    from .sra.callback import SRACallback as SRACallback
    from .sra.history import read_history as read_history
    from .sra.regulariser import SRARegulariser as SRARegulariser
    from .sra.trainer import SRATrainer as SRATrainer
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        homes={
            "data.collator": ("PackingCollator", "PaddingCollator"),
            "data.dataset": ("TrainingExamples", "split_by_conversation", "training_examples"),
            "data.packable": ("why_not_packed",),
            "memory.mlp_slices": ("sliced_mlps",),
            "memory.reply_logits": ("keep_reply_logits", "reply_loss", "why_full_logits"),
            "sra.callback": ("SRACallback",),
            "sra.history": ("read_history",),
            "sra.regulariser": ("SRARegulariser",),
            "sra.trainer": ("SRATrainer",),
        },
        modules=("data", "lora", "memory", "pipeline", "sra"),
    )

"""Measure Strategy Relevant Attention (arXiv 2402.10453) of chat models, without attention maps.

Names are loaded when they are first used, so that ``import sra_fast`` costs next to nothing.
``dir(sra_fast)`` shows what is public: the names below, and the modules that hold the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sra_fast.tools.lazy_names import lazy_names
from sra_fast.tools.moved_modules import keep_old_paths

keep_old_paths()

__version__ = "0.1.0"

if TYPE_CHECKING:  # they resolve these, and complain of every other name
    from sra_fast import backends as backends
    from sra_fast import chat as chat
    from sra_fast import definitions as definitions
    from sra_fast import explanation as explanation
    from sra_fast import files as files
    from sra_fast import generating as generating
    from sra_fast import kernels as kernels
    from sra_fast import measure as measure
    from sra_fast import monitoring as monitoring
    from sra_fast import names as names
    from sra_fast import op as op
    from sra_fast import recipes as recipes
    from sra_fast import report as report
    from sra_fast import result as result
    from sra_fast import scoring as scoring
    from sra_fast import steered_model as steered_model
    from sra_fast import training as training
    from sra_fast.backends import register_backend as register_backend
    from sra_fast.chat.batch_joining import join as join
    from sra_fast.chat.conversations import Conversation as Conversation
    from sra_fast.chat.conversations import read_conversations as read_conversations
    from sra_fast.chat.encoding import encode as encode
    from sra_fast.chat.marking import mark as mark
    from sra_fast.chat.strategies import DEFAULT_STRATEGIES as DEFAULT_STRATEGIES
    from sra_fast.chat.templates import PromptTemplate as PromptTemplate
    from sra_fast.definitions import register_definition as register_definition
    from sra_fast.explanation import explain as explain
    from sra_fast.files.column_scorer import Scorer as Scorer
    from sra_fast.files.layerwise_model import layerwise_model as layerwise_model
    from sra_fast.generating import generate as generate
    from sra_fast.kernels.contract import SpanAttention as SpanAttention
    from sra_fast.kernels.contract import SpanMass as SpanMass
    from sra_fast.kernels.contract import SpanQuery as SpanQuery
    from sra_fast.kernels.steering import Steering as Steering
    from sra_fast.measure.layerwise.layerwise_options import Layerwise as Layerwise
    from sra_fast.measure.recorded_replies import RecordedReplies as RecordedReplies
    from sra_fast.measure.request import SpanRequest as SpanRequest
    from sra_fast.monitoring import monitor as monitor
    from sra_fast.op import span_attention as span_attention
    from sra_fast.op import span_mass as span_mass
    from sra_fast.result import SRAResult as SRAResult
    from sra_fast.scoring import score as score
    from sra_fast.steered_model import steer as steer
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        homes={
            "backends": ("register_backend",),
            "chat.batch_joining": ("join",),
            "chat.conversations": ("Conversation", "read_conversations"),
            "chat.encoding": ("encode",),
            "chat.marking": ("mark",),
            "chat.strategies": ("DEFAULT_STRATEGIES",),
            "chat.templates": ("PromptTemplate",),
            "definitions": ("register_definition",),
            "explanation": ("explain",),
            "files.column_scorer": ("Scorer",),
            "files.layerwise_model": ("layerwise_model",),
            "generating": ("generate",),
            "kernels.contract": ("SpanAttention", "SpanMass", "SpanQuery"),
            "kernels.steering": ("Steering",),
            "measure.layerwise.layerwise_options": ("Layerwise",),
            "measure.recorded_replies": ("RecordedReplies",),
            "measure.request": ("SpanRequest",),
            "monitoring": ("monitor",),
            "op": ("span_attention", "span_mass"),
            "result": ("SRAResult",),
            "scoring": ("score",),
            "steered_model": ("steer",),
        },
        # Not `cli`, which is used as a command, nor `tools`, which the others are made with.
        modules=(
            "backends",
            "chat",
            "definitions",
            "explanation",
            "files",
            "generating",
            "kernels",
            "measure",
            "monitoring",
            "names",
            "op",
            "recipes",
            "report",
            "result",
            "scoring",
            "steered_model",
            "training",
        ),
    )

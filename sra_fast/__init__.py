"""Measure Strategy Relevant Attention (arXiv 2402.10453) of chat models, without attention maps.

Names are loaded when they are first used, so that ``import sra_fast`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sra_fast.chat.encoding import encode
    from sra_fast.kernels.contract import SpanAttention, SpanMass, SpanQuery
    from sra_fast.measure.request import SpanRequest
    from sra_fast.monitoring import monitor
    from sra_fast.op import span_attention, span_mass
    from sra_fast.result import SRAResult
    from sra_fast.scoring import score

_HOME = {
    "SRAResult": "result",
    "SpanAttention": "kernels.contract",
    "SpanMass": "kernels.contract",
    "SpanQuery": "kernels.contract",
    "SpanRequest": "measure.request",
    "encode": "chat.encoding",
    "monitor": "monitoring",
    "score": "scoring",
    "span_attention": "op",
    "span_mass": "op",
}

__all__ = [
    "SRAResult",
    "SpanAttention",
    "SpanMass",
    "SpanQuery",
    "SpanRequest",
    "encode",
    "monitor",
    "score",
    "span_attention",
    "span_mass",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'sra_fast' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sra_fast.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

"""Refuse transformers' continuous batching while a model is recorded or steered.

Its forward passes pack several requests into one row over a paged cache, and where flash attention
is installed it switches the model to that, so that nothing would be recorded or steered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from sra_fast.measure.generation_modes import UnservedGenerationError
from sra_fast.tools.stand_ins import standing_in

ENTRY_POINTS = ("generate_batch", "continuous_batching_context_manager", "init_continuous_batching")
"""The methods of a model that begin continuous batching."""


@contextmanager
def without_continuous_batching(model: Any, doing: str) -> Iterator[None]:
    """Let the methods of a model that begin continuous batching refuse it, inside the block.

    Args:
        model: the model of transformers; one without such a method is left as it is.
        doing: what is done to the model in the block, such as "recorded".
    """
    refusing = {name: _refusing(name, doing) for name in ENTRY_POINTS if hasattr(model, name)}
    with standing_in(model, refusing):
        yield


def _refusing(name: str, doing: str) -> Any:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UnservedGenerationError(
            f"{name}: continuous batching, whose cache is paged, is not {doing}; call generate()"
        )

    return refuse

"""``sra_fast.monitor``: record SRA from the user's own forward calls, at no second pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sra_fast.definitions import Definition
from sra_fast.op import Backend
from sra_fast.reduction import reduce
from sra_fast.request import REQUEST, SpanRequest
from sra_fast.result import SRAResult, check_definition
from sra_fast.sequences import numbered_by_position, numbered_runs
from sra_fast.served import ServedModel, serve, switched
from sra_fast.spans import COLUMN_KEYS, MASK_KEYS, MarkedBatch, Placed, build_query, read_batch


class Monitor:
    """What :func:`monitor` yields.

    Attributes:
        results: one :class:`~sra_fast.SRAResult` per forward call that carried masks.
    """

    def __init__(self) -> None:
        self.results: list[SRAResult] = []


@contextmanager
def monitor(
    model: nn.Module,
    *,
    definition: Definition = "paper",
    keep_rows: bool = False,
    backend: Backend = "auto",
) -> Iterator[Monitor]:
    """Inside, forward calls of ``model`` that carry masks record SRA; others run as they are.

    Give the masks to the call itself, beside ``input_ids``: ``strategy_mask`` (or ``span_masks``)
    and ``response_mask``, as :func:`sra_fast.score` takes them, each of the shape of
    ``input_ids``. They never reach the model. The call's outputs, loss and gradients are those of
    exact attention: the masses are read off without a gradient. Packed rows (``position_ids`` that
    start anew, no ``attention_mask``) count each sequence as one.

    Every call inside runs with the attention implementation "sra_fast" and its refusals (static
    caches, attention dropout; no maps by ``output_attentions``). Call ``backward()`` inside too:
    gradient checkpointing runs the attention again there.

    Args:
        model: as for :func:`sra_fast.score`.
        definition: which one ``.sra`` of the results is.
        keep_rows: keep the masses of every row.
        backend: of the op.

    Raises:
        ValueError: masks that do not fit the call, or a model that is not served.
        UnansweredRequestError: the model did not pass the request on to its attention.
    """
    check_definition(definition)
    served = serve(model)
    recorder = Monitor()
    pending: list[tuple[SpanRequest, list[Placed], MarkedBatch]] = []

    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        pending.clear()
        if not any(kwargs.get(key) is not None for key in MASK_KEYS):
            return args, kwargs
        marks = {key: kwargs[key] for key in (*MASK_KEYS, *COLUMN_KEYS) if key in kwargs}
        passed = {key: value for key, value in kwargs.items() if key not in marks}
        inputs = dict(passed)
        if len(args) > 1:
            raise ValueError(
                "a watched call takes everything but `input_ids` by keyword, so that its "
                "attention_mask and position_ids are seen"
            )
        if args:
            inputs["input_ids"] = args[0]
        marked = read_batch(
            {**inputs, **marks}, _segments(served, inputs, len(marks["response_mask"]))
        )
        places = [(sequence.row, sequence.start) for sequence in marked.sequences]
        shape = marks["response_mask"].shape
        query, placed = build_query(marked, range(len(places)), places, shape)
        request = SpanRequest(query, mass_grad=False, in_outputs=False, backend=backend)
        pending.append((request, placed, marked))
        return args, {**passed, REQUEST: request}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for request, placed, marked in pending:
            members = range(len(marked.sequences))
            recorder.results.append(
                reduce(
                    request,
                    placed,
                    marked,
                    members,
                    served.attention_layers,
                    definition,
                    keep_rows,
                )
            )
        pending.clear()

    hooks = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after),
    ]
    try:
        with switched(served):
            yield recorder
        if not recorder.results:
            warnings.warn(
                "nothing was recorded: no forward call inside carried `strategy_mask` (or "
                "`span_masks`) and `response_mask`; generate() does not pass them on",
                stacklevel=3,
            )
    finally:
        for hook in hooks:
            hook.remove()


def _segments(
    served: ServedModel, inputs: dict[str, Any], rows: int
) -> list[tuple[int, int, int]] | None:
    """The sequences of packed rows; None where ``attention_mask`` says what there is."""
    positions: Tensor | None = inputs.get("position_ids")
    if positions is None or positions.ndim != 2 or inputs.get("attention_mask") is not None:
        return None
    found = numbered_runs(numbered_by_position(positions.expand(rows, -1)))
    if served.stateful and len(found) > rows:
        raise ValueError(f"{served.name} carries a state along the row, so rows cannot be packed")
    return found

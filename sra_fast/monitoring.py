"""Monitor a model: record its SRA from the user's own forward calls, without a second pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from sra_fast.backends import check_backend
from sra_fast.definitions import check_definition
from sra_fast.measure.profiles import ProfileRecord, attach_profiles, check_profile_kind
from sra_fast.measure.reduction import reduce
from sra_fast.measure.served import serve, switched
from sra_fast.measure.watching import WatchedCall, unwrapped, watching
from sra_fast.names import ProfileKind
from sra_fast.result import SRAResult
from sra_fast.tools.sra_warning import SRAWarning


class Monitor:
    """The results that :func:`monitor` has recorded so far.

    Attributes:
        results: one :class:`~sra_fast.SRAResult` per forward call that carried masks, in order.
    """

    def __init__(self) -> None:
        self.results: list[SRAResult] = []


@contextmanager
def monitor(
    model: nn.Module,
    *,
    definition: str = "paper",
    keep_rows: bool = False,
    backend: str = "auto",
    profile: ProfileKind | None = None,
) -> Iterator[Monitor]:
    """Record the SRA of each forward call of ``model`` inside the block that carries masks.

    Other calls run as they are. Give the masks to the call itself, beside ``input_ids``:
    ``strategy_mask`` (or ``span_masks``) and ``response_mask``, as :func:`sra_fast.score` takes
    them, each of the shape of ``input_ids``; without ``response_mask`` the tokens whose ``labels``
    are not -100 are the response. They never reach the model. The call's outputs, loss and
    gradients are those of exact attention: the masses are read without a gradient. Packed rows
    (``position_ids`` that start anew, no ``attention_mask``) hold several sequences each.

    Every call inside runs with the attention implementation "sra_fast" and what it refuses (static
    caches, attention dropout; no maps by ``output_attentions``). Call ``backward()`` inside too:
    gradient checkpointing runs the attention again there.

    Args:
        model: a model that :func:`sra_fast.score` takes.
        definition: the definition that ``.sra`` of the results gives, built-in or registered.
        keep_rows: whether to keep the masses of every row.
        backend: backend of the op, built-in or registered.
        profile: whether to keep each response's attention on every token, and of what kind, as
            :func:`sra_fast.score` does.

    Yields:
        The monitor, whose ``results`` grow with each call.

    Raises:
        KeyError: no such definition.
        ValueError: masks that do not fit the call, an argument that neither the model nor the
            library reads, a call that goes on from a filled cache, a model that is not served, or
            no such backend.
        UnansweredRequestError: the model did not pass the request on to its attention.
    """
    check_definition(definition)
    check_backend(backend)
    served = serve(unwrapped(model))
    if profile is not None:
        check_profile_kind(profile)
    recorder = Monitor()

    def record(answer: WatchedCall) -> None:
        members = range(len(answer.marked.sequences))
        request, marked = answer.request, answer.marked
        result = reduce(
            request, answer.placed, marked, members, answer.layers, definition, keep_rows
        )
        if profile is not None and isinstance(request.profiles, ProfileRecord):
            kept = request.profiles
            result = attach_profiles(
                result, kept, marked, members, answer.input_ids, answer.sources
            )
        recorder.results.append(result)

    with switched(served), watching(served, record, backend=backend, profile=profile):
        yield recorder
    if not recorder.results:
        warnings.warn(
            "nothing was recorded: no forward call inside carried `strategy_mask` (or "
            "`span_masks`) and `response_mask`; generate() does not pass them on",
            SRAWarning,
            stacklevel=3,
        )

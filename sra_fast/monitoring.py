"""Monitor a model: record its SRA from the user's own calls, without a second pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from sra_fast.backends import check_backend
from sra_fast.definitions import check_definition
from sra_fast.measure.batch_keys import read_content
from sra_fast.measure.layerwise.layer_weights import refuse_weights_in_files
from sra_fast.measure.profiles import ProfileRecord, attach_profiles, check_profile_kind
from sra_fast.measure.recorded_generation import GenerationRecord, recorded_generation
from sra_fast.measure.recorded_replies import RecordedReplies
from sra_fast.measure.reduction import reduce
from sra_fast.measure.scorable import check_definable
from sra_fast.measure.served import serve, switched
from sra_fast.measure.stopping_watch import OnToken
from sra_fast.measure.trial import tried
from sra_fast.measure.watching import WatchedCall, unwrapped, watching
from sra_fast.names import PROFILE_BYTES, ProfileKind
from sra_fast.result import SRAResult
from sra_fast.tools.sra_warning import SRAWarning


class Monitor:
    """The results that :func:`monitor` has recorded so far.

    Attributes:
        results: one :class:`~sra_fast.SRAResult` per forward call that carried masks, and per call
            of ``generate`` that gave a reply, in order.
        generated: the replies of each call of ``generate`` with their masses, in order.
    """

    def __init__(self) -> None:
        self.results: list[SRAResult] = []
        self.generated: list[RecordedReplies] = []


@contextmanager
def monitor(
    model: nn.Module,
    batch: Mapping[str, Any] | None = None,
    *,
    definition: str = "paper",
    keep_rows: bool = False,
    backend: str = "auto",
    profile: ProfileKind | None = None,
    profile_bytes: int = PROFILE_BYTES,
    on_token: OnToken | None = None,
) -> Iterator[Monitor]:
    """Record the SRA of the calls of ``model`` inside the block: forward passes and ``generate``.

    A forward call is recorded if it carries masks; others run as they are. Give the masks to the
    call itself, beside ``input_ids``: ``strategy_mask`` (or ``span_masks``) and ``response_mask``,
    as :func:`sra_fast.score` takes them, each of the shape of ``input_ids``; without
    ``response_mask`` the tokens whose ``labels`` are not -100 are the response. They never reach
    the model. The call's outputs, loss and gradients are those of exact attention: the masses are
    read without a gradient. Packed rows (``position_ids`` that start anew, no ``attention_mask``)
    hold several sequences each.

    ``generate`` refuses masks, so give the marked prompts to the monitor, as ``batch``, and their
    ``input_ids`` and ``attention_mask`` to ``model.generate``. Each call of it inside is recorded
    while it runs; :func:`sra_fast.generate` says what is recorded and refused.

    Every call inside runs with the attention implementation "sra_fast" and what it refuses (static
    caches, attention dropout; no maps by ``output_attentions``). Call ``backward()`` inside too:
    gradient checkpointing runs the attention again there.

    Args:
        model: a model that :func:`sra_fast.score` takes.
        batch: the prompts of the calls of ``generate``, as :func:`sra_fast.generate` takes them.
        definition: the definition that ``.sra`` of the results gives, built-in or registered.
        keep_rows: whether to keep the masses of every row.
        backend: backend of the op, built-in or registered; no part of ``generate``, whose rows
            need none.
        profile: whether to keep each response's attention on every token, and of what kind, as
            :func:`sra_fast.score` does.
        profile_bytes: the most bytes that the profiles of one call of ``generate`` may take.
        on_token: called in each step of ``generate``, as by :func:`sra_fast.generate`.

    Yields:
        The monitor, whose ``results`` grow with each call.

    Raises:
        KeyError: no such definition.
        ValueError: masks that do not fit the call, an argument that neither the model nor the
            library reads, a call that goes on from a filled cache, a model that is not served, or
            no such backend. Of ``generate``: what :func:`sra_fast.generate` names.
        UnfinishedGenerationError: the block is left while a thread still generates.
        UnansweredRequestError: the model did not pass the request on to its attention.
    """
    check_definition(definition)
    check_backend(backend)
    served = serve(unwrapped(model))
    refuse_weights_in_files(served.decoder, served.name, "monitor")
    if batch is None and on_token is not None:
        raise ValueError("on_token: it is called by generate(), whose prompts `batch` would say")
    if profile is not None:
        check_profile_kind(profile)
    recorder = Monitor()

    def record(answer: WatchedCall) -> None:
        members = range(len(answer.marked.sequences))
        request, marked = answer.request, answer.marked
        check_definable(marked, definition)
        result = reduce(
            request, answer.placed, marked, members, answer.layers, definition, keep_rows
        )
        if profile is not None and isinstance(request.profiles, ProfileRecord):
            kept = request.profiles
            result = attach_profiles(
                result, kept, marked, members, answer.input_ids, answer.sources
            )
        recorder.results.append(result)

    def keep(replies: RecordedReplies) -> None:
        recorder.generated.append(replies)
        if replies.result is not None:
            recorder.results.append(replies.result)

    with ExitStack() as entered:
        if batch is not None:
            served = tried(served)
            content = read_content(served, batch, unanswered=True)
            wanted = GenerationRecord(
                content, definition, keep_rows, profile, profile_bytes, on_token
            )
        entered.enter_context(switched(served))
        entered.enter_context(watching(served, record, backend=backend, profile=profile))
        if batch is not None:
            entered.enter_context(recorded_generation(served, wanted, keep))
        yield recorder
    if not recorder.results and not recorder.generated:
        warnings.warn(
            "nothing was recorded: no forward call inside carried `strategy_mask` (or "
            "`span_masks`) and `response_mask`; generate() does not pass them on: give the marked "
            "prompts to monitor(model, batch)",
            SRAWarning,
            stacklevel=3,
        )

"""Watch a model: each forward call that carries masks is asked for its attention masses once.

Hooks on the top model take the masks out of the call's keyword arguments, put a request in their
place, and hand the answered request to every listener: :func:`sra_fast.monitor`, the training
callback and the regularised trainer. There may be several listeners at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.measure import attention, compat
from sra_fast.measure.batch_keys import (
    STRATEGIES,
    carries_masks,
    check_call,
    check_other_call,
    read_marks,
    without_marks,
)
from sra_fast.measure.marked_query import Placed, query_as_given
from sra_fast.measure.parts_of_models import missing_tokens
from sra_fast.measure.profiles import WITHOUT_PROFILE, with_profiles
from sra_fast.measure.request import REQUEST, SpanRequest
from sra_fast.measure.served import ServedModel, switched
from sra_fast.measure.source_ids import SourceMarks, read_sources
from sra_fast.measure.spans import MarkedBatch
from sra_fast.measure.unserved import UnservedModelError
from sra_fast.names import ProfileKind


@dataclass(frozen=True)
class WatchedCall:
    """The masses that one forward call of a watched model brought back.

    Attributes:
        request: the answered request, which holds the masses.
        placed: where the responses' rows are among the request's.
        marked: the call's sequences and responses.
        layers: the layers that had to answer; empty if that is not known.
        strategies: the name of each response's strategy, or None if the call carried no names.
        input_ids: ``[B, T]`` of the call; None if it carried embeddings.
        sources: the sources that the call carried, if any.
    """

    request: SpanRequest
    placed: Placed
    marked: MarkedBatch
    layers: tuple[int, ...]
    strategies: tuple[str, ...] | None
    input_ids: Tensor | None = None
    sources: SourceMarks | None = None


Listener = Callable[[WatchedCall], None]


def is_watched(model: nn.Module) -> bool:
    """Return whether somebody watches the model now."""
    return _watch_on(unwrapped(model)) is not None


@contextmanager
def watching(
    served: ServedModel,
    listener: Listener,
    *,
    mass_grad: bool = False,
    backend: str = "auto",
    profile: ProfileKind | None = None,
) -> Iterator[Watch]:
    """Call ``listener``, inside the block, after each forward call of ``served.top`` with masks.

    A second listener on the same model joins the first: there is one request per call.

    Args:
        served: made from :func:`unwrapped`.
        listener: called after the forward pass, within the caller's grad mode.
        mass_grad: whether the masses carry gradients where the call itself does.
        backend: backend of the op; that of the first listener counts.
        profile: the kind of profile to ask for; all listeners that want one want the same.
    """
    watch = _watch_on(served.top) or Watch(served, backend)
    key = watch.join(listener, mass_grad, profile)
    try:
        yield watch
    finally:
        watch.leave(key)


class Watch:
    """The hooks on one watched model, shared by all who listen to it.

    Calls without masks run as they are. A call with masks attends by ``"sra_fast"``. Where it makes
    a graph, that lasts until :meth:`release`, the next call without masks, or the end of the watch:
    gradient checkpointing runs the attention again in the backward pass.
    """

    def __init__(self, served: ServedModel, backend: str) -> None:
        self._served = served
        self._backend = backend
        self._listeners: dict[object, tuple[Listener, bool, ProfileKind | None]] = {}
        self._pending: WatchedCall | None = None
        self._switch = ExitStack()
        self._hooks = [
            served.top.register_forward_pre_hook(self._before, with_kwargs=True),
            served.top.register_forward_hook(self._after, always_call=True),
        ]

    def join(
        self, listener: Listener, mass_grad: bool, profile: ProfileKind | None = None
    ) -> object:
        """Add a listener, and return the key with which it can :meth:`leave`.

        Raises:
            ValueError: another listener asked for profiles of another kind.
        """
        known = self._profile()
        if profile is not None and known not in (None, profile):
            raise ValueError(
                f"profile: the model is watched already with profile={known!r}, so that "
                f"{profile!r} cannot be recorded too"
            )
        key = object()
        self._listeners[key] = (listener, mass_grad, profile)
        return key

    def leave(self, key: object) -> None:
        """Remove the listener of a key; the last one to leave takes the hooks away."""
        self._listeners.pop(key, None)
        if not self._listeners:
            self.release()
            for hook in self._hooks:
                hook.remove()

    def release(self) -> None:
        """Give the model the attention back that it was found with."""
        self._pending = None
        self._switch.close()

    def _profile(self) -> ProfileKind | None:
        """Return the kind of profile that those who listen now want, if any of them does."""
        kinds = (profile for _, _, profile in self._listeners.values())
        return next((kind for kind in kinds if kind is not None), None)

    @torch.compiler.disable
    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._pending = None
        if not carries_masks(kwargs):
            self.release()
            check_other_call(self._served, kwargs)
            return args, {key: value for key, value in kwargs.items() if key != STRATEGIES}
        if len(args) > 1:
            raise ValueError(
                "a watched call takes everything but `input_ids` by keyword, so that its "
                "attention_mask and position_ids are seen"
            )
        if part := missing_tokens():
            raise UnservedModelError(f"{self._served.name} cannot be scored here: {part}")
        inputs = {**kwargs, "input_ids": args[0]} if args else kwargs
        check_call(self._served, inputs)
        marked = read_marks(self._served, inputs)
        query, placed = query_as_given(marked)
        sources, record = read_sources(inputs, marked), None
        profile = self._profile()
        if profile is not None:
            members = range(len(marked.sequences))
            places = [(sequence.row, sequence.start) for sequence in marked.sequences]
            query, record = with_profiles(query, placed, marked, members, places, profile)
        elif sources is not None:
            raise ValueError(WITHOUT_PROFILE)
        wants_grad = any(mass_grad for _, mass_grad, _ in self._listeners.values())
        request = SpanRequest(
            query,
            mass_grad=wants_grad and torch.is_grad_enabled(),
            in_outputs=False,
            profiles=record,
            backend=self._backend,
            heads=self._served.heads,
        )
        strategies = _strategies(kwargs.get(STRATEGIES), marked)
        self._pending = WatchedCall(
            request,
            placed,
            marked,
            self._served.attention_layers,
            strategies,
            inputs.get("input_ids"),
            sources,
        )
        if compat.attn_implementation(self._served.config) != attention.NAME:
            self._switch.enter_context(switched(self._served))
        return args, {**without_marks(kwargs), REQUEST: request}

    @torch.compiler.disable
    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        answer, self._pending = self._pending, None
        finished = False
        try:
            if answer is not None and output is not None:  # None: the forward failed
                for listener, _, _ in list(self._listeners.values()):
                    listener(answer)
                finished = True
        finally:
            if not (finished and torch.is_grad_enabled()):
                self.release()


def unwrapped(model: nn.Module) -> nn.Module:
    """Take the model out of the wrappers of DistributedDataParallel, FSDP and torch.compile.

    All of these call the inner model, so hooks on that one run in each.
    """
    while True:
        inner = compat.inside_compiled(model)
        inner = compat.inside_fsdp(model) if inner is None else inner
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def _watch_on(model: nn.Module) -> Watch | None:
    for hook in compat.forward_pre_hooks(model):
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Watch):
            return owner
    return None


def _strategies(named: Any, marked: MarkedBatch) -> tuple[str, ...] | None:
    if named is None:
        return None
    if not isinstance(named, (list, tuple)) or not all(isinstance(name, str) for name in named):
        raise ValueError(f"strategies: expected a list of str, one per response, got {named!r}")
    responses = sum(len(sequence.responses) for sequence in marked.sequences)
    if len(named) != responses:
        raise ValueError(
            f"strategies: expected one per response ({responses} in this batch), got {len(named)}"
        )
    return tuple(named)

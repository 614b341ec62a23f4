"""Say in words which kernel serves a call of the op, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sra_fast import op
from sra_fast.backends import check_backend
from sra_fast.kernels import dispatch, parents
from sra_fast.kernels.blocks import needs_grad
from sra_fast.kernels.contract import LogitRule, SpanQuery
from sra_fast.kernels.measured_table import Work, card
from sra_fast.kernels.providers import PROVIDERS, AttentionCall, call_of
from sra_fast.kernels.steering import Steering

_REFERENCE_STEERS = "it adds the steering to its logits"
_STEERED_AFTERWARDS = (
    "the steering is an epilogue of {}, with the span's keys alone, and of plain products with all "
    "keys for the rows of which it takes more than half away"
)


@dataclass(frozen=True)
class ProviderAnswer:
    """The answer of one provider of attention to a call.

    Attributes:
        name: its name in ``backend="lse:NAME"``.
        about: what it is, in a few words.
        reason: why it cannot serve the call; None if it can.
        held_back: why it is not taken unasked although it could serve the call; None if it may be.
    """

    name: str
    about: str
    reason: str | None
    held_back: str | None

    def __str__(self) -> str:
        if self.reason is not None:
            return f"{self.name}: no, {self.reason}"
        if self.held_back is not None:
            return f"{self.name}: only if asked for, {self.held_back}"
        return f"{self.name}: yes"


@dataclass(frozen=True)
class Explanation:
    """Which backend serves a call of :func:`sra_fast.span_attention`, and why; ``str`` says it all.

    Attributes:
        asked: the backend that was asked for, such as ``"auto"``.
        backend: the backend that serves the call: ``"triton"``, ``"lse:NAME"`` with the provider
            that gives attention and logsumexp, ``"reference"``, or one of your own. None if the one
            that was asked for cannot.
        why: the reason for this choice, or the reason why there is none.
        device: the card's name with its compute capability, or the kind of device.
        work: ``"prefill"``, ``"decode"``, ``"training"`` (the output carries a gradient) or
            ``"mass_grad"`` (the mass does).
        providers: what each provider of attention says to the call.
    """

    asked: str
    backend: str | None
    why: str
    device: str
    work: str
    providers: tuple[ProviderAnswer, ...]

    def __str__(self) -> str:
        taken = "cannot serve this call" if self.backend is None else f"takes {self.backend!r}"
        first = f"backend {self.asked!r} {taken} ({self.work}, {self.device}): {self.why}."
        return "\n".join([first, *(f"  lse:{answer}" for answer in self.providers)])


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query: SpanQuery,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    backend: str = "auto",
    mass_grad: bool = True,
    steer: Steering | None = None,
) -> Explanation:
    """Say which kernel serves one call of the op :func:`sra_fast.span_attention`, and why.

    It takes the tensors of the call, not a model and a batch. Nothing of the call is computed; a
    platform's kernel that was never used in this process is checked on small problems of its own.
    The answer holds outside of compiled graphs, where ``"auto"`` takes the fused kernel on a card.

    Args:
        q: ``[B, Hq, M, D]``, as for the call.
        k: ``[B, Hkv, N, D]``.
        v: ``[B, Hkv, N, Dv]``.
        query: the rows, spans and sequences asked for.
        scale: factor on ``q·k``; ``1/√D`` if None.
        window: how many keys a query sees, itself included; None for all up to it.
        softcap: bound of the logits; None for no bound.
        sinks: ``[Hq]``, a logit per head without a value; None for no sinks.
        backend: the backend that the call asks for.
        mass_grad: whether the mass is to carry a gradient when q, k or the sinks ask for one.
        steer: the steering of the call; None for none.

    Returns:
        An :class:`Explanation`; ``print`` it.

    Raises:
        ValueError: the arguments do not fit together, or there is no such backend.
    """
    check_backend(backend)
    rule = LogitRule(op.scale_of(q, scale), window, softcap, sinks)
    op.check_tensors(q, k, v, rule)
    if steer is not None:
        op.fitting_steering(steer, q, k, v, rule)
    call = call_of(q, k, v, op.fitting_query(query, q, k), rule)
    wants_mass_grad = mass_grad and needs_grad(q, k, sinks)
    work = dispatch.work_of(call, wants_mass_grad)
    if q.numel() == 0:
        nothing = "there is no query, so nothing is computed"
        return Explanation(backend, backend, nothing, card(q.device), work, ())
    taken, why = _taken(backend, call, wants_mass_grad)
    if steer is not None and taken is not None:
        kernel = taken == "triton" or dispatch.trusted_kernels(q, v) is not None
        epilogue = _STEERED_AFTERWARDS.format("the Triton kernel" if kernel else "plain products")
        why += "; " + (_REFERENCE_STEERS if taken == "reference" else epilogue)
    answers = tuple(_answer(name, call, work) for name in PROVIDERS)
    return Explanation(backend, taken, why, card(q.device), work, answers)


def _taken(backend: str, call: AttentionCall, mass_grad: bool) -> tuple[str | None, str]:
    """Return the backend that serves a call, or None if the one asked for cannot, and why."""
    if call.query.parents is not None:
        reason = parents.unserved(backend, call.q.device, call.grad or mass_grad)
        if reason is not None:
            return None, f"{reason}, and the query has segments with a parent"
    if backend == "auto":
        choice = dispatch.choice(call, mass_grad)
        if choice.backend != "lse":
            return choice.backend, choice.why
        return dispatch.PREFIX + dispatch.best_provider(call).name, choice.why
    if backend == "lse":
        why = "the fastest provider that serves the call, as measured or expected"
        return dispatch.PREFIX + dispatch.best_provider(call).name, why
    reason = None
    if backend.startswith(dispatch.PREFIX):
        reason = dispatch.reason_against(backend.removeprefix(dispatch.PREFIX), call)
    elif backend == "triton":
        reason = dispatch.reason_against("fused", call)
    return (backend, "it was asked for") if reason is None else (None, reason)


def _answer(name: str, call: AttentionCall, work: Work) -> ProviderAnswer:
    """Return what one provider says to a call."""
    provider = PROVIDERS[name]
    reason = dispatch.reason_against(name, call)
    held_back = None
    if reason is None and name not in dispatch.order(call.q.device):
        held_back = f"it is not for {call.q.device.type}"
    elif reason is None and name != "blocks":
        held_back = dispatch.unsplit(provider, call, work)
    return ProviderAnswer(name, provider.about, reason, held_back)

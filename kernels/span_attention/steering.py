"""Define steering: which keys are raised or lowered for which queries, and by how much.

Each query's keys fall into the span S and the rest R, of which a sink is a part. Steering adds one
number β to the logits of S, after the cap:

    lse′ = logaddexp(lse_R, lse_S + β)        mass′_S = exp(lse_S + β − lse′)

β is given, or it follows from the share s of the attention that S is to have,

    β = logit(s) + lse_R − lse_S

which is never below 0 where s is the least share. A query that sees no key of S, or nothing but S,
has no such β and stays as it is. β = −∞ knocks S out: nobody attends to it. Or β is one number for
all queries and heads of a sequence, from the mean of their shares (:mod:`pooled_share`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TypeVar

import torch
from torch import Tensor

from .derived_values import DerivedValues
from .pooled_share import pooled_beta
from .transfers import send

LARGEST_BIAS = 100
"""The largest β of either sign: ``lse + β`` in float32 then keeps masses to 10⁻⁵."""

MOST_ON_SPAN = 0.9
"""The most of a row's attention on the span that a share's β is computed from, by ``1 − m``."""

_Made = TypeVar("_Made")


class SteeredGradientError(ValueError):
    """Raised where steered attention is asked for a gradient, which it does not have."""


@dataclass(frozen=True, eq=False)
class Steering:
    """A change of attention: one span of keys, raised or lowered for some queries and heads.

    Give one of ``bias``, ``share`` and ``pooled_share``.

    Attributes:
        span: ``[B, N]`` bool, True at the keys of the span.
        bias: β, added to the logits of the span's keys after the cap, from −100 to 100; ``−inf``
            knocks them out.
        share: the share of the attention that the span is to have, between 0 and 1, sinks included.
        exact: whether queries that give the span more than ``share`` are lowered to it; if not,
            they stay as they are.
        pooled_share: the mean share, between 0 and 1, that the queries of a segment are raised
            towards together: β is ``log(pooled_share / mean)`` where the mean over the steered
            queries and heads is below it, and else 0.
        rows: ``[B, M]`` bool, the queries that are steered; None for all.
        heads: ``[Hq]`` bool, the heads that are steered; None for all.
    """

    span: Tensor
    bias: float | None = None
    share: float | None = None
    exact: bool = False
    pooled_share: float | None = None
    rows: Tensor | None = None
    heads: Tensor | None = None
    _derived: DerivedValues = field(
        default_factory=DerivedValues, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        _expect(self.span, "span", "[B, N]", 2)
        if self.rows is not None:
            _expect(self.rows, "rows", "[B, M]", 2)
        if self.heads is not None:
            _expect(self.heads, "heads", "[Hq]", 1)
        check_strength(self.bias, self.share, self.exact, self.pooled_share)

    @property
    def does_nothing(self) -> bool:
        """True if no logit is changed, whatever the queries and keys are."""
        return self.bias == 0

    @property
    def lowers(self) -> bool:
        """True if the attention on the span may become less than it was."""
        return self.exact or (self.bias is not None and self.bias < 0)

    @property
    def may_show_rounding(self) -> bool:
        """True if what is left of a difference may decide some row: it is then computed anew."""
        return self.lowers or (self.share is not None and self.share > MOST_ON_SPAN)

    def to(self, device: torch.device) -> Steering:
        """Return the same steering on ``device``: itself if its tensors are there already."""
        tensors = [x for x in (self.span, self.rows, self.heads) if x is not None]
        if all(x.device == device for x in tensors):
            return self

        def move() -> Steering:
            return replace(
                self,
                span=send(self.span, device),
                rows=None if self.rows is None else send(self.rows, device),
                heads=None if self.heads is None else send(self.heads, device),
            )

        return self.derived(("device", device), move)

    def check(self, q: Tensor, k: Tensor) -> None:
        """Refuse a steering that does not fit ``q [B, Hq, M, D]`` and ``k [B, Hkv, N, D]``.

        Raises:
            ValueError: a tensor has another shape; it is named.
        """
        batch, heads, m, _ = q.shape
        for name, tensor, shape in (
            ("span", self.span, (batch, k.shape[2])),
            ("rows", self.rows, (batch, m)),
            ("heads", self.heads, (heads,)),
        ):
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"steer: {name}: expected shape {list(shape)}, got {list(tensor.shape)}"
                )

    def beta(self, rest: Tensor, span: Tensor) -> Tensor:
        """Return β from the logsumexps of R and S, of any one shape; 0 where nothing is steered.

        The choice of heads and rows is applied by the caller. A pooled share's β does not
        follow from a query's own numbers.
        """
        if self.bias is not None:
            return torch.full_like(span, float(self.bias)).masked_fill_(span == -torch.inf, 0)
        assert self.share is not None
        wanted = math.log(self.share) - math.log1p(-self.share) + (rest - span)
        wanted = wanted if self.exact else wanted.clamp_(min=0)
        both = (rest > -torch.inf) & (span > -torch.inf)
        return wanted.masked_fill_(~both, 0)

    def added_to(self, logits: Tensor, sinks: Tensor | None, pools: Tensor | None = None) -> Tensor:
        """Return logits ``[B, Hq, M, N]`` after the cap, −∞ at unseen keys, with their β added.

        Args:
            logits: the logits of all queries that are steered.
            sinks: ``[Hq]``, or None.
            pools: ``[B, M]`` int64, whose shares are pooled, −1 for no pool; None for those of a
                batch row.
        """
        span = self.span[:, None, None]  # [B, 1, 1, N]
        of_span = torch.logsumexp(logits.masked_fill(~span, -torch.inf), dim=-1)
        rest = torch.logsumexp(logits.masked_fill(span, -torch.inf), dim=-1)
        if sinks is not None:
            rest = torch.logaddexp(rest, sinks.to(rest.dtype)[:, None])
        if self.pooled_share is None:
            beta = self.beta(rest, of_span).masked_fill(~self.steered(), 0)
        else:
            shares = torch.exp(of_span - torch.logaddexp(rest, of_span)).nan_to_num(0)
            beta = pooled_beta(shares, self.steered(), pools, self.pooled_share)
        return torch.where(span, logits + beta[..., None], logits)

    def steered(self) -> Tensor:
        """Return which queries are steered in which heads, bool, broadcasting to ``[B, Hq, M]``."""
        found = self.span.new_ones(1, 1, 1)
        if self.rows is not None:
            found = found & self.rows[:, None]
        if self.heads is not None:
            found = found & self.heads[:, None]
        return found

    def derived(self, key: tuple[object, ...], make: Callable[[], _Made]) -> _Made:
        """Return what ``make`` returned when it was first asked for under ``key``.

        It is forgotten if somebody writes into the tensors, except into those of inference mode.
        """
        tensors = (x for x in (self.span, self.rows, self.heads) if x is not None)
        self._derived.forget_if_written(*tensors)
        return self._derived.of(key, make)


def check_strength(
    bias: float | None = None,
    share: float | None = None,
    exact: bool = False,
    pooled_share: float | None = None,
) -> None:
    """Refuse a bias or a share that cannot be.

    Raises:
        TypeError: one of them is no number, such as a bool or a tensor.
        ValueError: not exactly one of them is given, the bias is neither −inf nor from −100 to 100,
            a share is not between 0 and 1, or ``exact`` is asked for without a share.
    """
    if sum(given is not None for given in (bias, share, pooled_share)) != 1:
        raise ValueError("steer: give either bias or share or pooled_share")
    if exact and share is None:
        raise ValueError("steer: exact says how share is meant; it goes with nothing else")
    for name, value in (("bias", bias), ("share", share), ("pooled_share", pooled_share)):
        if value is not None:
            expect_number(name, value)
    if bias is not None and not (
        -LARGEST_BIAS <= bias <= LARGEST_BIAS or bias == -math.inf
    ):  # NaN too
        raise ValueError(
            f"steer: bias: expected a number from -{LARGEST_BIAS} to {LARGEST_BIAS}, beyond "
            f"which digits of the logits are lost, or -inf (knock-out), got {bias}"
        )
    for name, value in (("share", share), ("pooled_share", pooled_share)):
        if value is not None and not 0 < value < 1:  # NaN too
            raise ValueError(
                f"steer: {name}: expected a number between 0 and 1, both out, got {value}"
            )


def expect_number(name: str, value: object) -> None:
    """Refuse what is no number, such as a bool or a tensor.

    Raises:
        TypeError: the strength of that name is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"steer: {name}: expected a number, got {type(value).__name__}")


def _expect(tensor: object, name: str, shape: str, ndim: int) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"steer: {name}: expected a tensor {shape} torch.bool, got {type(tensor).__name__}"
        )
    if tensor.ndim != ndim or tensor.dtype != torch.bool:
        raise ValueError(
            f"steer: {name}: expected {shape} torch.bool, got {list(tensor.shape)} {tensor.dtype}"
        )

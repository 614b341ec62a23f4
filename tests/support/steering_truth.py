"""Steer the cases of the op, and compute what steering should give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from op_cases import Case
from sra_fast import Steering, span_attention


def steering(case: Case, *, part: bool, **strength: Any) -> Steering:
    """Steer three tenths of the keys, for all queries and heads or for a part of them."""
    generator = torch.Generator().manual_seed(11)
    span = torch.rand(case.batch, case.keys, generator=generator) < 0.3
    rows = torch.rand(case.batch, case.queries, generator=generator) < 0.7
    heads = torch.rand(case.heads, generator=generator) < 0.5
    chosen = {"rows": rows, "heads": heads} if part else {}
    return Steering(span, **chosen, **strength)


def exact(case: Case, inputs: tuple[Tensor, ...], rule: dict[str, Any], **more: Any) -> Any:
    """Return the reference's result in float64, from the rounded inputs."""
    rule = {name: x.double() if isinstance(x, Tensor) else x for name, x in rule.items()}
    query = more.pop("query", None) or case.query()
    wide = [x.double() for x in inputs]
    return span_attention(*wide, query, backend="reference", **rule, **more)

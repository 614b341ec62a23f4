"""Wrap the gradient of the mass alone as ``torch.library`` operators.

Their arguments are flat, as in operators.py; a softcap of 0 means none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .launch import Logits, like_heads
from .layout import Layout
from .row_backward import row_backward


@torch.library.custom_op("sra_fast::connected_mass", mutates_args=())
def connected_mass(
    mass: Tensor,
    q: Tensor,
    k: Tensor,
    sinks: Tensor | None,
    lse: Tensor,
    key_labels: Tensor,
    first_key: Tensor,
    last_query: Tensor,
    slots: Tensor,
    key_runs: Tensor,
    query_runs: Tensor,
    rows: Tensor,
    bounds: Tensor,
    scale: float,
    softcap: float,
) -> Tensor:
    """Return a copy of ``mass [R, Hq, G]`` that is differentiable in q, k and the sinks.

    ``lse [R, Hq]`` is each row's logsumexp, sinks included, and ``scale > 0``.
    """
    return mass.clone()


@connected_mass.register_fake
def _(mass: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(mass)


@torch.library.custom_op("sra_fast::connected_mass_backward", mutates_args=())
def connected_mass_backward(
    mass: Tensor,
    q: Tensor,
    k: Tensor,
    sinks: Tensor | None,
    lse: Tensor,
    key_labels: Tensor,
    first_key: Tensor,
    last_query: Tensor,
    slots: Tensor,
    key_runs: Tensor,
    query_runs: Tensor,
    rows: Tensor,
    bounds: Tensor,
    d_mass: Tensor,
    scale: float,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and the sinks; the last one is empty without sinks."""
    layout = Layout(key_labels, first_key, last_query, slots, key_runs, query_runs, rows)
    logits = Logits(scale, softcap or None, sinks)
    with torch.cuda.device_of(q):
        dq, dk, d_sinks = row_backward(q, k, mass, lse, d_mass, layout, bounds, logits)
    return dq, dk, q.new_empty(0) if d_sinks is None else d_sinks


@connected_mass_backward.register_fake
def _(
    mass: Tensor, q: Tensor, k: Tensor, sinks: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    d_sinks = q.new_empty(0) if sinks is None else torch.empty_like(sinks)
    return like_heads(q), like_heads(k), d_sinks


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the backward pass needs: all inputs."""
    *tensors, ctx.scale, ctx.softcap = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, d_mass: Tensor) -> tuple[Any, ...]:
    """Return a gradient for each argument of ``connected_mass``, None for those without one."""
    saved = ctx.saved_tensors
    dq, dk, d_sinks = connected_mass_backward(*saved, d_mass, ctx.scale, ctx.softcap)
    given = None if saved[3] is None else d_sinks
    return None, dq, dk, given, *(None for _ in range(len(saved) - 2))


connected_mass.register_autograd(_differentiate, setup_context=_remember)

"""Compute what the op should give, and how far each backend may be off from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from op_cases import Case
from sra_fast import span_attention
from sra_fast.kernels import reference


def truth(case: Case, inputs: tuple[Tensor, ...], rule: dict[str, Any]) -> Any:
    """Return the reference's result in float64, from the rounded inputs."""
    exact = {
        name: value.double() if isinstance(value, Tensor) else value for name, value in rule.items()
    }
    wide = [x.double() for x in inputs]
    return span_attention(*wide, case.query(), backend="reference", **exact)


def plain_pytorch(case: Case, inputs: tuple[Tensor, ...], rule: dict[str, Any]) -> Any:
    """Return eager softmax in the inputs' own dtype, from which tolerances are taken."""
    q, k, v = inputs
    query, dtype = case.query().to(q.device), q.dtype
    groups = case.heads // case.kv_heads
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    logits = (q @ k.transpose(2, 3)) * rule["scale"]
    if rule["softcap"]:
        logits = rule["softcap"] * torch.tanh(logits / rule["softcap"])
    visible = reference.visibility(query, case.batch, case.queries, case.keys, case.window)
    logits = logits.masked_fill(~visible[:, None], torch.finfo(dtype).min)
    if case.sinks:
        sinks = rule["sinks"].reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        logits = torch.cat([logits, sinks], dim=-1)
    weights = torch.softmax(logits, dim=-1)[..., : case.keys] * visible[:, None]
    bits = (query.key_labels[..., None] >> torch.arange(len(query.names), device=q.device)) & 1
    mass = torch.einsum("bhmn,bng->bmhg", weights, bits.to(dtype)).flatten(0, 1)[query.rows]
    lse = torch.logsumexp(logits, dim=-1).masked_fill(~visible.any(-1)[:, None], -torch.inf)
    return weights @ v, mass, lse


def rounded_logits(case: Case, inputs: tuple[Tensor, ...], rule: dict[str, Any]) -> float:
    """Return how far rounding float32 logits can move a mass, whoever multiplies them.

    With δ the largest error of a logit, |dm| = m(1 − m)·|δ_S − δ_R| ≤ δ / 2. Processors differ in
    the order in which they add, so their errors differ too.
    """
    q, k = (x.float() for x in inputs[:2])
    k = k.repeat_interleave(case.heads // case.kv_heads, 1).transpose(2, 3)
    exact = (q.double() @ k.double()) * rule["scale"]
    return worst((q @ k) * rule["scale"], exact) / 2


def worst(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference; infinities must agree."""
    found, wanted = found.cpu(), wanted.cpu()
    assert found.shape == wanted.shape
    assert not found.isnan().any()
    assert torch.equal(found.isinf(), wanted.isinf())
    difference = (found.double() - wanted.double()).nan_to_num(0.0).abs()
    return difference.max().item() if difference.numel() else 0.0


def gradients(case: Case, dtype: torch.dtype, backend: Any, device: str = "cpu") -> list[Tensor]:
    """Return the gradients of a random function of out and mass by q, k, v and the case's sinks."""
    leaves = [x.detach().requires_grad_() for x in case.tensors(dtype, device)]
    rule = case.rule(dtype, device)
    if case.sinks:
        leaves.append(rule["sinks"].requires_grad_())
    result = span_attention(*leaves[:3], case.query(), backend=backend, **rule)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)).sum()
        for x in (result.out, result.mass)
    )
    if not loss.requires_grad:  # nothing is visible
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(leaves, found, strict=True)
    ]

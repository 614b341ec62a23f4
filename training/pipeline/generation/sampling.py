"""Which token comes next: nucleus sampling with random numbers that belong to each item alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from sra_fast.tools.argument_error import ArgumentError

_TOP = 128  # tokens that are looked at first; nearly always they hold the nucleus


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn; the defaults are the paper's.

    Attributes:
        temperature: that logits are divided by; 0 takes the likeliest token.
        top_p: the likeliest tokens up to this probability, the one that reaches it included, are
            drawn from.
        max_new_tokens: after which a reply is cut.
        seed: of everything.

    Raises:
        ValueError: a value is out of range.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = 512
    seed: int = 42

    def __post_init__(self) -> None:
        if not self.temperature >= 0.0:
            raise ArgumentError(
                f"temperature must be 0 or more, found {self.temperature!r}", "temperature"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ArgumentError(
                f"top_p must be above 0 and at most 1, found {self.top_p!r}", "top_p"
            )
        if self.max_new_tokens < 1:
            raise ArgumentError(
                f"max_new_tokens must be at least 1, found {self.max_new_tokens!r}",
                "max_new_tokens",
            )


def item_seed(seed: int, item: str) -> int:
    """The seed of one item, whatever else is generated: 63 bits of a SHA-256."""
    digest = hashlib.sha256(f"{seed}:{item}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uniforms(sampling: Sampling, item: str) -> Tensor:
    """``[max_new_tokens]`` float64 in [0, 1): the random number of each of an item's tokens."""
    generator = torch.Generator().manual_seed(item_seed(sampling.seed, item))
    return torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """The next token of each row.

    The nucleus is ordered by probability; the token in whose share of it the random number falls
    is taken. So a row's token depends on its own logits and number alone.

    Args:
        logits: ``[B, V]``.
        uniform: ``[B]`` float64 in [0, 1).
        sampling: temperature and top_p.

    Returns:
        ``[B]`` int64.
    """
    if sampling.temperature == 0.0:
        return logits.argmax(dim=-1)
    logits = logits.to(torch.float32, copy=True).div_(sampling.temperature)
    total = logits.logsumexp(dim=-1, keepdim=True)
    for count in (min(_TOP, logits.shape[-1]), logits.shape[-1]):
        values, tokens = logits.topk(count, dim=-1)
        shares = (values - total).exp().double()
        reached = shares.cumsum(dim=-1)
        if bool((reached[:, -1] >= sampling.top_p).all()):
            break
    inside = (reached - shares) < sampling.top_p
    inside[:, 0] = True
    kept = (shares * inside).cumsum(dim=-1)
    target = uniform.to(kept.device)[:, None] * kept[:, -1:]
    place = (kept <= target).sum(dim=-1).clamp(max=inside.sum(dim=-1) - 1)
    return tokens.gather(1, place[:, None])[:, 0]

"""Draw the next token by nucleus sampling, with random numbers that depend on the item alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from sra_fast.tools.argument_error import ArgumentError

_TOP = 128  # the likeliest tokens, sorted first; nearly always they contain the nucleus


@dataclass(frozen=True)
class Sampling:
    """The way in which tokens of replies are drawn; the defaults are the paper's.

    Attributes:
        temperature: what the logits are divided by; 0 always takes the likeliest token.
        top_p: the probability of the nucleus: a token is drawn from the fewest likeliest tokens
            whose probabilities sum up to at least this.
        max_new_tokens: the most tokens of a reply, which is cut there.
        seed: seed of every random number.

    Raises:
        ArgumentError: a value is out of range.
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
    """Return the seed of one item, 63 bits of a SHA-256; other items do not change it.

    Args:
        seed: the seed of the run.
        item: the name of the item.
    """
    digest = hashlib.sha256(f"{seed}:{item}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uniforms(sampling: Sampling, item: str) -> Tensor:
    """Return a random number for each token of an item's reply.

    Returns:
        ``[max_new_tokens]`` float64 in [0, 1).
    """
    generator = torch.Generator().manual_seed(item_seed(sampling.seed, item))
    return torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """Draw the next token of each sequence of a batch.

    The tokens of the nucleus are laid end to end in the order of their probability, each as long as
    its share of the nucleus; the token where the random number falls is taken. So the token of a
    sequence depends on its own logits and random number alone.

    Args:
        logits: the logits of the next token, ``[B, V]``.
        uniform: a random number for each sequence, ``[B]`` float64 in [0, 1).
        sampling: the temperature and ``top_p``.

    Returns:
        Token ids, ``[B]`` int64.
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

"""Compute means over the responses of many forward calls, and of all processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class ResponseMeans:
    """The mean SRA and the mean masses of ``n`` responses.

    Attributes:
        n: number of responses.
        sra: mean score.
        strategies: per strategy its mean score and number of responses, sorted by name.
        layers: ``layer_idx`` of the L attention layers.
        mass: ``[L, H]`` float64, mean mass on the span.
    """

    n: int
    sra: float
    strategies: dict[str, tuple[float, int]]
    layers: tuple[int, ...]
    mass: Tensor

    @property
    def log_sra(self) -> float:
        """The natural logarithm of the mean score; −inf if that is 0."""
        return math.log(self.sra) if self.sra > 0.0 else -math.inf

    def logs(self, prefix: str = "") -> dict[str, float]:
        """Return the means as a log shows them: ``sra``, ``log_sra`` and ``sra/<strategy>``."""
        named = {f"{prefix}sra/{name}": mean for name, (mean, _) in self.strategies.items()}
        return {f"{prefix}sra": self.sra, f"{prefix}log_sra": self.log_sra, **named}


@dataclass
class _Sums:
    """Sums over responses that add up over calls and over processes."""

    n: int = 0
    total: float = 0.0
    strategies: dict[str, tuple[float, int]] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    mass: Tensor | None = None  # [L, H] float64

    def add(self, other: _Sums) -> None:
        self.n += other.n
        self.total += other.total
        for name, (total, count) in other.strategies.items():
            before, number = self.strategies.get(name, (0.0, 0))
            self.strategies[name] = (before + total, number + count)
        if other.mass is not None:
            self.layers = other.layers
            self.mass = other.mass if self.mass is None else self.mass + other.mass


@dataclass(frozen=True)
class Scored:
    """The scores and masses of one forward call's n responses, on the device that computed them.

    Attributes:
        scores: ``[n]``, floating point.
        mass: ``[n, L, H]``, floating point, mean mass on the span over each response's rows.
        layers: ``layer_idx`` of the L layers.
        strategies: names of the n responses' strategies, or None.
    """

    scores: Tensor
    mass: Tensor
    layers: tuple[int, ...]
    strategies: Sequence[str] | None

    def take(self, indices: Sequence[int]) -> Scored:
        """Return the scores and masses of the responses at ``indices``."""
        at = torch.tensor(list(indices), dtype=torch.int64, device=self.scores.device)
        named = None if self.strategies is None else [self.strategies[i] for i in indices]
        return Scored(self.scores[at], self.mass[at], self.layers, named)


class RunningMeans:
    """A sum over scored calls, until their means are asked for."""

    def __init__(self) -> None:
        self._sums = _Sums()
        self._waiting: list[Scored] = []

    def add(self, call: Scored) -> None:
        """Take in a scored call, without waiting for the device that computed it."""
        self.read()
        self._waiting.append(call)

    def read(self) -> None:
        """Add up the calls taken in so far; call it when the device is idle anyway."""
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            scores = call.scores.tolist()
            strategies: dict[str, tuple[float, int]] = {}
            for name, score in zip(call.strategies or (), scores, strict=False):
                total, count = strategies.get(name, (0.0, 0))
                strategies[name] = (total + score, count + 1)
            mass = call.mass.double().sum(dim=0).cpu()
            self._sums.add(_Sums(len(scores), sum(scores), strategies, call.layers, mass))

    def clear(self) -> None:
        """Forget all calls taken in so far."""
        self._sums, self._waiting = _Sums(), []

    def collect(self) -> ResponseMeans | None:
        """Return the means over all processes since the last time, or None without a response.

        Every process of the default group has to ask.
        """
        self.read()
        sums = _over_processes(self._sums)
        self.clear()
        if not sums.n or sums.mass is None:
            return None
        return ResponseMeans(
            n=sums.n,
            sra=sums.total / sums.n,
            strategies={
                name: (total / count, count)
                for name, (total, count) in sorted(sums.strategies.items())
            },
            layers=sums.layers,
            mass=sums.mass / sums.n,
        )


def _over_processes(sums: _Sums) -> _Sums:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return sums
    gathered: list[_Sums | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, sums)
    together = _Sums()
    for part in gathered:
        if part is not None:
            together.add(part)
    return together

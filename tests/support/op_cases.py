"""List the inputs of the op that every backend's tests run over, in one grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sra_fast import SpanQuery


@dataclass(frozen=True)
class Case:
    """Describe one call of the op.

    If ``segments`` is None, every batch row is one whole sequence.
    """

    name: str
    batch: int = 1
    heads: int = 4
    kv_heads: int = 2
    queries: int = 37
    keys: int = 37
    width: int = 16
    value_width: int = 16
    segments: tuple[tuple[int, int, int], ...] | None = None
    rows: str = "some"  # or none, all
    spans: str = "random"  # or empty, after, overlapping, many
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    strides: str = "transposed"  # or contiguous, odd

    def __str__(self) -> str:
        return self.name

    def rule(self, dtype: torch.dtype, device: str = "cpu") -> dict[str, Any]:
        """Return the keyword arguments of the op."""
        generator = torch.Generator().manual_seed(5)
        sinks = torch.randn(self.heads, generator=generator, dtype=torch.float64)
        sinks = sinks.to(device, dtype)
        return {
            "scale": 0.4,
            "window": self.window,
            "softcap": self.softcap,
            "sinks": sinks if self.sinks else None,
        }

    def tensors(self, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v rounded to ``dtype``; logits have a standard deviation of about 3."""
        generator = torch.Generator().manual_seed(3)

        def made(heads: int, length: int, width: int) -> Tensor:
            shape = (self.batch, length, heads, width)
            x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) * 1.5
            x = x.to(device)
            x = x.transpose(1, 2)
            if self.strides == "contiguous":
                return x.contiguous()
            if self.strides == "odd":  # a last stride other than 1, and a slice of something larger
                wide = x.new_full((*x.shape[:3], 2 * width), torch.nan)
                wide[..., ::2] = x
                return wide[..., ::2]
            return x

        return (
            made(self.heads, self.queries, self.width),
            made(self.kv_heads, self.keys, self.width),
            made(self.kv_heads, self.keys, self.value_width),
        )

    def query(self) -> SpanQuery:
        """Return the labels, rows and segments of the case."""
        generator = torch.Generator().manual_seed(7)
        shape = (self.batch, self.keys)
        names = 3 if self.spans != "many" else 31
        labels = torch.randint(0, 2**names, shape, generator=generator)
        labels = torch.where(torch.rand(shape, generator=generator) < 0.3, labels, 0)
        if self.spans == "empty":
            labels.zero_()
        elif self.spans == "after":
            labels[:, : self.keys // 2] = 0
        elif self.spans == "overlapping":
            labels.fill_(0)
            labels[:, 3:9] |= 1
            labels[:, 6:12] |= 2
            labels[:, :] |= 4
        flat = torch.arange(self.batch * self.queries)
        rows = {"none": flat[:0], "some": flat[1::3], "all": flat}[self.rows]
        segments = self.segments
        if segments is None:
            segments = tuple((b, 0, self.keys) for b in range(self.batch))
        return SpanQuery(
            labels.to(torch.int32),
            rows,
            torch.tensor(segments, dtype=torch.int32).reshape(-1, 3),
            tuple(f"span{index}" for index in range(names)),
        )


_PACKED = ((0, 0, 10), (0, 10, 11), (0, 11, 37))
_PADDED = ((0, 5, 37), (1, 0, 30))

_PLAIN: tuple[Case, ...] = (
    Case("one sequence"),
    Case("as many key heads as query heads", kv_heads=4),
    Case("one key head", kv_heads=1),
    Case("values narrower than keys", width=24, value_width=16),
    Case("values wider than keys", width=16, value_width=24),
    Case("odd widths", width=20, value_width=12),
    Case("two whole rows", batch=2),
    Case("left and right padding", batch=2, segments=_PADDED),
    Case("packed", segments=_PACKED),
    Case("packed with gaps", segments=((0, 2, 10), (0, 20, 37))),
    Case("a row that is all padding", batch=2, segments=((0, 0, 37),)),
    Case("nothing visible at all", segments=()),
    Case("one query of many keys", queries=1),
    Case("fewer queries than keys", queries=5),
    Case("fewer queries, left padding", batch=2, queries=5, segments=((0, 0, 37), (1, 9, 37))),
    Case("fewer queries than a short segment", queries=20, segments=((0, 25, 37),)),
    Case("a segment that ends before the first query", queries=5, segments=((0, 0, 20),)),
    Case("packed, fewer queries than keys", queries=20, segments=((0, 0, 20), (0, 20, 37))),
    Case("one token", queries=1, keys=1),
    Case("longer than a block", queries=333, keys=333),
    Case("no row", rows="none"),
    Case("every row", rows="all", batch=2, segments=_PADDED),
    Case("an empty span", spans="empty"),
    Case("a span after the rows", spans="after", rows="all"),
    Case("overlapping spans", spans="overlapping"),
    Case("as many spans as there are bits", spans="many"),
    Case("contiguous inputs", strides="contiguous"),
    Case("last stride other than 1", strides="odd"),
)


def _variants() -> Iterator[Case]:
    for case in _PLAIN:
        yield case
    for base in ("one sequence", "left and right padding", "packed", "fewer queries than keys"):
        case = next(case for case in _PLAIN if case.name == base)
        for name, change in {
            "window": {"window": 7},
            "window of one": {"window": 1},
            "window longer than the sequence": {"window": 400},
            "softcap": {"softcap": 2.0},
            "sinks": {"sinks": True},
            "window, softcap and sinks": {"window": 7, "softcap": 2.0, "sinks": True},
        }.items():
            yield replace(case, name=f"{base}, {name}", **change)  # type: ignore[arg-type]
    yield Case("one query, sinks", queries=1, sinks=True)
    yield Case("long window", queries=333, keys=333, window=40)
    yield Case("window over several blocks", queries=1200, keys=1200, width=8, window=600)


CASES: tuple[Case, ...] = tuple(_variants())
EMPTY_CASES: tuple[Case, ...] = (
    Case("no query", queries=0, rows="none"),
    Case("no query and no key", queries=0, keys=0, rows="none"),
    Case("no batch", batch=0, rows="none"),
)

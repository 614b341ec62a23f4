"""Define the op's inputs and outputs as tensors with shapes, without anything of models.

Every backend uses these letters: ``B`` batch rows, ``M`` queries, ``N`` keys, ``Hq`` query heads,
``Hkv`` key/value heads, ``D`` key width, ``Dv`` value width, ``S`` sequences, ``R`` rows asked for,
``G`` spans.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from .derived_values import DerivedValues
from .transfers import send

MAX_SPANS = 31  # labels are the bits of an int32, and the sign bit is left alone

_Plan = TypeVar("_Plan")
_NUMBERS = ("numbers",)


@dataclass(frozen=True, eq=False)
class QueryNumbers:
    """The tensors of a query in the host's memory, where plans are made of them.

    Attributes:
        labels: ``[B, N]`` int32, as ``key_labels`` of the query.
        rows: ``[R]`` int64, contiguous.
        segments: ``(b, start, end)`` of each, ascending.
        parents: for each of these segments the place of its parent among them, or −1.
    """

    labels: Tensor
    rows: Tensor
    segments: tuple[tuple[int, int, int], ...]
    parents: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ProfileQuery:
    """A query for attention profiles: the mean attention of groups of rows on every key.

    Attributes:
        row_groups: ``[R]`` int32, the group of each row asked for, 0 to P − 1; −1 for none.
        groups: P, the number of groups. The profile of one without rows is 0.
        by_head: whether each head has profiles of its own; if not, they are means over heads.
    """

    row_groups: Tensor
    groups: int
    by_head: bool = True

    def __post_init__(self) -> None:
        _expect(self.row_groups, "row_groups", "[R]", 1, torch.int32)
        if self.groups < 0:
            raise ValueError(f"groups: expected a number of groups, got {self.groups}")


@dataclass(frozen=True, eq=False)
class SpanQuery:
    """A query for attention mass: of which query rows, and on which sets of keys.

    Queries are the last ``M`` key positions: query ``i`` stands at key position ``i + N − M``, and
    attends to the keys of its own segment at or before itself.

    Attributes:
        key_labels: ``[B, N]`` int32. Bit ``g`` set: the key is in span ``g``. Spans may overlap.
        rows: ``[R]`` int64, flat query positions ``b·M + i``, strictly ascending.
        segments: ``[S, 3]`` int32, ``(b, start, end)`` on the key axis, one per sequence, disjoint.
            Keys outside every segment (padding) are seen by no query.
        names: the names of the ``G`` spans, at most 31.
        profile: the profiles that are asked for beside the masses; None for none.
        parents: ``[S]`` int32, for each segment the index of its parent, or −1; None for no
            parents. A segment with a parent, its *tail*, goes on where the parent ends: its queries
            see the parent's keys too, all of them but for a window, as if they stood right before
            its own. So a beginning that several sequences share is there once. The parent lies
            before it in the same batch row and has no parent itself; there are as many queries as
            keys.
    """

    key_labels: Tensor
    rows: Tensor
    segments: Tensor
    names: tuple[str, ...]
    profile: ProfileQuery | None = None
    parents: Tensor | None = None
    _derived: DerivedValues = field(
        default_factory=DerivedValues, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        _expect(self.key_labels, "key_labels", "[B, N]", 2, torch.int32)
        _expect(self.rows, "rows", "[R]", 1, torch.int64)
        _expect(self.segments, "segments", "[S, 3]", 2, torch.int32)
        if self.segments.shape[1] != 3:
            raise ValueError(f"segments: expected shape [S, 3], got {list(self.segments.shape)}")
        names: object = self.names
        if isinstance(names, str):  # a sequence of str, too, but of its letters
            raise TypeError(f"names: expected a tuple of str, got the string {names!r}")
        if len(self.names) > MAX_SPANS:
            raise ValueError(f"at most {MAX_SPANS} spans fit one query, got {len(self.names)}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"span names must differ, got {self.names}")
        if self.profile is not None and len(self.profile.row_groups) != len(self.rows):
            raise ValueError(
                f"row_groups: expected one for each of the {len(self.rows)} rows, got "
                f"{len(self.profile.row_groups)}"
            )
        if self.parents is not None:
            _expect(self.parents, "parents", "[S]", 1, torch.int32)
            if len(self.parents) != len(self.segments):
                raise ValueError(
                    f"parents: expected one for each of the {len(self.segments)} segments, got "
                    f"{len(self.parents)}"
                )
        if not torch.compiler.is_compiling():
            self.forget_if_written()

    def to(self, device: torch.device) -> SpanQuery:
        """Return the same query on ``device``: itself if its tensors are there already."""
        if self.key_labels.device == device:
            return self

        def move() -> SpanQuery:
            moved = replace(
                self,
                key_labels=send(self.key_labels, device),
                rows=send(self.rows, device),
                segments=send(self.segments, device),
                profile=None
                if self.profile is None
                else replace(self.profile, row_groups=send(self.profile.row_groups, device)),
                parents=None if self.parents is None else send(self.parents, device),
            )
            on_host = self.key_labels.device.type == "cpu" and not torch.compiler.is_compiling()
            if on_host or _NUMBERS in self._derived:
                moved.derived(_NUMBERS, self.numbers)
            return moved

        return self.derived(("device", device), move)

    def numbers(self) -> QueryNumbers:
        """Return the query's tensors in the host's memory.

        Only a query that was made on a device is copied back, once, and that waits for the device.
        One that was made on the host and moved has never left it.
        """

        def read() -> QueryNumbers:
            given = [(b, start, end) for b, start, end in self.segments.tolist()]
            order = sorted(range(len(given)), key=given.__getitem__)
            parents = [-1] * len(given)
            if self.parents is not None:
                place = {index: at for at, index in enumerate(order)}
                of_each = self.parents.tolist()  # one out of range stays so, and is refused later
                parents = [place.get(of_each[index], of_each[index]) for index in order]
            return QueryNumbers(
                self.key_labels.cpu(),
                self.rows.cpu().contiguous(),
                tuple(given[index] for index in order),
                tuple(parents),
            )

        return self.derived(_NUMBERS, read)

    def last_keys(self, n: int) -> SpanQuery:
        """Return the query for a layer that holds only the last ``n`` of the keys it describes."""
        total = self.key_labels.shape[1]
        if n == total:
            return self
        if n > total:
            raise ValueError(
                f"the query describes {total} keys and the attention got {n}: the labels must "
                "cover the whole history, cached keys included"
            )
        if self.parents is not None:
            raise ValueError("parents: segments with a parent are not served with a cache")

        def cut() -> SpanQuery:
            shifted = self.segments.clone()
            shifted[:, 1:] = (shifted[:, 1:] - (total - n)).clamp(min=0)
            return replace(
                self,
                key_labels=self.key_labels[:, total - n :],
                segments=shifted[shifted[:, 2] > shifted[:, 1]],
            )

        return self.derived(("last_keys", n), cut)

    def cut_at(self, pieces: Sequence[tuple[int, int, int]]) -> SpanQuery:
        """Return the query with each segment cut where one of the pieces that cover it ends.

        Args:
            pieces: ``(b, start, end)`` on the key axis, ascending, as a mask with chunks has them.
                A segment that reaches beyond the first or the last of them stays so.

        Raises:
            ValueError: there are segments with a parent, which a chunk would cut elsewhere.
        """
        if self.parents is not None:
            raise ValueError("parents: segments with a parent are not served in chunks")

        def cut() -> SpanQuery:
            found = []
            for b, start, end in self.numbers().segments:
                inside = {last for row, _, last in pieces if row == b and start < last < end}
                found += [(b, *edge) for edge in itertools.pairwise([start, *sorted(inside), end])]
            return replace(self, segments=segment_tensor(found, self.segments.device))

        return self.derived(("cut_at", *pieces), cut)

    def packs(self) -> bool:
        """Return whether some batch row holds more than one segment."""
        rows = [b for b, _, _ in self.numbers().segments]
        return len(rows) > len(set(rows))

    def forget_if_written(self) -> None:
        """Forget all that was derived from the query if its tensors were written into since then.

        Tensors of inference mode do not count who writes into them, so that is not noticed there.
        """
        groups = () if self.profile is None else (self.profile.row_groups,)
        parents = () if self.parents is None else (self.parents,)
        self._derived.forget_if_written(
            self.key_labels, self.rows, self.segments, *groups, *parents
        )

    def derived(self, key: tuple[object, ...], make: Callable[[], _Plan]) -> _Plan:
        """Return what ``make`` returned when it was first asked for under ``key``.

        Every layer of a model asks the same things of one query, so each is computed only once.
        """
        if key in self._derived:  # asked many times a call, so without another function's call
            found: _Plan = self._derived[key]
            return found
        return self._derived.of(key, make)


@dataclass(frozen=True)
class SpanAttention:
    """The result of :func:`sra_fast.span_attention`.

    Attributes:
        out: ``[B, Hq, M, Dv]`` in v's dtype.
        mass: ``[R, Hq, G]`` float32 (float64 for float64 inputs), each in [0, 1].
        lse: ``[B, Hq, M]``, mass's dtype: natural logarithm of the sum of exponentials over the
            visible keys (and the sink). Never differentiable; ``−inf`` where no key is visible.
        profile: the profiles asked for, mass's dtype: ``[P, Hq, N]``, or ``[P, N]`` for means over
            heads; None if the query asks for none. Each sums to 1 less the sinks' share.
    """

    out: Tensor
    mass: Tensor
    lse: Tensor
    profile: Tensor | None = None


@dataclass(frozen=True)
class SpanMass:
    """The result of :func:`sra_fast.span_mass`: masses and logsumexps without an output.

    Attributes:
        mass: ``[R, Hq, G]`` float32 (float64 for float64 inputs), each in [0, 1].
        lse: ``[R, Hq]``, mass's dtype: the natural logsumexp of the rows asked for alone.
        profile: as that of :class:`SpanAttention`.
    """

    mass: Tensor
    lse: Tensor
    profile: Tensor | None = None


@dataclass(frozen=True)
class LogitRule:
    """The rule by which a product ``q·k`` becomes a logit, and which keys a query may see.

    Attributes:
        scale: the factor on ``q·k``.
        window: a query at position p sees the keys ``p − window + 1 … p``; with None it sees
            itself and all keys before it.
        softcap: logits become ``softcap · tanh(logit / softcap)``; with None they stay as they are.
        sinks: ``[Hq]``, one extra logit per head that takes mass and gives no value; None for a
            model without sinks.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


def segment_tensor(pieces: list[tuple[int, int, int]], device: torch.device) -> Tensor:
    """Return ``(b, start, end)`` triples as a query's ``[S, 3]`` int32 tensor, also if S = 0."""
    return send(torch.tensor(pieces, dtype=torch.int32).reshape(-1, 3), device)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of logits and masses: float32, or float64 for float64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _expect(tensor: Tensor, name: str, shape: str, ndim: int, dtype: torch.dtype) -> None:
    """Raise an error that names the tensor if its type, dimensions or dtype are not as expected."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor {shape} {dtype}, got {type(tensor).__name__}")
    if tensor.ndim != ndim or tensor.dtype != dtype:
        raise ValueError(
            f"{name}: expected {shape} {dtype}, got {list(tensor.shape)} {tensor.dtype}"
        )

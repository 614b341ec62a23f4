"""Choose a few tokens that mean nothing to a model, and ask for all attention on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sra_fast.kernels.contract import SpanQuery, segment_tensor
from sra_fast.measure.served import ServedModel


def plain_tokens(served: ServedModel) -> Tensor:
    """Return the token ids that the configuration gives no meaning, ``[n]`` int64, ascending.

    It is the one id 0 if the configuration gives all of them a meaning.

    Args:
        served: the model. Some configurations give a meaning to several tokens at once, such as
            ``eos_token_id = [1, 106]``.
    """
    number = len(served.decoder.get_input_embeddings().weight)
    special: set[int] = set()
    for name, value in vars(served.config).items():
        if name.endswith("_id"):
            ids = value if isinstance(value, (list, tuple)) else [value]
            special.update(one for one in ids if isinstance(one, int) and 0 <= one < number)
    # A bool per token: a list of all ids would take megabytes that Python does not give back.
    plain = torch.ones(number, dtype=torch.bool, device="cpu")
    plain[torch.tensor(sorted(special), dtype=torch.int64, device="cpu")] = False
    found = plain.nonzero().flatten()
    return found if len(found) else found.new_zeros(1)


def every_row_on_every_key(
    lengths: Sequence[int], places: Sequence[tuple[int, int]], shape: Sequence[int]
) -> SpanQuery:
    """Return the query for the mass of every row on every key of its own sequence.

    Span j is the j-th key of each sequence, so that no sequence may be longer than 31 tokens.

    Args:
        lengths: the number of tokens of each sequence.
        places: the ``(row, start)`` of each sequence in the batch, in their order.
        shape: ``[B, T]`` of the batch.
    """
    labels = torch.zeros(*shape, dtype=torch.int32)
    rows, segments = [], []
    for length, (b, start) in zip(lengths, places, strict=True):
        at = torch.arange(length)
        labels[b, start : start + length] = (1 << at).int()
        rows.append(b * shape[1] + start + at)
        segments.append((b, start, start + length))
    names = tuple(f"key {key}" for key in range(max(lengths)))
    return SpanQuery(labels, torch.cat(rows), segment_tensor(segments, labels.device), names)

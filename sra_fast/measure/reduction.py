"""Reduce the masses of one forward pass to the scores of each response.

All is computed where the masses are. The places of the responses' rows go there in one copy, and
what was found comes back in one, with a sum per layer that is finite only if its masses are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sra_fast.definitions import DEFINITIONS, DefinitionError, known_definitions, layer_scores
from sra_fast.measure.conversation_columns import of_rows
from sra_fast.measure.head_means import HeadMeans, head_means, layer_groups, sum_dtype
from sra_fast.measure.marked_query import Placed
from sra_fast.measure.one_copy import fetched, sent
from sra_fast.measure.request import SpanRequest
from sra_fast.measure.response_rows import AllRowMasses, ResponseRows
from sra_fast.measure.spans import BatchRowError, MarkedBatch, MarkedSequence
from sra_fast.result import SRAResult

# 1 − null is off by 2⁻²⁴ and more, so a smaller rest would be mostly rounding.
LEAST_REST = 2.0**-20


class UnansweredRequestError(RuntimeError):
    """Raised when a forward pass ended without the masses that were asked for."""


def reduce(
    request: SpanRequest,
    placed: Placed,
    batch: MarkedBatch,
    members: Sequence[int],
    layers: Sequence[int],
    definition: str,
    keep_rows: bool,
) -> SRAResult:
    """Reduce the masses of one forward pass to the results of its responses, in order.

    Args:
        request: the answered request; holds ``{layer: [R, H, G]}``.
        placed: where the responses' rows are among the R.
        batch: the batch that was read.
        members: indices of those of its sequences that the forward pass held.
        layers: the layers that had to answer; empty if that is not known.
        definition: the one that ``.sra`` of the result gives.
        keep_rows: whether the result keeps the masses of every row.

    Raises:
        UnansweredRequestError: a layer did not answer.
        BatchRowError: a mass is not finite, or a definition of the user's own fails on a response
            or gives an infinite score.
    """
    answered = answered_layers(request, layers)
    sequences = [batch.sequences[member] for member in members]
    responses = [response for sequence in sequences for response in sequence.responses]
    owners = [sequence.row for sequence in sequences for _ in sequence.responses]
    turns = [response.turn for response in responses]
    counts = _span_counts(sequences)
    with torch.no_grad():
        groups = layer_groups(request, answered)
        places = _on_devices(request, groups, placed, counts)
        parts, scores, masses, of_heads, sums = [], [], [], [], []
        for group, rows in zip(groups, places, strict=True):
            means = head_means(request, group)
            part = rows.masses(means.heads, means.rest)
            of_each = torch.stack([function(part) for function in DEFINITIONS.values()])
            parts.append(part)
            scores.append(of_each.float())  # [definitions, n, L, P]
            masses.append(rows.means(means.masses, rows.tokens).float())  # [n, L, H, G]
            of_heads.append(_by_head(means, rows).float())  # [n, L, H, P]
            sums.append(means.heads.sum(dim=(0, 2)).float())  # [L], finite if all masses are
            del means
        own = [name for name in known_definitions() if name not in DEFINITIONS]
        try:
            of_own = [_own_scores(name, parts, placed, owners, turns).float() for name in own]
        except BatchRowError:
            if not all(bool(each.isfinite().all()) for each in sums):
                _refuse_not_finite(request, answered, placed, owners)
            raise
        kept = _every_row(request, groups, placed.every) if keep_rows else None

    found = iter(fetched([*scores, *masses, *of_heads, *sums, *of_own]))
    scores, masses, of_heads, sums = ([next(found) for _ in groups] for _ in range(4))
    if not bool(torch.cat(sums).isfinite().all()):
        _refuse_not_finite(request, answered, placed, owners)
    by_layer = dict(zip([*DEFINITIONS, *own], [*torch.cat(scores, dim=2), *found], strict=True))
    _check_bounded(by_layer, owners, turns)
    return SRAResult(
        definition=definition,
        spans=batch.names,
        by_layer={name: each.transpose(1, 2).contiguous() for name, each in by_layer.items()},
        mass=torch.cat(masses, dim=1),
        names=request.query.names,
        layers=answered,
        conversation=torch.tensor([response.conversation for response in responses]),
        turn=torch.tensor(turns),
        as_written=_layouts([response.as_written for response in responses]),
        by_head=torch.cat(of_heads, dim=1),
        response_tokens=torch.tensor([len(response.tokens) for response in responses]),
        span_tokens=counts,
        row_masses=kept,
        row_counts=placed.row_counts if keep_rows else None,
        conversation_ids=of_rows(batch.conversation_ids, owners),
        meta=of_rows(batch.meta, owners),
    )


def _by_head(means: HeadMeans, rows: ResponseRows) -> Tensor:
    """Return each head's share of a span in what key 0 and the sinks leave, ``[n, L, H, P]``.

    It is the mean over the predicting rows that leave more than :data:`LEAST_REST`; NaN if none do.
    """
    rest = means.left[..., None]  # [R, L, H, 1]
    some = rest > LEAST_REST
    shares = torch.where(some, means.masses[..., 1:-1:2] / rest, 0.0)
    return rows.means(shares, rows.predicting) / rows.means(some.to(rest.dtype), rows.predicting)


def _layouts(as_written: Sequence[bool | None]) -> Tensor | None:
    known = [one for one in as_written if one is not None]
    return torch.tensor(known) if len(known) == len(as_written) else None


def answered_layers(request: SpanRequest, layers: Sequence[int]) -> tuple[int, ...]:
    """Return the ``layer_idx`` of the layers that answered a request, ascending.

    Raises:
        UnansweredRequestError: one of ``layers`` did not answer, or no layer at all.
    """
    answered = tuple(sorted(request.masses))
    missing = sorted(set(layers) - set(answered))
    if missing or not answered:
        raise UnansweredRequestError(
            f"no mass came back from layers {missing or 'at all'}: the model takes the attention "
            "interface but does not pass its keyword arguments on to every attention layer"
        )
    return answered


def response_scores(
    request: SpanRequest,
    placed: Placed,
    batch: MarkedBatch,
    layers: Sequence[int],
    definition: str,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """Compute the score of each response of a forward pass, differentiable in the masses.

    The scores stay on the masses' device. Nothing waits for it, so a NaN is not looked for here.

    Args:
        request: the answered request; holds ``{layer: [R, H, G]}``.
        placed: where the responses' rows are among the R.
        batch: the batch that was read, all of whose sequences the forward pass held.
        layers: the layers to average over.
        definition: the definition of SRA; under ``reference`` and ``table1`` the sinks' share
            carries no gradient.
        heads: the heads to average over; all if None.

    Returns:
        ``[n]`` float64 (float32 on a device without it), the score of each response on the first
        span.

    Raises:
        BatchRowError: a definition of the user's own fails on a response.
    """
    groups = layer_groups(request, layers)
    places = _on_devices(request, groups, placed, _span_counts(batch.sequences))
    parts = []
    for group, rows in zip(groups, places, strict=True):
        chosen = None
        if heads is not None:
            (chosen,) = sent([torch.tensor(list(heads))], rows.tokens.device)
        means = head_means(request, group, chosen)
        parts.append(rows.masses(means.heads, means.rest))
    if definition in DEFINITIONS:
        device = parts[0].tokens.device
        found = [DEFINITIONS[definition](part)[..., 0].to(device) for part in parts]
        return torch.cat(found, dim=1).mean(dim=1)
    owners = [sequence.row for sequence in batch.sequences for _ in sequence.responses]
    turns = [response.turn for sequence in batch.sequences for response in sequence.responses]
    return _own_scores(definition, parts, placed, owners, turns)[..., 0].mean(dim=1)


def response_masses(request: SpanRequest, placed: Placed, layers: Sequence[int]) -> Tensor:
    """Return the mean mass on the first span over each response's own rows, ``[n, L, H]`` float32.

    It stays on the masses' device and carries no gradient.
    """
    groups = layer_groups(request, layers)
    no_spans = torch.zeros(len(placed.counts), 0, dtype=torch.int64)
    found = []
    for group, rows in zip(groups, _on_devices(request, groups, placed, no_spans), strict=True):
        masses = torch.stack([request.masses[layer].detach()[..., 0] for layer in group], dim=1)
        found.append(rows.means(masses.to(sum_dtype(masses.device)), rows.tokens).float())
    return torch.cat([each.to(found[0].device) for each in found], dim=1)


def _span_counts(sequences: Sequence[MarkedSequence]) -> Tensor:
    """Return the number of tokens of each response's spans, ``[n, P]`` int64."""
    counts = torch.stack([sequence.spans.sum(dim=1) for sequence in sequences])
    replies = torch.tensor([len(sequence.responses) for sequence in sequences])
    return counts.repeat_interleave(replies, dim=0)


def _on_devices(
    request: SpanRequest, groups: Sequence[tuple[int, ...]], placed: Placed, counts: Tensor
) -> list[ResponseRows]:
    """Return the places of the responses' rows on the device of each group of layers."""
    devices = [request.masses[group[0]].device for group in groups]
    sent_to = {device: ResponseRows.on(device, placed, counts) for device in set(devices)}
    return [sent_to[device] for device in devices]


def _own_scores(
    name: str,
    parts: Sequence[AllRowMasses],
    placed: Placed,
    owners: Sequence[int],
    turns: Sequence[int],
) -> Tensor:
    """Return the scores of all responses under a user's definition, ``[n, L, P]``.

    It is called once per response, with all layers on the device of the first ones. An error names
    the response's row and turn.
    """
    each = parts[0].with_layers_of(parts[1:]).of_each(placed.counts.tolist())
    found = []
    for rows, owner, turn in zip(each, owners, turns, strict=True):
        try:
            found.append(layer_scores(name, rows))
        except DefinitionError as error:
            raise BatchRowError(owner, f"at turn {turn}, {error}") from error
    return torch.stack(found)


def _every_row(request: SpanRequest, groups: Sequence[tuple[int, ...]], every: Tensor) -> Tensor:
    """Return the masses of the rows at ``every [E]`` in the host's memory, ``[E, L, H, G]``."""
    found = []
    for group in groups:
        masses = torch.stack([request.masses[layer].detach() for layer in group], dim=1)
        found.append(masses.index_select(0, *sent([every], masses.device)).float())
    return torch.cat(fetched(found), dim=1)


def _check_bounded(
    by_layer: dict[str, Tensor], owners: Sequence[int], turns: Sequence[int]
) -> None:
    """Refuse an infinite score: that of the first response, under the first definition."""
    infinite = {name: each.isinf().flatten(1).any(dim=1) for name, each in by_layer.items()}
    for index, (owner, turn) in enumerate(zip(owners, turns, strict=True)):
        for name, found in infinite.items():
            if found[index]:
                problem = (
                    f"definition {name!r} gives an infinite score; NaN says that there is none"
                )
                raise BatchRowError(owner, f"at turn {turn}, {problem}")


def _refuse_not_finite(
    request: SpanRequest, layers: Sequence[int], placed: Placed, owners: Sequence[int]
) -> None:
    """Name the first response and the first layer of it whose masses are not finite."""
    finite = []  # of each layer, [R]
    for layer in layers:
        masses = request.masses[layer].detach()
        heads = masses.to(sum_dtype(masses.device)).mean(dim=1)
        finite.append(heads.isfinite().all(dim=1).cpu())
    rows = torch.stack(finite).index_select(1, placed.every)
    for owner, each in zip(owners, rows.split(placed.row_counts.tolist(), dim=1), strict=True):
        if not bool(each.all()):
            layer = layers[int((~each.all(dim=1)).nonzero()[0])]
            raise BatchRowError(
                owner,
                f"the attention mass of layer {layer} is not finite; the hidden states hold NaN or "
                "infinity (a broken checkpoint, or float16 overflow: try bfloat16)",
            )

"""Reduce the masses of one forward pass to the scores of each response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sra_fast.definitions import DefinitionError, RowMasses, known_definitions, layer_scores
from sra_fast.measure.request import SpanRequest
from sra_fast.measure.spans import BatchRowError, MarkedBatch, Placed
from sra_fast.result import SRAResult


class UnansweredRequestError(RuntimeError):
    """Raised when a forward pass ended without the masses that were asked for."""


def reduce(
    request: SpanRequest,
    placed: Sequence[Placed],
    batch: MarkedBatch,
    members: Sequence[int],
    layers: Sequence[int],
    definition: str,
    keep_rows: bool,
) -> SRAResult:
    """Reduce the masses of one forward pass to the results of its responses, in order.

    Args:
        request: the answered request; holds ``{layer: [R, H, G]}``.
        placed: where each response's rows are among the R.
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
    # Layer by layer, because those of a model spread over devices lie on several.
    masses = torch.stack([request.masses[layer].detach().float().cpu() for layer in answered])
    sequences = [batch.sequences[member] for member in members]
    owners = [sequence for sequence in sequences for _ in sequence.responses]
    responses = [response for sequence in sequences for response in sequence.responses]
    _check_finite(masses, answered, placed, [owner.row for owner in owners])

    counts = torch.stack([sequence.spans.sum(dim=1) for sequence in owners])  # [n, P]
    by_layer: dict[str, list[Tensor]] = {name: [] for name in known_definitions()}
    each = _row_masses(masses, _sinks(request, answered), placed, counts)
    for rows, owner, response in zip(each, owners, responses, strict=True):
        for name, values in by_layer.items():
            scores = _layer_scores(name, rows, owner.row, response.turn).float()
            if bool(scores.isinf().any()):
                problem = (
                    f"definition {name!r} gives an infinite score; NaN says that there is none"
                )
                raise BatchRowError(owner.row, f"at turn {response.turn}, {problem}")
            values.append(scores.transpose(0, 1))
    return SRAResult(
        definition=definition,
        spans=batch.names,
        by_layer={name: torch.stack(values) for name, values in by_layer.items()},
        mass=torch.stack([masses[:, place.tokens].mean(dim=1) for place in placed]),
        names=request.query.names,
        layers=answered,
        conversation=torch.tensor([response.conversation for response in responses]),
        turn=torch.tensor([response.turn for response in responses]),
        as_written=_layouts([response.as_written for response in responses]),
        response_tokens=torch.tensor([len(response.tokens) for response in responses]),
        span_tokens=counts,
        row_masses=_every_row(masses, placed) if keep_rows else None,
        row_counts=torch.tensor([len(place.every) for place in placed]) if keep_rows else None,
    )


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
    placed: Sequence[Placed],
    batch: MarkedBatch,
    layers: Sequence[int],
    definition: str,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """Compute the score of each response of a forward pass, differentiable in the masses.

    The scores stay on the masses' device. Nothing waits for it, so a NaN is not looked for here.

    Args:
        request: the answered request; holds ``{layer: [R, H, G]}``.
        placed: where each response's rows are among the R.
        batch: the batch that was read, all of whose sequences the forward pass held.
        layers: the layers to average over.
        definition: the definition of SRA; under ``reference`` and ``table1`` the sinks' share
            carries no gradient.
        heads: the heads to average over; all if None.

    Returns:
        ``[n]`` float64, the score of each response on the first span.

    Raises:
        BatchRowError: a definition of the user's own fails on a response.
    """
    device = request.masses[layers[0]].device
    masses = torch.stack([request.masses[layer].to(device) for layer in layers])
    if heads is not None:
        masses = masses[:, :, list(heads)]
    owners = [sequence for sequence in batch.sequences for _ in sequence.responses]
    counts = torch.stack([sequence.spans.sum(dim=1) for sequence in owners])
    each = _row_masses(masses, _sinks(request, layers, heads), placed, counts)
    turns = [response.turn for sequence in batch.sequences for response in sequence.responses]
    return torch.stack(
        [
            _layer_scores(definition, rows, owner.row, turn)[:, 0].mean()
            for rows, owner, turn in zip(each, owners, turns, strict=True)
        ]
    )


def response_masses(
    request: SpanRequest, placed: Sequence[Placed], layers: Sequence[int]
) -> Tensor:
    """Return the mean mass on the first span over each response's own rows, ``[n, L, H]``.

    It carries no gradient.
    """
    device = request.masses[layers[0]].device
    masses = torch.stack([request.masses[layer].detach()[..., 0].to(device) for layer in layers])
    return torch.stack([masses[:, _on(place.tokens, device)].mean(dim=1) for place in placed])


def _layer_scores(name: str, rows: RowMasses, row: int, turn: int) -> Tensor:
    """Return the scores of one response, ``[L, P]``, and name its row and turn in an error."""
    try:
        return layer_scores(name, rows)
    except DefinitionError as error:
        raise BatchRowError(row, f"at turn {turn}, {error}") from error


def _row_masses(
    masses: Tensor, sinks: Tensor, placed: Sequence[Placed], counts: Tensor
) -> Iterator[RowMasses]:
    """Yield the head means of each response's masses.

    Args:
        masses: ``[L, R, H, G]``.
        sinks: ``[L, R]``, the sinks' share of each row.
        placed: where each response's rows are among the R.
        counts: ``[n, P]``, tokens of each response's spans.
    """
    device = masses.device
    heads = masses.double().mean(dim=2)  # [L, R, G]
    rest = 1.0 - heads[..., -1:] - sinks.to(device)[..., None]
    for place, count in zip(placed, counts, strict=True):
        tokens, predicting = _on(place.tokens, device), _on(place.predicting, device)
        yield RowMasses(
            tokens=heads[:, tokens, 0:-1:2],
            head=heads[:, predicting, 1:-1:2],
            rest=rest[:, predicting],
            counts=_on(count, device),
        )


def _sinks(
    request: SpanRequest, layers: Sequence[int], heads: Sequence[int] | None = None
) -> Tensor:
    """Return the sinks' mean share of each row over heads, ``[L, R]`` float64; 0 without sinks."""
    first = request.masses[layers[0]]
    sinks = torch.zeros(len(layers), len(first), dtype=torch.float64, device=first.device)
    for index, layer in enumerate(layers):
        if layer in request.sink_masses:
            taken = request.sink_masses[layer].detach()
            chosen = taken if heads is None else taken[:, list(heads)]
            sinks[index] = chosen.double().mean(dim=1)
    return sinks


def _on(index: Tensor, device: torch.device) -> Tensor:
    return index.to(device, non_blocking=True)


def _every_row(masses: Tensor, placed: Sequence[Placed]) -> Tensor:
    return torch.cat([masses[:, place.every] for place in placed], dim=1).transpose(0, 1)


def _check_finite(
    masses: Tensor, layers: Sequence[int], placed: Sequence[Placed], rows: Sequence[int]
) -> None:
    if bool(masses.isfinite().all()):
        return
    for place, row in zip(placed, rows, strict=True):
        bad = ~masses[:, place.every].isfinite().flatten(1).all(dim=1)
        if bool(bad.any()):
            layer = layers[int(bad.nonzero()[0])]
            raise BatchRowError(
                row,
                f"the attention mass of layer {layer} is not finite; the hidden states hold NaN or "
                "infinity (a broken checkpoint, or float16 overflow: try bfloat16)",
            )

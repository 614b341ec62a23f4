"""Score sequences that are laid out in groups, layer by layer over all groups of a pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sra_fast.measure.batch_keys import BatchContent
from sra_fast.measure.layerwise.kept_layers import KeptLayers
from sra_fast.measure.layerwise.layer_doors import LayerDoors, decoder_layers, layer_doors
from sra_fast.measure.layerwise.layer_loop import LayerStates, run_layers
from sra_fast.measure.layerwise.layer_weights import LayerWeights, bound_weights
from sra_fast.measure.layerwise.layerwise_options import Layerwise
from sra_fast.measure.packing import Forward
from sra_fast.measure.scored_forward import (
    LaidOutForward,
    WantedScores,
    lay_out,
    results_of,
    run_decoder,
)
from sra_fast.measure.served import ServedModel
from sra_fast.measure.unserved import UnservedModelError
from sra_fast.result import SRAResult
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.filled_groups import filled_groups


class LayerwiseScorer:
    """A scorer of sequences with a decoder whose weights come layer by layer.

    Args:
        options: how it runs.
        doors: the doors of the decoder's layers.
        decoder: what tells the decoder from others.
    """

    def __init__(self, options: Layerwise, doors: LayerDoors, decoder: str) -> None:
        self._options, self._doors, self._decoder = options, doors, decoder

    @property
    def call_tokens(self) -> int:
        """The most tokens of one group."""
        return self._options.call_tokens

    def run(
        self,
        served: ServedModel,
        content: BatchContent,
        plan: Sequence[Forward],
        wanted: WantedScores,
        pass_tokens: int,
    ) -> list[SRAResult]:
        """Run the groups of a plan, and return their results in order.

        Args:
            served: the model.
            content: the batch.
            plan: the groups of sequences.
            wanted: what is asked of them.
            pass_tokens: the most tokens of a pass (or one group, if that is larger), whose hidden
                states are held at a time; all weights are read once in each pass.
        """
        lengths = [sequence.length for sequence in content.marked.sequences]
        results, kept = [], []
        for number, members in enumerate(_passes(plan, lengths, pass_tokens)):
            laid = [lay_out(served, content, forward, wanted) for forward in members]
            kept.append(self._kept(number, laid, wanted))
            self._run_pass(served, laid, kept[-1])
            results += [results_of(served, content, one, wanted) for one in laid]
        for one in kept:
            if one is not None:
                one.remove()
        return results

    def _run_pass(
        self, served: ServedModel, laid: Sequence[LaidOutForward], kept: KeptLayers | None
    ) -> None:
        requests = [one.request for one in laid]
        device = served.decoder.get_input_embeddings().weight.device
        states = (kept.find(requests, device) if kept is not None else None) or LayerStates()
        # The last attention layer ends its pass, and is the last that runs.
        last = max(served.attention_layers, default=None)
        layers = len(decoder_layers(served.decoder)) if last is None else last + 1
        for done in range(1, states.done + 1):
            self._options.on_layer(done, max(layers, done))

        def after_layer() -> None:
            self._options.on_layer(states.done, max(layers, states.done))
            if kept is not None:
                kept.keep(states, requests)

        calls = [partial(run_decoder, served, one.inputs, one.request) for one in laid]
        run_layers(served.name, self._doors, calls, states, after_layer)
        if states.done < layers:
            self._options.on_layer(layers, layers)

    def _kept(
        self, number: int, laid: Sequence[LaidOutForward], wanted: WantedScores
    ) -> KeptLayers | None:
        if self._options.keep is None:
            return None
        made_of = {
            "decoder": self._decoder,
            "asked": [_digest(one) for one in laid],
            "backend": wanted.backend,
            "profile": wanted.profile,
        }
        path = Path(self._options.keep) / f"pass{number:05d}.safetensors"
        return KeptLayers(path, made_of, self._options.keep_seconds)


@contextmanager
def layerwise_scorer(
    served: ServedModel, layerwise: bool | Layerwise
) -> Iterator[LayerwiseScorer | None]:
    """Let a model run layer by layer inside the block, if that is asked for.

    Yields:
        What scores it so, or None if it is not asked for.

    Raises:
        TypeError: ``layerwise`` is neither a bool nor a :class:`Layerwise`.
        ArgumentError: the model's weights are in files and it is not asked for, or the other way
            round.
        UnservedModelError: it is asked for, and the decoder has no layers of transformers' kind.
    """
    if not isinstance(layerwise, (bool, Layerwise)):
        raise TypeError(
            f"layerwise: expected True, False or a Layerwise, got {type(layerwise).__name__}"
        )
    weights = bound_weights(served.decoder)
    options = Layerwise() if layerwise is True else layerwise or None
    if (options is None) != (weights is None):
        raise ArgumentError(
            f"{served.name} holds its weights itself; open its folder with "
            "sra_fast.layerwise_model to score it layer by layer"
            if weights is None
            else f"the weights of {served.name} are in files; score it with layerwise=True, or "
            "load it with from_pretrained",
            "layerwise",
        )
    if options is None or weights is None:
        yield None
        return
    with layer_doors(served.name, served.decoder, weights) as doors:
        yield LayerwiseScorer(options, doors, _identity(served, weights))


def _identity(served: ServedModel, weights: LayerWeights) -> str:
    """Return what tells a decoder from others: its weights, their format, and its configuration."""
    formats = sorted({str(parameter.dtype) for parameter in served.decoder.parameters()})
    return f"{weights.identity()} {formats} {served.config.to_json_string(use_diff=False)}"


def refuse_whole(served: ServedModel) -> None:
    """Refuse a batch that has to run through the whole model.

    Raises:
        UnservedModelError: always.
    """
    raise UnservedModelError(
        f"{served.name} cannot run layer by layer here: the batch has more than token ids in rows "
        "of positions 0, 1, 2, … (images, embeddings or positions of its own), or something above "
        "the decoder changes what it is given, so the whole model has to run; load it with "
        "from_pretrained"
    )


def _passes(plan: Sequence[Forward], lengths: Sequence[int], tokens: int) -> list[list[Forward]]:
    """Cut a plan, in order, into passes of at most so many tokens, or of one group."""

    def size(forward: Forward) -> int:
        return sum(lengths[member] for member in forward.members)

    return filled_groups(plan, size, tokens)


def _digest(laid: LaidOutForward) -> str:
    """Return a SHA-256 of a group's tokens and of what is asked of it."""
    query = laid.request.query
    tensors: list[Any] = [*laid.inputs.values(), query.key_labels, query.rows, query.segments]
    if query.profile is not None:
        tensors.append(query.profile.row_groups)
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

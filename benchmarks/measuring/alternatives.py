"""Define four ways to a model's SRA, or to none, each as a function of the model and the batch.

Each returns the SRA of the one response under every definition, per layer, so that one can be
checked against another; (c) returns hidden states instead, which are checked against eager's. All
run the decoder alone, without logits and KV cache, which favours (a) and (b) over what a user would
write first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring.cases import ModelCase
from sra_fast.definitions import DEFINITIONS
from sra_fast.measure.compat import attn_implementation
from sra_fast.scoring import score as sra_score  # so early that no call pays for the import


@dataclass(frozen=True)
class AlternativeAnswer:
    """The results of an alternative, as far as they can be compared.

    Attributes:
        scores: ``[4, L]`` float64, the definitions (in the library's order) per layer, or None.
        hidden: ``[R, hidden]`` float32, the response's last hidden states, or None.
    """

    scores: Tensor | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True)
class Alternative:
    """One of the ways to compute SRA in :data:`ALTERNATIVES`.

    Attributes:
        key: the letter that stands for it.
        label: its name in tables and plots.
        run: the call that is measured.
        map_bytes: returns the least memory that its attention maps take, in bytes; 0 without maps.
    """

    key: str
    label: str
    run: Callable[[nn.Module, Mapping[str, Any]], AlternativeAnswer]
    map_bytes: Callable[[ModelCase], int]


def whole_maps(model: Any, batch: Mapping[str, Any]) -> AlternativeAnswer:
    """Return the answer of (a): transformers gives all maps at once, then they are reduced."""
    with attending(model, "eager"):
        output = model.model(batch["input_ids"], use_cache=False, output_attentions=True)
    scores = torch.stack([reduce_map(weights, batch) for weights in output.attentions], dim=1)
    return AlternativeAnswer(scores, _response_states(output.last_hidden_state, batch))


def hooked_maps(model: Any, batch: Mapping[str, Any]) -> AlternativeAnswer:
    """Return the answer of (b): a forward hook reduces each layer's map at once and drops it."""
    scores: list[Tensor] = []

    def reduce_now(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        scores.append(reduce_map(output[1], batch))

    hooks = [layer.self_attn.register_forward_hook(reduce_now) for layer in model.model.layers]
    try:
        with attending(model, "eager"):
            output = model.model(batch["input_ids"], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return AlternativeAnswer(
        torch.stack(scores, dim=1), _response_states(output.last_hidden_state, batch)
    )


def plain_forward(model: Any, batch: Mapping[str, Any]) -> AlternativeAnswer:
    """Return the answer of (c): the plain forward pass by SDPA, without SRA, which is the floor."""
    with attending(model, "sdpa"):
        output = model.model(batch["input_ids"], use_cache=False)
    return AlternativeAnswer(hidden=_response_states(output.last_hidden_state, batch))


def score(model: Any, batch: Mapping[str, Any]) -> AlternativeAnswer:
    """Return the answer of (d), which is this library's score."""
    result = sra_score(model, batch)
    return AlternativeAnswer(
        torch.stack([result.by_layer[name][0, 0].double() for name in DEFINITIONS])
    )


def reduce_map(weights: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Compute the four definitions from one layer's map ``[1, H, T, T]`` by hand, ``[4]`` float64.

    This is written from arXiv 2402.10453 and its authors' rules, apart from the library's own code.
    """
    span = batch["strategy_mask"][0].nonzero().flatten()
    rows = batch["response_mask"][0].nonzero().flatten()
    on_span = weights[0, :, rows][:, :, span].double().mean(dim=0)  # head means, [R, span]
    mass = on_span.sum(dim=1).mean()
    predicting = weights[0, :, rows - 1].double().mean(dim=0)  # [R, T]
    predicting[:, 0] = 0.0
    predicting = predicting / predicting.sum(dim=1, keepdim=True)
    by_row = predicting[:, span[:-1]].mean(dim=1)
    return torch.stack([mass / len(span), mass, by_row.mean(), by_row[0]])


@contextmanager
def attending(model: Any, implementation: str) -> Iterator[None]:
    """Let the model attend by ``implementation`` inside ``with``, without gradients."""
    before = attn_implementation(model.config)
    model.set_attn_implementation(implementation)
    try:
        with torch.no_grad():
            yield
    finally:
        model.set_attn_implementation(before)


def one_map_bytes(case: ModelCase) -> int:
    """Return the bytes that an eager layer holds at once.

    These are logits and weights (in float32 too, for the softmax of a narrower dtype), and the mask
    ``[T, T]``.
    """
    entry = 8 if case.dtype == "float32" else 12
    return case.tokens**2 * (case.shape.heads * entry + 8)


def all_maps_bytes(case: ModelCase) -> int:
    """Return the bytes of every layer's map, ``L·H·T²`` numbers, and of one layer at work."""
    width = 4 if case.dtype == "float32" else 2
    kept = case.shape.layers * case.shape.heads * case.tokens**2 * width
    return kept + one_map_bytes(case)


def no_map_bytes(case: ModelCase) -> int:
    """Return 0, for an alternative whose memory has no part that grows with ``T²``."""
    return 0


def _response_states(hidden: Tensor, batch: Mapping[str, Any]) -> Tensor:
    return hidden[0, batch["response_mask"][0]].float()


ALTERNATIVES = {
    alternative.key: alternative
    for alternative in (
        Alternative("a", "eager, output_attentions=True", whole_maps, all_maps_bytes),
        Alternative("b", "eager, a hook per layer", hooked_maps, one_map_bytes),
        Alternative("c", "SDPA forward, no SRA", plain_forward, no_map_bytes),
        Alternative("d", "sra_fast.score", score, no_map_bytes),
    )
}

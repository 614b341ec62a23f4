"""Test what a measured forward pass of Llama-3-8B's shape asks of a GPU, at 131,072 tokens.

The GPU is pretended: its tensors are of the meta device, so that every call is seen and none is
run. Attention and mass are stand-ins, one operator each, in the form of the real ones; beside them
runs what the library itself does in each layer and in each call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaModel

import sra_fast
from marked_batches import marked_batch
from model_families import FAMILIES, Family
from pretended_device import Counts, PretendedDevices, pretend
from sra_fast import backends
from sra_fast.kernels.contract import LogitRule, SpanAttention, SpanMass, SpanQuery
from sra_fast.kernels.triton_kernels.layout import layout
from sra_fast.measure import attention
from sra_fast.measure.laying_out import laid_out
from sra_fast.measure.marked_query import build_query
from sra_fast.measure.reduction import reduce
from sra_fast.measure.request import REQUEST, ForwardStopped, SpanRequest
from sra_fast.measure.spans import read_batch

TOKENS, LAYERS = 131_072, 32
ATTENTION = "standing_in.attention.default"

# What one call may cost beside its layers. The layout of a query is made by some fifty small
# launches in the first layer that needs it; the reduction takes some fifty, for any number of
# replies and layers.
LAYOUT_LAUNCHES, REDUCTION_LAUNCHES = 70, 60
UPLOADS = 3 + 1  # labels, rows and segments of the query; the places of the responses' rows


@torch.library.custom_op("standing_in::attention", mutates_args=())
def standing_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


@standing_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, m, _ = q.shape
    out = v.new_empty(batch, m, heads, v.shape[3]).transpose(1, 2)  # as the models want it next
    return out, q.new_empty(batch, heads, m, dtype=torch.float32)


@torch.library.custom_op("standing_in::mass", mutates_args=())
def standing_mass(
    q: Tensor, k: Tensor, lse: Tensor, layout: list[Tensor], rows: Tensor, spans: int
) -> Tensor:
    raise NotImplementedError


@standing_mass.register_fake
def _(q: Tensor, k: Tensor, lse: Tensor, layout: list[Tensor], rows: Tensor, spans: int) -> Tensor:
    return lse.new_empty(len(rows), q.shape[1], spans)


@torch.library.custom_op("standing_in::mass_only", mutates_args=())
def standing_mass_only(
    q: Tensor, k: Tensor, layout: list[Tensor], rows: Tensor, spans: int
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


@standing_mass_only.register_fake
def _(
    q: Tensor, k: Tensor, layout: list[Tensor], rows: Tensor, spans: int
) -> tuple[Tensor, Tensor]:
    mass = q.new_empty(len(rows), q.shape[1], spans, dtype=torch.float32)
    return mass, mass[..., 0].clone()


class StandIn:
    """A backend of two operators, which take a query in the layout of the Triton kernels."""

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, rule: LogitRule, mass_grad: bool
    ) -> SpanAttention:
        made = layout(query, q.shape[0], q.shape[2], k.shape[2], rule.window)
        out, lse = standing_attention(q, k, v)
        tables = list(vars(made).values())
        mass = standing_mass(q, k, lse, tables, made.rows, len(query.names))
        return SpanAttention(out, mass, lse)

    def mass_only(self, q: Tensor, k: Tensor, query: SpanQuery, rule: LogitRule) -> SpanMass:
        made = layout(query, q.shape[0], q.shape[2], k.shape[2], rule.window)
        tables = list(vars(made).values())
        return SpanMass(*standing_mass_only(q, k, tables, made.rows, len(query.names)))


@dataclass(frozen=True)
class CountedCall:
    """Counts of one call's requests to the device: per attention layer, for the mask, to reduce."""

    layers: list[Counts]
    masks: list[Counts]
    reduction: Counts


@pytest.fixture(scope="module")
def devices() -> Iterator[PretendedDevices]:
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        yield PretendedDevices("meta")


@pytest.fixture(scope="module")
def llama(devices: PretendedDevices) -> LlamaModel:
    """Return a decoder of Llama-3-8B's shape that takes no memory."""
    with torch.device("meta"):
        config = LlamaConfig(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=LAYERS,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=128256,
            max_position_embeddings=TOKENS,
            rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            attn_implementation=attention.NAME,
        )
        model = LlamaModel(config).to(torch.bfloat16).eval()
    with devices:
        return devices.send_model(model)  # type: ignore[return-value]


def counted_call(
    replies: int, devices: PretendedDevices, llama: LlamaModel, keep_rows: bool = False
) -> CountedCall:
    """Measure one conversation of :data:`TOKENS` tokens as ``score`` does, and count."""
    layers: list[Counts] = []
    masks: list[Counts] = []

    def counting(function: Any, into: list[Counts]) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            with devices.counting() as counts:
                into.append(counts)
                return function(*args, **kwargs)

        return counted

    strategy, responses = torch.zeros(1, TOKENS).bool(), torch.zeros(1, TOKENS).int()
    strategy[0, 100:140] = True
    for number in range(replies):
        first = 2000 + number * (TOKENS - 2000) // replies
        responses[0, first : first + 300] = number + 1
    marked = read_batch({"strategy_mask": strategy, "response_mask": responses})
    inputs, places = laid_out([torch.zeros(TOKENS, dtype=torch.int64)], packed=True)
    query, placed = build_query(marked, [0], places, inputs["input_ids"].shape)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), devices:
        patch.setitem(backends._OWN._things, "standing_in", StandIn())
        for interface, function, into in (
            (AttentionInterface, attention.attention, layers),
            (AttentionMaskInterface, attention.attention_mask, masks),
        ):
            counted = counting(function, into)
            patch.setitem(interface._global_mapping, attention.NAME, counted)
        request = SpanRequest(
            query, stop_after=LAYERS - 1, mass_grad=False, in_outputs=False, backend="standing_in"
        )
        inputs = {name: each.to("cuda:0") for name, each in inputs.items()}
        with contextlib.suppress(ForwardStopped):
            llama(**inputs, use_cache=False, **{REQUEST: request})
        with devices.counting() as reduction:
            reduce(request, placed, marked, [0], range(LAYERS), "paper", keep_rows)
    return CountedCall(layers, masks, reduction)


@pytest.fixture(scope="module", params=[1, 64])
def call(
    request: pytest.FixtureRequest, devices: PretendedDevices, llama: LlamaModel
) -> CountedCall:
    return counted_call(request.param, devices, llama)


def test_a_layer_launches_at_most_three_things_beside_its_attention(call: CountedCall) -> None:
    assert len(call.layers) == LAYERS
    for counts in call.layers[1:]:
        beside = {name: n for name, n in counts.launches.items() if name != ATTENTION}
        assert sum(beside.values()) <= 3, beside
    assert all(counts.launches[ATTENTION] == 1 for counts in call.layers[:-1])
    assert not call.layers[-1].launches[ATTENTION]  # the forward ends with its mass


def test_no_layer_waits_for_the_device_or_copies_to_the_host(call: CountedCall) -> None:
    for counts in [*call.layers, *call.masks]:
        assert not counts.waits
        assert counts.download_bytes == 0


def test_a_query_goes_to_the_device_once_per_call(call: CountedCall) -> None:
    first, *others = call.layers
    assert first.launches.total() <= LAYOUT_LAUNCHES
    assert first.uploads + call.reduction.uploads == UPLOADS
    assert all(counts.uploads == 0 for counts in others)


def test_the_reduction_waits_once_and_copies_what_the_result_holds(call: CountedCall) -> None:
    counts = call.reduction
    assert dict(counts.waits) == {"copy to the host": 1}
    assert counts.launches.total() <= REDUCTION_LAUNCHES
    replies = 1 if counts.download_bytes < 100_000 else 64
    masses, scores = LAYERS * 32 * 3, 4 * LAYERS
    shares = LAYERS * 32  # of each head, on the one span
    assert counts.download_bytes == 4 * (replies * (masses + shares + scores) + LAYERS)


def test_rows_that_are_kept_take_one_copy_more(
    devices: PretendedDevices, llama: LlamaModel
) -> None:
    counts = counted_call(1, devices, llama, keep_rows=True).reduction
    assert dict(counts.waits) == {"copy to the host": 2}
    assert counts.uploads == 2


def test_the_count_sees_what_waits_and_what_is_launched(devices: PretendedDevices) -> None:
    with devices, devices.counting() as counts:
        x = torch.zeros(4, device="cuda:0")
        y = x.view(2, 2).transpose(0, 1)[0]
        assert not counts.waits
        assert counts.launches.total() == 1
        bool((y + 1).any())
        assert counts.waits.total() == 1
        assert counts.launches.total() == 4
        x.cpu()
        assert counts.waits.total() == 2
        assert counts.download_bytes == 16
        torch.arange(4).to("cuda:0")
        assert counts.uploads == 1
        assert counts.upload_bytes == 32
        with pytest.raises(RuntimeError, match="tensors on"):
            x + torch.zeros(4)


@pytest.mark.parametrize("family", [f for f in FAMILIES if str(f) in ("llama", "gemma2")], ids=str)
def test_scores_on_a_device_are_those_of_the_cpu(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = marked_batch((40, 30, 25))
    expected = sra_fast.score(family.build(), batch, backend="reference", check=False)
    pretend(monkeypatch)
    model = family.build()
    with PretendedDevices() as pretended:
        pretended.send_model(model)
        result = sra_fast.score(model, batch, backend="reference", check=False)
    torch.testing.assert_close(result.mass, expected.mass)
    for name, scores in expected.scores.items():
        torch.testing.assert_close(result.scores[name], scores)

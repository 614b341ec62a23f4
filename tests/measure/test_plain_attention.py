"""Test attention where nobody asks for a mass: it is exact, and each mask is read only once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from model_families import DENSE, random_tokens
from op_truth import worst
from sra_fast import SpanQuery, SpanRequest, span_attention
from sra_fast.measure import attention as implementation
from sra_fast.measure import mask_reading, plain_attention
from sra_fast.measure.mask_reading import MaskReading, read_mask

BATCH, HEADS, KEY_HEADS, KEYS = 2, 6, 2, 20

Pieces = tuple[tuple[int, int, int], ...]
WHOLE: Pieces = ((0, 0, KEYS), (1, 0, KEYS))


@dataclass(frozen=True)
class Call:
    """One call of the attention; ``by_sdpa``: PyTorch's own attention does all of it."""

    name: str
    queries: int
    pieces: Pieces = WHOLE
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    value_width: int = 8
    by_sdpa: bool = False

    def __str__(self) -> str:
        return self.name


LEFT: Pieces = ((0, 0, KEYS), (1, 7, KEYS))
CHUNKS: Pieces = ((0, 0, 16), (0, 16, KEYS), (1, 5, 16), (1, 16, KEYS))
CALLS = [
    Call("whole rows", KEYS, by_sdpa=True),
    Call("whole rows, wide window", KEYS, window=KEYS, by_sdpa=True),
    Call("whole rows, window", KEYS, window=5),
    Call("whole rows, wider values", KEYS, value_width=12),
    Call("whole rows, left padding", KEYS, LEFT),
    Call("whole rows, right padding", KEYS, ((0, 0, KEYS), (1, 0, 13))),
    Call("packed rows", KEYS, ((0, 0, 9), (0, 9, KEYS), (1, 0, KEYS))),
    Call("decoding", 1, by_sdpa=True),
    Call("decoding, wider values", 1, value_width=12, by_sdpa=True),
    Call("decoding, left padding", 1, LEFT, by_sdpa=True),
    Call("decoding, the same padding in each row", 1, ((0, 4, KEYS), (1, 4, KEYS)), by_sdpa=True),
    Call("decoding, window", 1, window=5, by_sdpa=True),
    Call("decoding, window inside left padding", 1, LEFT, window=15, by_sdpa=True),
    Call("decoding, chunks", 1, CHUNKS, by_sdpa=True),
    Call("decoding, a row that has ended", 1, ((0, 0, KEYS), (1, 0, 13))),
    Call("decoding, an empty row", 1, ((0, 0, KEYS),)),
    Call("decoding, softcap", 1, softcap=2.0),
    Call("decoding, sinks", 1, sinks=True),
    Call("some queries", 3),
    Call("some queries, left padding", 3, LEFT),
]


def tensors(call: Call, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(BATCH, length, heads, width, generator=generator).to(dtype).transpose(1, 2)
        for length, heads, width in (
            (call.queries, HEADS, 8),
            (KEYS, KEY_HEADS, 8),
            (KEYS, KEY_HEADS, call.value_width),
        )
    )
    return q, k, v, torch.randn(HEADS, generator=generator).to(dtype) if call.sinks else None


def expected(call: Call, dtype: torch.dtype = torch.float32, scale: float = 0.4) -> Tensor:
    q, k, v, sinks = (None if x is None else x.double() for x in tensors(call, dtype))
    assert q is not None
    assert k is not None
    assert v is not None
    asking = plain_attention.asking_nothing(call.pieces, BATCH, KEYS, q.device)
    rule = {"scale": scale, "window": call.window, "softcap": call.softcap, "sinks": sinks}
    return span_attention(q, k, v, asking, backend="reference", **rule).out  # type: ignore[arg-type]


def attend(call: Call, dtype: torch.dtype = torch.float32, scale: float = 0.4) -> Tensor:
    q, k, v, sinks = tensors(call, dtype)
    reading = MaskReading(call.pieces, call.window)
    return plain_attention.plain_attention(q, k, v, reading, scale, call.softcap, sinks)


each_call = pytest.mark.parametrize("call", CALLS, ids=str)


@each_call
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_it_is_the_definitions_attention(call: Call, dtype: torch.dtype) -> None:
    found = attend(call, dtype)
    assert found.shape == (BATCH, HEADS, call.queries, call.value_width)
    assert worst(found, expected(call, dtype)) <= 8 * torch.finfo(dtype).eps


@each_call
def test_the_op_is_left_what_pytorchs_own_attention_cannot_do(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def counted(*arguments: object, **rule: object) -> object:
        asked.append(rule)
        return span_attention(*arguments, **rule)  # type: ignore[arg-type]

    monkeypatch.setattr(plain_attention, "span_attention", counted)
    attend(call)
    assert len(asked) == (0 if call.by_sdpa else 1)


@each_call
@pytest.mark.parametrize("scale", [-0.4, 0.0])
def test_scales_need_not_be_positive(call: Call, scale: float) -> None:
    assert worst(attend(call, scale=scale), expected(call, scale=scale)) <= 1e-6


def test_no_query_and_no_row_give_nothing() -> None:
    for batch, queries, keys in ((1, 0, 0), (1, 0, 5), (0, 1, 1), (0, 3, 3)):
        q, k = torch.ones(batch, 2, queries, 4), torch.ones(batch, 2, keys, 4)
        reading = mask_reading.no_mask(batch, keys)
        found = plain_attention.plain_attention(q, k, k, reading, None, None, None)
        assert found.shape == q.shape


def test_what_inference_mode_made_serves_training_too() -> None:
    for call in CALLS:
        plain_attention.asking_nothing.cache_clear()
        with torch.inference_mode():
            attend(call)
        q, k, v, sinks = tensors(call, torch.float32)
        reading = MaskReading(call.pieces, call.window)
        q.requires_grad_()
        out = plain_attention.plain_attention(q, k, v, reading, 0.4, call.softcap, sinks)
        out.sum().backward()
        assert q.grad is not None
        assert q.grad.isfinite().all()


@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("requested", [False, True], ids=["plain", "with a request"])
def test_all_layers_of_a_forward_share_one_reading_of_a_mask(
    monkeypatch: pytest.MonkeyPatch, inference: bool, requested: bool
) -> None:
    read = []
    once = mask_reading._read
    monkeypatch.setattr(mask_reading, "_read", lambda mask: read.append(mask) or once(mask))
    plain_attention.asking_nothing.cache_clear()
    model = DENSE[0].build()
    model.set_attn_implementation("sra_fast")
    ids, mask = random_tokens(2, 24), torch.ones(2, 24, dtype=torch.int64)
    mask[1, :5] = 0
    given = {}
    if requested:
        segments = torch.tensor([[0, 0, 24], [1, 5, 24]], dtype=torch.int32)
        labels = torch.ones(2, 24, dtype=torch.int32)
        given["sra_request"] = SpanRequest(SpanQuery(labels, torch.tensor([3]), segments, ("a",)))
    with torch.inference_mode() if inference else torch.no_grad():
        model(ids, attention_mask=mask, use_cache=False, **given)
    assert model.config.num_hidden_layers > 1
    assert len(read) == 1
    if not requested:
        assert plain_attention.asking_nothing.cache_info().misses == 1


def test_a_mask_that_is_written_into_is_read_again() -> None:
    base = torch.ones(1, 6, dtype=torch.int64)
    mask = implementation.attention_mask(1, 6, 6, attention_mask=base)
    assert mask is None
    base[0, 0] = 0
    mask = implementation.attention_mask(1, 6, 6, attention_mask=base)
    assert mask is not None
    assert read_mask(mask).pieces == ((0, 1, 6),)
    mask[0, 1] = 0
    assert read_mask(mask).pieces == ((0, 2, 6),)
    base[0, 2] = 0  # the same memory
    assert read_mask(mask).pieces == ((0, 3, 6),)
    with torch.inference_mode():
        mask[0, 3] = 0
        assert read_mask(mask).pieces == ((0, 4, 6),)

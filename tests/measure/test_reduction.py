"""Test that masses are reduced to the scores that a plain loop over rows and responses gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from mass_requests import answered, marked, spread
from pretended_device import PretendedDevices, pretend
from sra_fast import definitions
from sra_fast.definitions import DEFINITIONS, RowMasses
from sra_fast.measure import head_means, reduction
from sra_fast.measure.marked_query import Placed
from sra_fast.measure.reduction import reduce, response_masses, response_scores
from sra_fast.measure.request import SpanRequest
from sra_fast.measure.response_rows import BLOCK
from sra_fast.measure.spans import BatchRowError, MarkedBatch
from sra_fast.result import SRAResult

Answer = tuple[SpanRequest, Placed, MarkedBatch]

SPAN, OTHER = [2, 3, 4, 5], [4, 5, 6]
CASES: dict[str, Any] = {
    "one reply": lambda: answered(marked([list(range(30, 49))], 60, [SPAN])),
    "a reply of one token": lambda: answered(marked([[59]], 60, [SPAN])),
    "many replies": lambda: answered(marked(spread(40, 900, 18), 900, [SPAN])),
    "replies with gaps, in each other": lambda: answered(
        marked([[20, 23, 24, 40], [21, 22, 30, 41]], 60, [SPAN])
    ),
    "longer than a block": lambda: answered(
        marked([list(range(20, 20 + BLOCK)), list(range(400, 1000)), [1010]], 1024, [SPAN])
    ),
    "two spans": lambda: answered(marked(spread(3, 90, 9), 90, [SPAN, OTHER])),
    "a span without tokens": lambda: answered(marked(spread(3, 90, 9), 90, [SPAN, []])),
    "a span of one token": lambda: answered(marked(spread(3, 90, 9), 90, [[3]])),
    "sinks in some layers": lambda: answered(marked(spread(5, 200, 9), 200, [SPAN]), sinks=(1,)),
    "nearly all on key 0": lambda: answered(marked(spread(5, 200, 9), 200, [SPAN]), on_null=16.0),
}
each_case = pytest.mark.parametrize("make", CASES.values(), ids=list(CASES))


def reduced(answer: Answer, definition: str = "paper", keep_rows: bool = False) -> SRAResult:
    request, placed, batch = answer
    members, layers = range(len(batch.sequences)), sorted(request.masses)
    return reduce(request, placed, batch, members, layers, definition, keep_rows)


def by_loop(answer: Answer) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Compute row by row in float64: scores ``[n, P, L]``, mean masses ``[n, L, H, G]``, rows.

    The batch holds one sequence, so a position's row is found by its number in the query.
    """
    request, _, batch = answer
    (sequence,) = batch.sequences
    row_of = {position: row for row, position in enumerate(request.query.rows.tolist())}
    layers, spans = len(request.masses), len(batch.names)
    counts = sequence.spans.sum(dim=1).tolist()
    scores = {
        name: torch.full((len(sequence.responses), spans, layers), torch.nan, dtype=torch.float64)
        for name in DEFINITIONS
    }
    means, kept = [], []
    for index, response in enumerate(sequence.responses):
        positions = response.tokens.tolist()
        own = [row_of[position] for position in positions]
        before = [row_of[position - 1] for position in positions]
        every = sorted({*own, *before})
        means.append(
            torch.stack([request.masses[layer][own].double().mean(0) for layer in range(layers)])
        )
        kept += [
            torch.stack([request.masses[layer][row] for layer in range(layers)]) for row in every
        ]
        for layer in range(layers):
            masses = request.masses[layer].double()
            sinks = request.sink_masses.get(layer, torch.zeros(masses.shape[:2])).double()
            for p in range(spans):
                share = sum(float(masses[row, :, 2 * p].mean()) for row in own) / len(own)
                ratios = [
                    float(
                        masses[row, :, 2 * p + 1].mean()
                        / (1.0 - masses[row, :, -1] - sinks[row]).mean()
                    )
                    for row in before
                ]
                if counts[p] > 0:
                    scores["mass"][index, p, layer] = share
                    scores["paper"][index, p, layer] = share / counts[p]
                if counts[p] > 1:
                    scores["reference"][index, p, layer] = (
                        sum(ratios) / len(ratios) / (counts[p] - 1)
                    )
                    scores["table1"][index, p, layer] = ratios[0] / (counts[p] - 1)
    return scores, torch.stack(means), torch.stack(kept)


def assert_rounded(found: Tensor, exact: Tensor) -> None:
    """Check that float32 numbers are those of float64, rounded (or one beside it, at a tie)."""
    torch.testing.assert_close(found, exact.float(), rtol=1.2e-7, atol=0.0, equal_nan=True)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedDevices]:
    pretend(monkeypatch)
    with PretendedDevices() as pretended:
        yield pretended


def sent_to(devices: PretendedDevices, answer: Answer, *places: str) -> Answer:
    """Put the masses of the layers on devices, in turn; those of the first device come first."""
    request = answer[0]
    each = -(-len(request.masses) // len(places))
    for table in (request.masses, request.sink_masses):
        for layer, tensor in table.items():
            place = places[layer // each]
            table[layer] = tensor if place == "cpu" else devices.send(tensor, place)
    return answer


@each_case
def test_scores_and_masses_are_those_of_a_loop_over_rows(make: Any) -> None:
    answer = make()
    scores, means, kept = by_loop(answer)
    result = reduced(answer, keep_rows=True)
    assert list(result.by_layer) == list(DEFINITIONS)
    for name, exact in scores.items():
        assert_rounded(result.by_layer[name], exact)
    assert_rounded(result.mass, means)
    assert result.row_masses is not None
    assert torch.equal(result.row_masses, kept)
    assert all(each.is_contiguous() for each in (*result.by_layer.values(), result.mass))


@each_case
def test_a_response_is_reduced_to_the_same_bits_whatever_else_is_in_the_pass(make: Any) -> None:
    answer = make()
    request, placed, batch = answer
    (sequence,) = batch.sequences
    whole = reduced(answer)
    ends = placed.counts.cumsum(0).tolist()
    row_ends = placed.row_counts.cumsum(0).tolist()
    for index in (0, len(ends) - 1):
        here = slice(ends[index] - int(placed.counts[index]), ends[index])
        rows = slice(row_ends[index] - int(placed.row_counts[index]), row_ends[index])
        alone = Placed(
            placed.tokens[here],
            placed.predicting[here],
            placed.every[rows],
            placed.counts[index : index + 1],
            placed.row_counts[index : index + 1],
        )
        one = MarkedBatch(
            (
                type(sequence)(
                    0, 0, sequence.end, sequence.spans, sequence.responses[index : index + 1]
                ),
            ),
            batch.names,
            batch.shape,
        )
        result = reduced((request, alone, one))
        assert torch.equal(result.mass[0], whole.mass[index])
        for name in DEFINITIONS:
            same = result.by_layer[name][0], whole.by_layer[name][index]
            torch.testing.assert_close(*same, rtol=0.0, atol=0.0, equal_nan=True)


def test_layers_in_several_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = CASES["sinks in some layers"]()
    whole = reduced(answer, keep_rows=True)
    monkeypatch.setattr(head_means, "AT_ONCE", 1)
    pieces = reduced(answer, keep_rows=True)
    assert torch.equal(whole.mass, pieces.mass)
    for name in DEFINITIONS:
        assert torch.equal(whole.by_layer[name], pieces.by_layer[name])
    assert whole.row_masses is not None
    assert pieces.row_masses is not None
    assert torch.equal(whole.row_masses, pieces.row_masses)


@pytest.mark.parametrize(
    "places", [("cuda:0",), ("cuda:0", "cuda:1"), ("cuda:1", "cpu"), ("cpu", "cuda:0")], ids=str
)
@pytest.mark.parametrize("keep_rows", [False, True])
def test_a_device_is_waited_for_once_and_the_numbers_are_those_of_the_cpu(
    places: tuple[str, ...], keep_rows: bool, devices: PretendedDevices
) -> None:
    expected = reduced(CASES["sinks in some layers"](), keep_rows=keep_rows)
    answer = sent_to(devices, CASES["sinks in some layers"](), *places)
    gpus = len({*places} - {"cpu"})
    with devices.counting() as counts:
        result = reduced(answer, keep_rows=keep_rows)
    copies = gpus * (2 if keep_rows else 1)
    assert dict(counts.waits) == {"copy to the host": copies}
    assert counts.downloads == copies
    assert counts.uploads == copies
    assert torch.equal(result.mass, expected.mass)
    for name in DEFINITIONS:
        assert torch.equal(result.by_layer[name], expected.by_layer[name])
    if keep_rows:
        assert result.row_masses is not None
        assert expected.row_masses is not None
        assert torch.equal(result.row_masses, expected.row_masses)


@pytest.mark.parametrize("heads", [None, (0, 2)])
@pytest.mark.parametrize("definition", list(DEFINITIONS))
def test_training_waits_for_no_device(
    definition: str, heads: Any, devices: PretendedDevices
) -> None:
    request, placed, batch = CASES["many replies"]()
    expected = response_scores(request, placed, batch, [0, 2], definition, heads)
    masses = response_masses(request, placed, [0, 2])
    sent_to(devices, (request, placed, batch), "cuda:0", "cuda:1")
    with devices.counting() as counts:
        found = response_scores(request, placed, batch, [0, 2], definition, heads)
        found_masses = response_masses(request, placed, [0, 2])
    assert not counts.waits
    assert counts.uploads <= 6
    assert found.device == found_masses.device == torch.device("cuda:0")
    assert torch.equal(found.cpu(), expected)
    assert torch.equal(found_masses.cpu(), masses)


@pytest.mark.parametrize("definition", list(DEFINITIONS))
def test_training_scores_are_those_of_the_result_and_carry_the_gradient_of_a_loop(
    definition: str,
) -> None:
    request, placed, batch = answer = CASES["replies with gaps, in each other"]()
    leaves = [each.double().requires_grad_() for each in request.masses.values()]
    request.masses = dict(enumerate(leaves))
    scores = response_scores(request, placed, batch, [0, 1, 2], definition)
    assert_rounded(reduced(answer, definition).sra, scores.detach())
    weights = torch.arange(1.0, len(scores) + 1.0, dtype=torch.float64)
    (scores * weights).sum().backward()
    found = [leaf.grad for leaf in leaves]

    heads = torch.stack(leaves).mean(dim=2)  # [L, R, G]
    rest = 1.0 - heads[..., -1:]
    counts = batch.sequences[0].spans.sum(dim=1)
    total = torch.zeros((), dtype=torch.float64)
    tokens = placed.tokens.split(placed.counts.tolist())
    predicting = placed.predicting.split(placed.counts.tolist())
    for weight, own, before in zip(weights, tokens, predicting, strict=True):
        rows = RowMasses(heads[:, own, 0:-1:2], heads[:, before, 1:-1:2], rest[:, before], counts)
        total = total + weight * DEFINITIONS[definition](rows)[:, 0].mean()
    for each, exact in zip(found, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(each, exact, rtol=1e-12, atol=1e-15)


def test_without_float64_the_rest_is_taken_per_head(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = CASES["nearly all on key 0"]()
    scores, means, _ = by_loop(answer)
    request, _, _batch = answer
    monkeypatch.setattr(head_means, "sum_dtype", lambda device: torch.float32)
    monkeypatch.setattr(reduction, "sum_dtype", lambda device: torch.float32)
    result = reduced(answer)
    for name, exact in scores.items():
        torch.testing.assert_close(result.by_layer[name].double(), exact, rtol=2e-6, atol=0.0)
    torch.testing.assert_close(result.mass.double(), means, rtol=1e-6, atol=0.0)
    # The naive way, which this test has to tell apart:
    null = request.masses[0][..., -1]
    exact_rest = (1.0 - null.double()).mean(dim=1)
    assert float(((1.0 - null.mean(dim=1)) / exact_rest - 1.0).abs().max()) > 2e-6


@pytest.mark.parametrize("works", [True, False])
def test_only_a_missing_float64_is_done_without(
    works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = torch.ones

    def ones(size: int, *, dtype: torch.dtype, device: Any) -> Tensor:
        if dtype == torch.float64 or not works:
            raise RuntimeError("the device says no")
        return made(size, dtype=dtype)

    monkeypatch.setattr(torch, "ones", ones)
    of_device = head_means.sum_dtype.__wrapped__
    if works:
        assert of_device(torch.device("mps")) == torch.float32
        return
    with pytest.raises(RuntimeError, match="says no"):
        of_device(torch.device("mps"))


def test_a_definition_of_the_users_own_sees_all_layers_of_several_devices(
    devices: PretendedDevices, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RowMasses] = []

    def peak(rows: RowMasses) -> Tensor:
        seen.append(rows)
        return rows.tokens.amax(dim=1) / rows.counts

    monkeypatch.setitem(definitions._OWN._things, "peak", peak)
    expected = reduced(CASES["two spans"](), "peak")
    by_cpu, seen = seen, []
    result = reduced(sent_to(devices, CASES["two spans"](), "cuda:1", "cuda:0"), "peak")
    assert torch.equal(result.by_layer["peak"], expected.by_layer["peak"])
    assert len(seen) == len(by_cpu) == len(result)
    for rows, on_cpu in zip(seen, by_cpu, strict=True):
        assert rows.tokens.device == torch.device("cuda:1")
        for name in ("tokens", "head", "rest", "counts"):
            assert torch.equal(getattr(rows, name).cpu(), getattr(on_cpu, name))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("places", [("cpu",), ("cuda:0", "cuda:1")], ids=str)
def test_a_mass_that_is_not_finite_is_named_by_its_first_response_and_layer(
    bad: float, places: tuple[str, ...], devices: PretendedDevices
) -> None:
    request, placed, batch = CASES["many replies"]()
    for layer in (1, 2):
        request.masses[layer][placed.tokens[100], 2, 1] = bad
    sent_to(devices, (request, placed, batch), *places)
    with pytest.raises(BatchRowError, match="row 0: the attention mass of layer 1 is not finite"):
        reduced((request, placed, batch))


def test_masses_that_are_not_finite_explain_why_a_definition_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def strict(rows: RowMasses) -> Tensor:
        if bool(rows.tokens.isnan().any()):
            raise ValueError("no numbers")
        return rows.tokens.mean(dim=1)

    monkeypatch.setitem(definitions._OWN._things, "strict", strict)
    answer = CASES["one reply"]()
    answer[0].masses[2][3] = torch.nan
    with pytest.raises(BatchRowError, match="attention mass of layer 2 is not finite"):
        reduced(answer, "strict")


def test_float64_masses_are_reduced_in_float64() -> None:
    request, _placed, _batch = answer = CASES["one reply"]()
    request.masses = {layer: each.double() / 3 for layer, each in request.masses.items()}
    scores, means, _ = by_loop(answer)
    result = reduced(answer)
    assert_rounded(result.mass, means)
    assert_rounded(result.by_layer["reference"], scores["reference"])
    assert result.sra.dtype == torch.float32

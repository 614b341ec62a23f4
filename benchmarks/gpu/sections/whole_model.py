"""Measure ``sra_fast.score`` on a whole model, beside its plain forward pass and attention maps.

Times are the host's from call to result, as a user sees them. Memory is the most that tensors took
during a call, above the loaded model and in all. Times count only after the scores were compared
with those of the definition's own attention (float32 maps) inside the same model.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.harness import llama
from benchmarks.gpu.harness.bench import Bench, Entry, free_bytes
from benchmarks.gpu.harness.failures import WrongResultError, describe, recover
from benchmarks.gpu.harness.timing import Call, give_lead_back, synchronize
from benchmarks.measuring import alternatives, same_results
from benchmarks.measuring.cases import Dtype, ModelCase
from sra_fast.definitions import DEFINITIONS
from sra_fast.scoring import score

TRIED = 2.0  # maps that need more than so many times the free memory are not even tried
LENGTH_SECONDS = 12.0  # for the rounds at a length; the last length gets half of what is left
CALLS = 5  # a length takes the time of so many slow calls: two for memory, two timed, some room


def run(bench: Bench) -> None:
    """Run the check, then every length beside SDPA, then maps as far as they fit."""
    give_lead_back()
    sizes = bench.sizes
    model = llama.build(llama.SHAPES[sizes.model], bench.device, bench.dtype)
    bench.each([{"check": "scores", "T": sizes.model_check}], lambda *given: _check(model, *given))
    wrong = {"error", "skipped"} & bench.entries[0].keys()
    done: list[tuple[int, float]] = []

    def beside_sdpa(bench: Bench, entry: Entry, seconds: float) -> None:
        if wrong:
            raise WrongResultError("the check of the scores failed or is missing: no time counts")
        _beside_sdpa(model, done, bench, entry)

    bench.each([{"beside": "SDPA", "T": tokens} for tokens in sizes.model_lengths], beside_sdpa)
    if wrong:
        return
    died: list[int] = []
    bench.each(
        [{"beside": "maps", "T": tokens} for tokens in sizes.eager_lengths],
        lambda *given: _beside_maps(model, died, *given),
    )


def _check(model: Any, bench: Bench, entry: Entry, seconds: float) -> None:
    """Compare the scores with the definition's; an error of twice eager attention's is allowed."""
    batch = llama.batch(llama.SHAPES[bench.sizes.model], bench.sizes, entry["T"])
    truth: same_results.Truth = {"scores": _by_layer(score(model, batch, backend="reference"))}
    maps = alternatives.whole_maps(model, _on(bench, batch)).scores
    eager = alternatives.AlternativeAnswer(None if maps is None else maps.cpu())
    of_eager = same_results.worst_errors([eager], truth)
    mine = [alternatives.AlternativeAnswer(_by_layer(score(model, batch)))]
    verdict = same_results.check(mine, truth, same_results.bfloat16_tolerances(of_eager))
    entry["errors"] = {
        "scores": same_results.worst_errors(mine, truth)["scores"],
        "eager's scores": of_eager["scores"],
    }
    if verdict is None or not verdict.right:
        raise WrongResultError(f"wrong: {verdict}")


def _beside_sdpa(model: Any, done: list[tuple[int, float]], bench: Bench, entry: Entry) -> None:
    tokens, shape = entry["T"], llama.SHAPES[bench.sizes.model]
    if done:
        before, seconds = done[-1]
        growth = llama.flops(shape, tokens) / llama.flops(shape, before)
        expected = CALLS * seconds * growth
        if expected > bench.left:
            entry["skipped"] = f"out of time: wants {expected:.0f} s, {bench.left:.0f} s left"
            return
    batch = llama.batch(shape, bench.sizes, tokens)
    plain = llama.plain_forward(model, batch["input_ids"].to(bench.device))
    calls: dict[str, Call] = {"score": lambda: score(model, batch), "sdpa": plain}
    for name, call in calls.items():  # this is also the warm-up
        entry |= _memory(name, call, bench.device)
    last = tokens == bench.sizes.model_lengths[-1]
    turns = bench.turns(calls, bench.left / 2 if last else LENGTH_SECONDS, least=1, long=True)
    turns.record(entry)
    done.append((tokens, max(turns.seconds(name) or 0.0 for name in calls)))
    entry["score/sdpa time"] = turns.ratio("score", "sdpa")
    _memory_ratios(entry, "sdpa")


def _beside_maps(model: Any, died: list[int], bench: Bench, entry: Entry, seconds: float) -> None:
    tokens, sizes = entry["T"], bench.sizes
    width: Dtype = "bfloat16" if bench.dtype == torch.bfloat16 else "float32"
    needed = alternatives.all_maps_bytes(ModelCase(llama.SHAPES[sizes.model], tokens, width))
    free = free_bytes(bench.device)
    entry["maps_gb"], entry["free_gb"] = needed / 1e9, free / 1e9
    if died or needed > TRIED * free:
        entry["absent"] = f"does not fit: needs {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB free"
        died.append(tokens)
        return
    batch = llama.batch(llama.SHAPES[sizes.model], sizes, tokens)
    on_device = _on(bench, batch)
    calls: dict[str, Call] = {
        "maps": lambda: alternatives.whole_maps(model, on_device),
        "score": lambda: score(model, batch),
    }
    try:
        entry |= _memory("maps", calls["maps"], bench.device)
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        entry["absent"] = f"dies: {describe(error)}"
        died.append(tokens)
        return
    entry |= _memory("score", calls["score"], bench.device)
    turns = bench.turns(calls, min(seconds / 2, LENGTH_SECONDS), least=1, long=True)
    turns.record(entry)
    entry["score/maps time"] = turns.ratio("score", "maps")
    _memory_ratios(entry, "maps")


def _memory(name: str, call: Call, device: torch.device) -> Entry:
    """Return the most that tensors took during a call, in GB, or nothing on a CPU."""
    if device.type != "cuda":
        call()
        return {}
    recover(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    synchronize(device)
    most = torch.cuda.max_memory_allocated(device)
    return {f"{name}_peak_gb": (most - before) / 1e9, f"{name}_total_gb": most / 1e9}


def _memory_ratios(entry: Entry, other: str) -> None:
    if f"{other}_peak_gb" not in entry:
        return
    entry[f"score/{other} memory"] = entry["score_peak_gb"] / entry[f"{other}_peak_gb"]
    entry[f"score/{other} memory in all"] = entry["score_total_gb"] / entry[f"{other}_total_gb"]


def _by_layer(result: Any) -> torch.Tensor:
    """Return the definitions of the one response, per layer, ``[4, L]``."""
    return torch.stack([result.by_layer[name][0, 0].double().cpu() for name in DEFINITIONS])


def _on(bench: Bench, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(bench.device) for name, tensor in batch.items()}

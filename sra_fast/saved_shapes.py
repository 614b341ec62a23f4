"""Check that the parts of a saved result fit each other: kinds of numbers, shapes, and names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sra_fast.definitions import DEFINITIONS
from sra_fast.result_tensors import ALWAYS, IN_PARTS

_KINDS = {
    **dict.fromkeys(("mass", "row_masses", "by_head", "profiles"), torch.float32),
    **dict.fromkeys(("conversation", "turn", "response_tokens", "span_tokens"), torch.int64),
    **dict.fromkeys(("row_counts", "profile_counts", "response_ranges"), torch.int64),
    **dict.fromkeys(("profile_tokens", "profile_spans", "profile_sources"), torch.int32),
    "as_written": torch.bool,
}
TensorShape = tuple[int, ...]


def misfit(tensors: Mapping[str, Tensor], names: Mapping[str, Any]) -> str | None:
    """Return which part of a saved result is missing or does not fit the others, or None.

    Args:
        tensors: the tensors of the file.
        names: what the file says of its definition, spans, key sets, layers and sources.
    """
    missing = {*ALWAYS, *(f"by_layer/{name}" for name in DEFINITIONS)} - tensors.keys()
    missing |= {f"by_layer/{names['definition']}"} - tensors.keys()
    for whole, counts in IN_PARTS.items():
        missing |= {counts} - tensors.keys() if whole in tensors else set()
    for counts, whole in (("row_counts", "row_masses"), ("profile_counts", "profiles")):
        missing |= {whole} - tensors.keys() if counts in tensors else set()
    if "profiles" in tensors:
        missing |= {"profile_spans", "response_ranges"} - tensors.keys()
    if missing:
        return f"{', '.join(sorted(missing))} is missing"
    strays = {*names["spans"], "null"} - set(names["names"])
    if strays:
        return f"names is without {', '.join(sorted(strays))}"
    return (
        _wrong_kind(tensors)
        or _wrong_shape(tensors, names)
        or _wrong_tokens(tensors)
        or _wrong_sources(tensors, names)
    )


def _wrong_tokens(tensors: Mapping[str, Tensor]) -> str | None:
    """Say whether a token has no id, or a response has no place."""
    if "profile_tokens" in tensors and bool((tensors["profile_tokens"] < 0).any()):
        return "profile_tokens has a number below 0"
    if "response_ranges" in tensors:
        starts, ends = tensors["response_ranges"].unbind(1)
        if bool(((starts < 0) | (ends < starts)).any()):
            return "response_ranges has a range that ends before it begins, or begins below 0"
    return None


def _wrong_kind(tensors: Mapping[str, Tensor]) -> str | None:
    for name, tensor in tensors.items():
        wanted = torch.float32 if name.startswith("by_layer/") else _KINDS.get(name)
        if wanted not in (None, tensor.dtype):
            return f"{name} is of {tensor.dtype} instead of {wanted}"
    return None


def _wrong_shape(tensors: Mapping[str, Tensor], names: Mapping[str, Any]) -> str | None:
    n, spans, layers = tensors["turn"].numel(), len(names["spans"]), len(names["layers"])
    sets, mass = len(names["names"]), tensors["mass"]
    heads = mass.shape[2] if mass.ndim == 4 else 0
    wanted: dict[str, TensorShape] = {
        **dict.fromkeys(("conversation", "response_tokens", "turn", "as_written"), (n,)),
        **dict.fromkeys(("row_counts", "profile_counts"), (n,)),
        "span_tokens": (n, spans),
        "mass": (n, layers, heads, sets),
        "by_head": (n, layers, heads, spans),
        "response_ranges": (n, 2),
        **{name: (n, spans, layers) for name in tensors if name.startswith("by_layer/")},
    }
    problem = _unlike(tensors, wanted)
    if problem is not None:
        return problem
    for counts in ("row_counts", "profile_counts"):
        if counts in tensors and bool((tensors[counts] < 0).any()):
            return f"{counts} has a number below 0"
    in_parts: dict[str, TensorShape] = {}
    if "row_counts" in tensors:
        in_parts["row_masses"] = (int(tensors["row_counts"].sum()), layers, heads, sets)
    if "profile_counts" in tensors:
        kept = int(tensors["profile_counts"].sum())
        further = max(0, tensors["profiles"].ndim - 1)
        in_parts["profiles"] = (kept, *(layers, heads)[:further])
        of_tokens = ("profile_tokens", "profile_spans", "profile_sources")
        in_parts |= dict.fromkeys(of_tokens, (kept,))
    return _unlike(tensors, in_parts)


def _unlike(tensors: Mapping[str, Tensor], wanted: Mapping[str, TensorShape]) -> str | None:
    for name, shape in wanted.items():
        if name in tensors and tuple(tensors[name].shape) != shape:
            found = list(tensors[name].shape)
            return f"{name} has the shape {found}, which does not fit the other tensors"
    return None


def _wrong_sources(tensors: Mapping[str, Tensor], names: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the names of the sources, or with the numbers that refer to them."""
    sets, chosen = names.get("sources", []), names.get("source_sets", [])
    named = isinstance(sets, list) and all(
        isinstance(one, list) and all(isinstance(name, str) for name in one) for one in sets
    )
    if not named:
        return "sources is no list of lists of names"
    n = len(tensors["turn"])
    numbers = isinstance(chosen, list) and all(
        type(index) is int and 0 <= index < len(sets) for index in chosen
    )
    if not numbers or len(chosen) not in (0, n):
        return f"source_sets does not choose one of {len(sets)} sets of sources for each response"
    if "profile_sources" not in tensors:
        return "profile_sources is missing" if chosen else None
    if n and not chosen:
        return "source_sets is missing"
    counts = tensors["profile_counts"]
    most = torch.tensor([len(sets[index]) for index in chosen], dtype=torch.int64)
    numbered = tensors["profile_sources"]
    if bool(((numbered < 0) | (numbered > most.repeat_interleave(counts))).any()):
        return "profile_sources has a number without a source"
    return None

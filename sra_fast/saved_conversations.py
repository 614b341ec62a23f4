"""Write the ids and metadata of a result's conversations as bytes of its file, and read them again.

They are a tensor and no part of the file's metadata, because safetensors bounds the size of that,
and thousands of conversations may carry long texts. The bytes are JSON in ASCII:

    {"conversations": [{"id": "c7", "meta": {"site": "north"}}, …], "of_response": [0, 0, 1, …]}

where ``of_response`` says which of them each response is of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

NAME = "conversations"
"""The name of the tensor."""

Ids = tuple[str | None, ...]
Metas = tuple[Mapping[str, Any], ...]


def conversations_as_bytes(ids: Ids, meta: Metas) -> Tensor | None:
    """Return the conversations of n responses as ``[bytes]`` uint8; None if nothing is known.

    Args:
        ids: the id of each response's conversation; empty if none is known.
        meta: what else is known of each response's conversation; empty for nothing.
    """
    if not ids and not meta:
        return None
    number_of: dict[str, int] = {}
    found: list[dict[str, Any]] = []
    of_response = []
    for index in range(max(len(ids), len(meta))):
        one: dict[str, Any] = {"id": ids[index] if ids else None}
        if meta:
            one["meta"] = dict(meta[index])
        text = json.dumps(one, allow_nan=False)
        if text not in number_of:
            number_of[text] = len(found)
            found.append(one)
        of_response.append(number_of[text])
    text = json.dumps({"conversations": found, "of_response": of_response}, allow_nan=False)
    return torch.frombuffer(bytearray(text.encode("ascii")), dtype=torch.uint8)


def conversations_from_bytes(data: Tensor, responses: int) -> tuple[Ids, Metas]:
    """Return the ids and metadata that :func:`conversations_as_bytes` wrote.

    Args:
        data: the bytes.
        responses: how many responses there are.

    Raises:
        ValueError: the bytes are something else; the message says what.
    """
    if data.dtype != torch.uint8 or data.ndim != 1:
        raise ValueError(f"{NAME} is {list(data.shape)} of {data.dtype} instead of bytes")
    try:
        read = json.loads(data.numpy().tobytes().decode("ascii"))
    except ValueError as error:
        raise ValueError(f"{NAME} is not JSON ({error})") from error
    found = read.get("conversations") if isinstance(read, dict) else None
    numbers = read.get("of_response") if isinstance(read, dict) else None
    if not isinstance(found, list) or not all(map(_is_conversation, found)):
        raise ValueError(f"{NAME} is no list of objects with an id")
    if not isinstance(numbers, list) or len(numbers) != responses or not _number(numbers, found):
        raise ValueError(f"{NAME} does not choose one of {len(found)} for each response")
    known = [found[number] for number in numbers]
    ids = tuple(one["id"] for one in known)
    meta = tuple(one.get("meta", {}) for one in known)
    return (
        ids if any(one is not None for one in ids) else (),
        meta if any("meta" in one for one in known) else (),
    )


def _is_conversation(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and one.keys() - {"meta"} == {"id"}
        and isinstance(one["id"], (str, type(None)))
        and isinstance(one.get("meta", {}), dict)
    )


def _number(numbers: Sequence[Any], found: Sequence[Any]) -> bool:
    return all(type(number) is int and 0 <= number < len(found) for number in numbers)

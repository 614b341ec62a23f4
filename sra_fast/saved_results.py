"""Write a result to one safetensors file, and read it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sra_fast.definitions import DEFINITIONS
from sra_fast.result_tensors import TENSORS
from sra_fast.saved_conversations import NAME as CONVERSATIONS
from sra_fast.saved_conversations import conversations_as_bytes, conversations_from_bytes
from sra_fast.saved_shapes import misfit
from sra_fast.tools.atomic import replaced_atomically, writable_file

if TYPE_CHECKING:
    from sra_fast.result import SRAResult

_FORMAT = "sra_fast.SRAResult/1"


def write_saved(result: SRAResult, path: str | Path) -> None:
    """Write a result as :meth:`sra_fast.SRAResult.save` does.

    Raises:
        OSError: the file cannot be written; the message has the path.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    file = writable_file(path)
    tensors = {f"by_layer/{name}": value for name, value in result.by_layer.items()}
    for name in TENSORS:
        value = getattr(result, name)
        if value is not None:
            tensors[name] = value
    conversations = conversations_as_bytes(result.conversation_ids, result.meta)
    if conversations is not None:
        tensors[CONVERSATIONS] = conversations
    kept = ("definition", "spans", "names", "layers", "checked")
    names = {name: getattr(result, name) for name in kept}
    if result.source_names:
        sets = list(dict.fromkeys(result.source_names))
        names["sources"] = sets
        names["source_sets"] = [sets.index(one) for one in result.source_names]
    # One key: safetensors writes several in any order, and equal results are equal files.
    metadata = {"sra_fast": json.dumps({"format": _FORMAT, **names})}
    copies = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with replaced_atomically(file) as temporary:
        try:
            save_file(copies, temporary, metadata)
        except SafetensorError as error:  # it names a temporary file, or none
            raise OSError(f"{path}: cannot be written ({error})") from error


class NoSavedResultError(ValueError):
    """Raised when a file is something else than a saved result."""


def read_saved(path: str | Path) -> dict[str, Any]:
    """Return the fields of the result in a file, as :meth:`sra_fast.SRAResult.load` needs them.

    Raises:
        NoSavedResultError: the file is not a saved result.
        ValueError: its parts do not fit each other.
        OSError: the file cannot be read; the message has the path.
    """
    from safetensors import SafetensorError, safe_open

    with Path(path).open("rb"):
        pass  # its errors name the path, those of safetensors do not always
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise NoSavedResultError(f"{path}: not a safetensors file ({error})") from error
    names = _names_in(metadata)
    if names is None:
        raise NoSavedResultError(f"{path}: not a result saved by SRAResult.save")
    saved = {key.removeprefix("by_layer/") for key in tensors if key.startswith("by_layer/")}
    own = sorted(saved - set(DEFINITIONS))
    problem = misfit(tensors, names)
    if problem is not None:
        raise ValueError(f"{path}: {problem}; the file is damaged, so save the result again")
    sets = [tuple(one) for one in names.get("sources", [])]
    conversations: dict[str, Any] = {}
    if CONVERSATIONS in tensors:
        try:
            ids, meta = conversations_from_bytes(tensors[CONVERSATIONS], len(tensors["turn"]))
        except ValueError as error:
            raise ValueError(
                f"{path}: {error}; the file is damaged, so save the result again"
            ) from error
        conversations = {"conversation_ids": ids, "meta": meta}
    fields: dict[str, Any] = {name: tensors.get(name) for name in TENSORS}
    if "checked" in names:
        fields["checked"] = names["checked"]
    return {
        **fields,
        **conversations,
        "definition": names["definition"],
        "spans": tuple(names["spans"]),
        "names": tuple(names["names"]),
        "layers": tuple(names["layers"]),
        "by_layer": {name: tensors[f"by_layer/{name}"] for name in (*DEFINITIONS, *own)},
        "source_names": tuple(sets[index] for index in names.get("source_sets", [])),
    }


def _names_in(metadata: dict[str, str]) -> dict[str, Any] | None:
    """Return what a saved file says of its definition, spans, key sets and layers, if it is one."""
    try:
        names = json.loads(metadata.get("sra_fast", "{}"))
    except ValueError:
        return None
    if not isinstance(names, dict) or names.get("format") != _FORMAT:
        return None
    kinds = {"spans": str, "names": str, "layers": int}
    lists = all(
        isinstance(names.get(name), list) and all(type(one) is kind for one in names[name])
        for name, kind in kinds.items()
    )
    texts = isinstance(names.get("definition"), str) and isinstance(names.get("checked", ""), str)
    return names if lists and texts else None

"""Check that the files of a model's folder can be read, before a library stumbles over one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sra_fast.files.safetensors_header import TensorPlace, tensor_places
from sra_fast.tools.argument_error import ArgumentError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

_OLD_INDEX = "pytorch_model.bin.index.json"
_EAGER = (CONFIG, ADAPTER_CONFIG, "generation_config.json")
_OF_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")
_NUMBERED_PART = re.compile(r"(.*\.\d+\..*)\.(\d+)\.(.*)")  # an expert of a numbered layer
_LONGEST = 300  # characters of another library's error
_GET_IT_AGAIN = "download the model or copy its folder again"


class DamagedModelError(ArgumentError):
    """Raised when a file of a model is missing or cannot be read; the message names the file."""


def check_model_files(folder: Path) -> None:
    """Check the configurations of a model or adapter, and the headers of its safetensors files.

    No weight is read. A folder that holds weights in another format is checked as far as it goes.

    Args:
        folder: a folder as ``save_pretrained`` writes it.

    Raises:
        DamagedModelError: a file cannot be read, or one that another file names is not there.
    """
    for name in _EAGER:
        if (folder / name).is_file():
            read_json(folder / name)
    for index in (INDEX, _OLD_INDEX):
        if (folder / index).is_file():
            _check_shards(folder / index)
    for file in (*weight_files(folder), folder / ADAPTER_WEIGHTS):
        if file.is_file():
            tensor_shapes(file)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DamagedModelError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedModelError(
            f"{file} is damaged: it cannot be read as JSON ({error}); {_GET_IT_AGAIN}"
        ) from error
    if not isinstance(found, dict):
        raise DamagedModelError(f"{file} is damaged: it holds no JSON object; {_GET_IT_AGAIN}")
    return found


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor of a safetensors file, by its name, from the header alone.

    Raises:
        DamagedModelError: the file cannot be read, or is shorter than its header says.
    """
    return {name: list(place.shape) for name, place in places_of(file).items()}


def places_of(file: Path) -> dict[str, TensorPlace]:
    """Return the place of each tensor of a safetensors file, by its name, from the header alone.

    Raises:
        DamagedModelError: the file cannot be read, or is shorter than its header says.
    """
    try:
        return tensor_places(file)
    except (OSError, ValueError) as error:
        raise DamagedModelError(
            f"{file} is damaged: it cannot be read as safetensors ({error}); {_GET_IT_AGAIN}"
        ) from error


def file_of(folder: Path, tensor: str) -> Path | None:
    """Return the safetensors file of a model that holds a tensor, or that should hold it.

    Args:
        folder: the folder of a model.
        tensor: the tensor's name, in the file or in the model.

    Returns:
        The file, or None if the folder does not tell.
    """
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    name = _placed(folder / INDEX).get(tensor) if (folder / INDEX).is_file() else None
    return None if name is None else folder / name


def uneven_parts(folder: Path) -> set[str]:
    """Return the tensors that one expert of a layer lacks and another of the same layer has.

    transformers joins the experts of a layer into one weight, and where they do not fit together,
    says no more than that.

    Args:
        folder: the folder of a model.
    """
    parts: dict[str, dict[str, set[str]]] = {}
    for file in filter(Path.is_file, weight_files(folder)):
        for name in tensor_shapes(file):
            if numbered := _NUMBERED_PART.fullmatch(name):
                before, number, after = numbered.groups()
                parts.setdefault(before, {}).setdefault(number, set()).add(after)
    return {
        f"{before}.{number}.{after}"
        for before, numbers in parts.items()
        for number, have in numbers.items()
        for after in set().union(*numbers.values()) - have
    }


@contextmanager
def loading(what: str, place: str) -> Iterator[None]:
    """Turn the errors of other libraries inside the block into one that names what was loaded.

    Args:
        what: what is loaded, such as ``"the tokenizer of model 'tiny'"``.
        place: the folder or the name on the hub that it is loaded from.

    Raises:
        DamagedModelError: something inside could not be loaded.
    """
    try:
        yield
    except (ArgumentError, ImportError):
        raise
    except Exception as error:  # of transformers, PEFT, tokenizers and what they are built on
        if "OutOfMemory" in type(error).__name__:
            raise
        _blame_tokenizer_file(Path(place))
        reason = " ".join(str(error).split())
        if not reason or isinstance(error, LookupError):  # says no more than a key
            reason = f"{type(error).__name__} {reason}".strip()
        raise DamagedModelError(
            f"{what} cannot be loaded from {place}: {reason[:_LONGEST].rstrip('.')}; "
            f"{_GET_IT_AGAIN}, or take another"
        ) from error


def _blame_tokenizer_file(folder: Path) -> None:
    """Raise an error that names the file, if one of a folder's tokenizer files is no JSON."""
    for name in _OF_TOKENIZER:
        if (folder / name).is_file():
            read_json(folder / name)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold a model's weights, and none that merely lies there."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    return sorted({folder / name for name in _placed(folder / INDEX).values()})


def _check_shards(index: Path) -> None:
    names = set(_placed(index).values())
    absent = sorted(name for name in names if not (index.parent / name).is_file())
    if absent:
        raise DamagedModelError(
            f"{index} names {len(names)} files of weights, and {len(absent)} of them are not "
            f"there: {', '.join(absent)}; {_GET_IT_AGAIN}"
        )


def _placed(index: Path) -> Mapping[str, str]:
    """Return the name of the file that holds each tensor, by the tensor's name."""
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(one, str) for one in placed.values()):
        raise DamagedModelError(
            f"{index} is damaged: it has no weight_map of names; {_GET_IT_AGAIN}"
        )
    return placed

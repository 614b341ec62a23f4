"""Read and write the folder of a classifier: ``classifier.json``, written last, and its weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy
from numpy.typing import NDArray

from sra_fast.names import ClassifierKind
from sra_fast.tools.atomic import replaced_atomically, write_json
from sra_fast.tools.strict_json import decode_utf8, parse_json

from .interface import ClassifierError

RECORD = "classifier.json"
WEIGHTS = "weights.safetensors"
VOCABULARY = "vocabulary.json"
MODEL = "encoder"
"""The name of the folder of a fine-tuned model and its tokenizer."""

CLASSIFIER_FILES = (RECORD, WEIGHTS, VOCABULARY, MODEL)
"""The files and the folder of a classifier, of which each kind writes some."""

_FORMAT = "sra_fast.classifier/1"
_FIELDS = {"format", "kind", "classes", "settings"}


def begin(folder: Path) -> None:
    """Make the folder, and remove the classifier that it holds, if any."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RECORD, WEIGHTS, VOCABULARY):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / MODEL, ignore_errors=True)


def write_record(
    folder: Path, kind: ClassifierKind, classes: tuple[str, ...], settings: Mapping[str, Any]
) -> None:
    """Write ``classifier.json``, with which the folder counts as a classifier.

    Args:
        folder: the folder.
        kind: the kind of the classifier.
        classes: the strategies that it tells apart.
        settings: the settings that it was trained with.
    """
    record = {"format": _FORMAT, "kind": kind, "classes": classes, "settings": dict(settings)}
    write_json(folder / RECORD, record)


def read_record(folder: Path) -> dict[str, Any]:
    """Read the ``classifier.json`` of a folder.

    Raises:
        ClassifierError: the folder has none, or it is not in its format.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ClassifierError(
            f"{folder} holds no classifier (no {RECORD}); give the folder of a trained classifier, "
            "or 'plain' for the library's own",
            "classifier",
        )
    record = parse_json(
        decode_utf8(path.read_bytes(), str(path), raises=ClassifierError),
        str(path),
        raises=ClassifierError,
    )
    if (
        not isinstance(record, dict)
        or set(record) != _FIELDS
        or record["format"] != _FORMAT
        or record["kind"] not in get_args(ClassifierKind)
        or not isinstance(record["settings"], dict)
        or not isinstance(record["classes"], list)
        or len(set(map(str, record["classes"]))) < 2
    ):
        raise ClassifierError(f"{path} is not of the format {_FORMAT}; train the classifier anew")
    return record


def write_weights(folder: Path, tensors: Mapping[str, NDArray[numpy.float64]]) -> None:
    """Write ``weights.safetensors``, whole or not at all."""
    from safetensors.numpy import save_file

    whole = {name: numpy.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with replaced_atomically(folder / WEIGHTS) as temporary:
        save_file(whole, temporary)


def read_weights(
    folder: Path, shapes: Mapping[str, tuple[int | None, ...]]
) -> dict[str, NDArray[numpy.float64]]:
    """Read the tensors of ``weights.safetensors`` and check their shapes.

    Args:
        folder: the folder of the classifier.
        shapes: the shape of each tensor, by its name; None where any length will do.

    Raises:
        ClassifierError: the file is missing or damaged, holds numbers that are not finite, or
            belongs to another classifier.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ClassifierError(
            f"{path} cannot be read ({error}); train the classifier anew"
        ) from error
    for name, shape in shapes.items():
        found = tensors[name].shape if name in tensors else None
        if (
            found is None
            or len(found) != len(shape)
            or any(want not in (None, have) for want, have in zip(shape, found, strict=True))
        ):
            raise ClassifierError(
                f"{path}: tensor {name!r} should have the shape {shape}, found {found}; the files "
                "of this folder do not belong together, so train the classifier anew"
            )
        if not numpy.isfinite(tensors[name]).all():
            raise ClassifierError(
                f"{path}: tensor {name!r} holds NaN or infinite numbers; train the classifier anew"
            )
    return {name: tensors[name] for name in shapes}

"""Record what a model has been trained on, so that it is not evaluated on that by mistake.

The record is kept beside the model. Texts are kept as digests alone. A dialogue is told by how it
begins: the conversations that are cut from it begin alike, whatever they are called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from sra_fast.chat.conversations import Conversation
from sra_fast.tools.atomic import write_json
from sra_fast.tools.strict_json import parse_json

NAME = "trained_on.json"

_FORMAT = "sra_fast.trained_on/1"
_FIRST = 4  # messages that tell a dialogue; many share a greeting and its answer
_DIGITS = 16


class TrainedOnError(ValueError):
    """Raised when the file in a folder is not a record of what was trained on."""


def beginning(conversation: Conversation) -> str:
    """Return the digest of how a conversation begins: its situation and first four messages.

    If there are fewer messages, its reply counts too.
    """
    said = [message.content for message in conversation.messages[:_FIRST]]
    if len(said) < _FIRST:
        said.append(conversation.response or "")
    return digest(conversation.situation or "", *said)


def digest(*texts: str) -> str:
    """Return a digest of texts: 64 bits of a SHA-256, in hexadecimal."""
    whole = json.dumps(texts, ensure_ascii=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:_DIGITS]


def write_trained_on(folder: Path, digests: Iterable[str]) -> None:
    """Write the record ``trained_on.json`` into a folder that exists."""
    record = {"format": _FORMAT, "digests": sorted(set(digests))}
    write_json(folder / NAME, record, indent=None)


def read_trained_on(folder: Path) -> frozenset[str]:
    """Read the digests of a model folder; there are none for a model from elsewhere.

    Raises:
        TrainedOnError: the file is not one of ours.
    """
    file = folder / NAME
    if not file.is_file():
        return frozenset()
    record = parse_json(file.read_text(encoding="utf-8"), str(file), raises=TrainedOnError)
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise TrainedOnError(f"{file} is not of the format {_FORMAT}; remove it, or train anew")
    return frozenset(map(str, record["digests"]))

"""Keep how far a pass over the layers is in a file that appears whole or not at all.

The file holds the hidden states of all groups after the last layer, the masses and profiles of the
layers so far, and what it was made of. What does not fit the call that finds it is made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sra_fast.measure.layerwise.layer_loop import LayerStates
from sra_fast.measure.layerwise.layer_output import LayerOutput, Outline
from sra_fast.measure.profiles import ProfileRecord
from sra_fast.measure.request import SpanRequest
from sra_fast.tools.atomic import replaced_atomically

_logger = logging.getLogger(__name__)

_FORMAT = "sra_fast.layers/1"


class KeptLayers:
    """The file that keeps how far one pass is.

    Args:
        path: the file; its folder is made when it is first written.
        made_of: everything that the numbers depend on, as values of JSON.
        seconds: the least time between two writes.
    """

    def __init__(self, path: Path, made_of: Any, seconds: float) -> None:
        self._path, self._seconds = path, seconds
        self._made_of = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        self._written = time.monotonic()

    def find(self, requests: Sequence[SpanRequest], device: torch.device) -> LayerStates | None:
        """Read what was kept of this very pass, and give the requests their masses back.

        Args:
            requests: the request of each group, unanswered.
            device: where the hidden states are needed.

        Returns:
            How far the pass is, or None if nothing was kept of it.
        """
        try:
            with safe_open(self._path, "pt") as file:
                about = json.loads(file.metadata()["sra_fast"])
                if about["format"] != _FORMAT or about["made_of"] != self._made_of:
                    return None
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            _logger.warning("%s cannot be read (%s), so it is computed again", self._path, error)
            return None
        outlines = [[_outline(one) for one in layer] for layer in about["outlines"]]
        states = LayerStates(len(outlines), [], outlines)
        for group, request in enumerate(requests):
            _restore(request, _inside(tensors, f"group{group}."), device)
            outline = outlines[-1][group]
            parts = tuple(
                None if shape is None else tensors[f"group{group}.output.{number}"].to(device)
                for number, shape in enumerate(outline.shapes)
            )
            states.outputs.append(LayerOutput(parts, outline.alone))
        return states

    def keep(self, states: LayerStates, requests: Sequence[SpanRequest]) -> None:
        """Write how far the pass is, unless too little time went by since the last time."""
        if time.monotonic() - self._written < self._seconds:
            return
        tensors: dict[str, Tensor] = {}
        for group, (output, request) in enumerate(zip(states.outputs, requests, strict=True)):
            found = {
                f"output.{number}": one
                for number, one in enumerate(output.tensors)
                if one is not None
            }
            found |= _answers(request)
            tensors |= {f"group{group}.{name}": one for name, one in found.items()}
        about = {
            "format": _FORMAT,
            "made_of": self._made_of,
            "outlines": [[[one.alone, one.shapes] for one in layer] for layer in states.outlines],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_atomically(self._path) as temporary:
            whole = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
            save_file(whole, temporary, metadata={"sra_fast": json.dumps(about)})
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file, if it is there."""
        self._path.unlink(missing_ok=True)


def _answers(request: SpanRequest) -> dict[str, Tensor]:
    """Return what layers answered to a request, by names."""
    found = {f"mass.{layer}": mass for layer, mass in request.masses.items()}
    found |= {f"sink.{layer}": mass for layer, mass in request.sink_masses.items()}
    if isinstance(request.profiles, ProfileRecord):
        found |= {f"profile.{name}": one for name, one in request.profiles.state().items()}
    return found


def _restore(request: SpanRequest, tensors: dict[str, Tensor], device: torch.device) -> None:
    """Give a request the answers back that :func:`_answers` returned."""
    for name, one in _inside(tensors, "mass.").items():
        request.masses[int(name)] = one.to(device)
    for name, one in _inside(tensors, "sink.").items():
        request.sink_masses[int(name)] = one.to(device)
    if isinstance(request.profiles, ProfileRecord):
        kept = _inside(tensors, "profile.")
        request.profiles.restore({name: one.to(device) for name, one in kept.items()})


def _inside(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(start): one for name, one in tensors.items() if name.startswith(start)
    }


def _outline(read: Any) -> Outline:
    alone, shapes = read
    return Outline(bool(alone), tuple(None if one is None else tuple(one) for one in shapes))

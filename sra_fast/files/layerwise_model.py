"""Open a model whose weights stay in its files, to score it layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sra_fast.files.adapters import is_adapter
from sra_fast.files.checkpoint_parts import CheckpointParts
from sra_fast.files.mapped_tensors import MappedTensors
from sra_fast.files.model_files import INDEX, WEIGHTS, weight_files
from sra_fast.files.models import ModelSource, choose_device, find_model
from sra_fast.files.weights import load_weights, output_head
from sra_fast.measure import compat
from sra_fast.measure.layerwise.layer_weights import bind
from sra_fast.measure.served import serve
from sra_fast.measure.unserved import UnservedModelError
from sra_fast.names import Device, DType
from sra_fast.tools.missing_extra import needed

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def layerwise_model(
    model: str | Path, *, dtype: DType = "auto", device: Device = "cpu"
) -> PreTrainedModel:
    """Open a model for ``sra_fast.score(model, batch, layerwise=True)``, and read no weights.

    Its weights are read from its safetensors files when they are needed, one layer at a time, so
    that it may be larger than memory. Nothing else can be done with it.

    Args:
        model: a folder that ``save_pretrained`` wrote, ``"smollm2"``, or a name on the hub.
        dtype: number format of the weights. ``"auto"`` is that in which they are stored: they are
            then used where the system mapped them, without a copy.
        device: the device that layers run on.

    Returns:
        The model, with its weights on the device meta.

    Raises:
        UnservedModelError: it is an adapter, quantised, a GGUF file, has no safetensors files, or
            is no model that :func:`sra_fast.score` takes.
        MissingWeightsError: the files do not hold all of its weights.
        DamagedModelError: a file is missing or cannot be read.
        ModelNotFoundError: there is no such model.
        MissingExtraError: the package accelerate is not installed.
    """
    return open_layerwise(find_model(str(model)), dtype, choose_device(device))


def open_layerwise(source: ModelSource, dtype: DType, device: str) -> PreTrainedModel:
    """Open the model of a source as :func:`layerwise_model` does."""
    if reason := _why_not(source):
        raise UnservedModelError(
            f"model {source.name!r} cannot run layer by layer: it {reason}; score it without "
            "layerwise"
        )
    files = [file for file in weight_files(source.folder()) if file.is_file()]
    if not files:
        raise UnservedModelError(
            f"model {source.name!r} cannot run layer by layer: its weights are not in {WEIGHTS} or "
            f"in the files of {INDEX}; write them so with save_pretrained, or download them"
        )
    needed("train", "accelerate")
    tensors = MappedTensors(files)
    model: PreTrainedModel = load_weights(
        _HeadersAlone(source.config(), tensors),
        source.place,
        f"model {source.name!r}",
        allow_missing=False,
        unneeded=output_head,
        why_unneeded="that no mass depends on",
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        device_map="meta",
    ).eval()
    decoder = serve(model).decoder
    _fill_buffers(model, decoder, device)
    bind(decoder, CheckpointParts(model, decoder, tensors, device))
    return model


@dataclass(frozen=True)
class _HeadersAlone:
    """A stand-in for one of transformers' auto classes that reads no file.

    transformers itself would map all files at once, which may be more than the system promises.

    Attributes:
        config: the model's configuration.
        tensors: the tensors of its files.
    """

    config: Any
    tensors: MappedTensors

    def from_pretrained(self, place: str, **arguments: Any) -> Any:
        """Load a model onto the device meta, from what the headers of its files say."""
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        config = self.config
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        if model_class.config_class is not type(config):  # it is for the text part of this one
            config = config.get_text_config()
        outlines = {name: self.tensors.outline(name) for name in self.tensors.names}
        return model_class.from_pretrained(None, config=config, state_dict=outlines, **arguments)


def _why_not(source: ModelSource) -> str | None:
    """Return what kind of model cannot be read layer by layer, None if it may be one that can."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if source.gguf is not None:
        return (
            f"is the GGUF file {source.gguf}, whose weights are unpacked all at once (load it, and "
            "write it anew with save_pretrained)"
        )
    if is_adapter(Path(source.place)):
        return "is an adapter on another model (merge them, and write that with save_pretrained)"
    if source.allow_missing:
        return "may lack weights (allow_missing), and random numbers are drawn for all at once"
    config = source.config()
    if getattr(config, "quantization_config", None) is not None:
        return "is quantised, and its weights are unpacked by a package of its own"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return f"is no causal language model of transformers (model type {config.model_type})"
    return None


def _fill_buffers(model: PreTrainedModel, decoder: nn.Module, device: str) -> None:
    """Compute the decoder's buffers that no file holds, such as rotary frequencies.

    transformers fills them where it initialises a model's weights. Those are on the device meta
    here, where that does nothing.
    """
    stored = set(decoder.state_dict())
    for place, module in decoder.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if (f"{place}.{name}" if place else name) not in stored:
                blank = torch.empty_like(buffer, device=device)
                module.register_buffer(name, blank, persistent=False)
    with torch.random.fork_rng(devices=[]):
        compat.initialise_again(model)

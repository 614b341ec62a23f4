"""Put the weights of one part of a model in place, straight from its files, and let them go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from sra_fast.files.mapped_tensors import MappedTensors
from sra_fast.files.tensor_conversion import put_into, target_names
from sra_fast.measure.layerwise.layer_doors import decoder_layers
from sra_fast.measure.unserved import UnservedModelError


class CheckpointParts:
    """The weights of a model on the device meta, which come from files part by part.

    Args:
        model: the model.
        decoder: its decoder.
        tensors: the tensors of its files.
        device: where the weights are needed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoder: nn.Module,
        tensors: MappedTensors,
        device: str,
    ) -> None:
        self._model, self._decoder = model, decoder
        self._tensors, self._device = tensors, device
        self._sources: dict[str, list[str]] = {}
        for source, target in target_names(model, tensors.names).items():
            self._sources.setdefault(target, []).append(source)
        self._names: dict[int, list[str]] = {}
        for name, weight in (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ):
            self._names.setdefault(id(weight), []).append(name)

    @contextmanager
    def in_place(self, part: nn.Module) -> Iterator[None]:
        """Hold the weights of a layer in memory inside the block, and let go of them afterwards."""
        with self._held(list(part.modules())):
            yield

    @contextmanager
    def rest_in_place(self) -> Iterator[None]:
        """Hold the decoder's weights outside of its layers in memory inside the block."""
        in_layers = {
            id(module) for layer in decoder_layers(self._decoder) for module in layer.modules()
        }
        rest = [module for module in self._decoder.modules() if id(module) not in in_layers]
        with self._held(rest):
            yield

    def identity(self) -> str:
        """Return what tells these weights from others, as a SHA-256."""
        return self._tensors.identity()

    @contextmanager
    def _held(self, modules: list[nn.Module]) -> Iterator[None]:
        """Hold the weights that some modules have themselves, and put them back afterwards."""
        before = _own(modules)
        wanted = self._sources_of([weight for _, _, weight in before])
        try:
            put_into(
                self._model, {name: self._tensors.tensor(name) for name in wanted}, self._device
            )
            for module, name, weight in _own(modules):
                if weight.is_meta:
                    raise UnservedModelError(
                        f"{type(self._model).__name__} cannot run layer by layer: its files hold "
                        f"no weight that is {self._name_of(module, name)} and nothing else (it is "
                        "joined with weights of other layers, or tied to them); load it with "
                        "from_pretrained"
                    )
            yield
        finally:
            for module, name, weight in before:
                setattr(module, name, weight)

    def _sources_of(self, weights: list[Tensor]) -> list[str]:
        """Return the tensors of the files that some weights are made of."""
        names = {name: None for weight in weights for name in self._names.get(id(weight), ())}
        return [source for name in names for source in self._sources.get(name, ())]

    def _name_of(self, module: nn.Module, name: str) -> str:
        places = [place for place, one in self._model.named_modules() if one is module]
        return f"{places[0]}.{name}" if places else name


def _own(modules: list[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    """Return the parameters and buffers that modules have themselves, with their names there."""
    return [
        (module, name, weight)
        for module in modules
        for name, weight in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        )
    ]

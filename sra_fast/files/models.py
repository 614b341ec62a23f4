"""Find and load the model that a name means: a hub name, a folder, a GGUF file or smollm2."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sra_fast.files.adapters import base_of, is_adapter, with_adapter_of
from sra_fast.files.hub_names import ModelNotFoundError, check_hub_name
from sra_fast.files.model_files import check_model_files, loading
from sra_fast.files.provenance import versions
from sra_fast.files.weights import load_weights, output_head
from sra_fast.names import Device, DType
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.missing_extra import needed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
_SAMPLES = 64  # pieces of a weight file that its fingerprint is made of
_SAMPLE_BYTES = 4096


class DeviceError(ArgumentError):
    """Raised when the device that is asked for is not there."""


@dataclass(frozen=True)
class ModelSource:
    """The place that a model comes from, and the functions that load it.

    Attributes:
        name: what results call the model: the hub name, or the folder's own.
        place: the hub name or the folder, as transformers takes it.
        gguf: name of the GGUF file in the folder that holds the model, or None.
        allow_missing: whether weights that its files lack are only told; random numbers stand in
            for them then.
    """

    name: str
    place: str
    gguf: str | None = None
    allow_missing: bool = False

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the model's tokenizer, the fast one if it has two."""
        from transformers import AutoTokenizer

        with loading(f"the tokenizer of model {self.name!r}", self.place):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.place, **self._gguf_file()
            )
        return tokenizer

    def fingerprint(self) -> dict[str, str | bool | None]:
        """Return what tells this model from another of its name, without loading its weights.

        ``config`` is a SHA-256 of the configuration, ``weights`` the hub's commit, or for a folder
        a SHA-256 of the sizes of the weight files and of samples spread over each.
        """
        base = self._adapter_base()
        fields = {
            key: value
            for key, value in self.config().to_dict().items()
            if key not in ("_name_or_path", "transformers_version")
        }
        text = json.dumps(fields, sort_keys=True, default=str)
        folder = Path(self.place)
        return {
            "name": self.name,
            "base": base,
            "base_weights": _weights(Path(base)) if base and Path(base).is_dir() else None,
            "config": hashlib.sha256(text.encode()).hexdigest(),
            "weights": _weights(folder) if folder.is_dir() else _hub_commit(self.place),
            **({"allow_missing": True} if self.allow_missing else {}),
        }

    def as_run(self, dtype: DType, device: str) -> dict[str, Any]:
        """Return the model's part of a run's settings: fingerprint, dtype, device and versions."""
        return {
            **self.fingerprint(),
            "dtype": dtype,
            "device": device,
            "versions": versions("torch", "transformers"),
        }

    def load(self, dtype: DType, device: str, *, logits: bool = True) -> PreTrainedModel:
        """Load the model onto a device, ready to be scored or to generate.

        Args:
            dtype: number format of the weights; ``"auto"`` is that in which they are stored.
            device: ``"cpu"`` or ``"cuda"``.
            logits: whether what is to be done depends on logits; else an output head may be
                missing, which no mass depends on.

        Raises:
            MissingWeightsError: the files do not hold all of the model's weights; or they are an
                adapter's, and hold others.
            DamagedModelError: a file is missing or cannot be read.
            MissingExtraError: it is an adapter or a GGUF, and the packages for these are missing.
        """
        import torch

        wanted = dtype if dtype == "auto" else getattr(torch, dtype)
        loaded = self.with_weights(logits=logits, dtype=wanted, **self._gguf_file())
        return loaded.to(device).eval()

    def check(self) -> None:
        """Check that :meth:`load` will find all weights, and read none of them.

        GGUF files and quantised models are left to :meth:`load`: to check one is to read it.

        Raises:
            MissingWeightsError, DamagedModelError: as :meth:`load`.
        """
        if self.gguf is None and getattr(self.config(), "quantization_config", None) is None:
            needed("train", "accelerate")
            self.with_weights(device_map="meta")

    def with_weights(self, *, logits: bool = True, **arguments: Any) -> PreTrainedModel:
        """Load the model, and its adapter if it is one, by further arguments of transformers.

        Args:
            logits: whether what is to be done depends on logits.
            arguments: further arguments of ``from_pretrained``.

        Raises:
            MissingWeightsError, DamagedModelError: as :meth:`load`.
        """
        from transformers import AutoModelForCausalLM

        folder, base = Path(self.place), self.place
        if not folder.is_dir():
            self._check_no_adapter()
        adapted = is_adapter(folder)
        if adapted:
            needed("peft", "peft")
            base = base_of(folder)
        for place in dict.fromkeys((folder, Path(base))):
            if place.is_dir():
                check_model_files(place)
        model: PreTrainedModel = load_weights(
            AutoModelForCausalLM,
            base,
            f"model {self.name!r}" if base == self.place else f"model {base!r}",
            allow_missing=self.allow_missing,
            unneeded=(lambda model: ()) if logits else output_head,
            why_unneeded="that no mass depends on",
            **arguments,
        )
        if adapted:
            adapter = with_adapter_of(model, folder, allow_missing=self.allow_missing)
            model = adapter.get_base_model()
        return model

    def folder(self) -> Path:
        """Return the folder with the model's files, in the hub's cache if it was loaded from there.

        Raises:
            ModelNotFoundError: it is a model of the hub that is not in the cache.
        """
        folder = Path(self.place)
        return folder if folder.is_dir() else _hub_snapshot(self.place)

    def config(self) -> PreTrainedConfig:
        """Return the configuration of the model, or of the one under the adapter."""
        from transformers import AutoConfig

        place = self._adapter_base() or self.place
        with loading(f"the configuration of model {self.name!r}", place):
            config: PreTrainedConfig = AutoConfig.from_pretrained(place, **self._gguf_file())
        return config

    def _gguf_file(self) -> dict[str, Any]:
        if self.gguf is None:
            return {}
        needed("demo", "gguf", "accelerate")
        return {"gguf_file": self.gguf}

    def _check_no_adapter(self) -> None:
        """Check that a model on the hub has no adapter, which would be put on it unasked.

        Raises:
            ModelNotFoundError: it has one.
        """
        from transformers.utils import find_adapter_config_file

        if find_adapter_config_file(self.place) is not None:
            raise ModelNotFoundError(
                f"model {self.name!r} holds an adapter on the hub, and adapters are read from "
                "folders; download it into one and give that"
            )

    def _adapter_base(self) -> str | None:
        """Return the model under an adapter that PEFT saved, if this is a folder with one alone."""
        folder = Path(self.place)
        base = base_of(folder) if is_adapter(folder) else self.place
        return None if base == self.place else base


def find_model(name: str, *, allow_missing: bool = False) -> ModelSource:
    """Find the model that a user means by ``name``.

    A folder with a ``config.json`` is taken as it is; one without it that holds a single ``.gguf``
    is loaded from that; ``smollm2`` is SmolLM2-135M-Instruct
    (:mod:`sra_fast.files.smollm2`); everything else must be in the local cache or on the hub, which
    is asked once.

    Args:
        name: the folder or the name.
        allow_missing: whether weights that the model's files lack are only told when it is loaded;
            random numbers stand in for them then.

    Raises:
        DamagedModelError: a file of the folder is missing or cannot be read.
        ModelNotFoundError: an empty name, a path to nothing, a folder without a model, or a name
            that the hub does not know or cannot be asked for.
        MissingExtraError: the package that ``smollm2`` comes in is not installed.
    """
    from sra_fast.files import smollm2

    if not name.strip():
        raise ModelNotFoundError("the model's name is empty; give a folder or a name", "model")
    folder = Path(name).expanduser()
    if not folder.is_dir() and name == smollm2.NAME:
        return ModelSource(
            "SmolLM2-135M-Instruct", str(smollm2.smollm2_folder()), allow_missing=allow_missing
        )
    if folder.is_dir():
        own_name = folder.resolve().name
        if any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
            check_model_files(folder)
            return ModelSource(own_name, str(folder), allow_missing=allow_missing)
        ggufs = sorted(file.name for file in folder.glob("*.gguf"))
        if len(ggufs) == 1:
            return ModelSource(own_name, str(folder), ggufs[0], allow_missing)
        raise ModelNotFoundError(
            f"model {name!r}: the folder has no config.json and {len(ggufs)} .gguf files; give a "
            "folder that save_pretrained wrote, or one with a single .gguf"
        )
    if folder.exists():
        raise ModelNotFoundError(f"model {name!r} is a file; give the folder that it lies in")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ModelNotFoundError(f"model {name!r}: there is no such folder")
    check_hub_name(name)
    return ModelSource(name, name, allow_missing=allow_missing)


def choose_device(device: Device) -> str:
    """Return the device to use, ``"cpu"`` or ``"cuda"``; ``"auto"`` is CUDA where there is one.

    Raises:
        DeviceError: CUDA is asked for, but there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise DeviceError("there is no CUDA device here; take the device 'cpu'", "device")
    return ("cuda" if available else "cpu") if device == "auto" else device


def _hub_commit(name: str) -> str:
    """Return the commit of a hub model, whose configuration has just come into the hub's cache."""
    return _hub_snapshot(name).name


def _hub_snapshot(name: str) -> Path:
    """Return the folder of the hub's cache with a model: …/snapshots/<commit>."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json")
    if not isinstance(file, str):
        raise ModelNotFoundError(
            f"model {name!r}: its configuration is not in the hub's cache, so its commit is "
            "unknown; download the model into a folder and give that"
        )
    return Path(file).parent


def _weights(folder: Path) -> str:
    """Return a SHA-256 of the weight files: their sizes, and samples spread evenly over each."""
    digest = hashlib.sha256()
    files = {file.name: file for pattern in _WEIGHTS for file in folder.glob(pattern)}
    for name, file in sorted(files.items()):
        size = file.stat().st_size
        digest.update(f"{name} {size}\n".encode())
        with file.open("rb") as stream:
            for index in range(_SAMPLES):
                stream.seek(index * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()

"""Load the base model, put a LoRA adapter on it, and save the adapter or the two merged."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sra_fast.files.adapters import with_adapter_of
from sra_fast.files.model_files import tensor_shapes
from sra_fast.files.models import ModelSource
from sra_fast.files.weights import listed
from sra_fast.names import DType
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.suggestions import did_you_mean

from .checkpoints import Checkpoint
from .settings import TrainingConfig

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
"""The target that stands for every linear layer but the output head."""


class LoRAError(ArgumentError):
    """Raised when a model cannot be loaded for training or merged, or takes no such adapter."""


def check_base(source: ModelSource) -> None:
    """Check that a model can be trained on, before anything is written.

    Args:
        source: the base model.

    Raises:
        LoRAError: the model is itself an adapter.
        MissingWeightsError: its files do not hold all of its weights.
        DamagedModelError: a file of it is missing or cannot be read.
    """
    folder = Path(source.place)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise LoRAError(
            f"{folder} is itself an adapter; train on its base model, or on the two "
            "merged (a training run with merge=True writes that)",
            "model",
        )
    source.check()


def load_base(source: ModelSource, config: TrainingConfig, device: str) -> PreTrainedModel:
    """Load the base model onto the CPU, or in 4 bits onto the GPU of this process.

    Args:
        source: the base model.
        config: the settings of the run, of which ``dtype`` and ``load_4bit`` count here.
        device: the device to train on, "cpu" or "cuda".

    Raises:
        LoRAError: 4 bits are asked for without bitsandbytes, without a GPU, or of a GGUF file.
    """
    if not config.load_4bit:
        return source.load(config.dtype, "cpu")
    import torch
    from transformers import BitsAndBytesConfig

    with needed("train", "accelerate"):
        from accelerate import PartialState
    if importlib.util.find_spec("bitsandbytes") is None:
        raise LoRAError(
            "loading in 4 bits needs the package bitsandbytes: pip install bitsandbytes, or train "
            "without load_4bit",
            "load_4bit",
        )
    if device == "cpu" or not torch.cuda.is_available():
        raise LoRAError(
            "loading in 4 bits needs a CUDA device; train without load_4bit", "load_4bit"
        )
    if source.gguf is not None:
        raise LoRAError(
            f"{source.name} is a GGUF file, which cannot be loaded in 4 bits; train without "
            "load_4bit, or on the safetensors of the model",
            "load_4bit",
        )
    kind = torch.bfloat16 if config.dtype == "auto" else getattr(torch, config.dtype)
    return source.with_weights(
        dtype=kind,
        device_map={"": PartialState().device},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=kind,
        ),
    )


def with_adapter(model: PreTrainedModel, config: TrainingConfig) -> PeftModel:
    """Put a new LoRA adapter on a model; the adapter alone is trained.

    Args:
        model: the base model, which is changed in place.
        config: the settings of the run, of which rank, alpha, dropout and targets count here.

    Raises:
        LoRAError: ``config.targets`` are empty, no regular expression, or match no module; or one
            of several names matches none.
    """
    with needed("train", "peft"):
        from peft import LoraConfig, get_peft_model

    targets: Any = config.targets if isinstance(config.targets, str) else list(config.targets)
    if not targets:
        raise LoRAError(f"targets is empty; name modules, or set it to {ALL_LINEAR!r}")
    if isinstance(targets, list):
        _check_names(model, targets)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    if isinstance(targets, str):
        _check_pattern(targets)
    try:
        with _without_peft_warning():
            adapted: PeftModel = get_peft_model(model, lora)
    except ValueError as error:
        if any(hasattr(module, "lora_A") for module in model.modules()):
            raise
        raise LoRAError(
            f"LoRA targets {config.targets!r} match no module that LoRA can adapt in "
            f"{type(model).__name__} ({error}); its linear layers are "
            f"{', '.join(_linear_layers(model))}; {ALL_LINEAR!r} takes all of them"
        ) from error
    return adapted


def check_resumable(model: PeftModel, checkpoint: Checkpoint) -> None:
    """Check that a checkpoint holds every weight of a model's adapter, and no other.

    Args:
        model: the model with the adapter that goes on from the checkpoint.
        checkpoint: the checkpoint.

    Raises:
        LoRAError: it does not.
    """
    with needed("peft", "peft"):
        from peft import get_peft_model_state_dict

    file = checkpoint.adapter_files[0]
    found, wanted = set(tensor_shapes(file)), set(get_peft_model_state_dict(model))
    if found != wanted:
        raise LoRAError(
            f"{file} is not whole: {len(wanted - found)} weights of the adapter are missing, and "
            f"{len(found - wanted)} are not the adapter's: {listed(found ^ wanted)}; remove "
            f"{checkpoint.name}, so that the run goes on from the one before"
        )


def save_adapter(checkpoint: Checkpoint, tokenizer: Any, folder: Path) -> int:
    """Copy a checkpoint's adapter and the tokenizer into a folder, whole or not at all.

    Args:
        checkpoint: the checkpoint with the adapter.
        tokenizer: the tokenizer of the model.
        folder: the folder to write; one of that name is replaced.

    Returns:
        The number of parameters of the adapter.
    """
    from safetensors import safe_open

    with _replaced_folder(folder) as temporary:
        for file in checkpoint.adapter_files:
            shutil.copyfile(file, temporary / file.name)
        tokenizer.save_pretrained(temporary)
    with safe_open(folder / checkpoint.adapter_files[0].name, "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    return sum(math.prod(shape) for shape in shapes)


def save_merged(
    source: ModelSource, adapter: Path, dtype: DType, tokenizer: Any, folder: Path
) -> None:
    """Load the base model again, add the adapter to its weights, and save it as safetensors.

    Args:
        source: the base model.
        adapter: the folder of the adapter.
        dtype: the dtype in which the base model is loaded and saved.
        tokenizer: the tokenizer of the model.
        folder: the folder to write, whole or not at all; one of that name is replaced.

    Raises:
        LoRAError: a merged weight is NaN or infinite.
        MissingWeightsError: the adapter's file lacks weights, or holds others.
    """
    base = source.load(dtype, "cpu")
    model = with_adapter_of(base, adapter, allow_missing=source.allow_missing)
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise LoRAError(f"{adapter} cannot be merged: {error}") from error
    with _replaced_folder(folder) as temporary:
        merged.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


@contextmanager
def _without_peft_warning() -> Iterator[None]:
    """Silence the warning that PEFT causes by using a name that transformers is retiring."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


@contextmanager
def _replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces another if the block ends without an error."""
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_pattern(targets: str) -> None:
    try:
        re.compile(targets)
    except re.error as error:
        raise LoRAError(
            f"LoRA targets {targets!r} are not a valid regular expression: {error}"
        ) from error


def _check_names(model: PreTrainedModel, targets: list[str]) -> None:
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            linear = _linear_layers(model)
            near = did_you_mean(target, linear) or f"; its linear layers are {', '.join(linear)}"
            raise LoRAError(
                f"LoRA target {target!r} matches no module of {type(model).__name__}{near}"
            )


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """Return the last part of the name of each linear layer but the output head, each once."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return list(
        dict.fromkeys(
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and module is not head
        )
    )

"""Put tensors of a checkpoint into a model by transformers' own renamings and conversions.

Checkpoints name and cut weights otherwise than models do: transformers renames them, and joins the
experts of a layer into one weight, when it loads them. The functions that do that are called here
for a few tensors at a time. They are not among transformers' documented ones; they were seen in
versions 5.17 to 5.23.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging


def target_names(model: PreTrainedModel, names: Sequence[str]) -> dict[str, str]:
    """Return the weight of a model that each tensor of a checkpoint belongs to.

    Of weights that are made of several tensors together the first is returned. Tensors for which
    the model has no place are left out.

    Args:
        model: the model, whose weights may be on the device meta.
        names: the names of the checkpoint's tensors.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, WeightConverter)]
    state = model.state_dict()
    found = {}
    for name in names:
        prefix = model.base_model_prefix
        target, _ = rename_source_key(name, renamings, converters, prefix, state)
        if target not in state and name in state:
            target = name
        if target in state:
            found[name] = target
    return found


def put_into(model: PreTrainedModel, tensors: Mapping[str, Tensor], device: str) -> None:
    """Put tensors of a checkpoint in the place of a model's weights.

    Args:
        model: the model. Its weights on the device meta say which number format is wanted.
        tensors: the tensors by their names in the checkpoint; all that belong to one weight are
            there, or none.
        device: where the weights are needed. What is there already, in the number format that is
            wanted, is taken as it is, without a copy.
    """
    config = LoadStateDictConfig(
        dtype=model.dtype,
        device_map={"": device},
        weight_mapping=get_model_conversion_mapping(model),
    )
    with _no_bars():
        convert_and_load_state_dict_in_model(model, dict(tensors), config)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Draw no progress bars of transformers inside the block."""
    shown: Any = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

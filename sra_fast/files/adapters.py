"""Load an adapter that PEFT saved onto its base model, with every key in its place.

PEFT itself reads it: transformers' own reading leaves the magnitudes of DoRA out, and in older
versions also trained embeddings and output heads.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sra_fast.files.hub_names import hub_problem
from sra_fast.files.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    DamagedModelError,
    loading,
    read_json,
    tensor_shapes,
)
from sra_fast.files.weights import (
    Mismatch,
    MissingWeightsError,
    describe,
    listed,
    seeded,
    tell,
)
from sra_fast.measure.adapter_kinds import why_not_in_layers
from sra_fast.tools.missing_extra import needed

if TYPE_CHECKING:
    from peft import PeftModel

_NAME = "default"  # of the adapter among those of a model
_OLD_WEIGHTS = "adapter_model.bin"


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter, alone or beside its base model."""
    return (folder / ADAPTER_CONFIG).is_file()


def base_of(folder: Path) -> str:
    """Return the model under an adapter: the same folder if it holds one, else the one it names.

    Args:
        folder: the folder of the adapter.

    Raises:
        DamagedModelError: its configuration cannot be read, or names no model that there is.
    """
    if (folder / CONFIG).is_file():
        return str(folder)
    file = folder / ADAPTER_CONFIG
    named = read_json(file).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise DamagedModelError(
            f"{file} names no base model (base_model_name_or_path); write the folder or the name "
            "of the model that the adapter was trained on there"
        )
    problem = None if Path(named).is_dir() else hub_problem(named)
    if problem is not None:
        raise DamagedModelError(
            f"{file} names the base model {named!r}, which is {problem}; write there where the "
            "model is now (base_model_name_or_path)"
        )
    return named


def with_adapter_of(base: Any, folder: Path, *, allow_missing: bool) -> PeftModel:
    """Put a saved adapter on its base model.

    Args:
        base: the base model, which is changed in place.
        folder: the folder of the adapter.
        allow_missing: whether weights that the file lacks, or that the base model has no place or
            another shape for, are only told.

    Raises:
        MissingWeightsError: there are such weights.
        DamagedModelError: the adapter cannot be read, or is of a kind that cannot be used here.
        MissingExtraError: peft is not installed.
    """
    with needed("peft", "peft"):
        from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    what = f"adapter {folder.name!r}"
    with loading(what, str(folder)):
        config = PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning:
        raise DamagedModelError(
            f"{folder} is an adapter of the kind {config.peft_type.value}, which puts virtual "
            "tokens before the prompt; only adapters that change the model's layers can be used"
        )
    if reason := why_not_in_layers(config):
        raise DamagedModelError(
            f"{folder} {reason}; only adapters that change the model's layers can be used"
        )
    config.inference_mode = True
    if base.device.type == "meta" and hasattr(config, "init_lora_weights"):
        config.init_lora_weights = False  # some kinds split the base weights, which are not here
    shapes = _shapes(folder)
    with warnings.catch_warnings(), seeded():
        warnings.simplefilter("ignore")  # everything that is warned of here is judged below
        try:
            with loading(what, str(folder)):
                model = get_peft_model(base, config, adapter_name=_NAME)
        except DamagedModelError as error:
            if shapes is None or any(_in_model(name, base) for name in shapes):
                raise
            raise _unfit(what, folder, base, shapes) from error
        expected = {
            name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()
        }
        unread = {name for name in expected if shapes is not None and name not in shapes}
        try:
            with loading(what, str(folder)):
                report = model.load_adapter(
                    str(folder), _NAME, torch_device="cpu", ignore_mismatched_sizes=True
                )
        except DamagedModelError as error:
            if not isinstance(error.__cause__, KeyError) or not unread:
                raise
            # PEFT looks trained embeddings and heads up by their names, and cannot go on without.
            unknown = set(shapes or ()) - set(expected)
            raise MissingWeightsError(
                f"{what}: {_found(folder, unread, set(), unknown)}",
                "copy the whole file again",
                sorted(unread),
                unexpected=sorted(unknown),
                allowable=False,
            ) from error
    mismatched = {
        Mismatch(name, tuple(shapes[name]), shape)
        for name, shape in expected.items()
        if shapes is not None and name in shapes and tuple(shapes[name]) != shape
    }
    known = {*expected, *(shapes or ())}
    missing = {_in_file(name, known) for name in report.missing_keys}
    missing -= {one.name for one in mismatched}
    unexpected = {_in_file(name, known) for name in report.unexpected_keys} - set(expected)
    if missing or mismatched or unexpected:
        found = f"{what}: {_found(folder, missing, mismatched, unexpected)}"
        if not allow_missing:
            raise MissingWeightsError(
                found,
                "give the base model that it was trained on and its whole file, or allow missing "
                "weights",
                sorted(missing),
                sorted(mismatched, key=lambda one: one.name),
                sorted(unexpected),
            )
        tell(f"{found}; it is used all the same")
    return model


def _shapes(folder: Path) -> dict[str, list[int]] | None:
    """Return the shapes in an adapter's file by the names there, None if it is no safetensors."""
    if (folder / ADAPTER_WEIGHTS).is_file():
        return tensor_shapes(folder / ADAPTER_WEIGHTS)
    if (folder / _OLD_WEIGHTS).is_file():
        return None
    raise DamagedModelError(
        f"{folder} holds no {ADAPTER_WEIGHTS}, the weights of the adapter; copy its folder again"
    )


def _in_file(name: str, known: Collection[str]) -> str:
    """Return the name that a weight of an adapted model has in the adapter's file.

    Args:
        name: the weight's name in the model.
        known: the names that the adapter's file holds, and those that it should hold.
    """
    short = name.replace(f".{_NAME}", "", 1)
    bare = short.removesuffix(".weight")  # the magnitudes of DoRA are stored without it
    return bare if short not in known and bare in known else short


def _found(folder: Path, missing: set[str], mismatched: set[Mismatch], unexpected: set[str]) -> str:
    """Return in words what is wrong with an adapter's keys."""
    file = folder / (ADAPTER_WEIGHTS if (folder / ADAPTER_WEIGHTS).is_file() else _OLD_WEIGHTS)
    clauses = describe(missing, mismatched, str(file), "the base model")
    if unexpected:
        clauses.append(
            f"{file} holds {len(unexpected)} that the base model has no place for: "
            f"{listed(unexpected)}"
        )
    return "; ".join(clauses)


def _unfit(what: str, folder: Path, base: Any, shapes: Collection[str]) -> MissingWeightsError:
    """Return the error for an adapter that is for none of a model's modules."""
    return MissingWeightsError(
        f"{what}: {folder / ADAPTER_WEIGHTS} is for the modules of another model, of which "
        f"{type(base).__name__} has none: {listed(shapes)}",
        f"give the base model that it was trained on ({folder / ADAPTER_CONFIG}: "
        "base_model_name_or_path)",
        missing=(),
        unexpected=sorted(shapes),
        allowable=False,
    )


def _in_model(name: str, base: Any) -> bool:
    """Tell whether the module that a weight of an adapter is for is in a model."""
    modules = dict(base.named_modules())
    parts = name.removeprefix("base_model.model.").split(".")
    return any(".".join(parts[:length]) in modules for length in (len(parts) - 1, len(parts) - 2))

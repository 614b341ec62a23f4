"""Check whether the hub knows a model by a name, before anything is loaded or retried.

transformers asks for one file after the other, and each request is tried six times with growing
pauses. Here the local cache is looked into, and then the hub is asked once.
"""

from __future__ import annotations

from pathlib import Path

from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.suggestions import nearest

ALIASES = {"HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2"}
"""Names on the hub of models that are had without it, and their names here."""

TIME_OUT = 5.0
"""Seconds that the hub has for its answer."""

_CONFIGURATIONS = ("config.json", "adapter_config.json")
_SHOWN = 5  # names of known models in an error


class ModelNotFoundError(ArgumentError):
    """Raised when there is no model of a name; the message says where it was looked for."""


def check_hub_name(name: str) -> None:
    """Pass if a model is in the local cache or on the hub, which is asked at most once.

    Args:
        name: the name of a model on the hub, such as ``"HuggingFaceTB/SmolLM2-135M-Instruct"``.

    Raises:
        ModelNotFoundError: it is in neither, or the hub cannot be asked; the message names the
            nearest chat model that is known here.
    """
    problem = hub_problem(name)
    if problem is not None:
        raise ModelNotFoundError(f"model {name!r} is {problem}{_hint(name)}")


def hub_problem(name: str) -> str | None:
    """Return why a model cannot be had by its name on the hub, or None if it can.

    The reason completes the sentence "the model is …".
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in _CONFIGURATIONS):
            return None
        HfApi().model_info(name, timeout=TIME_OUT)
    except GatedRepoError:  # it is there, and whether this user may have it is for its files to say
        return None
    except HFValidationError:
        return "no folder, and not of the form of a name on the hub"
    except RepositoryNotFoundError:
        return f"neither a folder nor a model on the hub that this user can see ({_endpoint()})"
    except OfflineModeIsEnabled:
        cache = constants.HF_HUB_CACHE
        return f"neither a folder nor in the cache ({cache}), and HF_HUB_OFFLINE forbids the hub"
    except Exception as error:  # of whatever HTTP client this version of huggingface_hub has
        reason = str(error).strip().splitlines()
        return (
            f"neither a folder nor in the cache, and the hub ({_endpoint()}) cannot be asked "
            f"({reason[0] if reason else type(error).__name__})"
        )
    return None


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _hint(name: str) -> str:
    """Return the nearest known model and the way out."""
    known = {**ALIASES, **{alias: alias for alias in ALIASES.values()}}
    known |= {cached: cached for cached in _cached()}
    near = nearest(name, known)
    if near is None:
        shown = list(dict.fromkeys(known.values()))
        more = ", …" if len(shown) > _SHOWN else ""
        return (
            "; give a folder with a model, or the name of one on the hub. Known here: "
            f"{', '.join(map(repr, shown[:_SHOWN]))}{more}"
        )
    meant = known[near]
    full = f" ({near}, without the hub)" if near != meant else ""
    return f"; did you mean {meant!r}{full}? Else give a folder with a model"


def _cached() -> list[str]:
    """Return the names of the models in the local cache."""
    from huggingface_hub import constants

    folders = sorted(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots"))
    return [folder.parent.name.removeprefix("models--").replace("--", "/") for folder in folders]

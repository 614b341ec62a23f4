"""Keep what other libraries print of their own accord away from the output of a command.

This means progress bars, warnings, and log messages below errors. Whoever has chosen otherwise by
an environment variable of such a library, or by Python's ``-W``, is obeyed; so is ``--debug``,
under which nothing here is used.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sra_fast.tools.sra_warning import SRAWarning

_logger = logging.getLogger(__name__)

_READ_ON_IMPORT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
_LOGGERS = {  # each with the environment variable by which a user chooses its level
    "transformers": "TRANSFORMERS_VERBOSITY",
    "huggingface_hub": "HF_HUB_VERBOSITY",
    "datasets": "DATASETS_VERBOSITY",
    "torch": "TORCH_LOGS",
    "accelerate": "ACCELERATE_LOG_LEVEL",
    "peft": None,
    "matplotlib": None,
    "openai": "OPENAI_LOG",
}
# For each module: the names of the functions that turn its bars off, turn them on, and tell their
# state, and the state that means that they are off.
_BARS = {
    "transformers.utils.logging": (
        "disable_progress_bar",
        "enable_progress_bar",
        "is_progress_bar_enabled",
        False,
    ),
    "huggingface_hub.utils": (
        "disable_progress_bars",
        "enable_progress_bars",
        "are_progress_bars_disabled",
        True,
    ),
    "datasets.utils": (
        "disable_progress_bars",
        "enable_progress_bars",
        "are_progress_bars_disabled",
        True,
    ),
}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep other libraries quiet inside, whether they are imported already or come later.

    The warnings of this library are logged under ``sra_fast`` meanwhile.
    """
    with ExitStack() as kept:
        for name, variable in _LOGGERS.items():
            if variable is None or variable not in os.environ:
                kept.enter_context(_errors_alone(logging.getLogger(name)))
        for module, names in _BARS.items():
            if module in sys.modules:
                kept.enter_context(_without_bars(importlib.import_module(module), *names))
        kept.enter_context(_environment())
        if not sys.warnoptions:
            kept.enter_context(_own_warnings())
        yield


@contextmanager
def _errors_alone(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _without_bars(module: Any, off: str, on: str, state: str, means_off: bool) -> Iterator[None]:
    if getattr(module, state)() is means_off:
        yield
        return
    getattr(module, off)()
    try:
        yield
    finally:
        getattr(module, on)()


@contextmanager
def _environment() -> Iterator[None]:
    """Set variables for libraries that are imported inside, and processes that start there."""
    added = {name: value for name, value in _READ_ON_IMPORT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Log the warnings of this library, and drop all others."""

    def log(message: Warning | str, *place: Any, **more: Any) -> None:
        _logger.warning("%s", message)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", SRAWarning)
        warnings.showwarning = log
        yield

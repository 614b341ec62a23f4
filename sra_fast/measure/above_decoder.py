"""Tell what stands between a model as the user calls it and the decoder that scoring runs.

Usually nothing does: token ids go down to the decoder as they are, and its masses are the model's.
A hook, a ``forward`` that somebody replaced, or a class of the user's own may change what the
decoder is given. Then the whole model has to run, or the masses would be those of another one.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sra_fast.measure import compat

# Hooks of these packages place and gather parameters, or take a request in; none changes tokens.
_PLACING = ("torch", "accelerate", "deepspeed", "sra_fast")


def modules_above(whole: PreTrainedModel, decoder: nn.Module) -> list[nn.Module]:
    """Return the modules that a call of ``whole`` passes before ``decoder``, outermost first.

    It is empty where the decoder is the whole model.
    """
    place = next((name for name, module in whole.named_modules() if module is decoder), "")
    names = place.split(".") if place else []
    return [whole.get_submodule(".".join(names[:depth])) for depth in range(len(names))]


def hangs_above(whole: PreTrainedModel, decoder: nn.Module) -> tuple[int, ...]:
    """Return the identities of what was hung on the modules above a decoder: hooks and forwards.

    This library's own hooks do not count: they come and go, and change nothing for the decoder.
    """
    return tuple(
        id(thing)
        for module in modules_above(whole, decoder)
        for thing in (
            module,
            vars(module).get("forward"),
            *(h for h in compat.forward_pre_hooks(module) if package_of(h) != "sra_fast"),
        )
    )


def is_hooked_above(whole: PreTrainedModel, decoder: nn.Module) -> bool:
    """Return whether a hook of the user's own runs before a decoder is given its tokens.

    Such a hook may do something with some tokens only, so that no trial would show it.
    """
    return any(
        package_of(hook) not in _PLACING
        for module in modules_above(whole, decoder)
        for hook in compat.forward_pre_hooks(module)
    )


def package_of(function: Any) -> str:
    """Return the name of the package that a function or another callable comes from."""
    while isinstance(function, functools.partial):
        function = function.func
    module = getattr(function, "__module__", None) or type(function).__module__
    return str(module).partition(".")[0]

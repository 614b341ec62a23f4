"""Tell which adapters of PEFT are more than a change of a model's own layers, and refuse them.

Scoring runs the model inside PEFT's wrapper. That is the adapted model where the adapter sits in
its layers, and the model without its adapter where the wrapper's own call brings it in.
"""

from __future__ import annotations

from typing import Any

from sra_fast.measure.unserved import UnservedModelError


def why_not_in_layers(config: Any) -> str | None:
    """Return what PEFT's wrapper does for an adapter, None if it sits in the layers alone.

    Args:
        config: the adapter's configuration, as PEFT reads it.
    """
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if getattr(config, "alora_invocation_tokens", None) is not None:
        return (
            "is an activated LoRA (alora_invocation_tokens), which acts from certain tokens on "
            "that PEFT's own wrapper looks for"
        )
    if kind in ("XLORA", "POLY"):
        return f"is of the kind {kind}, which PEFT's own wrapper mixes anew for every call"
    return None


def refuse_adapters(model: Any) -> None:
    """Refuse a model with an active adapter of PEFT that does not sit in its layers alone.

    Raises:
        UnservedModelError: it has one, which the message names.
    """
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        return
    for name in model.active_adapters:
        if reason := why_not_in_layers(model.peft_config[name]):
            raise UnservedModelError(
                f"{type(model).__name__} cannot be scored: its adapter {name!r} {reason}; measure "
                "your own calls of it with sra_fast.monitor"
            )

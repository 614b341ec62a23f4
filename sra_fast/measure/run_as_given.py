"""Run a whole model on a batch as given, images included, and ask its decoder for masses.

Inputs beside the token ids, such as images, are worked into the embeddings above the decoder, by
rules of each family. So the model that the user holds runs, and the request enters where it calls
its decoder: encoders on the way never see it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.measure.request import REQUEST, ForwardStopped, SpanRequest
from sra_fast.measure.served import ServedModel


def run_whole(
    served: ServedModel, inputs: Mapping[str, Any], request: SpanRequest, device: torch.device
) -> None:
    """Run the whole model once, until its decoder has answered the request.

    Args:
        served: the model.
        inputs: the keyword arguments of its forward pass; tensors in them are moved.
        request: what to ask the decoder.
        device: where the inputs go.

    Raises:
        ValueError: the model cannot take these inputs, or sees them in a way that is not served,
            such as image tokens that see later ones; its own words are in the message.
    """
    options: dict[str, Any] = {"use_cache": False, "logits_to_keep": 1}
    named = inspect.signature(served.whole.forward).parameters
    options = {name: value for name, value in options.items() if name in named}
    try:
        with _kept_state(served.whole), _asked(served, request):
            served.whole(**_moved(dict(inputs), device), **options)
    except ForwardStopped:
        return
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise ValueError(f"{_what_ran(served, inputs)}: {error}") from error
    except (AttributeError, AssertionError) as error:
        raise ValueError(
            f"{_what_ran(served, inputs)}: {type(error).__name__}: {error}; another input may be "
            "missing: give all that the processor makes, as tensors"
        ) from error


def _what_ran(served: ServedModel, inputs: Mapping[str, Any]) -> str:
    given = ", ".join(name for name in inputs if name not in ("input_ids", "attention_mask"))
    return f"{type(served.whole).__name__} with {given}" if given else served.name


@contextmanager
def _asked(served: ServedModel, request: SpanRequest) -> Iterator[None]:
    """Hand the request to the decoder, inside the block, with whatever call reaches it."""

    def enter(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = [*args[:1], kwargs.get("inputs_embeds"), kwargs.get("input_ids")]
        shape = next(tuple(tokens.shape[:2]) for tokens in named if tokens is not None)
        wanted = tuple(request.query.key_labels.shape)
        if shape != wanted:
            raise ValueError(
                f"its decoder got {list(shape)} tokens where the batch has {list(wanted)}, so that "
                "the masks do not say which they are; repeat an image's token as often as it has "
                "features, as processors do"
            )
        return args, {**kwargs, "use_cache": False, REQUEST: request}

    hook = served.decoder.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _kept_state(model: nn.Module) -> Iterator[None]:
    """Put back, after the block, what modules note about a call, such as positions of its images.

    Such a note is an ordinary attribute (``rope_deltas``), and the model's next call would read it.
    """
    before = [(module, _notes(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, notes in before:
            for name in _notes(module).keys() - notes.keys():
                delattr(module, name)
            for name, value in notes.items():
                if vars(module).get(name) is not value:
                    setattr(module, name, value)


def _notes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _moved(value: Any, device: torch.device) -> Any:
    """Return a value with every tensor in it, also in lists and dicts, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (list, tuple):
        return type(value)(_moved(part, device) for part in value)
    if type(value) is dict:
        return {key: _moved(part, device) for key, part in value.items()}
    return value

"""Try a model on a few tokens, to learn what none of its attributes tells.

A loop over layers is in a model's code, positions are made inside its embeddings, and whether its
layers answer a request shows when they are asked. So each decoder is run once on a few tokens
before its first score. What it is refused for is said here, before any of the user's text runs.

Each run reads all weights of a model once, so no run is made whose answer is known: the self-check
goes on from the first run of the trial, and a call of the whole model ends where the decoder is
given what the first run gave it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sra_fast.measure import compat, mask_borders
from sra_fast.measure.above_decoder import hangs_above, modules_above, package_of
from sra_fast.measure.attention import NAME
from sra_fast.measure.few_tokens import every_row_on_every_key, plain_tokens
from sra_fast.measure.in_step import any_process, runs_together
from sra_fast.measure.mask_borders import SightedRequest
from sra_fast.measure.packing import fresh_rope
from sra_fast.measure.reduction import UnansweredRequestError, answered_layers
from sra_fast.measure.request import REQUEST, SpanRequest
from sra_fast.measure.run_as_given import run_whole
from sra_fast.measure.served import ServedModel, evaluating, may_be_stopped, switched
from sra_fast.measure.unserved import UnservedAttentionError, UnservedModelError

TOKENS = 4
_FIRST = 3  # the first token id that is tried
_DIGITS = 1e-5  # of a mass, between two ways to compute the same in float32
_NOISE = 1e-3  # of a mass, between two runs of the same computation in half precision


@dataclass(frozen=True)
class _Findings:
    """The findings of a trial of a decoder.

    Attributes:
        parts: the identities of the decoder's modules, and of what hangs above it, by which a
            changed one is known.
        attention_layers: the layers that answered.
        counts_from_zero: whether ``position_ids`` from 0 change nothing.
        fed_from_above: whether the whole model's call gives other masses than the decoder's own.
    """

    parts: tuple[int, ...]
    attention_layers: tuple[int, ...]
    counts_from_zero: bool
    fed_from_above: bool


_FOUND: WeakKeyDictionary[nn.Module, _Findings] = WeakKeyDictionary()


def tried(served: ServedModel) -> ServedModel:
    """Return what is known of a model after a trial on a few tokens, which runs once per decoder.

    A model that cannot be run twice without cost (offloaded, compiled) is not tried: its layers are
    not stopped early, and it makes its positions itself.

    Raises:
        UnservedModelError: a layer does not answer or answers twice, its attention is none that
            this library computes, or the model fails on plain text.
    """
    if not served.can_stop:
        return served
    above = hangs_above(served.whole, served.decoder)
    parts = (*(id(part) for part in served.decoder.modules()), *above)
    found, run = _FOUND.get(served.decoder), None
    if any_process(served, found is None or found.parts != parts):
        with runs_together(served):
            try:
                found, run = _try(served, parts, mask_borders.NAME)
            except UnservedModelError:
                # Where nothing is hidden that implementation gives a mask, and some models work on
                # any mask. What they are refused for has to be true of the ordinary one, which
                # gives None.
                found, _ = _try(served, parts, NAME)
        _FOUND[served.decoder] = found
    assert found is not None  # no process had it from before, or all have
    return replace(
        served,
        first_run=run,
        attention_layers=found.attention_layers,
        counts_from_zero=found.counts_from_zero,
        fed_from_above=served.fed_from_above or found.fed_from_above,
    )


def first_run(served: ServedModel) -> SightedRequest:
    """Run a decoder on a few tokens, and return what its layers answered and how far they see.

    Every row is asked for its attention on every key.
    """
    with torch.no_grad(), switched(served, mask_borders.NAME), _undisturbed(served.decoder):
        return _run(served, _some_tokens(served))


@contextmanager
def _undisturbed(decoder: nn.Module) -> Iterator[None]:
    """Let a decoder run inside the block as it is used, and keep no trace of that."""
    with evaluating(decoder), fresh_rope(decoder):
        yield


def _try(
    served: ServedModel, parts: tuple[int, ...], name: str
) -> tuple[_Findings, SightedRequest]:
    """Return what a trial under an attention implementation found, and its first run."""
    ids = _some_tokens(served)
    try:
        with torch.no_grad(), switched(served, name), _undisturbed(served.decoder):
            plain = _run(served, ids)
            if served.heads is not None:
                exact = served.decoder.dtype in (torch.float32, torch.float64)
                served.heads.check_equal(plain.masses, _DIGITS if exact else _NOISE)
            layers = answered_layers(plain, served.attention_layers)
            counts = served.takes_positions and _same(plain, _run(served, ids, positions=True))
    except UnservedAttentionError as error:
        if getattr(type(served.config), "is_encoder_decoder", False):
            raise UnservedModelError(
                f"{served.name} is the decoder of an encoder-decoder model: its layers also attend "
                "to what an encoder gives"
            ) from error
        raise UnservedModelError(f"{served.name} cannot be scored: {error}") from error
    except (UnservedModelError, UnansweredRequestError) as error:
        raise UnservedModelError(f"{served.name} cannot be scored: {error}") from error
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise UnservedModelError(_why(served, ids, error)) from error
    return _Findings(parts, layers, counts, not _passes_on(served, ids, plain, name)), plain


def _passes_on(served: ServedModel, ids: Tensor, plain: SpanRequest, name: str) -> bool:
    """Return whether a call of the whole model gives the masses that the decoder gave by itself.

    A model that cannot be called on text alone, such as one that wants an image, is not asked. Nor
    are the masses computed again where they cannot differ: nothing above the decoder is the user's
    own, and the decoder is given these tokens and nothing else.
    """
    if not modules_above(served.whole, served.decoder) or not may_be_stopped(served.whole):
        return True
    stop = max(served.attention_layers, default=None)
    request = SightedRequest(plain.query, stop_after=stop, heads=served.heads)
    try:
        with (
            torch.no_grad(),
            switched(served, name),
            evaluating(served.whole),
            fresh_rope(served.decoder),
        ):
            end = ExitStack()
            if _is_plain_above(served):
                end.callback(
                    served.decoder.register_forward_pre_hook(
                        functools.partial(_end_if_given, ids), with_kwargs=True
                    ).remove
                )
            with end:
                run_whole(served, {"input_ids": ids}, request, ids.device)
    except _GivenTheSame:
        return True
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception:
        return True
    exact = served.decoder.dtype in (torch.float32, torch.float64)
    return plain.masses.keys() == request.masses.keys() and all(
        torch.allclose(
            mass, request.masses[layer], rtol=0, atol=_DIGITS if exact else _NOISE, equal_nan=True
        )
        for layer, mass in plain.masses.items()
    )


class _GivenTheSame(Exception):  # noqa: N818 - it is a signal that ends a forward, not an error
    """Raised where the decoder is given what it was given without the model above it."""


def _is_plain_above(served: ServedModel) -> bool:
    """Return whether all that stands above a decoder are modules of transformers' own classes."""
    return all(
        package_of(type(module)) == "transformers"
        and "forward" not in vars(module)
        and not compat.forward_pre_hooks(module)
        for module in modules_above(served.whole, served.decoder)
    )


def _end_if_given(
    ids: Tensor, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """End a call at the decoder's door if it brings the tokens ``ids`` and nothing else."""
    brought = {name: value for name, value in kwargs.items() if value is not None}
    without_cache = brought.pop("use_cache", False) is False
    only_tokens = not args and brought.keys() == {"input_ids"}
    if without_cache and only_tokens and torch.equal(brought["input_ids"], ids):
        raise _GivenTheSame


def _run(served: ServedModel, ids: Tensor, positions: bool = False) -> SightedRequest:
    """Ask every row of a short text for its attention on every key."""
    query = every_row_on_every_key([ids.shape[1]], [(0, 0)], ids.shape)
    request = SightedRequest(query, heads=served.heads)
    counted = torch.arange(ids.shape[1], device=ids.device)[None]
    given = {"position_ids": counted} if positions else {}
    served.decoder(input_ids=ids, **given, use_cache=False, **{REQUEST: request})
    return request


def _same(one: SpanRequest, other: SpanRequest) -> bool:
    """Return whether two runs on the same text gave the same masses.

    The first layer's must be the same bit for bit. Those of later ones may differ in their last
    digits where a GPU adds up the outputs of experts in no fixed order.
    """
    first, *later = one.masses
    pairs = [(one.masses[layer], other.masses[layer]) for layer in later]
    return torch.equal(
        torch.nan_to_num(one.masses[first]), torch.nan_to_num(other.masses[first])
    ) and all(torch.allclose(a, b, rtol=0, atol=_NOISE, equal_nan=True) for a, b in pairs)


def _why(served: ServedModel, ids: Tensor, error: Exception) -> str:
    """Say what stands in the way: the attention implementation, or the model's own run too."""
    told = f"{type(error).__name__}: {error}"
    try:
        with torch.no_grad(), evaluating(served.decoder), fresh_rope(served.decoder):
            served.decoder(input_ids=ids, use_cache=False)
    except Exception:
        own = f"{served.name} fails on {TOKENS} tokens of plain text, also by itself ({told})"
        return own if served.heads is None else f"{own}; {_among_processes(served)}"
    return (
        f"{served.name} runs with its own attention only: it works on masks or maps that no "
        f"attention implementation is given ({told})"
    )


def _among_processes(served: ServedModel) -> str:
    """Say of a tensor-parallel model what may not be divided by its processes, and the way out."""
    processes = 1 if served.heads is None else len(served.heads.order)
    heads = served.config.num_attention_heads
    keys = getattr(served.config, "num_key_value_heads", None) or heads
    return (
        f"it is tensor-parallel over {processes} processes and has {heads} query heads and {keys} "
        "heads of keys and values: take a number of processes that divides both, or one process"
    )


def _some_tokens(served: ServedModel) -> Tensor:
    """Return a few token ids, ``[1, TOKENS]`` at most; the first three are often special ones."""
    device = served.decoder.get_input_embeddings().weight.device
    plain = plain_tokens(served)
    ids = plain[plain >= _FIRST][:TOKENS]
    chosen = ids if len(ids) else ids.new_zeros(1)
    return chosen[None].to("cpu" if device.type == "meta" else device)

"""Check a family once: a few tokens' masses against the model's own eager attention.

No list of families can be complete. So whenever a class of model is scored for the first time in a
process, two sequences of 4 and 12 tokens run through it as :func:`sra_fast.score` runs them, and
the attention of the longer one's every row on every key, in all layers and heads, is compared with
the maps of the same weights under eager attention, where that sequence is alone.

A window or a chunk is longer than that. So each layer is also asked which keys the queries around
its border see (:mod:`sra_fast.measure.mask_borders`), as it was called in the trial's first run.

Nothing of the model is changed or copied: modes, configurations, rotary state and random numbers
are afterwards what they were.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from sra_fast.measure import compat, mask_borders
from sra_fast.measure.few_tokens import every_row_on_every_key, plain_tokens
from sra_fast.measure.in_step import any_process, runs_together
from sra_fast.measure.layerwise.layer_weights import bound_weights
from sra_fast.measure.laying_out import laid_out
from sra_fast.measure.packing import forwards, fresh_rope
from sra_fast.measure.parts_of_models import is_under_deepspeed
from sra_fast.measure.reduction import answered_layers
from sra_fast.measure.request import REQUEST, ForwardStopped, SpanRequest
from sra_fast.measure.served import ServedModel, evaluating, switched
from sra_fast.measure.trial import first_run
from sra_fast.measure.unserved import SelfCheckError
from sra_fast.result import PASSED, SKIPPED

LENGTHS = (4, 12)
TOLERANCE = 1e-4
"""The largest difference between two masses that passes in float32."""
GROSS = 0.1
"""The part of a layer's attention that may lie elsewhere in half precision or on quantised weights.

It is the mean distance (total variation) between rows. Eager attention in bfloat16 itself is off by
up to 0.02, and 0.008 in SmolLM2, where a scale that is 1.5 times too large makes 0.13."""

_CHECKED: dict[tuple[object, ...], str] = {}


def self_check(served: ServedModel, backend: str) -> str:
    """Check a model unless one of its class and configuration was checked in this process.

    Args:
        served: the model.
        backend: backend of the op.

    Returns:
        "passed", or "skipped: " and the reason.

    Raises:
        SelfCheckError: the masses, or the keys that a layer sees, are not the model's own.
        UnansweredRequestError: the model does not pass a request on to its attention.
    """
    modules = list(served.decoder.modules())
    kinds = _parameter_kinds(modules)
    if reason := _why_not(served, modules, kinds):
        return f"{SKIPPED}{reason}"
    key = (  # what models have in common of which one check speaks for all
        frozenset(map(type, modules)),
        json.dumps(served.config.to_dict(), sort_keys=True, default=str),
        kinds,
        _is_exact(kinds),
        backend,
    )
    if any_process(served, key not in _CHECKED):
        with runs_together(served):
            outcome = _check(served, backend, _is_exact(kinds))
        if not outcome.startswith(_NOT_FINITE):
            _CHECKED[key] = outcome
        return outcome
    return _CHECKED[key]


_NOT_FINITE = f"{SKIPPED}its attention is not finite"


_ParameterKinds = frozenset[tuple[torch.dtype, str]]


def _parameter_kinds(modules: Sequence[nn.Module]) -> _ParameterKinds:
    """Return the dtypes of all parameters of some modules, each with the kind of its device."""
    return frozenset(
        (parameter.dtype, parameter.device.type)
        for module in modules
        for parameter in module.parameters(recurse=False)
    )


def _why_not(
    served: ServedModel, modules: Sequence[nn.Module], kinds: _ParameterKinds
) -> str | None:
    """Return why a model is not run an additional time, or None."""
    if compat.inside_compiled(served.top) is not None or any(
        compat.is_compiled_in_place(module) or compat.inside_compiled(module) is not None
        for module in modules
    ):
        return "the model is compiled"
    if not served.can_stop:
        return "the model is offloaded"
    if is_under_deepspeed(served.top):
        return "the model is sharded over processes"
    if any(device == "meta" for _, device in kinds) and bound_weights(served.decoder) is None:
        return "weights of the model are on the device meta"
    return None


def _is_exact(kinds: _ParameterKinds) -> bool:
    """Return whether a decoder computes in full precision, so that differences are faults."""
    devices = {device for _, device in kinds} - {"meta"}  # of weights that come layer by layer
    return (
        all(dtype in (torch.float32, torch.float64) for dtype, _ in kinds)
        and not any(torch.is_autocast_enabled(device) for device in devices)
        and (devices == {"cpu"} or torch.get_float32_matmul_precision() == "highest")
    )


def _check(served: ServedModel, backend: str, exact: bool) -> str:
    pieces = _some_tokens(served)
    try:
        with _left_as_it_was(served):
            sighted = served.first_run or first_run(served)
            reach = min(served.context_length or mask_borders.REACH, mask_borders.REACH)
            mask_borders.check_borders(served.name, reach, sighted)
            with switched(served):
                ours, sinks = _our_maps(served, pieces, backend)
            with switched(served, "eager"):
                eager = _eager_maps(served, sighted.modules, pieces[-1])
    except (SelfCheckError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # what is wrong with the model, its own run will say
        told = str(error).partition("\n")[0]
        return f"{SKIPPED}it does not run on {LENGTHS[-1]} tokens ({type(error).__name__}: {told})"
    if missing := ours.keys() - eager.keys():
        return f"{SKIPPED}its eager attention gives no map in layer {min(missing)}"
    if not all(map_.isfinite().all() for map_ in (*eager.values(), *ours.values())):
        return _NOT_FINITE
    if served.heads is not None:
        eager = {layer: served.heads.gathered(own, dim=0) for layer, own in eager.items()}
    for layer, mass in sorted(ours.items()):
        _compare(served, layer, mass, _with_sinks(eager[layer], sinks.get(layer)), exact)
    return PASSED


def _with_sinks(own: Tensor, sinks: Tensor | None) -> Tensor:
    """Put the sinks' share into a layer's eager map, ``[H, n, n]``, where it leaves that out.

    Some families scale the output of their attention instead, and give away rows that sum to 1.
    """
    if sinks is None or not torch.allclose(own.sum(-1), torch.ones(own.shape[:-1]), atol=1e-2):
        return own
    return own * (1.0 - sinks)[..., None]


@contextmanager
def _left_as_it_was(served: ServedModel) -> Iterator[None]:
    """Run the decoder inside the block without a trace: no gradient, no mode, no random number."""
    devices = {p.device for p in served.decoder.parameters() if p.device.type == "cuda"}
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices=[device.index or 0 for device in devices]),
        evaluating(served.decoder),
        fresh_rope(served.decoder),
    ):
        yield


def _some_tokens(served: ServedModel) -> list[Tensor]:
    """Return two sequences of token ids from all over the vocabulary."""
    plain, number = plain_tokens(served), sum(LENGTHS)
    chosen = plain[(2 * torch.arange(number) + 1) * len(plain) // (2 * number)]
    return list(chosen.split(LENGTHS))


# --- the masses, both ways ---


def _our_maps(
    served: ServedModel, pieces: Sequence[Tensor], backend: str
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Return what ``score`` would measure of the last sequence by layer: maps and sinks' shares.

    The maps are ``[H, n, n]``, and the shares ``[H, n]`` of those layers that have sinks.

    The others run along where ``score`` would let them: in one row before it, or in a row beside.
    """
    lengths = [len(piece) for piece in pieces]
    last = len(pieces) - 1
    found: dict[int, Tensor] = {}
    sinks: dict[int, Tensor] = {}
    for forward in forwards(served, lengths, sum(lengths)):
        if last not in forward.members:
            continue
        members = [pieces[member] for member in forward.members]
        inputs, places = laid_out(members, forward.packed)
        sizes = [lengths[member] for member in forward.members]
        request = _asking_for_all(served, inputs["input_ids"].shape, sizes, places, backend)
        _run(served, inputs, request)
        at = sum(lengths[member] for member in forward.members[: forward.members.index(last)])
        for layer in answered_layers(request, served.attention_layers):
            mass = request.masses[layer][at : at + lengths[last], :, : lengths[last]]
            found[layer] = mass.transpose(0, 1).float().cpu()
        for layer, share in request.sink_masses.items():
            sinks[layer] = share[at : at + lengths[last]].T.float().cpu()
    return found, sinks


def _asking_for_all(
    served: ServedModel,
    shape: Sequence[int],
    lengths: Sequence[int],
    places: Sequence[tuple[int, int]],
    backend: str,
) -> SpanRequest:
    """Ask for the mass of every row on every key, and for nothing behind the last layer."""
    query = every_row_on_every_key(lengths, places, shape)
    stop = max(served.attention_layers, default=None)
    return SpanRequest(
        query,
        stop_after=stop,
        mass_grad=False,
        in_outputs=False,
        backend=backend,
        heads=served.heads,
    )


def _run(served: ServedModel, inputs: dict[str, Tensor], request: SpanRequest | None) -> None:
    device = served.decoder.get_input_embeddings().weight.device
    given: dict[str, Any] = {name: tensor.to(device) for name, tensor in inputs.items()}
    if request is not None:
        given[REQUEST] = request
    with suppress(ForwardStopped):
        served.decoder(**given, use_cache=False)


def _eager_maps(
    served: ServedModel, modules: dict[int, nn.Module], piece: Tensor
) -> dict[int, Tensor]:
    """Return the maps that attention modules give themselves by layer, ``[H, n, n]``."""
    n = len(piece)
    maps: dict[int, Tensor] = {}

    def keeper(layer: int) -> Callable[..., None]:
        def keep(module: nn.Module, given: Any, output: Any) -> None:
            for part in output if isinstance(output, (tuple, list)) else ():
                # Some families leave a column in their maps for the sink, after the keys.
                if isinstance(part, Tensor) and part.shape[2:] in ((n, n), (n, n + 1)):
                    maps.setdefault(layer, part[0, :, :, :n].float().cpu())

        return keep

    with ExitStack() as hooks:
        for layer, module in modules.items():
            hooks.callback(module.register_forward_hook(keeper(layer)).remove)
        _run(served, {"input_ids": piece[None]}, None)
    return maps


def _compare(served: ServedModel, layer: int, ours: Tensor, own: Tensor, exact: bool) -> None:
    if ours.shape != own.shape:
        what = f"there are {len(ours)} heads here and {len(own)} in the maps of eager attention"
        raise SelfCheckError(served.name, layer, 1.0, what)
    apart = (ours - own).abs()  # [H, n, n]
    if exact:
        difference = float(apart.max())
        head = int(apart.flatten(1).amax(dim=1).argmax())
        what = (
            f"a mass of head {head} differs by {difference:.3g} from that of its own eager "
            f"attention ({TOLERANCE:g} passes)"
        )
        limit = TOLERANCE
    else:
        difference = float(apart[:, 1:].sum(dim=-1).mean()) / 2
        limit = GROSS
        what = (
            f"{difference:.0%} of the attention lies elsewhere than in its own eager attention "
            f"({limit:.0%} passes in half precision)"
        )
    if not difference <= limit:
        raise SelfCheckError(served.name, layer, difference, what)

"""Check a family once: a few tokens' masses against the model's own eager attention.

No list of families can be complete. So whenever a class of model is scored for the first time in a
process, two sequences of 4 and 12 tokens run through it as :func:`sra_fast.score` runs them, and
the attention of the longer one's every row on every key, in all layers and heads, is compared with
the maps of the same weights under eager attention, where that sequence is alone.

A window or a chunk is longer than that. So each layer is also asked which keys the queries around
its border see, on made-up queries and keys, and is compared with the mask function of the model.

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
from transformers import AttentionInterface, AttentionMaskInterface

from sra_fast.kernels.contract import SpanQuery, segment_tensor
from sra_fast.measure import attention, compat
from sra_fast.measure.laying_out import laid_out
from sra_fast.measure.packing import forwards, fresh_rope
from sra_fast.measure.parts_of_models import is_shared
from sra_fast.measure.reduction import answered_layers
from sra_fast.measure.request import REQUEST, ForwardStopped, SpanRequest
from sra_fast.measure.served import ServedModel, UnservedModelError, evaluating, switched
from sra_fast.result import PASSED, SKIPPED
from sra_fast.tools.argument_error import ArgumentError

LENGTHS = (4, 12)
TOLERANCE = 1e-4
"""The largest difference between two masses that passes in float32."""
GROSS = 0.1
"""The part of a layer's attention that may lie elsewhere in half precision or on quantised weights.

It is the mean distance (total variation) between rows. Eager attention in bfloat16 itself is off by
up to 0.02, and 0.008 in SmolLM2, where a scale that is 1.5 times too large makes 0.13."""

_NAME = f"{attention.NAME}_check"
_REACH = 2**17  # tokens; borders beyond that are not looked for
_ASKED = "asked_of_the_model"

_CHECKED: dict[tuple[object, ...], str] = {}


class SelfCheckError(ArgumentError, UnservedModelError):
    """Raised when a model's masses are not those of its own eager attention.

    Attributes:
        layer: the ``layer_idx`` of the first layer that differs.
        difference: the largest difference in that layer.
    """

    def __init__(self, name: str, layer: int, difference: float, what: str) -> None:
        super().__init__(
            f"{name} is not measured right: in layer {layer}, {what}, so its scores would be "
            "wrong; please report this family. check=False scores it unchecked",
            "check",
        )
        self.layer = layer
        self.difference = difference


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
    if reason := _why_not(served):
        return f"{SKIPPED}{reason}"
    key = _key(served, backend)
    if key not in _CHECKED:
        outcome = _check(served, backend)
        if not outcome.startswith(_NOT_FINITE):
            _CHECKED[key] = outcome
        return outcome
    return _CHECKED[key]


_NOT_FINITE = f"{SKIPPED}its attention is not finite"


def _why_not(served: ServedModel) -> str | None:
    """Return why a model is not run an additional time, or None."""
    modules = list(served.decoder.modules())
    if compat.inside_compiled(served.top) is not None or any(
        compat.is_compiled_in_place(module) or compat.inside_compiled(module) is not None
        for module in modules
    ):
        return "the model is compiled"
    if not served.can_stop:
        return "the model is offloaded"
    if is_shared(served.top):
        return "the model is sharded over processes"
    if any(parameter.is_meta for parameter in served.decoder.parameters()):
        return "weights of the model are on the device meta"
    return None


def _key(served: ServedModel, backend: str) -> tuple[object, ...]:
    """Return what models have in common of which one check speaks for all."""
    decoder = served.decoder
    parameters = {(parameter.dtype, parameter.device.type) for parameter in decoder.parameters()}
    return (
        frozenset(type(module) for module in decoder.modules()),
        json.dumps(served.config.to_dict(), sort_keys=True, default=str),
        frozenset(parameters),
        _is_exact(decoder),
        backend,
    )


def _is_exact(decoder: nn.Module) -> bool:
    """Return whether the decoder computes in full precision, so that differences are faults."""
    devices = {parameter.device.type for parameter in decoder.parameters()}
    return (
        all(p.dtype in (torch.float32, torch.float64) for p in decoder.parameters())
        and not any(torch.is_autocast_enabled(device) for device in devices)
        and (devices == {"cpu"} or torch.get_float32_matmul_precision() == "highest")
    )


def _check(served: ServedModel, backend: str) -> str:
    pieces = _some_tokens(served)
    try:
        with _left_as_it_was(served):
            with switched(served, _NAME):
                modules = _look_at_borders(served, pieces[-1])
            with switched(served):
                ours = _our_maps(served, pieces, backend)
            with switched(served, "eager"):
                eager = _eager_maps(served, modules, pieces[-1])
    except (SelfCheckError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # what is wrong with the model, its own run will say
        told = str(error).partition("\n")[0]
        return f"{SKIPPED}it does not run on {LENGTHS[-1]} tokens ({type(error).__name__}: {told})"
    if missing := ours.keys() - eager.keys():
        return f"{SKIPPED}its eager attention gives no map in layer {min(missing)}"
    if not all(map_.isfinite().all() for map_ in (*eager.values(), *ours.values())):
        return _NOT_FINITE
    for layer, mass in sorted(ours.items()):
        _compare(served, layer, mass, eager[layer])
    return PASSED


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
    """Return two sequences of token ids, none of which the configuration gives a meaning."""
    vocabulary = len(served.decoder.get_input_embeddings().weight)
    special = {value for name, value in vars(served.config).items() if name.endswith("_id")}
    plain = [token for token in range(vocabulary) if token not in special]
    number = sum(LENGTHS)
    chosen = [plain[(2 * at + 1) * len(plain) // (2 * number)] for at in range(number)]
    return list(torch.tensor(chosen).split(LENGTHS))


# --- the masses, both ways ---


def _our_maps(served: ServedModel, pieces: Sequence[Tensor], backend: str) -> dict[int, Tensor]:
    """Return what ``score`` would measure of the last sequence by layer, ``[H, n, n]``.

    The others run along where ``score`` would let them: in one row before it, or in a row beside.
    """
    lengths = [len(piece) for piece in pieces]
    last = len(pieces) - 1
    found: dict[int, Tensor] = {}
    for forward in forwards(served, lengths, sum(lengths)):
        if last not in forward.members:
            continue
        members = [pieces[member] for member in forward.members]
        inputs, places = laid_out(members, forward.packed)
        request = _asking_for_all(served, inputs["input_ids"].shape, members, places, backend)
        _run(served, inputs, request)
        at = sum(lengths[member] for member in forward.members[: forward.members.index(last)])
        for layer in answered_layers(request, served.attention_layers):
            mass = request.masses[layer][at : at + lengths[last], :, : lengths[last]]
            found[layer] = mass.transpose(0, 1).float().cpu()
    return found


def _asking_for_all(
    served: ServedModel,
    shape: Sequence[int],
    members: Sequence[Tensor],
    places: Sequence[tuple[int, int]],
    backend: str,
) -> SpanRequest:
    """Ask for the mass of every row on every key: span j is the j-th key of each sequence."""
    labels = torch.zeros(*shape, dtype=torch.int32)
    rows, segments = [], []
    for piece, (b, start) in zip(members, places, strict=True):
        at = torch.arange(len(piece))
        labels[b, start : start + len(piece)] = (1 << at).int()
        rows.append(b * shape[1] + start + at)
        segments.append((b, start, start + len(piece)))
    names = tuple(f"key {key}" for key in range(max(LENGTHS)))
    query = SpanQuery(labels, torch.cat(rows), segment_tensor(segments, labels.device), names)
    stop = max(served.attention_layers, default=None)
    return SpanRequest(query, stop_after=stop, mass_grad=False, in_outputs=False, backend=backend)


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


def _compare(served: ServedModel, layer: int, ours: Tensor, own: Tensor) -> None:
    if ours.shape != own.shape:
        what = f"there are {len(ours)} heads here and {len(own)} in the maps of eager attention"
        raise SelfCheckError(served.name, layer, 1.0, what)
    apart = (ours - own).abs()  # [H, n, n]
    if _is_exact(served.decoder):
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


# --- windows and chunks ---


class _Look(SpanRequest):
    """A request that also keeps which modules attend, and how far they may look."""

    def __init__(self, name: str, reach: int, asked: SpanRequest) -> None:
        super().__init__(
            asked.query, stop_after=asked.stop_after, mass_grad=False, in_outputs=False
        )
        self.name = name
        self.reach = reach
        self.modules: dict[int, nn.Module] = {}


def _look_at_borders(served: ServedModel, piece: Tensor) -> dict[int, nn.Module]:
    """Run one sequence, hold each layer's sight to its mask, and return the modules that attend."""
    inputs, places = laid_out([piece], packed=False)
    asked = _asking_for_all(served, inputs["input_ids"].shape, [piece], places, "auto")
    look = _Look(served.name, min(served.context_length or _REACH, _REACH), asked)
    _run(served, {"input_ids": inputs["input_ids"]}, look)
    return look.modules


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as ``"sra_fast"``, after a look at the borders of the layer's sight."""
    look: _Look | None = kwargs.get(REQUEST)  # None: the model drops it, as its masses will tell
    layer: Any = getattr(module, "layer_idx", None)
    asked = getattr(attention_mask, _ASKED, None)
    if look is not None and layer is not None:
        look.modules[layer] = module
    if look and asked and not _looks_tokens_up(asked["mask_function"]):
        rule = {name: one for name, one in kwargs.items() if name not in (REQUEST, "s_aux")}
        _compare_sight(module, layer, look, asked, rule, query.device)
    answer: tuple[Tensor, Tensor | None] = attention.attention(
        module, query, key, value, attention_mask, **kwargs
    )
    return answer


def _attention_mask(**asked: Any) -> Tensor:
    """Make the mask of ``"sra_fast"``, and write down on it what it was made of."""
    mask: Tensor | None = attention.attention_mask(**asked)
    if mask is None:
        shape = (asked["batch_size"], asked["kv_length"])
        mask = torch.ones(shape, dtype=torch.bool, device=asked.get("device"))
    setattr(mask, _ASKED, asked)
    return mask


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _attention_mask)


def _compare_sight(
    module: nn.Module,
    layer: int,
    look: _Look,
    asked: dict[str, Any],
    rule: dict[str, Any],
    device: torch.device,
) -> None:
    """Compare which keys a layer sees around the first border with the model's mask function."""
    sees: Callable[..., Tensor] = asked["mask_function"]
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    places = torch.arange(look.reach, device=device)
    hidden = (~sees(zero, zero, places, zero).expand(look.reach)).nonzero()
    # Three queries around the first one that does not see the first key; or the last one of all.
    keys = look.reach if len(hidden) == 0 else min(int(hidden[0]) + 2, look.reach)
    queries = min(3, keys)
    at = torch.arange(keys - queries, keys, device=device)[:, None]
    true = sees(zero, zero, at, places[None, :keys]) & (places[:keys] <= at)  # [queries, keys]
    looked_at = sorted(
        {
            key
            for row, first in enumerate(true.int().argmax(dim=1).tolist())
            for key in (0, first - 1, first, keys - queries + row)
            if 0 <= key < keys
        }
    )
    labels = torch.zeros(1, keys, dtype=torch.int32)
    labels[0, looked_at] = (1 << torch.arange(len(looked_at))).int()
    query = SpanQuery(
        labels,
        torch.arange(queries),
        segment_tensor([(0, 0, keys)], labels.device),
        tuple(f"key {key}" for key in looked_at),
    )
    request = SpanRequest(query, mass_grad=False, in_outputs=False, backend="reference")
    sizes = {"q_length": queries, "kv_length": keys, "q_offset": keys - queries, "kv_offset": 0}
    mask = attention.attention_mask(**{**asked, **sizes, "attention_mask": None, "batch_size": 1})
    blank = torch.zeros(1, 1, keys, 8, device=device)
    attention.attention(
        module, blank[:, :, :queries], blank, blank, mask, **rule, **{REQUEST: request}
    )
    # All logits are 0, so that a key that is seen has one part in as many as are seen.
    number = true.sum(dim=1, keepdim=True).cpu()
    ours = request.masses[layer][:, 0].cpu() * number
    apart = (ours - true[:, looked_at].cpu().float()).abs()
    if not bool((apart < 0.01).all()):
        row = int(apart.amax(dim=1).argmax())
        where = keys - queries + row
        what = (
            f"the token at position {where} does not see the {int(number[row])} keys that the "
            "model's own mask lets it see (a window or a chunk)"
        )
        raise SelfCheckError(look.name, layer, float(apart.max()), what)


def _looks_tokens_up(function: Any) -> bool:
    """Return whether a mask function looks tokens up, so that it knows no other length.

    There is one sequence, so what it may look up per sequence is a single number.
    """
    if isinstance(function, Tensor):
        return function.numel() > 1
    if isinstance(function, (tuple, list)):
        return any(map(_looks_tokens_up, function))
    cells = getattr(function, "__closure__", None) or ()
    return any(_looks_tokens_up(cell.cell_contents) for cell in cells)

"""Gather over processes what each computed of its own heads, where tensor parallelism splits them.

Process p of P holds the heads ``p·H/P … (p+1)·H/P − 1`` of a layer and computes their masses. The
masses of all H heads are those of the processes, one after another. Each process then goes on from
the same numbers, to the same loss if there is one, so the gradient of its own heads' masses is its
own slice of the whole gradient: nothing is added up over processes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from sra_fast.measure.sharded_parameters import managed_dimensions
from sra_fast.measure.unserved import UnservedModelError


@dataclass(frozen=True, eq=False)
class SplitHeads:
    """The processes among which the heads of a model are split.

    Attributes:
        group: their process group.
        order: the rank in the group of the process that holds each part of the heads, in the order
            of the heads.
        place: which of these parts this process holds.
        total: the number H of heads of each layer.
        device: the kind of device between which the group sends.
        name: the name of the model in messages.
    """

    group: Any
    order: tuple[int, ...]
    place: int
    total: int
    device: torch.device
    name: str

    def held_here(self, local: int) -> slice | None:
        """Return which heads of a layer are here, of ``local`` many; None if all are.

        Raises:
            UnservedModelError: they are neither all nor this process's part.
        """
        if local == self.total:
            return None
        if local * len(self.order) != self.total:
            raise UnservedModelError(
                f"{self.name} has {local} heads of a layer in this process, which is neither all "
                f"{self.total} that its configuration names nor one part of {len(self.order)}; "
                "split it so that each process holds as many heads, or score it in one process"
            )
        return slice(self.place * local, (self.place + 1) * local)

    def gathered(self, own: Tensor, dim: int = 1) -> Tensor:
        """Return the values of all heads, given those of the heads that are here.

        It is differentiable. Every process of the group has to call it.

        Args:
            own: the values of this process's heads, which stand along ``dim``; the same shape in
                every process.
            dim: where the heads stand.

        Raises:
            UnservedModelError: as :meth:`held_here`.
        """
        if self.held_here(own.shape[dim]) is None:
            return own
        whole: Tensor = _Gather.apply(own, self, dim)  # type: ignore[no-untyped-call]
        return whole

    def averaged(self, own: Tensor, local: int) -> Tensor:
        """Return the mean over all heads, given that over the ``local`` heads that are here.

        It carries no gradient. Every process of the group has to call it.
        """
        if self.held_here(local) is None:
            return own
        return torch.stack(self.from_each(own)).mean(dim=0)

    def check_equal(self, masses: Mapping[int, Tensor], tolerance: float) -> None:
        """Refuse a model whose processes do not come to the same masses of all heads.

        They differ where each process holds some heads of a layer and counts them as all. Every
        process of the group has to call it.

        Args:
            masses: ``{layer_idx: [R, H, G]}``, gathered.
            tolerance: the largest difference of two masses that passes.

        Raises:
            UnservedModelError: they differ; the layer is named.
        """
        for layer, mass in sorted(masses.items()):
            each = self.from_each(mass.detach())
            apart = max(float((one - each[0]).nan_to_num().abs().max()) for one in each)
            if apart > tolerance:
                raise UnservedModelError(
                    f"{self.name} is tensor-parallel, and its {len(each)} processes differ by "
                    f"{apart:.3g} in the attention of layer {layer}, of which each seems to hold "
                    f"all {self.total} heads; leave num_attention_heads of the configuration at "
                    "the number of all processes together, and load the same weights in each"
                )

    def from_each(self, own: Tensor) -> list[Tensor]:
        """Return a tensor of every process of the group, in the order of the heads."""
        sent = own.to(self.device).contiguous()
        parts = [torch.empty_like(sent) for _ in self.order]
        distributed.all_gather(parts, sent, group=self.group)
        return [parts[rank].to(own.device) for rank in self.order]


class _Gather(torch.autograd.Function):
    """Join the heads of all processes; give each process its slice of the gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, heads: SplitHeads, dim: int) -> Tensor:
        ctx.dim, ctx.start, ctx.length = dim, heads.place * own.shape[dim], own.shape[dim]
        return torch.cat(heads.from_each(own), dim=dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.narrow(ctx.dim, ctx.start, ctx.length), None, None


def split_heads(
    top: nn.Module, decoder: nn.Module, attention: Mapping[int, nn.Module], name: str
) -> SplitHeads | None:
    """Return how the heads of a model are split by tensor parallelism, or None if nothing is split.

    It is read from where the parameters of its attention layers are placed; if those are whole,
    from any others that are split, since then only the run is shared.

    Args:
        top: the model as the user holds it.
        decoder: the part of it that is run.
        attention: its attention layers.
        name: the name of the model in messages.

    Raises:
        UnservedModelError: parameters are split over different processes, or over several
            dimensions of a mesh, or the number of heads is not known.
    """
    if distributed_tensor_class() is None:
        return None
    owned = {id(one) for layer in attention.values() for one in layer.parameters()}
    found = list(_split_parameters(top, decoder))
    of_layers = [split for split in found if id(split[1]) in owned]
    groups: dict[tuple[int, ...], tuple[str, Any, int]] = {}
    for parameter_name, parameter, dimensions in of_layers or found:
        if len(dimensions) > 1:
            raise UnservedModelError(
                f"{name} is tensor-parallel along {len(dimensions)} dimensions of a mesh: "
                f"{parameter_name} is split as {parameter.placements}; split heads along one "
                "dimension, or score it in one process"
            )
        ranks = _ranks_along(parameter.device_mesh, dimensions[0])
        groups.setdefault(ranks, (parameter_name, parameter.device_mesh, dimensions[0]))
    if not groups:
        return None
    if len(groups) > 1:
        (first, (one, *_)), (second, (other, *_)), *_ = groups.items()
        raise UnservedModelError(
            f"{name} is split over different processes: {one} over the processes {list(first)} and "
            f"{other} over {list(second)}; split its attention over the same ones, or score it in "
            "one process"
        )
    ((ranks, (_, mesh, dimension)),) = groups.items()
    total = getattr(getattr(decoder, "config", None), "num_attention_heads", None)
    if not isinstance(total, int):
        raise UnservedModelError(
            f"{name} is tensor-parallel, and its configuration has no one num_attention_heads "
            f"(it is {total!r}), so it is not known which heads are where; score it in one process"
        )
    group = mesh.get_group(dimension)
    members = distributed.get_process_group_ranks(group)
    order = tuple(members.index(rank) for rank in ranks)
    place, device = mesh.get_local_rank(dimension), torch.device(mesh.device_type)
    return SplitHeads(group, order, place, total, device, name)


def _split_parameters(
    top: nn.Module, decoder: nn.Module
) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Yield the DTensors that stay split while a model runs: name, tensor, dimensions of its mesh.

    ``fully_shard`` splits along the first dimensions of a mesh, and gathers along them before a
    module runs.
    """
    kind = distributed_tensor_class()
    if kind is None:
        return
    gathered = managed_dimensions(top)
    for name, parameter in decoder.named_parameters():
        if isinstance(parameter, kind):
            split: Any = parameter
            sizes, placements = split.device_mesh.shape, split.placements
            dimensions = tuple(
                at
                for at in range(gathered.get(id(parameter), 0), len(placements))
                if sizes[at] > 1 and not placements[at].is_replicate()
            )
            if dimensions:
                yield name, split, dimensions


def _ranks_along(mesh: Any, dimension: int) -> tuple[int, ...]:
    """Return the processes along one dimension of a mesh that go through this one, in order."""
    place = mesh.get_coordinate()
    at = tuple(slice(None) if axis == dimension else each for axis, each in enumerate(place))
    return tuple(mesh.mesh[at].tolist())


def distributed_tensor_class() -> type[torch.Tensor] | None:
    """Return the class of tensors that are spread over processes, None if nobody can have made one.

    Looks for ``torch.distributed.tensor`` among the modules, whose import takes long.
    """
    module = sys.modules.get("torch.distributed.tensor")
    if module is None or not distributed.is_initialized():
        return None
    kind: type[torch.Tensor] = module.DTensor
    return kind

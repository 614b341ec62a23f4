"""The request that travels through a model call and brings the attention masses back."""

from __future__ import annotations

from typing import Protocol
from weakref import ref

from torch import Tensor, nn

from sra_fast.backends import check_backend
from sra_fast.kernels.contract import SpanQuery
from sra_fast.measure import compat
from sra_fast.measure.split_heads import SplitHeads
from sra_fast.measure.unserved import UnservedModelError

REQUEST = "sra_request"  # the keyword argument of the model call


class ProfileKeeper(Protocol):
    """An object that keeps the profiles that layers bring."""

    def add(self, layer: int, profile: Tensor) -> None:
        """Keep what is needed of a layer's ``[P, Hq, N]`` or ``[P, N]``, for all N keys."""
        ...


class ForwardStopped(Exception):  # noqa: N818 - it is a signal that ends a forward, not an error
    """Raised inside a forward pass to end it, once the last mass asked for is known."""


class SpanRequest:
    """A request for masses to the attention layers of one forward call, with their answers.

    Pass it to a model whose attention implementation is ``"sra_fast"``, as the keyword
    ``sra_request``. It is no tensor, mapping or tuple on purpose: hooks that rebuild those would
    leave the caller's copy empty.

    Args:
        query: the rows, spans and sequences asked for; with a cache it describes the whole history.
        stop_after: the ``layer_idx`` after whose mass the forward pass ends with
            :class:`ForwardStopped`; None lets it run through.
        mass_grad: whether the masses carry gradients.
        in_outputs: whether ``output_attentions=True`` finds the masses in ``outputs.attentions``.
        backend: backend of the op, built-in or registered.
        profiles: where the profiles that the query asks for are kept; they carry no gradient.
        heads: how the heads are split over processes, whose answers are then put together; None if
            they are all here.

    Attributes:
        masses: ``{layer_idx: [R, Hq, G]}`` float32.
        sink_masses: ``{layer_idx: [R, Hq]}`` float32, the rows' share that attention sinks take;
            only of layers that have sinks.
    """

    def __init__(
        self,
        query: SpanQuery,
        *,
        stop_after: int | None = None,
        mass_grad: bool = True,
        in_outputs: bool = True,
        backend: str = "auto",
        profiles: ProfileKeeper | None = None,
        heads: SplitHeads | None = None,
    ) -> None:
        self.query = query
        self.stop_after = stop_after
        self.mass_grad = mass_grad
        self.in_outputs = in_outputs
        self.backend = check_backend(backend)
        self.profiles = profiles
        self.heads = heads
        self.masses: dict[int, Tensor] = {}
        self.sink_masses: dict[int, Tensor] = {}
        self._queries: dict[int, ref[Tensor]] = {}

    def record(
        self,
        module: nn.Module,
        queries: Tensor,
        mass: Tensor,
        sink_mass: Tensor | None,
        profile: Tensor | None = None,
    ) -> None:
        """Keep the masses of a layer, the first ones only: checkpointing recomputes layers.

        Args:
            module: the attention layer, known by its ``layer_idx``.
            queries: the layer's queries; a layer may attend with the same ones in several calls,
                each with a part of its values.
            mass: ``[R, Hq, G]``, of the heads that are here.
            sink_mass: ``[R, Hq]``, or None if the layer has no sinks.
            profile: ``[P, Hq, N]`` or ``[P, N]`` if the query asks for profiles. A layer that holds
                only the last of the keys has only theirs.

        Raises:
            UnservedModelError: the layer attends a second time outside of a backward pass, or its
                heads are not split as those of the model.
        """
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        if layer in self.masses:
            if self._queries[layer]() is queries or compat.is_in_backward():
                return
            raise UnservedModelError(
                f"{type(module).__name__} of layer {layer} attends more than once in a forward "
                "pass (looped or weight-shared layers), so its masses cannot be told apart; a "
                "request serves one forward pass"
            )
        if self.heads is not None:
            local = mass.shape[1]
            mass = self.heads.gathered(mass)
            sink_mass = None if sink_mass is None else self.heads.gathered(sink_mass)
            if profile is not None:
                by_head = profile.ndim == 3
                profile = profile.detach()
                profile = (
                    self.heads.gathered(profile) if by_head else self.heads.averaged(profile, local)
                )
        self.masses[layer] = mass
        self._queries[layer] = ref(queries)
        if sink_mass is not None:
            self.sink_masses[layer] = sink_mass
        if self.profiles is not None and profile is not None:
            unseen = self.query.key_labels.shape[1] - profile.shape[-1]
            self.profiles.add(layer, nn.functional.pad(profile, (unseen, 0)) if unseen else profile)

"""The request that travels through a model call and brings the attention masses back."""

from __future__ import annotations

from weakref import ref

from torch import Tensor, nn

from sra_fast.backends import check_backend
from sra_fast.kernels.contract import SpanQuery
from sra_fast.measure import compat
from sra_fast.measure.unserved import UnservedModelError

REQUEST = "sra_request"  # the keyword argument of the model call


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
    ) -> None:
        self.query = query
        self.stop_after = stop_after
        self.mass_grad = mass_grad
        self.in_outputs = in_outputs
        self.backend = check_backend(backend)
        self.masses: dict[int, Tensor] = {}
        self.sink_masses: dict[int, Tensor] = {}
        self._queries: dict[int, ref[Tensor]] = {}

    def record(
        self, module: nn.Module, queries: Tensor, mass: Tensor, sink_mass: Tensor | None
    ) -> None:
        """Keep the masses of a layer, the first ones only: checkpointing recomputes layers.

        Args:
            module: the attention layer, known by its ``layer_idx``.
            queries: the layer's queries; a layer may attend with the same ones in several calls,
                each with a part of its values.
            mass: ``[R, Hq, G]``.
            sink_mass: ``[R, Hq]``, or None if the layer has no sinks.

        Raises:
            UnservedModelError: the layer attends a second time outside of a backward pass.
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
        self.masses[layer] = mass
        self._queries[layer] = ref(queries)
        if sink_mass is not None:
            self.sink_masses[layer] = sink_mass

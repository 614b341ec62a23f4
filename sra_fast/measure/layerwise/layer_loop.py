"""Take several groups of sequences through a decoder side by side, one layer after another.

For each layer the decoder's own forward pass runs anew on each group: it makes positions, masks and
whatever else its layers are handed. The layers before stand aside: the last of them gives the
hidden states that it gave when it ran, and those before that give NaN, which shows where a decoder
uses them for something else. The pass ends as soon as the layer has run. So a layer's weights are
read once for all groups, and of a group nothing is held in between but the hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sra_fast.measure.layerwise.handed_arguments import HandedArguments
from sra_fast.measure.layerwise.layer_doors import LayerDoors
from sra_fast.measure.layerwise.layer_output import LayerOutput, Outline, read_output
from sra_fast.measure.unserved import UnservedModelError


@dataclass
class LayerStates:
    """The state of the groups of a pass: how far they are.

    Attributes:
        done: the number of layers that all groups have gone through.
        outputs: the output of the last of these for each group; empty before the first.
        outlines: the form of each of these layers' outputs for each group.
    """

    done: int = 0
    outputs: list[LayerOutput] = field(default_factory=list)
    outlines: list[list[Outline]] = field(default_factory=list)


class _LayerRan(Exception):  # noqa: N818 - it is a signal that ends a forward, not an error
    """Raised where a layer has run, with its output."""

    def __init__(self, output: LayerOutput) -> None:
        super().__init__()
        self.output = output


def run_layers(
    name: str,
    doors: LayerDoors,
    calls: Sequence[Callable[[], None]],
    states: LayerStates,
    after_layer: Callable[[], None],
) -> None:
    """Run a decoder on several groups of sequences, layer by layer, until its forward passes end.

    Args:
        name: the name of the model in messages.
        doors: the doors of the decoder's layers.
        calls: for each group, a function that runs the decoder's forward pass on it, without
            gradients, and returns when that ended.
        states: how far they are; brought up to date after each layer.
        after_layer: called after that.

    Raises:
        UnservedModelError: a layer needs more than hidden states, positions and masks, or the
            groups go through different layers.
    """
    while _run_next_layer(name, doors, calls, states):
        after_layer()


def _run_next_layer(
    name: str, doors: LayerDoors, calls: Sequence[Callable[[], None]], states: LayerStates
) -> bool:
    """Take all groups through the next layer; return False if their forward passes ended there."""
    ran: list[LayerOutput] = []
    with ExitStack() as opened:
        current: list[nn.Module] = []
        for group, call in enumerate(calls):
            visit = _visitor(name, doors, states, group, current, opened)
            try:
                with doors.visited(visit):
                    call()
            except _LayerRan as signal:
                ran.append(signal.output)
                if states.outputs:  # what it had before is used no more
                    states.outputs[group] = signal.output
    if not ran:
        return False
    if len(ran) < len(calls):
        raise UnservedModelError(
            f"{name} cannot run layer by layer: its forward passes on different sequences end "
            "after different layers; score it whole"
        )
    states.outputs = ran
    states.outlines.append([output.outline for output in ran])
    states.done += 1
    return True


def _visitor(
    name: str,
    doors: LayerDoors,
    states: LayerStates,
    group: int,
    current: list[nn.Module],
    opened: ExitStack,
) -> Callable[..., Any]:
    """Return what is called in the place of each layer in the forward pass of one group.

    Args:
        name, doors, states, group: as above.
        current: the layer that runs, once the first group has come to it.
        opened: what holds its weights.
    """
    before = states.outputs[group] if states.outputs else None
    called = 0

    def visit(
        layer: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        nonlocal called
        called += 1
        if before is not None and called <= states.done:
            if called == states.done:
                return before.given()
            return before.blank(states.outlines[called - 1][group])
        if not current:
            opened.enter_context(doors.open(layer))
            current.append(layer)
        elif current[0] is not layer:
            raise UnservedModelError(
                f"{name} cannot run layer by layer: different sequences go through different "
                "layers; score it whole"
            )
        numbered = {str(number): one for number, one in enumerate(args)}
        handed = HandedArguments(name, layer, {**numbered, **kwargs}, before)
        output = read_output(name, layer, forward(*args, **kwargs))
        handed.check_unchanged()
        raise _LayerRan(output)

    return visit

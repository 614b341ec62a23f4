"""Test the loop over layers on small decoders whose layers hand each other this and that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from sra_fast.measure.layerwise.layer_doors import layer_doors
from sra_fast.measure.layerwise.layer_loop import LayerStates, run_layers
from sra_fast.measure.unserved import UnservedModelError


class Layer(GradientCheckpointingLayer):
    """A layer that adds a number of its own, and whatever else it is handed."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(number))

    def forward(self, hidden: Tensor, more: Any = None, as_tuple: bool = False) -> Any:
        if isinstance(more, Tensor):
            hidden = hidden * more
        if isinstance(more, dict):
            more[id(self)] = hidden
        out = hidden + self.number
        return (out, None) if as_tuple else out


class Decoder(nn.Module):
    """Three layers in a row, with something between them; its answer is kept in ``answers``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(number) for number in (1.0, 2.0, 3.0))
        self.answers: list[Tensor] = []

    def forward(self, hidden: Tensor) -> None:
        scale = hidden.new_tensor(2.0)
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, scale, as_tuple=number == 1)
            hidden = hidden[0] if number == 1 else hidden
            hidden = hidden.cos()
        self.answers.append(hidden)


class Skipping(Decoder):
    """The last layer is also handed what the first one gave."""

    def forward(self, hidden: Tensor) -> None:
        first = self.layers[0](hidden)
        self.layers[2](self.layers[1](first), first)


class Leaving(Decoder):
    """Layers leave their hidden states in a dictionary."""

    def forward(self, hidden: Tensor) -> None:
        left: dict[int, Tensor] = {}
        for layer in self.layers:
            hidden = layer(hidden, left)


class Handing(Decoder):
    """Layers are handed an object that may hold anything."""

    def forward(self, hidden: Tensor) -> None:
        for layer in self.layers:
            hidden = layer(hidden, object())


class Choosing(Decoder):
    """The layers depend on the text."""

    def forward(self, hidden: Tensor) -> None:
        for layer in self.layers if hidden.shape[1] > 2 else reversed(self.layers):
            hidden = layer(hidden)


class Ending(Decoder):
    """The number of layers depends on the text."""

    def forward(self, hidden: Tensor) -> None:
        for layer in self.layers[: hidden.shape[1] - 1]:
            hidden = layer(hidden)


class Counted:
    """Weights that are there already, and count how often they are asked for."""

    def __init__(self) -> None:
        self.opened: list[nn.Module] = []
        self.held = 0

    @contextmanager
    def in_place(self, part: nn.Module) -> Iterator[None]:
        assert self.held == 0  # one layer at a time
        self.opened.append(part)
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    @contextmanager
    def rest_in_place(self) -> Iterator[None]:
        yield

    def identity(self) -> str:
        return "counted"


TEXTS = [torch.linspace(-1, 1, 12).view(1, length, -1) for length in (4, 3, 2)]


def run(decoder: Decoder, weights: Counted, after: Callable[[int], None] = print) -> LayerStates:
    states = LayerStates()
    with torch.no_grad(), layer_doors("Mine", decoder, weights) as doors:
        calls = [partial(decoder, text) for text in TEXTS]
        run_layers("Mine", doors, calls, states, lambda: after(states.done))
    assert all("forward" not in vars(layer) for layer in decoder.layers)
    return states


def test_every_group_ends_as_alone_and_every_layer_is_opened_once() -> None:
    decoder, weights, told = Decoder(), Counted(), list[int]()
    with torch.no_grad():
        for text in TEXTS:
            decoder(text)
    alone = decoder.answers
    decoder.answers = []
    states = run(decoder, weights, told.append)
    assert told == [1, 2, 3]
    assert states.done == 3
    assert weights.opened == list(decoder.layers)
    for one, other in zip(decoder.answers, alone, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Skipping, r"is handed more than the layer before it gave \(1\)"),
        (Leaving, r"leaves something for later layers in its arguments \(1\)"),
        (Handing, r"is handed something of type object \(1\)"),
        (Choosing, r"different sequences go through different layers"),
        (Ending, r"end after different layers"),
    ],
)
def test_what_a_layer_at_a_time_would_get_wrong_is_refused(
    kind: type[Decoder], message: str
) -> None:
    with pytest.raises(UnservedModelError, match=f"Mine cannot run layer by layer.*{message}"):
        run(kind(), Counted())


def test_without_a_pass_over_groups_layers_open_as_they_are_called() -> None:
    decoder, weights = Decoder(), Counted()
    with torch.no_grad(), layer_doors("Mine", decoder, weights):
        decoder(TEXTS[0])
    assert weights.opened == list(decoder.layers)


def test_a_decoder_without_layers_of_their_kind_is_refused() -> None:
    with (
        pytest.raises(UnservedModelError, match="it has no layers of transformers' kind"),
        layer_doors("Mine", nn.Linear(2, 2), Counted()),
    ):
        pass

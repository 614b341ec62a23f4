"""Turn the calls of a watched model into running means of training and of evaluation."""

from __future__ import annotations

import torch

from sra_fast.tools.missing_extra import needed

with needed("train", "accelerate"):
    from accelerate.state import GradientState

from sra_fast.measure.reduction import answered_layers, response_masses, response_scores
from sra_fast.measure.spans import MarkedBatch
from sra_fast.measure.watching import WatchedCall

from .means import RunningMeans, Scored
from .repeated import last_batch


class TrainingListener:
    """A listener that scores calls of a watched model, those of training apart from evaluation's.

    Calls that make a graph for gradients are training, all others evaluation.

    Attributes:
        training: means since the last log; None outside of training.
        evaluation: means over the data loader that ran last.
        training_calls: number of training calls since training began.
    """

    def __init__(self, definition: str) -> None:
        self._definition = definition
        self._loader: object = None
        self.training: RunningMeans | None = None
        self.evaluation = RunningMeans()
        self.training_calls = 0

    def begin(self) -> None:
        """Prepare for a training that begins, anew or from a checkpoint."""
        self.training, self.training_calls = RunningMeans(), 0
        self.evaluation.clear()

    def end(self) -> None:
        """Stop counting training calls, because training has ended."""
        self.training = None

    def hear(self, answer: WatchedCall) -> None:
        """Score the responses of one call, and add them to training or evaluation.

        Raises:
            UnansweredRequestError: a layer did not answer.
        """
        training = torch.is_grad_enabled()
        if training and self.training is None:
            return
        layers = answered_layers(answer.request, answer.layers)
        with torch.no_grad():
            call = Scored(
                response_scores(
                    answer.request, answer.placed, answer.marked, layers, self._definition
                ),
                response_masses(answer.request, answer.placed, layers),
                layers,
                answer.strategies,
            )
        heads = answer.request.heads
        if heads is not None and heads.place > 0:
            call = call.take([])  # the first of the processes that share a batch counts it
        if training and self.training is not None:
            self.training_calls += 1
            self.training.add(call)
            return
        loader = GradientState().active_dataloader
        if loader is not self._loader:  # forget what an evaluation that failed half-way left behind
            self.evaluation.clear()
            self._loader = loader
        if len(call.scores):
            sharing = 1 if heads is None else len(heads.order)
            call = call.take(_not_repeated(answer.marked, sharing))
        self.evaluation.add(call)


def _not_repeated(marked: MarkedBatch, sharing: int) -> list[int]:
    """Return the indices of the responses that count: accelerate repeats some in the last batch.

    It does so to give each process a full last batch. What it repeats are sequences, or rows of a
    packed batch, whichever the loader's batch size counts; if that is not known, all count.
    """
    owners = [sequence for sequence in marked.sequences for _ in sequence.responses]
    everything = list(range(len(owners)))
    last = last_batch(sharing)
    if last is None:
        return everything
    if last.size == len(marked.sequences):
        items = {id(sequence): item for item, sequence in enumerate(marked.sequences)}
        return [index for index in everything if items[id(owners[index])] < last.kept]
    if last.size == 1 + max(sequence.row for sequence in marked.sequences):
        return [index for index in everything if owners[index].row < last.kept]
    return everything

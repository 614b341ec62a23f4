"""Watch how ``generate`` ends each sequence, by a stopping criterion that stops nothing.

A criterion sees the new token and runs after the forward pass that predicted it. Forward hooks see
neither the last token nor the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation import stopping_criteria as built_in

OnToken = Callable[[int, Tensor, Tensor], None]


class StoppingWatch(StoppingCriteria):  # type: ignore[misc]
    """A criterion that counts the steps, and keeps where sequences were ended by others.

    Args:
        after_step: called with the number of each step and the ids so far, ``[S, T + step + 1]``.

    Attributes:
        steps: how many tokens each sequence has got.
        ended: ``[S]`` int64, after how many new tokens a criterion other than the end markers ended
            each sequence; None if none was there that could.
    """

    def __init__(self, after_step: Callable[[int, Tensor], None]) -> None:
        self.steps = 0
        self.ended: Tensor | None = None
        self._after_step = after_step
        self._said: list[Tensor] = []
        self._asked: list[StoppingCriteria] = []

    def among(self, given: Sequence[StoppingCriteria], strings: Any, tokenizer: Any) -> list[Any]:
        """Return the criteria to generate with: those given, listened to, and this one last.

        Args:
            given: the call's criteria.
            strings: the call's ``stop_strings``, or None.
            tokenizer: the tokenizer that these are stopped with.
        """
        listened: list[Any] = []
        for criterion in given:
            # transformers' own ones stand in for its defaults of the same class, so they stay.
            if type(criterion) is built_in.StopStringCriteria:
                self._asked.append(criterion)
            if type(criterion).__module__ == built_in.__name__:
                listened.append(criterion)
            else:
                listened.append(_Heard(criterion, self._said))
        if strings is not None and not self._asked and tokenizer is not None:
            stops = built_in.StopStringCriteria(tokenizer=tokenizer, stop_strings=strings)
            self._asked.append(stops)
        return [*listened, self]

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.steps += 1
        flags = [*self._said, *(each(input_ids, scores, **kwargs) for each in self._asked)]
        self._said.clear()
        if flags:
            if self.ended is None:
                self.ended = torch.full((len(input_ids),), torch.iinfo(torch.int64).max)
            for flag in flags:
                over = torch.as_tensor(flag).cpu().bool()
                self.ended = torch.where(over, self.ended.clamp(max=self.steps), self.ended)
        self._after_step(self.steps - 1, input_ids)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def lengths(self, new: Tensor, markers: Tensor) -> tuple[list[int], list[bool]]:
        """Return how many of the new tokens are of each sequence, and which end with a marker.

        Args:
            new: ``[S, n]`` int64, the new tokens in the host's memory.
            markers: ``[e]`` int64, the token ids that end a sequence.
        """
        count = new.shape[1]
        marked = torch.isin(new, markers)
        first = torch.where(marked.any(dim=1), marked.int().argmax(dim=1) + 1, count + 1)
        ends = first.clamp(max=count)
        if self.ended is not None:
            ends = torch.minimum(ends, self.ended)
        return ends.tolist(), (first <= ends).tolist()


class _Heard(StoppingCriteria):  # type: ignore[misc]
    """A criterion of the user's, whose answers are kept for the watch."""

    def __init__(self, criterion: Any, said: list[Tensor]) -> None:
        self._criterion = criterion
        self._kept = said

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        answer = self._criterion(input_ids, scores, **kwargs)
        self._kept.append(torch.as_tensor(answer))
        return answer

    def __getattr__(self, name: str) -> Any:  # transformers looks for `eos_token_id`
        return getattr(self.__dict__["_criterion"], name)

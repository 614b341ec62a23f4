"""Get replies from a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from sra_fast.chat.thoughts import Thoughts, reply_start

from ..endpoint import Endpoint
from ..endpoint_error import EndpointError
from ..endpoint_patience import Patience
from .cleaning import clean_reply
from .generation_prompts import GenerationPrompt
from .leftovers import leftover_in
from .replies import BATCH, Reply, UnansweredError
from .sampling import Sampling, item_seed


class EndpointReplier:
    """A replier that asks a model behind an OpenAI-compatible endpoint.

    Args:
        endpoint: the model behind its URL.
        sampling: how tokens are drawn; each request carries a seed of its own.
        batch: the most prompts of a batch, whose replies are saved together.
        thoughts: the opening and the closing tag of a thought, which is taken off the beginning of
            an answer; None to take nothing off.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        sampling: Sampling,
        *,
        batch: int = BATCH,
        thoughts: Thoughts | None = None,
    ) -> None:
        self._endpoint, self._sampling, self._batch = endpoint, sampling, batch
        self._thoughts = () if thoughts is None else (thoughts,)
        self._patience = Patience()

    def plan(self, prompts: Sequence[GenerationPrompt]) -> list[list[int]]:
        """Return batches of indices into ``prompts``, in the order of the prompts."""
        everything = range(len(prompts))
        return [list(everything[at : at + self._batch]) for at in everything[:: self._batch]]

    def reply(self, prompts: Sequence[GenerationPrompt]) -> list[Reply]:
        """Return the replies to one batch of prompts, whose requests run at the same time.

        Raises:
            UnansweredError: some requests failed for good. The others were brought to their end;
                those that had not been sent are left out where its ``for_all`` is True.
        """
        replies: dict[str, Reply] = {}
        errors: list[EndpointError] = []
        ends = self._patience.ends_with  # the requests that have not been sent would fail as well
        with closing(self._endpoint.each(prompts, self._one, ends)) as done:
            for prompt, outcome in done:
                if isinstance(outcome, Reply):
                    replies[prompt.item] = outcome
                    self._patience.answered()
                else:
                    errors.append(outcome)
        in_order = [replies[prompt.item] for prompt in prompts if prompt.item in replies]
        if errors:
            at_fault = dict.fromkeys(name for error in errors for name in error.arguments)
            raise UnansweredError(
                in_order, list(map(str, errors)), *at_fault, for_all=self._patience.ended
            )
        return in_order

    def _one(self, prompt: GenerationPrompt) -> Reply:
        sampling = self._sampling
        answer = self._endpoint.chat(
            prompt.messages,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=item_seed(sampling.seed, prompt.item) % 2**31,
        )
        used = int(answer.usage.get("completion_tokens", 0))
        rest = answer.text[reply_start(answer.text, self._thoughts) :]
        endless = not rest and not any(closing in answer.text for _, closing in self._thoughts)
        if leftover := leftover_in(answer.text if endless else rest, self._thoughts):
            raise EndpointError(
                f"endpoint {self._endpoint.base_url}: sent an answer that {leftover}",
                "thoughts",
                for_this=True,
                unknown=True,  # it may be so with every answer
            )
        return Reply(
            prompt.item, clean_reply(rest), answer.text, used, answer.finish_reason != "length"
        )

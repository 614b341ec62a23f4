"""Record a model's own ``generate`` calls on one marked batch.

Inside the block ``model.generate`` is the model's own method with a listener among its stopping
criteria and hooks on the forward pass. Whatever ends a call, the model is afterwards as it was.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from sra_fast.measure.batch_keys import BatchContent
from sra_fast.measure.continuous_batching import without_continuous_batching
from sra_fast.measure.generation_modes import GenerationSettings
from sra_fast.measure.generation_steps import GenerationSteps
from sra_fast.measure.in_step import PeerError
from sra_fast.measure.profiles import WITHOUT_PROFILE, check_profile_size
from sra_fast.measure.recorded_replies import RecordedReplies, prompt_keys, recorded_replies
from sra_fast.measure.scorable import check_definable, check_lengths, check_token_ids
from sra_fast.measure.served import ServedModel
from sra_fast.measure.stopping_watch import OnToken, StoppingWatch
from sra_fast.measure.unserved import UnservedModelError
from sra_fast.names import ProfileKind
from sra_fast.tools.stand_ins import standing_in

STEP_SECONDS = 60.0
"""The longest that leaving the block waits for a step that another thread is in."""


class UnfinishedGenerationError(RuntimeError):
    """Raised where a recording ends while a thread still generates, and in that thread."""


@dataclass(frozen=True)
class GenerationRecord:
    """A request to record each call of ``generate``.

    Attributes:
        content: the batch of prompts.
        definition: the definition that ``.sra`` of a result gives.
        keep_rows: whether a result keeps the masses of every row.
        profile: the kind of profile to keep of each step; None for none.
        profile_bytes: the most bytes that the profiles of a call may take.
        on_token: called in each step with its number, the new ids ``[S]`` and the masses
            ``[S, L, H, G]`` of the rows that predicted them.
    """

    content: BatchContent
    definition: str
    keep_rows: bool
    profile: ProfileKind | None
    profile_bytes: int
    on_token: OnToken | None


@contextmanager
def recorded_generation(
    served: ServedModel, record: GenerationRecord, listener: Callable[[RecordedReplies], None]
) -> Iterator[None]:
    """Record each call of ``generate`` of a model inside the block.

    Args:
        served: the model, which attends by ``"sra_fast"`` inside the block.
        record: what to record.
        listener: called with what each call gave.

    Raises:
        UnservedModelError: the model is under ``fully_shard``.
        ValueError: the batch cannot be generated from, or the model is being recorded already.
        UnfinishedGenerationError: the block is left while a thread generates.
    """
    whole: Any = served.whole
    refuse_sharded_generation(served)
    if isinstance(getattr(whole.generate, "__self__", None), _Recorder):
        raise ValueError(
            "the generation of this model is being recorded already; leave that recording first"
        )
    content = record.content
    if "inputs_embeds" in content.tokens:
        raise ValueError(_EMBEDDINGS)
    if record.profile is None and content.sources is not None:
        raise ValueError(WITHOUT_PROFILE)
    prompt_keys(content.marked, 1)
    check_definable(content.marked, record.definition)
    check_lengths(served, content.marked)
    if content.only_tokens:
        check_token_ids(served, content.marked, content.tokens["input_ids"])
    recorder = _Recorder(served, record, listener, whole.generate)
    with (
        without_continuous_batching(whole, "recorded"),
        standing_in(whole, {"generate": recorder.generate}),
    ):
        try:
            yield
        finally:
            finished = recorder.close()
    if not finished:
        raise UnfinishedGenerationError(_LEFT)


def refuse_sharded_generation(served: ServedModel) -> None:
    """Refuse to record the generation of a model under ``fully_shard``.

    Raises:
        UnservedModelError: it is one.
    """
    if served.shards is not None:
        raise UnservedModelError(
            f"the generation of {served.name} is not recorded under fully_shard, where processes "
            "may end their replies at different steps; generate in one process, or with a "
            "tensor-parallel model, and score the replies"
        )


_EMBEDDINGS = "inputs_embeds: a generation is recorded from token ids; give input_ids"
_LEFT = (
    "the recording was left while generate() was still running in a thread, so that its replies "
    "were not recorded; wait for the thread inside the block (thread.join())"
)


class _Recorder:
    """The method that stands in for ``generate``, and whether a thread is inside of it."""

    def __init__(
        self,
        served: ServedModel,
        record: GenerationRecord,
        listener: Callable[[RecordedReplies], None],
        generate: Callable[..., Any],
    ) -> None:
        self._served = served
        self._record = record
        self._listener = listener
        self._generate = generate
        self._closed = False
        self._entering = threading.Lock()
        self._inside: int | None = None  # the thread that generates
        self._idle = threading.Event()
        self._idle.set()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be copied along with the model.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self._served.name} is being recorded, and a copy of it would record its generations "
            "for ever; copy it before the block"
        )

    def close(self) -> bool:
        """Let no further step begin, and return whether no thread was generating."""
        with self._entering:
            self._closed = True
            inside = self._inside
        if inside is not None and inside != threading.get_ident():
            self._idle.wait(STEP_SECONDS)
        return inside is None

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as the model itself does, and record it."""
        given = _named(self._generate, args, kwargs)
        with self._entering:
            self._check_open()
            if self._inside is not None:
                raise ValueError(
                    "generate() is running already, and a recording takes one at a time; call it "
                    "when that has ended"
                )
            self._inside = threading.get_ident()
            self._idle.clear()
        try:
            return self._recorded(given)
        finally:
            self._inside = None
            self._idle.set()

    def _check_open(self) -> None:
        if self._closed:
            raise UnfinishedGenerationError(_LEFT)

    def _recorded(self, given: dict[str, Any]) -> Any:
        record, content = self._record, self._record.content
        settings = GenerationSettings(self._served.whole, given)
        settings.check()
        prompt = content.tokens["input_ids"]
        start = _check_prompt(given, content)
        copies = settings.sequences_of_each()
        if record.profile is not None:
            last = prompt.shape[1] + settings.most_new_tokens(prompt.shape[1])
            keys = [*range(prompt.shape[1], last + 1)] * (len(prompt) * copies)
            shape = self._served.attention_shape
            check_profile_size(keys, record.profile, shape, record.profile_bytes)
        keys_of_prompts, names = prompt_keys(content.marked, copies)
        steps = GenerationSteps(self._served, keys_of_prompts, record.profile, self._check_open)

        heads = self._served.heads

        def after_step(step: int, ids: Tensor) -> None:
            self._check_open()
            if heads is not None:
                _check_alike(heads.from_each(ids[:, -1]), step)
            if record.on_token is not None:
                with steps.paused():
                    record.on_token(step, ids[:, -1], steps.masses[step])
            steps.end_step()

        watch = StoppingWatch(after_step)
        criteria = list(given.get("stopping_criteria") or ())
        tokenizer = given.get("tokenizer")
        given["stopping_criteria"] = StoppingCriteriaList(
            watch.among(criteria, settings.value("stop_strings"), tokenizer)
        )
        with steps.recording():
            output = self._generate(**given)
            sequences = output if isinstance(output, Tensor) else output.sequences
            new = sequences[:, prompt.shape[1] - start :].cpu()
            ids = torch.cat([prompt.cpu().repeat_interleave(copies, dim=0), new], dim=1)
            ends = watch.lengths(new, settings.end_markers())
            rows = 1 + max(n - int(ended) for n, ended in zip(*ends, strict=True))
            if rows > len(steps.masses):
                kept = given.get("past_key_values") is not None or not isinstance(output, Tensor)
                steps.feed(ids.to(sequences.device), keep_cache=kept)
        replies = recorded_replies(
            steps,
            content.marked,
            names,
            output,
            ids,
            ends,
            content.sources,
            record.definition,
            record.keep_rows,
        )
        self._listener(replies)
        return output


def _check_alike(drawn: Sequence[Tensor], step: int) -> None:
    """Refuse different tokens in the processes of one tensor-parallel model.

    Raises:
        PeerError: they drew different ones.
    """
    if any(not torch.equal(one, drawn[0]) for one in drawn):
        raise PeerError(
            f"the processes of this tensor-parallel model drew different tokens in step {step}, so "
            "they would go on with different texts; seed them alike (torch.manual_seed), or leave "
            "sampling out"
        )


def _named(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name, with the prompt under ``input_ids``."""
    if args:
        parameters = inspect.signature(method).parameters
        kwargs = {**dict(zip(parameters, args, strict=False)), **kwargs}
    given = dict(kwargs)  # a None is kept: `eos_token_id=None` switches end markers off
    inputs = given.pop("inputs", None)
    if inputs is not None:
        given["input_ids"] = inputs
    return given


def _check_prompt(given: dict[str, Any], content: BatchContent) -> int:
    """Return at which token of the batch's prompts those of the call begin.

    A call that goes on from a cache may hold only the tokens behind it.

    Raises:
        ValueError: they are not the batch's.
    """
    if given.get("inputs_embeds") is not None:
        raise ValueError(_EMBEDDINGS)
    ids, wanted = given.get("input_ids"), content.tokens["input_ids"]
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        raise ValueError("generate() is recorded from `input_ids [B, T]`, and was given none")
    start: int = wanted.shape[1] - ids.shape[1]
    same = start >= 0 and (start == 0 or given.get("past_key_values") is not None)
    if not same or not torch.equal(ids.cpu(), wanted[:, start:].cpu()):
        raise ValueError(
            f"generate() was given other tokens, {list(ids.shape)}, than the batch that is "
            f"recorded, {list(wanted.shape)}; give it the batch's own input_ids"
        )
    return start

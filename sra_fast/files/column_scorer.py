"""Score columns of conversations, for engines that hand batches of columns to their workers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sra_fast.chat.conversations import Conversation, parse_conversation
from sra_fast.chat.encoding import encode_prompts
from sra_fast.chat.record_fields import ConversationError
from sra_fast.chat.templates import PromptTemplate, get_template
from sra_fast.chat.thoughts import Thoughts
from sra_fast.definitions import known_definitions
from sra_fast.files.batch_scorer import BatchScorer
from sra_fast.files.models import find_model
from sra_fast.files.numbered_batches import batches
from sra_fast.files.score_tables import ScoreRow, score_rows
from sra_fast.files.scoring_options import ScoringError, ScoringOptions
from sra_fast.measure.spans import BatchRowError
from sra_fast.names import FORWARD_TOKENS, Device, DType, TurnLayout, Turns
from sra_fast.result import SRAResult

if TYPE_CHECKING:
    from numpy import ndarray

_COUNTS = ("turn", "prompt_tokens", "response_tokens", "strategy_tokens")
_TEXTS = ("conversation_id", "dialogue", "layout", "strategy", "template", "definition")
_MEASURES = ("sra", "log_sra")
_META = "meta"


class Scorer:
    """A scorer of conversations in columns, for ``ray.data`` and ``datasets``.

    It takes a batch as a mapping of columns, the fields of a conversation record
    (:mod:`sra_fast.chat.conversations`), and returns columns with one row for each scored reply:
    those of ``scores.jsonl``, with the ids in ``conversation_id``. It pickles as its arguments; the
    model is loaded in each process at the first batch. ::

        dataset.map_batches(
            sra_fast.Scorer,
            fn_constructor_kwargs={"model": "smollm2"},
            compute=ray.data.ActorPoolStrategy(size=4),
            num_gpus=1,
        )

    Args:
        model: a name or folder of a model, as ``sra-fast score --model`` takes it. A folder is
            looked for where the batches are scored.
        template: name of one of the seven prompt templates, or a ``PromptTemplate``.
        definition: the definition that the column ``sra`` gives.
        strategies: mapping of strategy names to descriptions; the library's own if None.
        turns: "all" to score every reply, "last" to score the last one of each conversation.
        layout, thoughts: the arguments of those names of :func:`sra_fast.encode`.
        now: the date and time that a chat template with a date writes; the moment at which the
            scorer is made if None. Give one where several scorers are made.
        batch_tokens: the most tokens of one forward pass, unless one prompt is longer.
        dtype: number format of the weights; "auto" is that in which they are stored.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        backend: backend of the op.
        check: whether the model is checked before its first score.
        share_prefixes: the argument of that name of :func:`sra_fast.score`.
        allow_missing: whether weights that the model's files lack are only told.

    Raises:
        KeyError: there is no such definition.
        ValueError: there is no such backend.
        PromptTemplateError: there is no such template.
    """

    def __init__(
        self,
        model: str,
        *,
        template: str | PromptTemplate = "standard",
        definition: str = "paper",
        strategies: Mapping[str, str] | None = None,
        turns: Turns = "all",
        layout: TurnLayout = "as_generated",
        thoughts: Thoughts | None = None,
        now: datetime | None = None,
        batch_tokens: int = FORWARD_TOKENS,
        dtype: DType = "auto",
        device: Device = "auto",
        backend: str = "auto",
        check: bool = True,
        share_prefixes: bool = True,
        allow_missing: bool = False,
    ) -> None:
        folder = Path(model).expanduser()
        self._model = str(folder.resolve()) if folder.is_dir() else model
        self._allow_missing = allow_missing
        self._template = get_template(template)
        self._turns = turns
        self._now = datetime.now() if now is None else now
        usual = ScoringOptions()
        self._options = ScoringOptions(
            definition=definition,
            strategies=dict(usual.strategies if strategies is None else strategies),
            batch_tokens=batch_tokens,
            dtype=dtype,
            device=device,
            backend=backend,
            layout=layout,
            thoughts=thoughts,
            check=check,
            share_prefixes=share_prefixes,
        )
        self._scorer: BatchScorer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scorer": None}

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, ndarray[Any, Any]]:
        """Score a batch of conversations.

        Args:
            batch: the columns, each with one value per conversation. ``id`` and ``messages`` must
                be among them; no other than the fields of a record may be.

        Returns:
            The columns of ``scores.jsonl`` as arrays with one value per reply: texts as ``object``,
            counts as int64, scores as float32 (NaN where a definition leaves nothing to average).
            ``meta`` is one column, the metadata of the conversation as JSON.

        Raises:
            TypeError: the batch is no mapping of columns.
            ConversationError: a conversation is malformed, or has no id.
            ScoringError: a conversation cannot be scored.
        """
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"expected a mapping of columns, found {type(batch).__name__}; leave the batch "
                "format of ray.data at 'numpy', and map datasets with batched=True"
            )
        conversations = [_conversation(index, one) for index, one in enumerate(_records(batch))]
        if not conversations:
            return _columns([], ())
        scorer = self._ready()
        prompts = encode_prompts(
            scorer.tokenizer,
            conversations,
            self._template,
            strategies=self._options.strategies,
            turns=self._turns,
            layout=self._options.layout,
            thoughts=self._options.thoughts,
            now=self._now,
        )
        results = []
        for part in batches(prompts, self._options.batch_tokens):
            try:
                results.append(scorer.score(part))
            except BatchRowError as error:
                label = conversations[part[error.row].conversation].label
                raise ScoringError(f"{label}: {error.problem}") from error
        rows = score_rows(
            SRAResult.concatenate(results),
            prompts,
            [replace(one, meta={}) for one in conversations],
            self._template.name,
            self._options.definition,
        )
        metas = [conversations[one.conversation].meta for one in prompts for _ in one.turns]
        return _columns(rows, metas)

    def _ready(self) -> BatchScorer:
        if self._scorer is None:
            source = find_model(self._model, allow_missing=self._allow_missing)
            self._scorer = BatchScorer(source, self._options)
        return self._scorer


def _records(batch: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the rows of a batch of columns, as records of plain values."""
    lengths = {name: len(column) for name, column in batch.items()}
    if len(set(lengths.values())) > 1:
        raise ConversationError(f"the columns of the batch have different lengths: {lengths}")
    count = next(iter(lengths.values()), 0)
    return [{name: _plain(column[row]) for name, column in batch.items()} for row in range(count)]


def _conversation(index: int, record: Mapping[str, Any]) -> Conversation:
    where = f"row {index} of the batch"
    if record.get("id") is None:
        raise ConversationError(
            f"{where}: the conversation has no 'id'; add a column with one, for a number in the "
            "batch would not tell the conversations of several batches apart"
        )
    return parse_conversation(record, index=index, where=where)


def _plain(value: Any) -> Any:
    """Return a value of a column as JSON has it: engines turn lists and numbers into arrays."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # an array or a number of numpy
        return _plain(value.tolist())
    return value


def _columns(
    rows: Sequence[ScoreRow], metas: Sequence[Mapping[str, Any]]
) -> dict[str, ndarray[Any, Any]]:
    import numpy

    columns: dict[str, ndarray[Any, Any]] = {}
    for name in (*_TEXTS, *_COUNTS, *known_definitions(), *_MEASURES):
        kind = object if name in _TEXTS else numpy.int64 if name in _COUNTS else numpy.float32
        columns[name] = numpy.array([row[name] for row in rows], dtype=kind)
    written = [json.dumps(meta, ensure_ascii=False, sort_keys=True) for meta in metas]
    return {**columns, _META: numpy.array(written, dtype=object)}

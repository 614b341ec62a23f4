"""Turn conversations with strategies into a data set of training examples, and split it.

A conversation beyond the length limit is never cut or dropped unless a policy says so, and then it
is counted and named.
"""

from __future__ import annotations

import itertools
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from sra_fast.chat.conversations import (
    Conversation,
    ConversationError,
    as_conversations,
    parse_conversation,
    read_conversations,
)
from sra_fast.chat.foreign_files import foreign_formats_named
from sra_fast.chat.templates import PromptTemplate, get_template
from sra_fast.chat.thoughts import Thoughts, check_thoughts
from sra_fast.names import TooLong
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.sra_warning import SRAWarning
from sra_fast.tools.strict_json import decode_utf8, parse_json

from .examples import ExampleEncoder, LengthReport, TrainingDataError

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset  # type: ignore[import, unused-ignore]
    from transformers import PreTrainedTokenizerBase

_Path: TypeAlias = "str | os.PathLike[str]"
_Record: TypeAlias = "Mapping[str, object] | Conversation"


@dataclass(frozen=True)
class TrainingExamples:
    """A data set of training examples, and a report on what the length limit did to it.

    Attributes:
        dataset: one entry per example: ``input_ids``, ``labels`` (-100 but at the response and its
            end marker), ``strategy_mask`` and ``response_mask`` (bool), lists of one length;
            ``length``, and the texts ``strategy``, ``conversation`` (id) and ``dialogue``.
        report: what was cut or dropped; None when streaming, where each pass warns at its end.
    """

    dataset: Dataset | IterableDataset
    report: LengthReport | None


def training_examples(
    source: _Path | Sequence[_Path] | Iterable[_Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str | PromptTemplate = "standard",
    max_length: int,
    too_long: TooLong = "error",
    strategies: Mapping[str, str] | None = None,
    thoughts: Thoughts | None = None,
    now: datetime | None = None,
    streaming: bool = False,
) -> TrainingExamples:
    """Turn conversations into training examples for the collators of this package.

    Only the last reply of a conversation has a loss: its ``response``, or else its last assistant
    message; everything after it is left out. Labelled are the reply's own tokens and what the chat
    template puts after them, to the end of the first control tokens there (all of it if there is
    none), so that the model learns to stop; ``response_mask`` marks the reply's own tokens alone.
    A reasoning model's thoughts are no part of its reply and have no loss.

    Args:
        source: JSONL file or files of conversations, or conversations (see
            ``sra_fast.chat.conversations``).
        tokenizer: a fast tokenizer with a chat template.
        template: a prompt template that ``sra_fast.encode`` takes.
        max_length: the most tokens of an example.
        too_long: what happens to a longer one. "error" refuses it; "drop" leaves it out;
            "cut_oldest_turns" leaves out turns at the beginning of the conversation, as few as
            possible, so that it begins with a user message; the instruction, the last user message
            and the reply always stay. What is dropped or cut is named in a warning and the report.
        strategies: mapping of strategy names to descriptions; the library's 23 if None.
        thoughts, now: the arguments of those names of :func:`sra_fast.encode`. ``now`` is this
            moment if None, for all examples.
        streaming: whether to read the files as they are iterated over, for those larger than
            memory. Errors then come when their line is reached; ids are not compared throughout
            the file. Several workers share the files, not the lines. With several processes,
            Trainer needs ``accelerator_config={"dispatch_batches": False}``.

    Returns:
        ``.dataset``, what a Trainer takes, and ``.report`` on lengths. The columns are those of
        :class:`TrainingExamples`; the collators make batches of them.

    Raises:
        ConversationError: a file or conversation is malformed, without a strategy or without a
            reply; names the line.
        EncodingError: the chat template drops the strategy or alters a text.
        TrainingDataError: a conversation is too long, or its reply has no end marker.
        OSError: a file cannot be read.
        ValueError: ``too_long``, ``max_length`` or ``thoughts`` is not one of the values above.
    """
    if too_long not in get_args(TooLong):
        raise ValueError(f"too_long must be one of {get_args(TooLong)}, found {too_long!r}")
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
        raise ValueError(f"max_length must be a whole number from 1 on, found {max_length!r}")
    described = None if strategies is None else dict(strategies)  # proxies cannot be pickled
    if thoughts is not None:
        check_thoughts(thoughts)
    encoder = ExampleEncoder(
        tokenizer,
        get_template(template),
        described,
        max_length,
        too_long,
        thoughts,
        datetime.now() if now is None else now,
    )
    if streaming:
        return TrainingExamples(_streamed(_paths(source), encoder), None)
    return _in_memory(_conversations(source), encoder)


def split_by_conversation(
    items: Dataset | Sequence[_Record], fraction: float, seed: int = 0
) -> tuple[Any, Any]:
    """Split examples or conversations so that no dialogue lies on both sides.

    Conversations that were cut from one dialogue resemble each other, so one of them held out would
    be known from the others. They are told by ``dialogue``, or by their id if they have none.

    Args:
        items: a data set of :func:`training_examples`, or conversations.
        fraction: share of the dialogues that is held out, in (0, 1); the nearest whole number of
            dialogues, but at least one and never all.
        seed: seed of the draw of held-out dialogues.

    Returns:
        The rest and the held-out part, each of the kind of ``items`` and in its order.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1.
        TrainingDataError: there are fewer than two dialogues, or the data set is streamed.
    """
    if isinstance(items, TrainingExamples):
        raise TrainingDataError(
            "TrainingExamples cannot be split; give the data set in it, examples.dataset"
        )
    if isinstance(items, Sequence):
        keys = [
            conversation.dialogue or conversation.id for conversation in as_conversations(items)
        ]
        rest, held_out = _split(keys, fraction, seed)
        return [items[i] for i in rest], [items[i] for i in held_out]
    if not hasattr(items, "select"):
        raise TrainingDataError(
            f"a {type(items).__name__} cannot be split by dialogue before it is read; split the "
            "conversations into two files first"
        )
    rest, held_out = _split(list(items["dialogue"]), fraction, seed)
    return items.select(rest), items.select(held_out)


def _split(keys: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of the rest and of the held-out part, each ascending."""
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, found {fraction}")
    dialogues = list(dict.fromkeys(keys))
    if len(dialogues) < 2:
        raise TrainingDataError(
            f"{len(keys)} conversations of {len(dialogues)} dialogue cannot be split; a split "
            "needs at least two dialogues"
        )
    count = min(max(round(fraction * len(dialogues)), 1), len(dialogues) - 1)
    chosen = set(random.Random(seed).sample(dialogues, count))
    rest = [index for index, key in enumerate(keys) if key not in chosen]
    return rest, [index for index, key in enumerate(keys) if key in chosen]


# --- Datasets --------------------------------------------------------------------------------


def _in_memory(conversations: Sequence[Conversation], encoder: ExampleEncoder) -> TrainingExamples:
    with needed("train", "datasets"):
        from datasets import Dataset

    encoded = list(encoder.encoded(conversations))
    too_long = [one for one in encoded if one.example is None]
    if too_long and (encoder.too_long != "drop" or len(too_long) == len(encoded)):
        raise encoder.refusal(too_long, len(encoded))
    report = LengthReport(
        encoder.max_length,
        len(encoded),
        dropped=tuple(one.label for one in too_long),
        cut=tuple(one.label for one in encoded if one.was_cut),
    )
    _warn(report)
    examples = [one.example for one in encoded if one.example is not None]
    columns = {name: [example[name] for example in examples] for name in _features()}
    return TrainingExamples(Dataset.from_dict(columns, features=_features()), report)


def _streamed(files: Sequence[str], encoder: ExampleEncoder) -> IterableDataset:
    with needed("train", "datasets"):
        from datasets import IterableDataset

    for file in files:
        next(_lines(file))  # an error in the first line is raised at once
    given = {"files": list(files), "encoder": encoder}  # workers share out what is in a list
    return IterableDataset.from_generator(_stream, features=_features(), gen_kwargs=given)


def _stream(files: Sequence[str], encoder: ExampleEncoder) -> Iterator[dict[str, Any]]:
    count = 0
    dropped: list[str] = []
    cut: list[str] = []
    for one in encoder.encoded(itertools.chain.from_iterable(map(_lines, files))):
        count += 1
        if one.example is not None:
            cut += [one.label] * one.was_cut
            yield one.example
        elif encoder.too_long == "drop":
            dropped.append(one.label)
        else:
            raise encoder.refusal([one])
    _warn(LengthReport(encoder.max_length, count, tuple(dropped), tuple(cut)))


def _features() -> Features:
    with needed("train", "datasets"):
        from datasets import Features, Sequence, Value

    lists = {
        "input_ids": "int32",
        "labels": "int32",
        "strategy_mask": "bool",
        "response_mask": "bool",
    }
    texts = ("strategy", "conversation", "dialogue")
    return Features(
        {name: Sequence(Value(dtype)) for name, dtype in lists.items()}
        | {"length": Value("int32")}
        | {name: Value("string") for name in texts}
    )


def _warn(report: LengthReport) -> None:
    for note in report.notes:
        warnings.warn(note, SRAWarning, stacklevel=4)  # the line that called training_examples


# --- Files -----------------------------------------------------------------------------------


def _conversations(source: Any) -> list[Conversation]:
    if _is_paths(source):
        files = [read_conversations(path) for path in _paths(source)]
        return as_conversations(itertools.chain.from_iterable(files))
    conversations = as_conversations(source)
    if not conversations:
        raise ConversationError("there is no conversation to train on; give at least one")
    return conversations


def _lines(file: str) -> Iterator[Conversation]:
    """Yield the conversations of a file, read line by line."""
    with foreign_formats_named(file):
        yield from _read_lines(file)


def _read_lines(file: str) -> Iterator[Conversation]:
    name, index = Path(file).name, 0
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{name} line {number}"
            text = decode_utf8(line, where, raises=ConversationError)
            if not text.strip():
                continue
            if text.lstrip().startswith("["):
                raise ConversationError(
                    f"{where}: found a list; write one conversation a line, without brackets "
                    "around them and commas between them"
                )
            record = parse_json(text, name, first_line=number, raises=ConversationError)
            yield parse_conversation(record, index=index, where=where)
            index += 1
    if index == 0:
        raise ConversationError(f"{name}: holds no conversation; write one JSON object a line")


def _is_paths(source: Any) -> bool:
    if isinstance(source, (str, os.PathLike)):
        return True
    if not isinstance(source, Sequence) or not source:
        return False
    return all(isinstance(item, (str, os.PathLike)) for item in source)


def _paths(source: Any) -> list[str]:
    if not _is_paths(source):
        raise TrainingDataError(
            "streaming reads JSONL files; give their paths, or leave streaming out for "
            "conversations that are in memory already"
        )
    many = [source] if isinstance(source, (str, os.PathLike)) else source
    return [os.fspath(path) for path in many]

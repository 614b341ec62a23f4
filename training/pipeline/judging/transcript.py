"""Keep every answer of the judge in a transcript, one a line, written when it comes.

A run that was killed leaves whole lines and at most one cut line, which is dropped. A question that
a whole line answers is never asked again. Each line carries a digest of what it says, so that no
result is made from a line that was changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from sra_fast.files.appended_lines import append_line, drop_cut_line, whole_lines
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.strict_json import decode_utf8, parse_json

from ..endpoint import ChatMessage
from .judge_prompt import Order
from .verdicts import Verdict, read_verdict

TRANSCRIPT = "transcript.jsonl"

_DIGEST = "sha256"


class TranscriptError(ArgumentError):
    """Raised when a transcript is not what this run wrote; the message names the line."""


@dataclass(frozen=True)
class Question:
    """The identity of one question to the judge.

    Attributes:
        item: the id of the item.
        order: which reply the judge reads first.
        attempt: 1 for the first question, 2 for the one after an answer without a verdict.
    """

    item: str
    order: Order
    attempt: int


@dataclass(frozen=True)
class Answer:
    """What the judge answered to one question.

    Attributes:
        text: the text of the answer.
        finish_reason: why the answer ended, in the endpoint's words; "length" if it was cut.
        usage: the numbers of tokens, as far as the endpoint counts them.
        left_out: parameters of the request that the endpoint refused.
    """

    text: str
    finish_reason: str | None
    usage: Mapping[str, int]
    left_out: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """Return the verdict of the answer, or None if it has none.

        An answer that was cut has none, as its last line is not the one that was asked for.
        """
        return None if self.finish_reason == "length" else read_verdict(self.text)


MessagesOf = Callable[[Question, Mapping[Question, Answer]], Sequence[ChatMessage]]
"""A function that returns the messages of a question, given the answers so far."""


class Transcript:
    """A transcript, whose answers can be read and to which more can be appended.

    Args:
        path: the file of the transcript; it is made if it does not exist.
        prompt_sha256: the SHA-256 of the prompt, which every line names.
        messages_of: returns the messages of a question, given the answers so far; it raises
            KeyError if there is no such question.

    Attributes:
        answers: the answers so far, by their questions.

    Raises:
        TranscriptError: a whole line is not an answer to a question of this run.
    """

    def __init__(
        self,
        path: Path,
        prompt_sha256: str,
        messages_of: MessagesOf,
    ) -> None:
        self.answers: dict[Question, Answer] = {}
        self._prompt_sha256 = prompt_sha256
        self._messages_of = messages_of
        self._path = path
        path.touch()
        for number, line in enumerate(whole_lines(path), start=1):
            self._take(line, f"{path.name} line {number}")
        drop_cut_line(path)

    def add(self, question: Question, answer: Answer) -> None:
        """Append an answer to the file as one line, at once."""
        record = {
            **asdict(question),
            "prompt_sha256": self._prompt_sha256,
            "messages": self._messages_of(question, self.answers),
            "answer": answer.text,
            "finish_reason": answer.finish_reason,
            "verdict": answer.verdict,
            "usage": dict(answer.usage),
            "left_out": list(answer.left_out),
        }
        append_line(self._path, {**record, _DIGEST: _digest(record)})
        self.answers[question] = answer

    def _take(self, line: bytes, where: str) -> None:
        record = parse_json(
            decode_utf8(line, where, raises=TranscriptError), where, raises=TranscriptError
        )
        if isinstance(record, dict) and _DIGEST in record:  # earlier versions wrote none
            written = {name: value for name, value in record.items() if name != _DIGEST}
            if record[_DIGEST] != _digest(written):
                raise TranscriptError(
                    f"{where} is not as it was written; put the file back as it was written, or "
                    "give another folder",
                    "out",
                )
        read = _read(record)
        if read is not None and read[0] not in self.answers:
            question, answer, messages = read
            try:
                if messages == self._messages_of(question, self.answers):
                    self.answers[question] = answer
                    return
            except KeyError:  # an unknown item, or a second question without a first answer
                pass
        raise TranscriptError(
            f"{where} is not an answer to a question of this run; put the file back as it was "
            "written, or give another folder",
            "out",
        )


def _digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a line says, with which the line can be checked."""
    text = json.dumps(record, ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(record: object) -> tuple[Question, Answer, object] | None:
    """Return question, answer and messages of a line; None if the line is something else."""
    if not isinstance(record, dict):
        return None
    names = ("item", "order", "attempt", "answer", "finish_reason", "usage", "messages")
    found: list[Any] = [record.get(name) for name in names]
    item, order, attempt, text, reason, usage, messages = found
    left_out = record.get("left_out", [])  # earlier versions sent every parameter
    fits = (
        isinstance(item, str)
        and order in get_args(Order)
        and attempt in (1, 2)
        and isinstance(text, str)
        and (reason is None or isinstance(reason, str))
        and isinstance(usage, dict)
        and all(type(count) is int for count in usage.values())
        and isinstance(left_out, list)
        and all(isinstance(name, str) for name in left_out)
    )
    if not fits:
        return None
    return Question(item, order, attempt), Answer(text, reason, usage, tuple(left_out)), messages

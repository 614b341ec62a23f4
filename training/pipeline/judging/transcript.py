"""The transcript: every answer of the judge, a line each, written when it comes.

A run that was killed leaves whole lines and at most one that was cut, which is dropped; what the
whole lines say is never asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from sra_fast.files.appended_lines import append_line, drop_cut_line, whole_lines
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.strict_json import decode_utf8, parse_json

from ..endpoint import ChatMessage
from .judge_prompt import Order, Verdict, read_verdict

TRANSCRIPT = "transcript.jsonl"


class TranscriptError(ArgumentError):
    """A transcript is not what this run wrote; the message names the line and the way out."""


@dataclass(frozen=True)
class Question:
    """One request.

    Attributes:
        item: id of the item.
        order: whose reply stands first.
        attempt: 1, or 2 after an answer that named neither.
    """

    item: str
    order: Order
    attempt: int


@dataclass(frozen=True)
class Answer:
    """What came of a request."""

    text: str
    finish_reason: str | None
    usage: Mapping[str, int]

    @property
    def verdict(self) -> Verdict | None:
        """None if the answer names neither, or was cut: its last line is not the last then."""
        return None if self.finish_reason == "length" else read_verdict(self.text)


MessagesOf = Callable[[Question, Mapping[Question, Answer]], Sequence[ChatMessage]]


class Transcript:
    """The answers that a transcript holds already, and the file for more of them.

    Args:
        path: of the file; made if it is not there.
        prompt_sha256: of the prompt, for the record.
        messages_of: what a question is asked with, given the answers so far; KeyError if there is
            no such question.

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
        """Writes one line, at once."""
        record = {
            **asdict(question),
            "prompt_sha256": self._prompt_sha256,
            "messages": self._messages_of(question, self.answers),
            "answer": answer.text,
            "finish_reason": answer.finish_reason,
            "verdict": answer.verdict,
            "usage": dict(answer.usage),
        }
        append_line(self._path, record)
        self.answers[question] = answer

    def _take(self, line: bytes, where: str) -> None:
        record = parse_json(
            decode_utf8(line, where, raises=TranscriptError), where, raises=TranscriptError
        )
        read = _read(record)
        if read is not None and read[0] not in self.answers:
            question, answer, messages = read
            try:
                if messages == self._messages_of(question, self.answers):
                    self.answers[question] = answer
                    return
            except KeyError:  # no such item, or a second question without a first
                pass
        raise TranscriptError(
            f"{where} is not an answer to a question of this run; put the file back as it was "
            "written, or give another folder",
            "out",
        )


def _read(record: object) -> tuple[Question, Answer, object] | None:
    """Question, answer and messages of a line; None if it is no such line."""
    if not isinstance(record, dict):
        return None
    names = ("item", "order", "attempt", "answer", "finish_reason", "usage", "messages")
    found: list[Any] = [record.get(name) for name in names]
    item, order, attempt, text, reason, usage, messages = found
    fits = (
        isinstance(item, str)
        and order in get_args(Order)
        and attempt in (1, 2)
        and isinstance(text, str)
        and (reason is None or isinstance(reason, str))
        and isinstance(usage, dict)
        and all(type(count) is int for count in usage.values())
    )
    if not fits:
        return None
    return Question(item, order, attempt), Answer(text, reason, usage), messages

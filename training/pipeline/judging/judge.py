"""Judge two files of replies, and count wins, ties and losses, in a folder of the run's own.

The folder holds:

    run.json           everything that the verdicts depend on; a run with other settings is refused
    transcript.jsonl   every answer of the judge, one a line, written when it comes
    result.json        the result, written at the end even if answers are missing
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from sra_fast.chat.strategies import DEFAULT_STRATEGIES
from sra_fast.files.provenance import file_sha256
from sra_fast.files.run_folder import RunFolder
from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.atomic import write_json

from ..endpoint import ChatMessage, Endpoint
from ..endpoint_error import EndpointError
from ..endpoint_patience import Patience
from ..items import Item, read_items
from .judge_prompt import (
    DEFAULT_PROMPT,
    Order,
    asked_again,
    question,
)
from .tally import (
    Judged,
    Tally,
    interval_settings,
    tally,
    tally_by_strategy,
)
from .transcript import (
    TRANSCRIPT,
    Answer,
    MessagesOf,
    Question,
    Transcript,
)

RESULT = "result.json"
MAX_TOKENS = 2048
"""The most tokens of an answer, with room for a judge that thinks before it answers."""

_NAMED = 3  # the most reasons that an error names; it counts the others
_ORDERS: tuple[Order, ...] = get_args(Order)


class MissingAnswersError(ArgumentError):
    """Raised when items lack an answer of the judge; the message says how many, and why."""


@dataclass(frozen=True)
class JudgingRun:
    """The settings of a judging run: which replies, which judge, and where the results go.

    Attributes:
        file_a: JSONL file of conversations with the replies of the first system, A.
        file_b: JSONL file of the same conversations with the replies of the second system, B.
        endpoint: the judge, a model behind its URL.
        out: the folder of the run; it is new, or holds this very run.
        prompt: the prompt for the judge, with the placeholders ``judge_prompt.PLACEHOLDERS``.
        strategies: the strategies as a mapping of names to descriptions.
        items: how many items to draw at random; None for all.
        seed: seed of that draw.
        temperature: what the judge's logits are divided by before a token is drawn; 0 takes the
            likeliest.
        max_tokens: the most tokens of an answer, thoughts included where the server counts them.
        name_a: the name of the first system in the result.
        name_b: the name of the second system in the result.
        on_answer: called with the number of questions that are answered and the number of
            questions known so far.
    """

    file_a: Path
    file_b: Path
    endpoint: Endpoint
    out: Path
    prompt: str = DEFAULT_PROMPT
    strategies: Mapping[str, str] = field(default_factory=lambda: DEFAULT_STRATEGIES)
    items: int | None = None
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int = MAX_TOKENS
    name_a: str = "A"
    name_b: str = "B"
    on_answer: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class JudgingResult:
    """What a judging run found, whether it is complete or not.

    Attributes:
        overall: wins, ties and losses over all items.
        by_strategy: wins, ties and losses over the items of each strategy, by its name.
        requests: how many requests were answered, in this call or an earlier one.
        usage: the tokens of those requests, as far as the endpoint counted them.
        failures: how many requests failed in this call, by the reason.
        left_out: parameters of the requests that the judge's server refused, so that its own choice
            counted in their place.
        arguments: names of arguments that were at fault in the failures.
    """

    overall: Tally
    by_strategy: Mapping[str, Tally]
    requests: int
    usage: Mapping[str, int]
    failures: Mapping[str, int]
    left_out: Sequence[str] = ()
    arguments: Sequence[str] = ()

    def check_complete(self) -> None:
        """Check that every item has the answers it needs.

        Raises:
            MissingAnswersError: some item lacks an answer of the judge.
        """
        missing = len(self.overall.missing)
        if not missing:
            return
        reasons = [f"{count} × {reason}" for reason, count in self.failures.items()]
        more = f"; and {len(reasons) - _NAMED} more reasons" if len(reasons) > _NAMED else ""
        raise MissingAnswersError(
            f"{missing} of {self.overall.items} items lack an answer of the judge; what is done "
            f"is kept, and the same command goes on. Requests failed: "
            f"{'; '.join(reasons[:_NAMED])}{more}",
            *self.arguments,
        )


def judge(run: JudgingRun) -> JudgingResult:
    """Ask the judge about every item that it has not judged yet, and write the result.

    Args:
        run: what to judge, by which judge, and where the results go.

    Raises:
        ValueError: files, prompt and folder do not go together.
        OSError: a file cannot be read or written.
    """
    items = read_items(run.file_a, run.file_b, run.strategies, count=run.items, seed=run.seed)
    folder = RunFolder(run.out, _settings(run, items))
    of_id = {item.id: item for item in items}

    def messages_of(one: Question, answers: Mapping[Question, Answer]) -> list[ChatMessage]:
        messages = question(run.prompt, of_id[one.item], one.order)
        if one.attempt == 1:
            return messages
        return asked_again(messages, answers[Question(one.item, one.order, 1)].text)

    with folder.opened():
        path = folder.path / TRANSCRIPT
        transcript = Transcript(path, hashlib.sha256(run.prompt.encode()).hexdigest(), messages_of)
        errors = _ask_all(run, items, transcript, messages_of)
        result = _result(items, transcript.answers, errors)
        write_json(folder.path / RESULT, result_json(run, result))
        if not result.overall.missing:
            folder.finish()
    return result


def result_json(run: JudgingRun, result: JudgingResult) -> dict[str, Any]:
    """Return the settings and the result of a run as ``result.json`` holds them."""
    return {
        "command": "judge",
        "out": str(run.out),
        "files": [RESULT, TRANSCRIPT],
        "endpoint": run.endpoint.base_url,
        "judge": run.endpoint.model,
        "a": run.name_a,
        "b": run.name_b,
        "complete": not result.overall.missing,
        "requests": result.requests,
        "usage": dict(result.usage),
        "failures": dict(result.failures),
        "left_out": list(result.left_out),
        "interval": interval_settings(),
        "overall": asdict(result.overall),
        "by_strategy": [
            {"strategy": strategy, **asdict(one)} for strategy, one in result.by_strategy.items()
        ],
    }


def _ask_all(
    run: JudgingRun,
    items: Sequence[Item],
    transcript: Transcript,
    messages_of: MessagesOf,
) -> list[EndpointError]:
    """Ask every question that lacks an answer, and ask again where the answer had no verdict.

    Returns:
        Why each request that failed did.
    """
    answers = transcript.answers
    firsts = [Question(item.id, order, 1) for item in items for order in _ORDERS]
    errors: list[EndpointError] = []
    patience = Patience()
    for attempt in (1, 2):
        if patience.ended:
            break
        wanted = [replace(one, attempt=attempt) for one in firsts]
        if attempt == 2:
            wanted = [one for one in wanted if _names_neither(answers.get(_first(one)))]
        waiting = [(one, messages_of(one, answers)) for one in wanted if one not in answers]
        answered = len(wanted) - len(waiting)
        run.on_answer(answered, len(wanted))
        done = run.endpoint.each(waiting, lambda task: _ask(run, task[1]), patience.ends_with)
        with closing(done):
            for (one, _), outcome in done:
                if isinstance(outcome, Answer):
                    transcript.add(one, outcome)
                    patience.answered()
                    answered += 1
                    run.on_answer(answered, len(wanted))
                else:
                    errors.append(outcome)
    return errors


def _ask(run: JudgingRun, messages: Sequence[ChatMessage]) -> Answer:
    reply = run.endpoint.chat(messages, temperature=run.temperature, max_tokens=run.max_tokens)
    return Answer(reply.text, reply.finish_reason, reply.usage, reply.left_out)


def _first(again: Question) -> Question:
    return replace(again, attempt=1)


def _names_neither(answer: Answer | None) -> bool:
    return answer is not None and answer.verdict is None


def _judged(item: Item, answers: Mapping[Question, Answer]) -> Judged:
    last: dict[Order, Answer | None] = {}
    for order in _ORDERS:
        one = Question(item.id, order, 1)
        answer = answers.get(one)
        last[order] = answers.get(replace(one, attempt=2)) if _names_neither(answer) else answer
    ab, ba = last["ab"], last["ba"]
    return Judged(
        item,
        ab=None if ab is None else ab.verdict,
        ba=None if ba is None else ba.verdict,
        missing=ab is None or ba is None,
    )


def _result(
    items: Sequence[Item], answers: Mapping[Question, Answer], errors: Sequence[EndpointError]
) -> JudgingResult:
    judged = [_judged(item, answers) for item in items]
    usage: Counter[str] = Counter()
    for answer in answers.values():
        usage.update(answer.usage)
    return JudgingResult(
        overall=tally(judged),
        by_strategy=tally_by_strategy(judged),
        requests=len(answers),
        usage=usage,
        failures=Counter(map(str, errors)),
        left_out=sorted({name for answer in answers.values() for name in answer.left_out}),
        arguments=list(dict.fromkeys(name for error in errors for name in error.arguments)),
    )


def _settings(run: JudgingRun, items: Sequence[Item]) -> dict[str, Any]:
    """Return everything that the verdicts depend on, as values of JSON."""
    return {
        "kind": "judge",
        "a_sha256": file_sha256(run.file_a),
        "b_sha256": file_sha256(run.file_b),
        "endpoint": run.endpoint.base_url,
        "judge": run.endpoint.model,
        "temperature": run.temperature,
        "max_tokens": run.max_tokens,
        "prompt": run.prompt,
        "strategies": {item.strategy: item.description for item in items},
        "items": run.items,
        "seed": run.seed,
    }

"""Read the body of an endpoint's answer strictly, in each form that servers give it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .endpoint_error import EndpointError, Speaker

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_TEXTS = ("text", "output_text")
_THOUGHTS = ("thinking", "reasoning", "redacted_thinking")


@dataclass(frozen=True)
class Completion:
    """What an endpoint answered to one request.

    Attributes:
        text: the text of the answer as it came; it may be empty.
        finish_reason: why the answer ended, in the endpoint's words: "stop", "length", …
        usage: the numbers of tokens under ``prompt_tokens``, ``completion_tokens`` and
            ``total_tokens``, as far as the endpoint counts them.
        left_out: parameters that were asked for and not sent, because the server refuses them.
    """

    text: str
    finish_reason: str | None
    usage: Mapping[str, int]
    left_out: tuple[str, ...] = ()


def error_in(body: str) -> tuple[int | None, str] | None:
    """Return the status and the text of an error that came as if it were an answer, or None.

    Some servers and gateways send errors with status 200, also in the place of a choice.

    Args:
        body: the body of the HTTP response.
    """
    answer = _parsed(body)
    if not isinstance(answer, dict):
        return None
    choice = _choice(answer)
    if choice is None and (answer.get("error") or answer.get("object") == "error"):
        found = answer
    elif choice is not None and (choice.get("error") or choice.get("finish_reason") == "error"):
        found = choice
    else:
        return None
    error = found.get("error")
    code = error.get("code") if isinstance(error, dict) else found.get("code")
    return code if type(code) is int and 100 <= code < 600 else None, json.dumps(found)


def read_answer(body: str, speaker: Speaker) -> Completion:
    """Return the answer that the body of an HTTP response holds, without any guess.

    Content that comes in parts is joined; parts of the model's thinking are left out, as they are
    where they come apart from the content.

    Args:
        body: the body of the HTTP response.
        speaker: the words of the endpoint.

    Raises:
        EndpointError: the body is no answer, or one without a whole text.
    """
    answer = _parsed(body)
    if answer is None and body.strip() != "null":
        raise _malformed("is not JSON", body, speaker)
    choice = _choice(answer)
    if choice is None:
        raise _malformed("has no 'choices'", body, speaker)
    message, reason = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        raise _malformed("has no 'content'", body, speaker)
    if reason == "content_filter":
        raise speaker.error(
            f"cut its answer (finish_reason content_filter): {speaker.shown(body)}; a filter of "
            "the server took it",
            for_this=True,
        )
    text = _text(message.get("content"), speaker)
    if text is None:
        raise _without_content(message, reason, body, speaker)
    usage = answer.get("usage")
    counts: Mapping[str, Any] = usage if isinstance(usage, dict) else {}
    return Completion(
        # JSON may hold half of a surrogate pair, which no file in UTF-8 can.
        text=speaker.without_key(text).encode("utf-8", "replace").decode("utf-8"),
        finish_reason=reason if isinstance(reason, str) else None,
        usage={name: counts[name] for name in _USAGE if type(counts.get(name)) is int},
    )


def _parsed(body: str) -> Any:
    """Return the value of JSON, or None if the text is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _choice(answer: Any) -> dict[str, Any] | None:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    return dict(choices[0])


def _text(content: Any, speaker: Speaker) -> str | None:
    """Return the text of a message's content; None if it has none.

    Raises:
        EndpointError: the content has a part that is neither text nor thinking.
    """
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else part
        if kind in _THOUGHTS:
            continue
        if not isinstance(text, str) or kind not in (None, *_TEXTS):
            what = f"of type {kind!r}" if isinstance(kind, str) else repr(part)
            raise speaker.error(
                f"sent an answer whose 'content' has a part {speaker.shown(what)}, and has no "
                "'content' that is text alone; ask a model that answers in text",
                for_this=True,
            )
        texts.append(text)
    return "".join(texts) if texts else None


def _without_content(
    message: Mapping[str, Any], reason: Any, body: str, speaker: Speaker
) -> EndpointError:
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal.strip():
        return speaker.error(f"the model refused: {speaker.shown(refusal)}", for_this=True)
    found = f"sent an answer that has no 'content' (finish_reason {speaker.shown(str(reason))})"
    if reason == "length":
        return speaker.error(
            f"{found}: its tokens ran out before it began, as those of a model that thinks first "
            "do; allow it more tokens",
            "max_tokens",
            "max_new_tokens",
            for_this=True,
        )
    return speaker.error(
        f"{found}: {speaker.shown(body)}; a filter may have taken it, or it was cut before it "
        "began",
        for_this=True,
    )


def _malformed(what: str, body: str, speaker: Speaker) -> EndpointError:
    return speaker.error(
        f"sent an answer that {what}: {speaker.shown(body) or 'nothing at all'}; check that the "
        "URL is that of an OpenAI-compatible chat endpoint"
    )

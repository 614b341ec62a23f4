"""Understand the errors of OpenAI-compatible servers, whose bodies follow no single form.

Servers differ in the status (400 or 422), in the place of the message (``error.message``,
``message``, ``detail``, a list, a plain text), and in whether they name the parameter. So what is
looked for is looked for in the whole body.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sra_fast.tools.number_text import finite_number

RefusalKind = Literal["key", "model", "account", "address", "parameter", "content", "unknown"]
"""What a refusal is about; all but the last two concern every other request as well."""

_CODES: dict[str, RefusalKind] = {
    "invalid_api_key": "key",
    "invalid_authentication": "key",
    "authentication_error": "key",
    "unauthorized": "key",
    "permission_denied": "key",
    "permission_error": "key",
    "unsupported_country_region_territory": "key",
    "model_not_found": "model",
    "model_not_available": "model",
    "invalid_model": "model",
    "unknown_model": "model",
    "insufficient_quota": "account",
    "insufficient_balance": "account",
    "billing_hard_limit_reached": "account",
    "billing_not_active": "account",
    "account_deactivated": "account",
    "payment_required": "account",
    "content_filter": "content",
    "content_policy_violation": "content",
    "context_length_exceeded": "content",
}
_WORDS: dict[RefusalKind, str] = {
    "content": (
        r"filter|moderation|flagged|safety|content policy|context (?:length|window|size)|too long"
        r"|input tokens|too many tokens"
    ),
    "key": r"api[ -]?key",
    "model": (
        r"\bmodels?\b.{0,120}?(?:not (?:be )?found|n[o']t exist|not (?:been )?loaded"
        r"|is not available)|(?:unknown|invalid|no such) model|no models? (?:is |are )?loaded"
    ),
    "address": r"unexpected endpoint",
}
_STATUSES: dict[int, RefusalKind] = {
    401: "key",
    402: "account",
    403: "key",
    404: "model",
    405: "address",
    410: "address",
    413: "content",
    501: "address",
}
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|n[o']t support|unknown|unrecogni[sz]ed|unexpected|extra[ _]"
    r"|not permitted|not allowed|additional propert|cannot both|deprecated",
    re.IGNORECASE,
)
_NAMED = ("error", "message", "detail", "errors", "msg", "title")  # keys that lead to the message


@dataclass(frozen=True)
class Refusal:
    """What a server's error says.

    Attributes:
        status: the HTTP status; None if the error came as an answer and named none.
        message: the words of the server, wherever it put them.
        kind: what the refusal is about.
        parameter: the parameter of the request that the refusal names, or None.
        unsupported: whether it says that the server does not take that parameter at all.
    """

    status: int | None
    message: str
    kind: RefusalKind
    parameter: str | None
    unsupported: bool


def read_refusal(status: int | None, body: str, sent: Collection[str]) -> Refusal:
    """Read the body of an error.

    Args:
        status: the HTTP status, or None if there is none that says something.
        body: the body of the response.
        sent: the names of the parameters that the request carried and could go without, those that
            are left out first standing first.
    """
    value = _unfolded(body)
    message = _message(value) or body
    codes = [text.lower() for text in _values(value, ("code", "type"))]
    said = " ".join([message, *codes])
    parameter = _parameter(value, said, sent)
    unsupported = parameter is not None and _UNSUPPORTED.search(said) is not None
    return Refusal(
        status, message, _kind(status, codes, message, parameter), parameter, unsupported
    )


def wait_of(headers: Mapping[str, str], now: float) -> float | None:
    """Return how many seconds a server asks to wait before the next request, or None.

    Args:
        headers: the headers of its response, under names in lower case or of any case.
        now: the time now, in seconds since 1970.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        seconds = finite_number(headers.get(name) or "")
        if seconds is not None:
            return max(0.0, seconds * unit)
    date = email.utils.parsedate_tz(headers.get("retry-after"))
    try:
        until = math.nan if date is None else email.utils.mktime_tz(date)
    except (ValueError, OverflowError):
        return None
    return max(0.0, until - now) if math.isfinite(until) else None


def _kind(status: int | None, codes: list[str], message: str, parameter: str | None) -> RefusalKind:
    for code in codes:
        if code in _CODES:
            return _CODES[code]
    if status in _STATUSES:
        return _STATUSES[status]
    said = [kind for kind, words in _WORDS.items() if re.search(words, message, re.IGNORECASE)]
    if parameter is not None and "content" not in said:
        return "parameter"
    return said[0] if said else "unknown"


def _parameter(value: Any, said: str, sent: Collection[str]) -> str | None:
    """Return which of the parameters the error names: as such, else in quotes, else as a word."""
    named = {text for text in _values(value, ("param", "loc")) if text in sent}
    quoted = {name for name in sent if re.search(rf"[`'\"]{name}[`'\"]", said)}
    words = {name for name in sent if re.search(rf"\b{name}\b", said)}
    plain = words if _UNSUPPORTED.search(said) else set()
    found = named or quoted or plain
    return next((name for name in sent if name in found), None)


def _unfolded(text: str) -> Any:
    """Return the value of JSON, texts inside it that are JSON themselves too, or the text."""
    try:
        value = json.loads(text) if text.lstrip()[:1] in ("{", "[", '"') else text
    except (ValueError, RecursionError):
        return text
    return _unfolded_inside(value)


def _unfolded_inside(value: Any) -> Any:
    if isinstance(value, str):
        return _unfolded(value) if value.lstrip()[:1] in ("{", "[") else value
    if isinstance(value, list):
        return [_unfolded_inside(one) for one in value]
    if isinstance(value, dict):
        return {key: _unfolded_inside(one) for key, one in value.items()}
    return value


def _message(value: Any) -> str:
    """Return the first text that a key of messages leads to."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_message, value)))
    if isinstance(value, dict):
        return next(filter(None, (_message(value.get(name)) for name in _NAMED)), "")
    return ""


def _values(value: Any, names: tuple[str, ...]) -> list[str]:
    """Return all texts under the given keys, at any depth, also those in lists."""
    found: list[str] = []
    if isinstance(value, list):
        for one in value:
            found += _values(one, names)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key in names:
                texts = one if isinstance(one, list) else [one]
                found += [text for text in texts if isinstance(text, str)]
            found += _values(one, names)
    return found

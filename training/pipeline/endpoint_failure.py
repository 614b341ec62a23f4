"""Say what follows from a refusal: whether to ask again, after how long, and in what words."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import get_args

from sra_fast.names import TokenLimit

from .endpoint_error import KEY_VARIABLE, EndpointError, Speaker
from .endpoint_refusal import Refusal

LONGEST_WAIT = 600.0
"""The most seconds that a request is held back because the server asks to wait.

If it asks for more, the run ends and says how long it wants, rather than stand still unseen.
"""

SAID_FROM = 10.0
"""How many seconds of waiting are worth a word to the user."""

_PASSING = (408, 409, 429)  # statuses after which a request is sent again, beside those from 500 on
_REFUSED_ALONE = (400, 413, 422)  # statuses that may blame the content of a single request
_LIMIT_ARGUMENTS = ("max_tokens", "max_new_tokens")  # what callers name the limit of an answer


@dataclass(frozen=True)
class Failure:
    """What came of a request that got no answer.

    Attributes:
        error: why there is none.
        again: whether the same request may be answered later.
        wait: how many seconds the server asks to wait before.
        unsupported: the name of a parameter without which the request may be answered.
    """

    error: EndpointError
    again: bool = False
    wait: float | None = None
    unsupported: str | None = None


def retried(retries: int) -> str:
    """Return the words for how often a request was tried again."""
    return f"with up to {retries} retries"


def failure_of(
    refusal: Refusal, wait: float | None, speaker: Speaker, model: str, retries: int
) -> Failure:
    """Return what follows from a refusal.

    Args:
        refusal: what the server said.
        wait: how many seconds it asks to wait before the next request, or None.
        speaker: the words of the endpoint.
        model: the name of the model that was asked for.
        retries: how many times a request is sent again.
    """
    status, found, tried = refusal.status, _found(refusal, speaker), retried(retries)
    refused = _refused(refusal, speaker, model)
    if refusal.unsupported and refusal.kind in ("parameter", "unknown"):
        return Failure(refused, unsupported=refusal.parameter)
    passing = status is not None and (status in _PASSING or status >= 500)
    if not passing or refusal.kind in ("account", "address"):
        return Failure(refused)
    if wait is not None and wait > LONGEST_WAIT:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + wait))
        what = f"asks to wait {wait:,.0f} s, until {until} ({found})"
        way = "go on then, or check the limits of the account"
        return Failure(speaker.error(f"{what}; {way}", for_all=True))
    if status == 429:
        what = f"got too many requests ({tried}; {found})"
        way = "choose a lower rate of requests per minute, or check the limits of the account"
    else:
        what, way = f"failed ({tried}; {found})", "try again later"
    if wait is not None and wait >= SAID_FROM:
        what += f", and asks to wait {wait:,.0f} s"
    return Failure(speaker.error(f"{what}; {way}"), again=True, wait=wait)


def _found(refusal: Refusal, speaker: Speaker) -> str:
    said = speaker.shown(refusal.message)
    return ": ".join(filter(None, (str(refusal.status or ""), said)))


def _refused(refusal: Refusal, speaker: Speaker, model: str) -> EndpointError:
    """Return the error of a request that would be refused again if it were sent again."""
    found, error = _found(refusal, speaker), speaker.error
    if refusal.kind == "key":
        way = f"it is missing or wrong, or lacks the permission; set {KEY_VARIABLE}"
        return error(f"refused the key ({found}); {way}", for_all=True)
    if refusal.kind in ("model", "address"):
        return error(
            f"knows no model {model!r} or no such address ({found}); check the model's "
            "name, and that the URL ends before /chat/completions, usually in /v1",
            for_all=True,
        )
    if refusal.kind == "account":
        way = "the account has no credit left for it; check its plan and its limits"
        return error(f"refused the account ({found}); {way}", for_all=True)
    if refusal.kind == "parameter":
        name = str(refusal.parameter)
        return error(
            f"refused the value of {name} ({found}); choose another one",
            *(_LIMIT_ARGUMENTS if name in get_args(TokenLimit) else (name,)),
            for_all=True,
        )
    if refusal.status is None:
        return error(f"sent an error in the place of an answer ({found})")
    content = refusal.kind == "content"
    return error(
        f"refused the request ({found})",
        for_this=content or refusal.status in _REFUSED_ALONE,
        unknown=not content,
    )

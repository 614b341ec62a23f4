"""Ask a chat model behind an OpenAI-compatible endpoint, one request or many at once.

The ``openai`` package sends each request, waits for the answer and tries again after a failure (it
heeds ``Retry-After``). This module adds a rate limit, which counts every request that goes out, and
reads the answer strictly. The key goes into the request's header and nowhere else.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.printable import printable

from .request_flow import Pace, in_threads

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
R = TypeVar("R")
ChatMessage = dict[str, str]
"""One message as an endpoint takes it: ``{"role": ..., "content": ...}``."""

KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable that a key is read from."""

FAILURES_IN_A_ROW = 10
"""How many requests in a row may fail before a run gives the endpoint up for now.

Requests that were refused for what they say do not count: others may be answered.
"""

_NO_KEY = "none"  # the openai package insists on a key, even where a server needs none
_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_SECRET = 12  # a key of at least so many characters is removed from every text
_SHOWN = 200  # the most characters that an error message quotes from a server
_REFUSED_ALONE = (400, 413, 422)  # statuses that blame the content of a single request


class EndpointError(ArgumentError):
    """Raised when a request has failed for good, after all its retries.

    The message names the endpoint, what happened and the way out.

    Args:
        message: what is wrong, and the way out.
        arguments: names of the Python arguments at fault, if there are any.
        for_all: the attribute of that name.
        for_this: the attribute of that name.

    Attributes:
        for_all: whether every other request would fail for the same reason, such as a wrong key or
            an unknown model.
        for_this: whether the server works and refused only the content of this request (a filter
            took it, or it is too long), which says nothing about other requests.
    """

    def __init__(
        self, message: str, *arguments: str, for_all: bool = False, for_this: bool = False
    ) -> None:
        super().__init__(message, *arguments)
        self.for_all, self.for_this = for_all, for_this


@dataclass(frozen=True)
class Completion:
    """What an endpoint answered to one request.

    Attributes:
        text: the text of the answer as it came; it may be empty.
        finish_reason: why the answer ended, in the endpoint's words: "stop", "length", …
        usage: the numbers of tokens under ``prompt_tokens``, ``completion_tokens`` and
            ``total_tokens``, as far as the endpoint counts them.
    """

    text: str
    finish_reason: str | None
    usage: Mapping[str, int]


@dataclass(frozen=True)
class Endpoint:
    """A connection to a chat model at a URL, which several threads may share.

    Attributes:
        base_url: the URL without the final ``/chat/completions``, such as
            ``http://localhost:8000/v1``.
        model: the name by which the endpoint knows the model.
        api_key: the secret key of the account; if None, the environment variable
            ``OPENAI_API_KEY`` is read. It may be empty where the server needs no key.
        timeout: after how many seconds without any data from the server a request has failed.
        retries: how many times a request is sent again after a timeout, a failed connection or one
            of the statuses 408, 409, 429 and 5xx.
        requests_per_minute: the most requests in a minute, retries included; None for no limit.
        concurrency: how many requests may run at the same time.

    Raises:
        EndpointError: a setting is out of range, or the URL or the key is malformed.
        MissingExtraError: the package ``openai`` is missing.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    retries: int = 5
    requests_per_minute: float | None = None
    concurrency: int = 8
    _client: openai.OpenAI = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = os.environ.get(KEY_VARIABLE) if self.api_key is None else self.api_key
        object.__setattr__(self, "api_key", (key or "").strip())
        for name, rule, holds in (
            ("timeout", "a number of seconds above 0", 0 < self.timeout < math.inf),
            ("retries", "0 or more", self.retries >= 0),
            ("concurrency", "1 or more", self.concurrency >= 1),
            (
                "requests_per_minute",
                "a number above 0",
                self.requests_per_minute is None or 0 < self.requests_per_minute < math.inf,
            ),
        ):
            if not holds:
                raise EndpointError(f"{name} must be {rule}, found {getattr(self, name)!r}", name)
        _check_url(self.base_url)
        if not all("!" <= sign <= "~" for sign in self.api_key or ""):
            raise EndpointError(
                "the key contains white space or characters outside ASCII, so it is no key; check "
                f"{KEY_VARIABLE}"
            )
        object.__setattr__(self, "_client", self._connect())

    def chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        temperature: float = 0.0,
        top_p: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> Completion:
        """Send the messages of one conversation to the model and return its answer.

        Args:
            messages: the conversation so far, as ``{"role": ..., "content": ...}``.
            temperature: what logits are divided by before a token is drawn; 0 takes the likeliest.
            top_p: the probability that the likeliest tokens must reach together, from which one is
                drawn; None leaves it to the endpoint.
            max_tokens: the most tokens of the answer; None leaves it to the endpoint.
            seed: seed of the draw; None leaves it to the endpoint.

        Raises:
            EndpointError: no answer came after all retries, or one without a text.
        """
        with needed("pipeline", "openai"):
            import openai

        asked: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        try:
            response = self._client.chat.completions.with_raw_response.create(**given)
            body = response.http_response.text
        except openai.APIStatusError as error:
            raise self._refusal(error) from None  # the cause may hold the key
        except openai.APITimeoutError:
            raise self._error(
                f"did not answer within {self.timeout:g} s ({self._tried}); give it more time, or "
                "fewer requests at once"
            ) from None
        except openai.APIConnectionError as error:
            reason = self._shown(str(error.__cause__ or error))
            raise self._error(
                f"cannot be reached ({self._tried}; {reason}); check the address and that the "
                "server runs"
            ) from None
        return self._read(body)

    def each(
        self, tasks: Sequence[T], ask: Callable[[T], R]
    ) -> Generator[tuple[T, R | EndpointError], None, None]:
        """Call ``ask`` for every task, in as many threads as ``concurrency`` allows.

        If the caller stops iterating, tasks that have not begun are left out.

        Args:
            tasks: what ``ask`` is called with, one after the other.
            ask: a function that calls :meth:`chat`. An ``EndpointError`` becomes the outcome of
                its task; any other error ends the iteration.

        Yields:
            Each task with its outcome, in the order in which they are done.
        """
        return in_threads(tasks, ask, self.concurrency, EndpointError)

    def _connect(self) -> openai.OpenAI:
        with needed("pipeline", "openai"):
            import openai
        pace = Pace(self.requests_per_minute)
        return openai.OpenAI(
            base_url=self.base_url,
            api_key=self.api_key or _NO_KEY,
            timeout=self.timeout,
            max_retries=self.retries,
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [lambda request: pace.wait()]}
            ),
        )

    @property
    def _tried(self) -> str:
        return f"with up to {self.retries} retries"

    def _error(self, what: str, *, for_all: bool = False, for_this: bool = False) -> EndpointError:
        message = f"endpoint {self.base_url}: {what}"
        return EndpointError(message, for_all=for_all, for_this=for_this)

    def _shown(self, said: str) -> str:
        """Return what a server said as one short printable line without the key."""
        text = printable(" ".join(self._without_key(said).split()))
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

    def _without_key(self, text: str) -> str:
        """Return the text with the key replaced by "(key)".

        Short keys stay: local servers take them, they are no secrets, and they may be words.
        """
        key = self.api_key or ""
        return text.replace(key, "(key)") if len(key) >= _SECRET else text

    def _refusal(self, error: openai.APIStatusError) -> EndpointError:
        status = error.status_code
        said = self._shown(_message_of(error.response.text))
        found = f"{status}: {said}" if said else f"{status}"
        if status == 401 or status == 403:
            way = f"it is missing or wrong, or lacks the permission; set {KEY_VARIABLE}"
            return self._error(f"refused the key ({found}); {way}", for_all=True)
        if status == 404:
            return self._error(
                f"knows no model {self.model!r} or no such address ({found}); check the model's "
                "name, and that the URL ends before /chat/completions, usually in /v1",
                for_all=True,
            )
        if status == 429:
            return self._error(
                f"got too many requests ({self._tried}; {found}); choose a lower rate "
                "of requests per minute, or check the limits of the account"
            )
        if status >= 500:
            return self._error(f"failed ({self._tried}; {found}); try again later")
        return self._error(f"refused the request ({found})", for_this=status in _REFUSED_ALONE)

    def _read(self, body: str) -> Completion:
        """Return the answer that the body of an HTTP response holds, without any guess."""
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise self._malformed("is not JSON", body) from None
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise self._malformed("has no 'choices'", body)
        message, reason = choices[0].get("message"), choices[0].get("finish_reason")
        if not isinstance(message, dict):
            raise self._malformed("has no 'content'", body)
        text = message.get("content")
        if not isinstance(text, str):
            raise self._error(
                f"sent an answer that has no 'content' (finish_reason {self._shown(str(reason))}): "
                f"{self._shown(body)}; a filter may have taken it, or it was cut before it began",
                for_this=True,
            )
        usage = answer.get("usage")
        counts: Mapping[str, Any] = usage if isinstance(usage, dict) else {}
        return Completion(
            # JSON may hold half of a surrogate pair, which no file in UTF-8 can.
            text=self._without_key(text).encode("utf-8", "replace").decode("utf-8"),
            finish_reason=reason if isinstance(reason, str) else None,
            usage={name: counts[name] for name in _USAGE if type(counts.get(name)) is int},
        )

    def _malformed(self, what: str, body: str) -> EndpointError:
        return self._error(
            f"sent an answer that {what}: {self._shown(body) or 'nothing at all'}; check that the "
            "URL is that of an OpenAI-compatible chat endpoint"
        )


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname)
        secret = "@" in parts.netloc or bool(parts.query or parts.fragment)
    except ValueError:
        fits = secret = False
    if secret:  # the message does not repeat the URL, which may hold a key
        raise EndpointError(
            "the endpoint's URL contains a user, a password or a query; give the key as "
            f"{KEY_VARIABLE}"
        )
    if not fits:
        raise EndpointError(
            f"endpoint {url!r} is not a URL such as http://localhost:8000/v1 or "
            "https://api.openai.com/v1",
            "endpoint",
        )


def _message_of(body: str) -> str:
    """Return the message in the body of an error, wherever the server put it."""
    try:
        found = json.loads(body)
        while isinstance(found, dict):
            found = found.get("error", found.get("message", found.get("detail")))
    except (ValueError, RecursionError):
        return body
    return found if isinstance(found, str) else body

"""A chat model behind an OpenAI-compatible endpoint: one request, or many at once.

The ``openai`` package sends, waits and tries again (it heeds ``Retry-After``). In front of it stand
a rate limit, which counts every request that goes out, and behind it a strict reading of the
answer. The key goes into the request's header and nowhere else.
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
"""``{"role": ..., "content": ...}``"""

KEY_VARIABLE = "OPENAI_API_KEY"

_NO_KEY = "none"  # local servers ask for no key, and the openai package for any
_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_SECRET = 12  # characters from which on a key is kept out of everything
_SHOWN = 200  # characters of what a server said in an error
_REFUSED_ALONE = (400, 413, 422)  # statuses that are about what one request says


class EndpointError(ArgumentError):
    """A request failed for good; the message names the endpoint, what happened and the way out.

    Attributes:
        for_all: every other request would fail alike (the key is wrong, there is no such model).
        for_this: the server works and refused what this request says (a filter, or it is too
            long), so it tells nothing about the others.
    """

    def __init__(
        self, message: str, *arguments: str, for_all: bool = False, for_this: bool = False
    ) -> None:
        super().__init__(message, *arguments)
        self.for_all, self.for_this = for_all, for_this


@dataclass(frozen=True)
class Reply:
    """A model's answer.

    Attributes:
        text: as it came; may be empty.
        finish_reason: "stop", "length", …, as the endpoint says it.
        usage: prompt, completion and total tokens, as far as the endpoint counts them.
    """

    text: str
    finish_reason: str | None
    usage: Mapping[str, int]


@dataclass(frozen=True)
class Endpoint:
    """A model at a URL. Threads may share it.

    Attributes:
        base_url: up to where ``/chat/completions`` follows, e.g. ``http://localhost:8000/v1``.
        model: as the endpoint calls it.
        api_key: ``OPENAI_API_KEY`` of the environment if None; a server without keys needs none.
        timeout: seconds without a sign of life after which a request counts as failed.
        retries: of a request that timed out, found nobody, or met 408, 409, 429 or 5xx.
        requests_per_minute: at most, retries included; None for no limit.
        concurrency: requests at the same time.

    Raises:
        EndpointError: a setting cannot be.
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
                "the key has white space or signs outside ASCII in it, which no key has; look at "
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
    ) -> Reply:
        """Asks once, and again as often as ``retries`` says. None leaves a setting to the endpoint.

        Raises:
            EndpointError: no answer, or one without text.
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
        """Calls ``ask`` for every task in ``concurrency`` threads.

        Whoever stops iterating leaves the tasks that have not begun undone.

        Args:
            ask: calls :meth:`chat`. An ``EndpointError`` becomes that task's outcome; any other
                error ends the iteration.

        Yields:
            Task and outcome, in the order in which they are done.
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
        """Something from outside, short, in one line and without the key."""
        text = printable(" ".join(self._without_key(said).split()))
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

    def _without_key(self, text: str) -> str:
        """Short keys, such as local servers take, are no secrets and may be words."""
        key = self.api_key or ""
        return text.replace(key, "(key)") if len(key) >= _SECRET else text

    def _refusal(self, error: openai.APIStatusError) -> EndpointError:
        status = error.status_code
        said = self._shown(_message_of(error.response.text))
        found = f"{status}: {said}" if said else f"{status}"
        if status == 401 or status == 403:
            way = f"the key is missing or wrong, or may not do this; set {KEY_VARIABLE}"
            return self._error(f"refused the key ({found}); {way}", for_all=True)
        if status == 404:
            return self._error(
                f"knows no model {self.model!r} or no such address ({found}); check the model's "
                "name, and that the URL ends before /chat/completions, usually in /v1",
                for_all=True,
            )
        if status == 429:
            return self._error(
                f"has too many requests ({self._tried}; {found}); take a lower rate of requests "
                "per minute, or look at the account's limits"
            )
        if status >= 500:
            return self._error(f"failed ({self._tried}; {found}); try again later")
        return self._error(f"refused the request ({found})", for_this=status in _REFUSED_ALONE)

    def _read(self, body: str) -> Reply:
        """The answer in a response's body, of which nothing is guessed."""
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
        return Reply(
            # Half of a surrogate pair is JSON, and cannot be written to a file.
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
    if secret:  # not repeated: it may hold a key
        raise EndpointError(
            "the endpoint's URL has a user, a password or a query in it; give the key as "
            f"{KEY_VARIABLE}"
        )
    if not fits:
        raise EndpointError(
            f"endpoint {url!r} is not a URL such as http://localhost:8000/v1 or "
            "https://api.openai.com/v1",
            "endpoint",
        )


def _message_of(body: str) -> str:
    """The sentence in the body of an error, which servers put in different places."""
    try:
        found = json.loads(body)
        while isinstance(found, dict):
            found = found.get("error", found.get("message", found.get("detail")))
    except (ValueError, RecursionError):
        return body
    return found if isinstance(found, str) else body

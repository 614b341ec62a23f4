"""Ask a chat model behind an OpenAI-compatible endpoint, one request or many at once.

The ``openai`` package sends each request. This module gives each a time within which its whole
answer must come, sends it again after a failure that may pass (it waits as long as ``Retry-After``
says), leaves out what the server does not take, limits the rate, and reads the answer strictly.
The key goes into the request's header and nowhere else.
"""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args
from urllib.parse import urlsplit

from sra_fast.names import TokenLimit
from sra_fast.tools.missing_extra import needed

from .background_loop import DeadlineError, run_for
from .endpoint_answer import Completion, error_in, read_answer
from .endpoint_error import KEY_VARIABLE, EndpointError, Speaker
from .endpoint_failure import SAID_FROM, Failure, failure_of, retried
from .endpoint_parameters import TakenParameters
from .endpoint_refusal import Refusal, read_refusal, wait_of
from .request_flow import Pace, in_threads

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
R = TypeVar("R")
ChatMessage = dict[str, str]
"""One message as an endpoint takes it: ``{"role": ..., "content": ...}``."""

_logger = logging.getLogger(__name__)

_NO_KEY = "none"  # the openai package insists on a key, even where a server needs none
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds before a request is sent again unless told


@dataclass(frozen=True)
class Endpoint:
    """A connection to a chat model at a URL, which several threads may share.

    Attributes:
        base_url: the URL without the final ``/chat/completions``, such as
            ``http://localhost:8000/v1``.
        model: the name by which the endpoint knows the model.
        api_key: the secret key of the account; if None, the environment variable
            ``OPENAI_API_KEY`` is read. It may be empty where the server needs no key.
        timeout: after how many seconds a request without its whole answer has failed.
        retries: how many times a request is sent again after a timeout, a failed connection or one
            of the statuses 408, 409, 429 and 5xx.
        token_limit: the name of the parameter that limits the tokens of an answer. If the server
            refuses it by name, the other one is sent instead.
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
    token_limit: TokenLimit = "max_tokens"
    _client: openai.AsyncOpenAI = field(init=False, repr=False, compare=False)
    _pace: Pace = field(init=False, repr=False, compare=False)
    _taken: TakenParameters = field(init=False, repr=False, compare=False)
    _speaker: Speaker = field(init=False, repr=False, compare=False)

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
            (
                "token_limit",
                f"one of {', '.join(get_args(TokenLimit))}",
                self.token_limit in get_args(TokenLimit),
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
        object.__setattr__(self, "_pace", Pace(self.requests_per_minute))
        where = f"endpoint {self.base_url}"
        object.__setattr__(self, "_taken", TakenParameters(where, self.token_limit))
        object.__setattr__(self, "_speaker", Speaker(self.base_url, self.api_key or ""))

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
            EndpointError: no answer came after all retries, or one without a text. A parameter that
                the server names as one it does not take is no error: the request is sent again
                without it, as all later ones are, and the answer says so.
        """
        asked = {
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        tries = 0
        while True:
            sent = self._taken.of(asked)
            outcome = self._once(messages, sent)
            if isinstance(outcome, Completion):
                return replace(outcome, left_out=self._taken.missing(asked, sent))
            if outcome.unsupported is not None:
                self._taken.leave_out(outcome.unsupported)
                continue
            if not outcome.again or tries == self.retries:
                raise outcome.error
            pause = min(_FIRST_PAUSE * 2**tries, _LONGEST_PAUSE) * random.uniform(0.75, 1.0)
            wait = pause if outcome.wait is None else outcome.wait
            if wait >= SAID_FROM:
                _logger.info("endpoint %s asks to wait %.0f s", self.base_url, wait)
            time.sleep(wait)
            tries += 1

    def each(
        self,
        tasks: Sequence[T],
        ask: Callable[[T], R],
        ends: Callable[[EndpointError], bool] = lambda _: False,
    ) -> Generator[tuple[T, R | EndpointError], None, None]:
        """Call ``ask`` for every task, in as many threads as ``concurrency`` allows.

        If the caller stops iterating, tasks that have not begun are left out.

        Args:
            tasks: what ``ask`` is called with, one after the other.
            ask: a function that calls :meth:`chat`. An ``EndpointError`` becomes the outcome of
                its task; any other error ends the iteration.
            ends: whether no further task is begun after such an error; by default one is. Those
                that have begun are brought to their end, so that no answer that came is lost.

        Yields:
            Each task that has begun with its outcome, in the order in which they are done.
        """
        return in_threads(tasks, ask, self.concurrency, EndpointError, ends)

    def _connect(self) -> openai.AsyncOpenAI:
        with needed("pipeline", "openai"):
            import openai
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.api_key or _NO_KEY,
            timeout=None,  # what it calls a time-out holds between two bytes, not for an answer
            max_retries=0,
        )

    def _once(self, messages: Sequence[ChatMessage], sent: dict[str, Any]) -> Completion | Failure:
        """Send one request and read what comes back."""
        with needed("pipeline", "openai"):
            import openai

        self._pace.wait()
        create = self._client.chat.completions.with_raw_response.create
        given: dict[str, Any] = {"model": self.model, "messages": list(messages), **sent}
        try:
            body = run_for(self.timeout, create(**given)).http_response.text
        except DeadlineError:
            what = f"did not answer within {self.timeout:g} s"
            way = "give it more time, or fewer requests at once"
            return Failure(self._speaker.error(f"{what} ({self._tried}); {way}"), again=True)
        except openai.APIStatusError as error:  # its cause may hold the key
            refusal = read_refusal(error.status_code, error.response.text, sent)
            return self._failure(refusal, wait_of(error.response.headers, time.time()))
        except openai.APIConnectionError as error:
            reason = self._speaker.shown(_first_cause(error))
            return Failure(
                self._speaker.error(
                    f"cannot be reached ({self._tried}; {reason}); check the address and that the "
                    "server runs"
                ),
                again=True,
            )
        said = error_in(body)
        if said is not None:
            return self._failure(read_refusal(*said, sent), None)
        try:
            return read_answer(body, self._speaker)
        except EndpointError as error:
            return Failure(error)

    def _failure(self, refusal: Refusal, wait: float | None) -> Failure:
        return failure_of(refusal, wait, self._speaker, self.model, self.retries)

    @property
    def _tried(self) -> str:
        return retried(self.retries)


def _first_cause(error: BaseException) -> str:
    """Return what was wrong at first; the packages between put general words around it."""
    while (cause := error.__cause__ or error.__context__) is not None and str(cause):
        error = cause
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    return str(error)


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

"""Test the client of OpenAI-compatible endpoints against a server that misbehaves in every way."""

from __future__ import annotations

import socket
import sys
import threading
from types import SimpleNamespace

import pytest

from fake_endpoint import HANG, FakeEndpoint, Response, always, completion, failure, in_turn

pytest.importorskip("openai", reason="needs the package openai (extra 'pipeline')")

from sra_fast.tools.missing_extra import MissingExtraError
from sra_fast.training.pipeline.endpoint import Endpoint
from sra_fast.training.pipeline.endpoint_answer import Completion
from sra_fast.training.pipeline.endpoint_error import EndpointError

KEY = "sk-not-to-be-seen-0123456789"
HELLO = [{"role": "user", "content": "Hello?"}]


def error_of(server: FakeEndpoint, retries: int = 0, timeout: float = 5.0) -> EndpointError:
    with server, pytest.raises(EndpointError) as caught:
        Endpoint(server.url, "judge", KEY, timeout=timeout, retries=retries).chat(HELLO)
    assert str(caught.value).startswith(f"endpoint {server.url}: ")
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


# --- What goes out and comes back ---


def test_a_request_carries_its_settings_and_the_reply_is_read() -> None:
    with always(completion("Hi!")) as server:
        reply = Endpoint(server.url, "judge", KEY).chat(
            HELLO, temperature=0.7, top_p=0.9, max_tokens=5, seed=3
        )
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert reply == Completion("Hi!", "stop", usage)
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.key == f"Bearer {KEY}"
    assert request.body == {
        "model": "judge",
        "messages": HELLO,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 5,
        "seed": 3,
    }


def test_what_is_not_given_is_left_to_the_endpoint() -> None:
    with always(completion("Hi!")) as server:
        Endpoint(server.url + "/", "judge", "").chat(HELLO)
    assert server.requests[0].path == "/v1/chat/completions"
    assert set(server.requests[0].body) == {"model", "messages", "temperature"}


def test_the_key_comes_from_the_environment_and_may_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with always(completion("Hi!")) as server:
        monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
        Endpoint(server.url, "judge").chat(HELLO)
        monkeypatch.delenv("OPENAI_API_KEY")
        Endpoint(server.url, "judge").chat(HELLO)
    assert server.requests[0].key == f"Bearer {KEY}"
    assert KEY not in str(server.requests[1].key)


def test_usage_may_be_missing_and_empty_text_is_text() -> None:
    body = '{"choices": [{"message": {"content": ""}}], "usage": null}'
    with always(Response(body)) as server:
        assert Endpoint(server.url, "judge").chat(HELLO) == Completion("", None, {})


def test_text_that_no_file_can_hold_is_made_writable() -> None:
    with always(Response('{"choices": [{"message": {"content": "a\\ud800b"}}]}')) as server:
        assert Endpoint(server.url, "judge").chat(HELLO).text == "a?b"


# --- Trying again ---


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_a_passing_failure_is_tried_again(status: int) -> None:
    with in_turn(failure(status), failure(status), completion("Hi!")) as server:
        assert Endpoint(server.url, "judge", retries=2).chat(HELLO).text == "Hi!"
    assert len(server.requests) == 3


def test_retry_after_is_waited_for() -> None:
    with in_turn(failure(429, retry_after=0.3), completion("Hi!")) as server:
        Endpoint(server.url, "judge", retries=1).chat(HELLO)
    first, second = server.requests
    assert second.at - first.at >= 0.29


@pytest.mark.parametrize(
    ("status", "words"), [(429, "lower rate"), (500, "try again later"), (503, "try again later")]
)
def test_a_lasting_failure_ends_with_a_named_error(status: int, words: str) -> None:
    server = always(failure(status, "so sorry"))
    error = error_of(server, retries=2)
    assert len(server.requests) == 3
    for word in (str(status), "so sorry", "up to 2 retries", words):
        assert word in str(error)
    assert not error.for_all


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_cannot_get_better_is_not_tried_again(status: int) -> None:
    server = always(failure(status, "never"))
    error = error_of(server, retries=3)
    assert len(server.requests) == 1
    assert f"({status}: never)" in str(error)
    assert error.for_all == (status in (401, 403, 404))
    assert error.for_this == (status in (400, 422))


def test_wrong_key_and_unknown_model_name_the_way_out() -> None:
    assert "OPENAI_API_KEY" in str(error_of(always(failure(401))))
    assert "no model 'judge'" in str(error_of(always(failure(404))))


def test_a_server_that_hangs() -> None:
    server = always(HANG)
    error = error_of(server, retries=1, timeout=0.1)
    assert "did not answer within 0.1 s" in str(error)
    assert len(server.requests) == 2


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match=f"{url}: cannot be reached .*refused.*server runs"):
        Endpoint(url, "judge", retries=0).chat(HELLO)


def test_a_connection_that_breaks_off() -> None:
    short = {"Content-Length": "100", "Connection": "close"}
    assert "cannot be reached" in str(error_of(always(Response("{", 200, short))))


# --- Answers that are none ---


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "is not JSON: nothing at all"),
        ("{", "is not JSON: {"),
        ("<html>\n<body>hello", "is not JSON: <html> <body>hello"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "no 'choices'"),
        ("null", "no 'choices'"),
        ("{}", "no 'choices'"),
        ('{"choices": []}', "no 'choices'"),
        ('{"choices": null}', "no 'choices'"),
        ('{"choices": ["hello"]}', "no 'choices'"),
        ('{"choices": [{}]}', "no 'content'"),
        ('{"choices": [{"message": null}]}', "no 'content'"),
        ('{"choices": [{"message": {"content": null}}]}', "no 'content'"),
        ('{"choices": [{"message": {"content": 5}}]}', "no 'content'"),
        ('{"choices": [{"text": "completion"}]}', "no 'content'"),
        ('{"error": {"message": "overloaded"}}', "overloaded"),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_a_malformed_answer_is_a_named_error(body: str, words: str, kind: str) -> None:
    error = error_of(always(Response(body, 200, {"Content-Type": kind})))
    assert words in str(error)
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    ("body", "for_this"),
    [
        ('{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}', True),
        ('{"choices": [{"message": {"refusal": "No."}}]}', True),
        ('{"choices": [{"text": "completion"}]}', False),
        ("<html>", False),
    ],
)
def test_an_answer_without_content_tells_nothing_of_other_requests(
    body: str, for_this: bool
) -> None:
    error = error_of(always(Response(body)))
    assert (error.for_this, error.for_all) == (for_this, False)
    assert ("content_filter" in str(error)) == ("content_filter" in body)


def test_a_server_that_fails_is_no_refusal_of_one_request() -> None:
    assert not error_of(always(failure(500))).for_this
    assert not error_of(always(failure(429))).for_this
    assert not error_of(always(HANG), timeout=0.1).for_this


@pytest.mark.parametrize("status", [401, 500])
@pytest.mark.parametrize("body", ["", "<html>", '"text"', '{"error": "text"}', '{"detail": [1]}'])
def test_errors_may_have_any_body(status: int, body: str) -> None:
    assert str(status) in str(error_of(always(Response(body, status))))


# --- The key ---


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_server_that_repeats_the_key_does_not_bring_it_out(status: int) -> None:
    error = error_of(always(failure(status, f"bad key {KEY}")))
    assert "bad key (key)" in str(error)
    assert error.__cause__ is None
    with always(completion(f"You sent {KEY}")) as server:
        assert Endpoint(server.url, "judge", KEY).chat(HELLO).text == "You sent (key)"


def test_the_key_is_not_in_the_endpoints_own_text() -> None:
    assert KEY not in repr(Endpoint("http://localhost:1/v1", "judge", KEY))


@pytest.mark.parametrize("key", [f"{KEY}\nX", f"{KEY} x", f"{KEY}ä"])
def test_a_key_that_no_header_holds_is_refused_unseen(key: str) -> None:
    with pytest.raises(EndpointError, match="the key contains white space") as caught:
        Endpoint("http://localhost:1/v1", "judge", key)
    assert KEY not in str(caught.value)


def test_a_short_key_is_a_word_like_others() -> None:
    with always(completion("Explore the box, next: EMPTY it.")) as server:
        for key in ("x", "EMPTY"):
            answer = Endpoint(server.url, "judge", key).chat(HELLO)
            assert answer.text == "Explore the box, next: EMPTY it."


@pytest.mark.parametrize("url", [f"http://me:{KEY}@host/v1", f"https://host/v1?key={KEY}"])
def test_a_key_in_the_url_is_refused_unseen(url: str) -> None:
    with pytest.raises(EndpointError, match="give the key as OPENAI_API_KEY") as caught:
        Endpoint(url, "judge")
    assert KEY not in str(caught.value)


# --- Settings ---


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://[::1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(EndpointError, match="is not a URL such as"):
        Endpoint(url, "judge")


@pytest.mark.parametrize(
    "setting",
    [
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"retries": -1},
        {"concurrency": 0},
        {"requests_per_minute": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    (name,) = setting
    with pytest.raises(EndpointError, match=f"{name} must be"):
        Endpoint("http://localhost:1/v1", "judge", **setting)  # type: ignore[arg-type]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"'openai' is missing: .*'sra_fast\[pipeline\]'"):
        Endpoint("http://localhost:1/v1", "judge")


# --- Many at once ---


def test_as_many_at_once_as_asked_for() -> None:
    together = threading.Barrier(4, timeout=10)

    def answer(request: object, number: int) -> Response:
        together.wait()  # nobody gets an answer before four have asked
        return completion("Hi!")

    with FakeEndpoint(answer) as server:
        endpoint = Endpoint(server.url, "judge", concurrency=4)
        outcomes = dict(endpoint.each(range(8), lambda _: endpoint.chat(HELLO).text))
    assert outcomes == dict.fromkeys(range(8), "Hi!")


def test_a_task_that_fails_leaves_the_others_alone() -> None:
    def ask(task: int) -> int:
        if task == 3:
            raise EndpointError("task 3")
        return task * task

    endpoint = Endpoint("http://localhost:1/v1", "judge", concurrency=2)
    outcomes = dict(endpoint.each(range(6), ask))
    assert str(outcomes.pop(3)) == "task 3"
    assert outcomes == {task: task * task for task in (0, 1, 2, 4, 5)}


def test_an_error_of_another_kind_ends_it() -> None:
    endpoint = Endpoint("http://localhost:1/v1", "judge", concurrency=2)
    with pytest.raises(ZeroDivisionError):
        list(endpoint.each([1, 0], lambda task: 1 // task))


def test_no_tasks_are_no_outcomes() -> None:
    endpoint = Endpoint("http://localhost:1/v1", "judge")
    assert list(endpoint.each([], lambda task: task)) == []


def test_whoever_stops_early_leaves_the_rest_undone() -> None:
    begun: list[int] = []
    go_on = threading.Semaphore(1)

    def ask(task: int) -> int:
        go_on.acquire(timeout=10)
        begun.append(task)
        return task

    outcomes = Endpoint("http://localhost:1/v1", "judge", concurrency=1).each(range(100), ask)
    assert next(outcomes)[0] == 0
    outcomes.close()
    go_on.release(100)
    assert len(begun) <= 2


def test_the_rate_limit_spaces_every_request_retries_included(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 100.0, sleep=slept.append)  # it stands still
    monkeypatch.setattr("sra_fast.training.pipeline.request_flow.time", clock)
    with in_turn(failure(500), failure(500), completion("Hi!")) as server:
        endpoint = Endpoint(server.url, "judge", requests_per_minute=120, concurrency=4)
        outcomes = list(endpoint.each(range(4), lambda _: endpoint.chat(HELLO)))
    assert all(isinstance(outcome, Completion) for _, outcome in outcomes)
    assert len(server.requests) == 6
    assert sorted(slept) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]

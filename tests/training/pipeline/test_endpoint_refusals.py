"""Test the errors of real servers: bodies as public reports have them, and what follows from each.

The bodies are those of hosted and local servers that call themselves OpenAI-compatible.
"""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from fake_endpoint import FakeEndpoint, Request, Response, always, completion, in_turn

pytest.importorskip("openai", reason="needs the package openai (extra 'pipeline')")

from sra_fast.training.pipeline import endpoint as client
from sra_fast.training.pipeline.endpoint import Endpoint
from sra_fast.training.pipeline.endpoint_error import EndpointError
from sra_fast.training.pipeline.endpoint_failure import LONGEST_WAIT
from sra_fast.training.pipeline.endpoint_patience import FAILURES_IN_A_ROW, Patience
from sra_fast.training.pipeline.endpoint_refusal import read_refusal, wait_of

HELLO = [{"role": "user", "content": "Hello?"}]
SENT = ("seed", "top_p", "max_tokens", "temperature")


def openai_error(message: str, param: str | None = None, code: str | None = None) -> str:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return json.dumps({"error": error})


EXTRA = {
    "type": "extra_forbidden",
    "loc": ["body", "seed"],
    "msg": "Extra inputs are not permitted",
}
NEWER_LIMIT = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead."
)
ONLY_DEFAULT = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
    "value is supported."
)


@pytest.mark.parametrize(
    ("status", "body", "name"),
    [
        (400, openai_error(NEWER_LIMIT, "max_tokens", "unsupported_parameter"), "max_tokens"),
        (400, openai_error(NEWER_LIMIT), "max_tokens"),
        (
            400,
            json.dumps({"error": {"message": NEWER_LIMIT, "code": "invalid_request_body"}}),
            None,
        ),
        (400, openai_error(ONLY_DEFAULT, "temperature", "unsupported_value"), "temperature"),
        (400, openai_error("Unrecognized request argument supplied: seed"), "seed"),
        (422, json.dumps({"detail": [EXTRA]}), "seed"),
        (
            422,
            json.dumps({"object": "error", "message": {"detail": [EXTRA]}, "param": None}),
            "seed",
        ),
        (422, json.dumps({"object": "error", "message": json.dumps({"detail": [EXTRA]})}), "seed"),
        (
            422,
            '{"title": "Unprocessable Entity", "status": 422, "detail": "body -> top_p\\n  Extra '
            'inputs are not permitted (type=extra_forbidden)"}',
            "top_p",
        ),
        (400, "UnsupportedParamsError: no support for parameters: ['seed'], unsupported", "seed"),
        (400, '{"error": "`temperature` is deprecated for this model."}', "temperature"),
        (500, '{"error": {"code": 500, "message": "Unsupported param: seed"}}', "seed"),
    ],
)
def test_a_parameter_that_a_server_does_not_take_is_read_in_every_form(
    status: int, body: str, name: str | None
) -> None:
    found = read_refusal(status, body, SENT)
    assert found.unsupported
    assert found.parameter == (name or "max_tokens")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, openai_error("Incorrect API key provided: sk-x.", code="invalid_api_key"), "key"),
        (400, '[{"error": {"code": 400, "message": "API key not valid.", "status": "X"}}]', "key"),
        (400, '{"object":"error","message":"The model `m` does not exist.","code":400}', "model"),
        (400, '{"error": "No models loaded. Please load a model in the developer page"}', "model"),
        (404, '{"detail": "Got request for model \\"m\\"."}', "model"),
        (404, "<html><body>nginx</body></html>", "model"),
        (402, '{"error": {"message": "Insufficient credits", "code": 402}}', "account"),
        (429, openai_error("You exceeded your quota", code="insufficient_quota"), "account"),
        (405, '{"detail":"Method Not Allowed"}', "address"),
        (None, '{"error":"Unexpected endpoint or method. (POST /chat/completions)"}', "address"),
        (422, '{"error":"Input validation error: `temperature` must be strictly positive"}', None),
        (400, openai_error("The response was filtered", "prompt", "content_filter"), "content"),
        (
            400,
            openai_error(
                "'max_tokens' is too large: 2048. This model's maximum context length is 2048 "
                "tokens and your request has 100 input tokens."
            ),
            "content",
        ),
        (
            422,
            '{"detail": [{"loc": ["body", "messages"], "msg": "Bad", "input": {"seed": 1}}]}',
            "",
        ),
        (400, "", ""),
        (400, "System role not supported", ""),
    ],
)
def test_what_a_refusal_is_about(status: int | None, body: str, kind: str | None) -> None:
    found = read_refusal(status, body, SENT)
    assert found.kind == ("parameter" if kind is None else kind or "unknown")
    assert not found.unsupported


# --- A newer server takes other parameters ---


def newer(request: Request, number: int) -> Response:
    """Answer as a server that takes max_completion_tokens and its own temperature alone."""
    if "max_tokens" in request.body:
        return Response(openai_error(NEWER_LIMIT, "max_tokens", "unsupported_parameter"), 400)
    if "temperature" in request.body:
        return Response(openai_error(ONLY_DEFAULT, "temperature", "unsupported_value"), 400)
    return completion("Hi!")


def test_what_a_server_does_not_take_is_left_out_once_and_for_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with FakeEndpoint(newer) as server, caplog.at_level(logging.INFO, "sra_fast"):
        endpoint = Endpoint(server.url, "judge", retries=0)
        answers = [endpoint.chat(HELLO, max_tokens=5, seed=1) for _ in range(3)]
    assert [one.left_out for one in answers] == [("temperature",)] * 3
    sent = [
        set(one.body) & {"temperature", "max_tokens", "max_completion_tokens", "seed"}
        for one in server.requests
    ]
    assert sent == [
        {"temperature", "max_tokens", "seed"},
        {"temperature", "max_completion_tokens", "seed"},
        *[{"max_completion_tokens", "seed"}] * 3,
    ]
    said = [record.getMessage() for record in caplog.records if "takes no" in record.getMessage()]
    assert len(said) == 2
    assert "max_completion_tokens is sent instead" in said[0]
    assert "takes no temperature, so it is left out" in said[1]


def test_the_newer_name_can_be_sent_at_once_and_the_older_one_is_found() -> None:
    old = Response(
        json.dumps({"detail": [{**EXTRA, "loc": ["body", "max_completion_tokens"]}]}), 422
    )
    with in_turn(old, completion("Hi!")) as server:
        endpoint = Endpoint(server.url, "judge", retries=0, token_limit="max_completion_tokens")
        assert endpoint.chat(HELLO, max_tokens=5).left_out == ()
    first, second = (one.body for one in server.requests)
    assert (first["max_completion_tokens"], second["max_tokens"]) == (5, 5)
    with pytest.raises(EndpointError, match="token_limit must be one of max_tokens, max_comple"):
        Endpoint("http://localhost:1/v1", "judge", token_limit="max")  # type: ignore[arg-type]


def test_a_server_that_refuses_everything_gets_no_endless_requests() -> None:
    refusal = "Unsupported parameters: seed, top_p, max_tokens, max_completion_tokens, temperature"
    with (
        always(Response(openai_error(refusal), 400)) as server,
        pytest.raises(EndpointError, match="refused the request"),
    ):
        Endpoint(server.url, "judge", retries=0).chat(HELLO, max_tokens=5, seed=1, top_p=0.5)
    assert len(server.requests) == 6
    assert set(server.requests[-1].body) == {"model", "messages"}


def test_a_value_that_a_server_refuses_names_the_argument() -> None:
    body = '{"error":"Input validation error: `temperature` must be strictly positive"}'
    with always(Response(body, 422)) as server, pytest.raises(EndpointError) as caught:
        Endpoint(server.url, "judge").chat(HELLO)
    assert "refused the value of temperature (422: Input" in str(caught.value)
    assert caught.value.arguments == ("temperature",)
    assert caught.value.for_all


# --- Errors in the place of answers ---


@pytest.mark.parametrize(
    "body",
    [
        '{"error": {"message": "Provider returned error", "code": 502}}',
        '{"choices": [{"error": {"code": 502, "message": "Provider returned error"}, '
        '"finish_reason": "error", "message": {"content": "I thi"}}]}',
        '{"object": "error", "code": 503, "message": "Provider returned error"}',
    ],
)
def test_a_passing_error_that_comes_with_status_200_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    no_waiting(monkeypatch)
    with in_turn(Response(body), completion("Hi!")) as server:
        assert Endpoint(server.url, "judge", retries=1).chat(HELLO).text == "Hi!"
    with always(Response(body)) as server, pytest.raises(EndpointError, match="Provider returned"):
        Endpoint(server.url, "judge", retries=0).chat(HELLO)


def answer_of(choice: dict[str, Any]) -> Response:
    return Response(json.dumps({"choices": [choice]}))


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "VERDICT: "}, {"type": "text", "text": "FIRST"}],
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
            {"type": "text", "text": "VERDICT: FIRST"},
        ],
        [{"type": "output_text", "text": "VERDICT: FIRST", "annotations": []}],
        ["VERDICT: ", "FIRST"],
        {"type": "text", "text": "VERDICT: FIRST"},
    ],
    ids=["texts", "thinking", "output_text", "strings", "one"],
)
def test_content_in_parts_is_read(content: Any) -> None:
    with always(answer_of({"message": {"content": content}})) as server:
        assert Endpoint(server.url, "judge").chat(HELLO).text == "VERDICT: FIRST"


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (
            {"message": {"content": [{"type": "image_url", "image_url": {}}]}},
            "a part of type 'image",
        ),
        ({"message": {"content": [5]}}, "a part 5"),
        ({"message": {"content": []}}, "no 'content'"),
        ({"message": {"content": [{"type": "thinking", "thinking": "Hm."}]}}, "no 'content'"),
        (
            {"message": {"content": None, "reasoning_content": "Hm"}, "finish_reason": "length"},
            "its tokens ran out before it began",
        ),
        ({"message": {"content": None, "refusal": "I won't."}}, "the model refused: I won't."),
        (
            {"message": {"content": "I would"}, "finish_reason": "content_filter"},
            "cut its answer (finish_reason content_filter)",
        ),
    ],
)
def test_an_answer_without_a_whole_text_is_a_named_gap(choice: dict[str, Any], words: str) -> None:
    with always(answer_of(choice)) as server, pytest.raises(EndpointError) as caught:
        Endpoint(server.url, "judge").chat(HELLO)
    assert words in str(caught.value)
    assert caught.value.for_this


# --- Waiting ---


def no_waiting(monkeypatch: pytest.MonkeyPatch, now: float = 0.0) -> list[float]:
    """Let the client's clock stand still, and return what it would have slept."""
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, time=lambda: now)
    monkeypatch.setattr(client, "time", clock)
    return slept


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:03:20 GMT"}, 100.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Thu, 99 Jan 9999999999 00:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_of(headers, 100.0) == seconds


def busy(wait: object, status: int = 429) -> Response:
    return Response(openai_error("Slow down"), status, {"Retry-After": str(wait)})


@pytest.mark.parametrize("wait", [61, 300, LONGEST_WAIT])
def test_minutes_are_waited_for(monkeypatch: pytest.MonkeyPatch, wait: float) -> None:
    slept = no_waiting(monkeypatch)
    with in_turn(busy(wait), busy(wait, 503), completion("Hi!")) as server:
        assert Endpoint(server.url, "judge", retries=2).chat(HELLO).text == "Hi!"
    assert slept == [wait, wait]


def test_hours_are_told_and_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = no_waiting(monkeypatch)
    with always(busy(86400)) as server, pytest.raises(EndpointError) as caught:
        Endpoint(server.url, "judge", retries=5).chat(HELLO)
    assert (slept, len(server.requests)) == ([], 1)
    assert "asks to wait 86,400 s, until 2" in str(caught.value)  # the year 20..
    assert caught.value.for_all


def test_without_retries_the_wait_is_told() -> None:
    with always(busy(60)) as server, pytest.raises(EndpointError, match="asks to wait 60 s"):
        Endpoint(server.url, "judge", retries=0).chat(HELLO)


# --- Time-outs ---


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_server_that_drips_does_not_hold_a_request(where: str) -> None:
    dripping = Response('{"choices": []}', drips=where)
    with always(dripping) as server:
        with pytest.raises(EndpointError, match=r"did not answer within 0\.2 s") as caught:
            Endpoint(server.url, "judge", retries=0, timeout=0.2).chat(HELLO)
        assert not caught.value.for_this
        server.answer = lambda request, number: completion("Hi!")
        assert Endpoint(server.url, "judge", retries=0).chat(HELLO).text == "Hi!"


# --- When a run gives up ---


def test_refusals_that_blame_no_content_are_borne_until_they_are_many() -> None:
    patience = Patience()
    doubtful = EndpointError("refused", for_this=True, unknown=True)
    assert [patience.ends_with(doubtful) for _ in range(FAILURES_IN_A_ROW)] == [
        *[False] * (FAILURES_IN_A_ROW - 1),
        True,
    ]
    patience = Patience()
    patience.answered()
    assert not any(patience.ends_with(doubtful) for _ in range(3 * FAILURES_IN_A_ROW))
    patience = Patience()
    filtered = EndpointError("filtered", for_this=True)
    assert not any(patience.ends_with(filtered) for _ in range(3 * FAILURES_IN_A_ROW))
    assert patience.ends_with(EndpointError("key", for_all=True))

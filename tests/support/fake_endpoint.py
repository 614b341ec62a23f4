"""Run a local server that answers like an OpenAI-compatible endpoint, faults included."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Request:
    """Hold one request that arrived at the server."""

    body: dict[str, Any]
    path: str
    key: str | None
    at: float

    @property
    def text(self) -> str:
        """Return the text of the last message."""
        return str(self.body["messages"][-1]["content"])


@dataclass(frozen=True)
class Response:
    """Hold what the server sends back.

    With ``hang`` it sends nothing at all, until the server ends. With ``drips`` it sends one blank
    after another in the place that is named, "headers" or "body", until the server ends.
    """

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    drips: str | None = None


HANG = Response("", hang=True)


def completion(text: str | None, finish_reason: str = "stop") -> Response:
    """Return a whole answer, to 7 tokens of prompt with 3 tokens of reply."""
    return Response(
        json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 0,
                "model": "judge",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": finish_reason,
                    }
                ],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
            }
        )
    )


def failure(status: int, message: str = "no", retry_after: float = 0.001) -> Response:
    """Return an error as OpenAI sends it, to be tried again after so many seconds."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": None}})
    return Response(body, status, {"Retry-After-Ms": str(1000 * retry_after)})


class FakeEndpoint:
    """Run the server inside ``with``.

    Args:
        answer: called with each request and its number from 0, in threads; returns the response.
    """

    def __init__(self, answer: Callable[[Request, int], Response]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request = Request(body, self.path, self.headers["Authorization"], time.monotonic())
                with outer._lock:
                    number = len(outer.requests)
                    outer.requests.append(request)
                response = outer.answer(request, number)
                if response.hang:
                    outer._ending.wait()
                    self.close_connection = True
                    return
                if response.drips:
                    self._drip(response)
                    return
                content = response.body.encode()
                self.send_response(response.status)
                headers = {"Content-Type": "application/json", **response.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _drip(self, response: Response) -> None:
                """Send the beginning of a response, and then something now and then."""
                self.close_connection = True
                self.wfile.write(f"HTTP/1.1 {response.status} OK\r\n".encode())
                if response.drips == "body":
                    self.wfile.write(b"Content-Type: application/json\r\n\r\n")
                drop = b" " if response.drips == "body" else b"X-Still: here\r\n"
                while not outer._ending.wait(0.02):
                    try:
                        self.wfile.write(drop)
                        self.wfile.flush()
                    except OSError:  # the client has gone
                        return

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Stay silent about clients that were killed."""

        self._server = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FakeEndpoint:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()


def always(response: Response) -> FakeEndpoint:
    """Return a server that always gives this answer."""
    return FakeEndpoint(lambda request, number: response)


def in_turn(*responses: Response) -> FakeEndpoint:
    """Return a server that gives these answers one after the other, and then always the last."""
    return FakeEndpoint(lambda request, number: responses[min(number, len(responses) - 1)])

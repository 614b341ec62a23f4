"""A model that the hub does not know is told at once, with the nearest known name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from sra_fast.files import hub_names
from sra_fast.files.hub_names import ModelNotFoundError, check_hub_name
from sra_fast.files.models import ModelSource, find_model
from tiny_chat_model import talk, write_jsonl

MISSPELT = "HuggingFaceTB/SmolLM2-135M-Instrcut"


class Hub(ThreadingHTTPServer):
    """Answers each question for a model as told by the name; unknown ones are not found."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Hub)
        if self.path != "/api/agent-harnesses":  # huggingface_hub wants that for itself
            self.server.asked.append(self.path)
        name = self.path.removeprefix("/api/models/")
        if name == "some/slow":
            time.sleep(1)
            return
        status, header = {
            "some/model": (200, None),
            "some/gated": (403, "GatedRepo"),
            "some/broken": (500, None),
        }.get(name, (404, "RepoNotFound"))
        body = json.dumps({"id": name, "private": False} if status == 200 else {"error": "no"})
        self.send_response(status)
        if header is not None:
            self.send_header("X-Error-Code", header)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A hub on this machine, and this process online."""
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local cache with one model in it."""
    folder = tmp_path / "cache"
    model = folder / "models--our-team--Talker-1B"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0a1b")
    (model / "snapshots" / "0a1b").mkdir(parents=True)
    (model / "snapshots" / "0a1b" / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def refusal(name: str) -> str:
    with pytest.raises(ModelNotFoundError) as refused:
        check_hub_name(name)
    message = str(refused.value)
    assert message.startswith(f"model {name!r} is ")
    return message


def test_what_is_there_is_asked_for_once_or_not_at_all(hub: Hub) -> None:
    assert find_model("some/model") == ModelSource("some/model", "some/model")
    assert hub.asked == ["/api/models/some/model"]
    check_hub_name("some/gated")  # its files say who may have them
    before = len(hub.asked)
    check_hub_name("our-team/Talker-1B")
    assert len(hub.asked) == before


@pytest.mark.parametrize(
    ("name", "near"),
    [
        (MISSPELT, "'smollm2' (HuggingFaceTB/SmolLM2-135M-Instruct, without the hub)"),
        ("smolm2", "'smollm2'?"),
        ("our-team/Talker-1b-base", "'our-team/Talker-1B'?"),
        ("Talker-1B", "'our-team/Talker-1B'?"),
    ],
)
def test_the_nearest_known_name_is_told_after_one_question(hub: Hub, name: str, near: str) -> None:
    message = refusal(name)
    assert (
        f"neither a folder nor a model on the hub that this user can see ({hub.address})" in message
    )
    assert f"did you mean {near}" in message
    assert len(hub.asked) == 1


def test_where_no_name_is_near_the_known_ones_are_listed(hub: Hub) -> None:
    assert refusal("xyz").endswith("Known here: 'smollm2', 'our-team/Talker-1B'")


@pytest.mark.parametrize(
    ("name", "why"),
    [("some/broken", "500"), ("some/slow", "timed out"), ("not a name", "not of the form")],
)
def test_what_keeps_the_hub_from_answering_is_told(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    monkeypatch.setattr(hub_names, "TIME_OUT", 0.3)
    assert why in refusal(name)
    assert len(hub.asked) <= 1


def test_nobody_answers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    message = refusal(MISSPELT)
    assert "the hub (http://127.0.0.1:9) cannot be asked" in message
    assert "did you mean 'smollm2'" in message


def test_offline_the_cache_alone_is_looked_into(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check_hub_name("our-team/Talker-1B")
    message = refusal(MISSPELT)
    assert constants.HF_HUB_CACHE in message
    assert "HF_HUB_OFFLINE" in message
    assert not hub.asked


def test_a_command_says_so_once_without_retries(hub: Hub, tmp_path: Path) -> None:
    chats = write_jsonl(tmp_path / "chats.jsonl", [talk("c1")])
    command = [sys.executable, "-m", "sra_fast", "score", str(chats), "--model", MISSPELT]
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    (message,) = done.stderr.splitlines()
    assert message.startswith(f"error: model {MISSPELT!r} is neither a folder nor a model")
    assert len(hub.asked) == 1
